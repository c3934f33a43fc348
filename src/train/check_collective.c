/* check_collective.c - trainer --check: the sum over all GPUs, of values that show which ranks are
 * in it, and its speed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "device/gpu.h"
#include "train/check.h"

enum {
    LARGEST = 16 << 20,         /* elements: 64 MiB of float32 */
    MEDIUM = (256 << 10) + 3,   /* odd, about 1 MiB */
    REPEATS = 10,               /* of what is timed */
};
static const double LONGEST_TIMEOUT = 60;       /* seconds: no trial should wait as long as a run */

/* Sums of MEDIUM that take longer are no GPU's: then LARGEST would take minutes. */
static const double SLOW_SECONDS = 0.002;

/* What one rank owns. */
struct part {
    struct device *dev;
    struct comm *comm;
    void *buffer;               /* on the device */
    void *values;               /* on the host */
};

struct collective {
    const struct plan_devices *devices;
    struct barrier *barrier;
    struct cuda_group *group;
    double timeout;             /* seconds */
    struct part *parts;
    int64_t room;               /* elements of float32 in each buffer */
    int64_t timed;              /* elements of float32, */
    double seconds;             /* and what their sum takes */
};

static size_t room_bytes(const struct collective *c)
{
    return (size_t)c->room * sizeof(float);
}

/* ---- right? ---- */

/* Powers of 2 tell which ranks a sum has; with factors below 14 it is exact in float32. */
static double weight_of(int rank)
{
    return (double)(1 << rank % 16);
}

static double factor_of(int64_t i)
{
    return 1 + (double)(i % 13);
}

static double get(const struct tensor *x, int64_t i)
{
    return x->dtype == DTYPE_F64 ? ((const double *)x->data)[i]
                                 : (double)((const float *)x->data)[i];
}

static void set(const struct tensor *x, int64_t i, double value)
{
    if (x->dtype == DTYPE_F64)
        ((double *)x->data)[i] = value;
    else
        ((float *)x->data)[i] = (float)value;
}

/* "; rank 2 is missing", if that explains the difference. */
static void explain(char text[64], double missing, int n_ranks)
{
    text[0] = '\0';
    for (int rank = 0; rank < n_ranks; rank++)
        if (missing == weight_of(rank))
            snprintf(text, 64, "; rank %d is missing", rank);
}

static enum status compare(const struct part *part, const struct tensor *sums, int n_ranks)
{
    double whole = 0;
    char why[64];

    for (int rank = 0; rank < n_ranks; rank++)
        whole += weight_of(rank);
    for (int64_t i = 0; i < tensor_count(sums); i++) {
        const double sum = get(sums, i), expected = whole * factor_of(i);
        if (sum == expected)
            continue;
        explain(why, (expected - sum) / factor_of(i), n_ranks);
        return fail(ERR_COMM, "%s: all-reduce of %lld %s: element %lld is %.9g, expected %.9g%s",
                    part->dev->description, (long long)tensor_count(sums), dtype_name(sums->dtype),
                    (long long)i, sum, expected, why);
    }
    return OK;
}

static enum status check_sum(const struct part *part, enum dtype dtype, int64_t count)
{
    const struct tensor x = tensor_1d(part->buffer, dtype, count);
    const struct tensor values = tensor_1d(part->values, dtype, count);
    const size_t size = (size_t)count * dtype_size(dtype);

    for (int64_t i = 0; i < count; i++)
        set(&values, i, weight_of(part->comm->rank) * factor_of(i));
    TRY(device_upload(part->dev, part->buffer, part->values, size));
    TRY(comm_all_reduce(part->comm, &x));
    TRY(comm_wait(part->comm));
    TRY(device_download(part->dev, part->values, part->buffer, size));
    return compare(part, &values, part->comm->size);
}

/* ---- how fast? ---- */

/* One sum's seconds, of a size that was summed before; the same number on every rank. */
static enum status time_sum(struct worker *worker, const struct part *part, int64_t count,
                            double *seconds)
{
    const struct tensor x = tensor_1d(part->buffer, DTYPE_F32, count);

    TRY(device_zero(part->dev, part->buffer, (size_t)count * sizeof(float)));
    TRY(device_sync(part->dev));
    TRY(world_barrier(worker));
    const double start = seconds_now();
    for (int i = 0; i < REPEATS; i++)
        TRY(comm_all_reduce(part->comm, &x));
    TRY(comm_wait(part->comm));
    *seconds = (seconds_now() - start) / REPEATS;
    return world_agree(worker, seconds);
}

