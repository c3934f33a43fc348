#include "comm/cuda_group.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/pulse.h"

enum status cuda_group_init(struct cuda_group *group, const struct cuda_group_ops *ops, int size,
                            struct barrier *barrier, double timeout)
{
    group->ops = ops;
    group->size = size;
    group->barrier = barrier;
    group->timeout = timeout;
    group->comms = calloc((size_t)size, sizeof(struct cuda_comm *));
    group->shown = calloc(2 * (size_t)size, sizeof *group->shown);
    group->reached = calloc((size_t)size, sizeof *group->reached);
    if (!group->comms || !group->shown || !group->reached)
        return fail(ERR_NOMEM, "no memory for a group of %d ranks", size);
    return OK;
}

void cuda_group_release(struct cuda_group *group)
{
    free(group->comms);
    free(group->shown);
    free(group->reached);
}

void cuda_group_give_up(struct cuda_group *group)
{
    atomic_store(&group->gave_up, true);
}

enum status cuda_group_destroy(struct cuda_group *group)
{
    if (!group)
        return OK;
    return group->ops->destroy(group, atomic_load(&group->broken) ||
                                      barrier_cancelled(group->barrier));
}

/* A rank is at most one collective ahead of another, hence the two rows. */
static struct tensor *shown_row(const struct cuda_comm *comm)
{
    return comm->group->shown + comm->n_queued % 2 * comm->group->size;
}

const struct tensor *cuda_group_shown(const struct cuda_comm *comm)
{
    return shown_row(comm);
}

/* Wait for the other ranks' threads, so that none runs ahead, and see that all want the same. */
static enum status meet(const struct cuda_comm *comm, const struct tensor *x)
{
    const struct cuda_group *group = comm->group;
    struct tensor *shown = shown_row(comm);

    shown[comm->base.rank] = *x;
    TRY(barrier_wait(group->barrier, "an all-reduce"));
    for (int rank = 0; rank < group->size; rank++)
        if (shown[rank].dtype != x->dtype || tensor_count(&shown[rank]) != tensor_count(x))
            return fail(ERR_COMM, "all-reduce of %lld %s: rank %d came with %lld %s",
                        (long long)tensor_count(x), dtype_name(x->dtype), rank,
                        (long long)tensor_count(&shown[rank]), dtype_name(shown[rank].dtype));
    return OK;
}

static enum status queue_sum(struct cuda_comm *comm, const struct tensor *x)
{
    const struct cuda_device *cuda = cuda_device(comm->dev);

    if (x->dtype != DTYPE_F32 && x->dtype != DTYPE_F64)
        return fail(ERR_COMM, "all-reduce of %s: expected F32 or F64", dtype_name(x->dtype));
    /* Whatever may fail on one rank alone comes before the meeting. */
    CUDA_TRY(comm->dev, cudaEventRecord(comm->ready, cuda->stream));
    CUDA_TRY(comm->dev, cudaStreamWaitEvent(cuda->comm_stream, comm->ready, 0));
    TRY(meet(comm, x));
    TRY(comm->group->ops->sum(comm, x));
    comm->n_queued++;
    return OK;
}

enum status cuda_comm_all_reduce(struct comm *base, const struct tensor *x)
{
    struct cuda_comm *comm = (struct cuda_comm *)base;
    const enum status status = queue_sum(comm, x);

    if (status != OK)
        atomic_store(&comm->group->broken, true);
    return status;
}

/* Name the ranks whose GPUs never came to the latest collective. */
static enum status too_late(const struct cuda_comm *comm, double seconds)
{
    const struct cuda_group *group = comm->group;
    char ranks[256] = "";
    size_t length = 0;

    for (int rank = 0; rank < group->size && length < sizeof ranks; rank++)
        if (atomic_load(&group->reached[rank]) < comm->n_queued)
            length += (size_t)snprintf(ranks + length, sizeof ranks - length, "%s %d",
                                       length ? "," : "", rank);
    if (length == 0)
        return fail(ERR_COMM, "%s: all-reduce %lld: no result after %.3g s, though all ranks have "
                    "reached it: any of the GPUs, or what links them, may be the reason; "
                    "NCCL_DEBUG=INFO tells what NCCL does", comm->dev->description,
                    (long long)comm->n_queued, seconds);
    return fail(ERR_COMM, "%s: all-reduce %lld: no result after %.3g s; not reached by rank%s",
                comm->dev->description, (long long)comm->n_queued, seconds, ranks);
}

/* Never a call that blocks: only a thread that polls can be told that a peer is gone. */
static enum status poll_until_done(struct cuda_comm *comm)
{
    static const struct timespec nap = {0, 50000};
    const struct cuda_group *group = comm->group;
    const double start = seconds_now();

    for (;;) {
        bool ready, done;
        TRY(cuda_query(comm->dev, comm->ready, "all-reduce", &ready));
        TRY(cuda_query(comm->dev, comm->done, "all-reduce", &done));
        if (ready)
            atomic_store(&group->reached[comm->base.rank], comm->n_queued);
        if (done)
            return OK;
        if (group->ops->check)
            TRY(group->ops->check(comm));
        if (barrier_cancelled(group->barrier))
            return fail(ERR_CANCELED, "cancelled");
        const double waited = seconds_now() - start;
        if (waited > group->timeout)
            return too_late(comm, group->timeout);
        if (atomic_load(&group->gave_up))
            return too_late(comm, waited);
        if (waited < 0.01)
            sched_yield();
        else
            nanosleep(&nap, NULL);
    }
}

enum status cuda_comm_wait(struct comm *base)
{
    struct cuda_comm *comm = (struct cuda_comm *)base;

    pulse_wait("an all-reduce");
    const enum status status = comm->n_queued ? poll_until_done(comm) : OK;
    pulse_wait(NULL);
    if (status != OK)
        atomic_store(&comm->group->broken, true);
    return status;
}

void cuda_comm_destroy(struct comm *base)
{
    struct cuda_comm *comm = (struct cuda_comm *)base;

    if (comm->ready)
        (void)cudaEventDestroy(comm->ready);
    if (comm->done)
        (void)cudaEventDestroy(comm->done);
    free(comm);
}

static enum status create_events(struct cuda_comm *comm)
{
    /* Without time stamps an event costs least. */
    CUDA_TRY(comm->dev, cudaEventCreateWithFlags(&comm->ready, cudaEventDisableTiming));
    CUDA_TRY(comm->dev, cudaEventCreateWithFlags(&comm->done, cudaEventDisableTiming));
    return OK;
}

enum status comm_cuda_create(struct comm **out, struct cuda_group *group, int rank,
                             struct device *dev)
{
    struct cuda_comm *comm = calloc(1, sizeof *comm);

    *out = NULL;
    if (!comm)
        return fail(ERR_NOMEM, "no memory for the communicator of rank %d", rank);
    *comm = (struct cuda_comm){.base = {&group->ops->comm, rank, group->size}, .group = group,
                               .dev = dev};
    const enum status status = create_events(comm);
    if (status != OK) {
        cuda_comm_destroy(&comm->base);
        return status;
    }
    group->comms[rank] = comm;
    *out = &comm->base;
    return OK;
}
