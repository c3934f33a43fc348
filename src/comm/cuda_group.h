/* cuda_group.h - what collectives between GPUs have in common, however they are done: the ranks'
 * threads meet first, and wait for the GPUs so that a rank that is lost holds nobody up.
 *
 * For comm_nccl.c and comm_loopback.c; others include cuda_comm.h. */
#ifndef OCTET_CUDA_GROUP_H
#define OCTET_CUDA_GROUP_H

#include "comm/cuda_comm.h"
#include "device/cuda.h"

struct cuda_comm {
    struct comm base;
    struct cuda_group *group;
    struct device *dev;
    cudaEvent_t ready;          /* all that the latest collective had to wait for */
    cudaEvent_t done;           /* the latest collective itself */
    int64_t n_queued;           /* collectives so far */
};

/* The rows of every such comm. */
enum status cuda_comm_all_reduce(struct comm *comm, const struct tensor *x);
enum status cuda_comm_wait(struct comm *comm);
void cuda_comm_destroy(struct comm *comm);

struct cuda_group_ops {
    struct comm_ops comm;
    /* Queue the sum on the collective stream, which waits for this rank's `ready` already, and
     * record `done` behind it. Every rank has come with a tensor of this kind; they are in
     * cuda_group_shown(). */
    enum status (*sum)(struct cuda_comm *comm, const struct tensor *x);
    /* What went wrong since, while the GPU works; NULL: nothing can. */
    enum status (*check)(struct cuda_comm *comm);
    /* Release what the kind of group added; `broken`: collectives may be pending for ever. */
    enum status (*destroy)(struct cuda_group *group, bool broken);
};

struct cuda_group {
    const struct cuda_group_ops *ops;
    int size;
    struct barrier *barrier;
    double timeout;
    struct cuda_comm **comms;   /* one for each rank */
    struct tensor *shown;       /* what each rank came with; (2, size): collectives take turns */
    _Atomic int64_t *reached;   /* collectives that each rank's GPU was ready for, as last seen */
    _Atomic bool broken;
    _Atomic bool gave_up;
};

/* `group` is zeroed; after a failure, too, cuda_group_release() is to follow. */
enum status cuda_group_init(struct cuda_group *group, const struct cuda_group_ops *ops, int size,
                            struct barrier *barrier, double timeout);
void cuda_group_release(struct cuda_group *group);

/* The tensors of the collective that `comm` is queueing, one for each rank. */
const struct tensor *cuda_group_shown(const struct cuda_comm *comm);

#endif
