/* no_gpu_comm.c - collectives between GPUs in a build without CUDA: there are no GPUs to ask for. */
#include "comm/cuda_comm.h"

enum status cuda_group_create_nccl(struct cuda_group **out, int size, const int *ordinals,
                                   struct barrier *barrier, double timeout)
{
    (void)size;
    (void)ordinals;
    (void)barrier;
    (void)timeout;
    *out = NULL;
    return fail(ERR_COMM, "this build has no NCCL");
}

enum status cuda_group_create_loopback(struct cuda_group **out, int size, struct barrier *barrier,
                                       double timeout)
{
    return cuda_group_create_nccl(out, size, NULL, barrier, timeout);
}

enum status comm_cuda_create(struct comm **out, struct cuda_group *group, int rank,
                             struct device *dev)
{
    (void)group;
    (void)rank;
    (void)dev;
    *out = NULL;
    return fail(ERR_COMM, "this build has no NCCL");
}

void cuda_group_give_up(struct cuda_group *group)
{
    (void)group;
}

enum status cuda_group_destroy(struct cuda_group *group)
{
    (void)group;
    return OK;
}
