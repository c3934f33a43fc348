/* comm.h - collectives between the devices of a run. Every rank makes the same calls in the same
 * order; results are the same bits on every rank and in every run of the same size. */
#ifndef OCTET_COMM_H
#define OCTET_COMM_H

#include "base/barrier.h"
#include "device/device.h"

struct comm;

struct comm_ops {
    const char *name;           /* "self", "local", "nccl" */
    /* Sum over the ranks, in rank order, in place; F32 or F64. */
    enum status (*all_reduce)(struct comm *comm, const struct tensor *x);
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
/* NULL is fine. */
static inline void comm_destroy(struct comm *comm)
{
    if (comm)
        comm->ops->destroy(comm);
}

#endif