static enum status create_part(const struct collective *c, struct part *part, int rank)
{
    TRY(plan_open_device(&part->dev, c->devices, rank));
    TRY(comm_cuda_create(&part->comm, c->group, rank, part->dev));
    TRY(device_alloc(part->dev, room_bytes(c), &part->buffer));
    part->values = malloc(room_bytes(c));
    return part->values ? OK : fail(ERR_NOMEM, "no memory for %lld numbers", (long long)c->room);
}

static void free_part(const struct collective *c, struct part *part)
{
    free(part->values);
    if (part->dev)
        device_free(part->dev, part->buffer, room_bytes(c));
    comm_destroy(part->comm);
    device_destroy(part->dev);
}

static enum status check_rank(struct worker *worker, void *context)
{
    struct collective *c = context;
    struct part *part = &c->parts[worker->rank];
    int64_t timed = MEDIUM;
    double seconds;

    TRY(create_part(c, part, worker->rank));
    /* Nothing may be allocated once the first collective is on its way. */
    TRY(world_barrier(worker));
    TRY(check_sum(part, DTYPE_F32, 1));
    TRY(check_sum(part, DTYPE_F32, 1009));
    TRY(check_sum(part, DTYPE_F64, 2));
    TRY(check_sum(part, DTYPE_F32, MEDIUM));
    TRY(time_sum(worker, part, MEDIUM, &seconds));
    if (c->room > MEDIUM && seconds < SLOW_SECONDS) {
        timed = c->room;
        TRY(check_sum(part, DTYPE_F32, timed));
        TRY(time_sum(worker, part, timed, &seconds));
    }
    if (worker->rank == 0) {
        c->timed = timed;
        c->seconds = seconds;
    }
    return OK;
}

/* ---- set up and report ---- */

/* Where GPUs are nearly full, less than LARGEST. */
static enum status find_room(struct collective *c)
{
    c->room = LARGEST;
    for (int gpu = 0; gpu < plan_n_gpus(c->devices); gpu++) {
        uint64_t left;
        TRY(gpu_free_memory(&left, gpu));
        const int64_t room = (int64_t)(left / 4 / sizeof(float)) / c->devices->n_workers;
        c->room = room < c->room ? room : c->room;
    }
    c->room = c->room > MEDIUM ? c->room : MEDIUM;
    return OK;
}

static enum status create(struct collective *c)
{
    TRY(find_room(c));
    TRY(barrier_create(&c->barrier, c->devices->n_workers));
    TRY(plan_create_group(&c->group, c->devices, c->barrier, c->timeout));
    c->parts = calloc((size_t)c->devices->n_workers, sizeof *c->parts);
    return c->parts ? OK : fail(ERR_NOMEM, "no memory for %d GPUs", c->devices->n_workers);
}

/* As nccl-tests counts it: what each GPU has to send, whatever the algorithm, over the time. */
static double bus_bandwidth(const struct collective *c)
{
    const double n = c->devices->n_workers;

    return 2 * (n - 1) / n * (double)c->timed * sizeof(float) / c->seconds;
}

static void report(const struct collective *c)
{
    check_tick("all-reduce over %d %s: right; %.1f MiB in %.3g ms, bus bandwidth %.1f GB/s "
               "(2(n-1)/n x bytes / time)", c->devices->n_workers,
               c->devices->share_gpu ? "ranks of GPU 0" : "GPUs",
               (double)c->timed * sizeof(float) / (1 << 20), 1e3 * c->seconds,
               bus_bandwidth(c) / 1e9);
}

enum status check_collective(const struct run *run, bool *passed)
{
    struct collective c = {.devices = &run->devices,
                           .timeout = fmin(run->config.distributed.comm_timeout, LONGEST_TIMEOUT)};
    enum status status;

    if (c.devices->n_workers == 1)
        return OK;
    TRY_GOTO(status, create(&c), done);
    status = world_run(c.devices->n_workers, c.barrier, check_rank, &c);
done:
    if (status == OK)
        report(&c);
    else
        check_cross(passed);
    if (status == ERR_DEVICE && !c.group)       /* and that call may still be under way */
        return status;
    /* Where this fails, freeing memory would wait for a collective that hangs. */
    TRY(cuda_group_destroy(c.group));
    for (int i = 0; c.parts && i < c.devices->n_workers; i++)
        free_part(&c, &c.parts[i]);
    free(c.parts);
    barrier_destroy(c.barrier);
    return OK;
}
