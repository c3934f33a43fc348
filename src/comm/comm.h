/* comm.h - collectives between the devices of a run. Every rank makes the same calls in the same
 * order; results are the same bits on every rank and in every run of the same size. */
#ifndef OCTET_COMM_H
#define OCTET_COMM_H

#include "base/barrier.h"
#include "device/device.h"

struct comm;

struct comm_ops {
    const char *name;           /* "self", "local", "nccl", "loopback" */
    /* Sum over the ranks, in place; F32 or F64. It is queued behind what the device has queued so
     * far, and x is not to be touched before wait(): work queued in between may run beside it. */
    enum status (*all_reduce)(struct comm *comm, const struct tensor *x);
    /* Return when the collectives so far are done; ERR_COMM if they never will be. */
    enum status (*wait)(struct comm *comm);
    void (*destroy)(struct comm *comm);
};

struct comm {
    const struct comm_ops *ops;
    int rank, size;
};

/* One rank alone: every collective is done at once. */
enum status comm_self_create(struct comm **out);

/* Ranks in one process that see each other's memory: CPU workers. Cancelling `barrier` (of as many
 * threads as ranks) makes pending collectives return ERR_CANCELED. The group outlives its comms. */
struct comm_group;
enum status comm_group_create(struct comm_group **out, int size, struct barrier *barrier);
void comm_group_destroy(struct comm_group *group);
enum status comm_local_create(struct comm **out, struct comm_group *group, int rank,
                              struct device *dev);

static inline enum status comm_all_reduce(struct comm *comm, const struct tensor *x)
{
    return comm->ops->all_reduce(comm, x);
}
static inline enum status comm_wait(struct comm *comm)
{
    return comm->ops->wait(comm);
}
/* NULL is fine. */
static inline void comm_destroy(struct comm *comm)
{
    if (comm)
        comm->ops->destroy(comm);
}

#endif
