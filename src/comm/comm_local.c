/* comm_local.c - all-reduce through shared memory. Each rank shows its buffer, and sums its own slice
 * of everybody's: reduce-scatter and all-gather in one pass, ranks always added in order. */
#include "comm/comm.h"

#include <stdlib.h>
#include <string.h>

#include "device/cpu.h"

enum { BLOCK = 2048 };      /* elements summed at a time, in the L1 cache */

struct comm_group {
    int size;
    struct barrier *barrier;
    struct tensor *shown;       /* one for each rank */
};

struct local_comm {
    struct comm base;
    struct comm_group *group;
    struct device *dev;
};

struct slice {
    const struct comm_group *group;
    int64_t first, count;
};

static void sum_f32(const struct slice *slice, int64_t first, int64_t count)
{
    const struct comm_group *g = slice->group;
    float total[BLOCK];

    memcpy(total, (float *)g->shown[0].data + first, (size_t)count * sizeof *total);
    for (int rank = 1; rank < g->size; rank++) {
        const float *x = (const float *)g->shown[rank].data + first;
        for (int64_t i = 0; i < count; i++)
            total[i] += x[i];
    }
    for (int rank = 0; rank < g->size; rank++)
        memcpy((float *)g->shown[rank].data + first, total, (size_t)count * sizeof *total);
}

static void sum_f64(const struct slice *slice, int64_t first, int64_t count)
{
    const struct comm_group *g = slice->group;
    double total[BLOCK];

    memcpy(total, (double *)g->shown[0].data + first, (size_t)count * sizeof *total);
    for (int rank = 1; rank < g->size; rank++) {
        const double *x = (const double *)g->shown[rank].data + first;
        for (int64_t i = 0; i < count; i++)
            total[i] += x[i];
    }
    for (int rank = 0; rank < g->size; rank++)
        memcpy((double *)g->shown[rank].data + first, total, (size_t)count * sizeof *total);
}

static void sum_block(void *context, int task, int thread)
{
    const struct slice *slice = context;
    const int64_t offset = (int64_t)task * BLOCK;
    const int64_t left = slice->count - offset, count = left < BLOCK ? left : BLOCK;

    (void)thread;
    if (slice->group->shown[0].dtype == DTYPE_F64)
        sum_f64(slice, slice->first + offset, count);
    else
        sum_f32(slice, slice->first + offset, count);
}

static enum status local_all_reduce(struct comm *comm, const struct tensor *x)
{
    struct local_comm *local = (struct local_comm *)comm;
    struct comm_group *group = local->group;
    const int64_t count = tensor_count(x);

    if (x->dtype != DTYPE_F32 && x->dtype != DTYPE_F64)
        return fail(ERR_COMM, "all-reduce of %s: expected F32 or F64", dtype_name(x->dtype));
    TRY(device_sync(local->dev));
    group->shown[comm->rank] = *x;
    TRY(barrier_wait(group->barrier, "an all-reduce"));
    for (int rank = 0; rank < comm->size; rank++) {
        const struct tensor *other = &group->shown[rank];
        if (other->dtype != x->dtype || tensor_count(other) != count)
            return fail(ERR_COMM, "all-reduce of %lld %s: rank %d came with %lld %s",
                        (long long)count, dtype_name(x->dtype), rank,
                        (long long)tensor_count(other), dtype_name(other->dtype));
    }
    struct slice slice = {group, count * comm->rank / comm->size, 0};
    slice.count = count * (comm->rank + 1) / comm->size - slice.first;
    cpu_run(local->dev, (int)((slice.count + BLOCK - 1) / BLOCK), sum_block, &slice);
    return barrier_wait(group->barrier, "an all-reduce");
}

/* all_reduce() leaves nothing to wait for. */
static enum status local_wait(struct comm *comm)
{
    (void)comm;
    return OK;
}

static void local_destroy(struct comm *comm)
{
    free(comm);
}

static const struct comm_ops local_ops = {"local", local_all_reduce, local_wait, local_destroy};

enum status comm_group_create(struct comm_group **out, int size, struct barrier *barrier)
{
    struct comm_group *group = calloc(1, sizeof *group);
    struct tensor *shown = calloc((size_t)size, sizeof *shown);

    *out = group;
    if (!group || !shown) {
        free(group);
        free(shown);
        *out = NULL;
        return fail(ERR_NOMEM, "no memory for a group of %d ranks", size);
    }
    *group = (struct comm_group){size, barrier, shown};
    return OK;
}

void comm_group_destroy(struct comm_group *group)
{
    if (!group)
        return;
    free(group->shown);
    free(group);
}

enum status comm_local_create(struct comm **out, struct comm_group *group, int rank,
                              struct device *dev)
{
    struct local_comm *local = malloc(sizeof *local);

    *out = NULL;
    if (!local)
        return fail(ERR_NOMEM, "no memory for the communicator of rank %d", rank);
    *local = (struct local_comm){{&local_ops, rank, group->size}, group, dev};
    *out = &local->base;
    return OK;
}
