/* comm_loopback.c - collectives between ranks that share one GPU, which NCCL does not allow: for
 * testing, where there is one GPU, what is made for several. Rank 0 sums everybody's buffers; order
 * is kept by events alone, so that no kernel ever waits on the GPU for another. */
#include <stdlib.h>

#include "comm/cuda_group.h"
#include "kernels/cuda/loopback.h"

/* On rank 0's collective stream, when the buffers of all are ready. */
static enum status sum_all(struct cuda_comm *comm, const struct tensor *x)
{
    const struct cuda_group *group = comm->group;
    const struct tensor *shown = cuda_group_shown(comm);
    const cudaStream_t stream = cuda_device(comm->dev)->comm_stream;
    struct loopback_buffers buffers = {.size = group->size};

    for (int rank = 0; rank < group->size; rank++) {
        buffers.data[rank] = shown[rank].data;
        CUDA_TRY(comm->dev, cudaStreamWaitEvent(stream, group->comms[rank]->ready, 0));
    }
    TRY(cuda_loopback_sum(comm->dev, stream, &buffers, x->dtype, tensor_count(x)));
    CUDA_TRY(comm->dev, cudaEventRecord(comm->done, stream));
    return OK;
}

static enum status loopback_sum(struct cuda_comm *comm, const struct tensor *x)
{
    struct cuda_group *group = comm->group;
    const cudaStream_t stream = cuda_device(comm->dev)->comm_stream;

    if (comm->base.rank == 0)
        TRY(sum_all(comm, x));
    /* Until rank 0 has recorded its event, the others cannot wait for it. */
    TRY(barrier_wait(group->barrier, "an all-reduce"));
    if (comm->base.rank == 0)
        return OK;
    CUDA_TRY(comm->dev, cudaStreamWaitEvent(stream, group->comms[0]->done, 0));
    CUDA_TRY(comm->dev, cudaEventRecord(comm->done, stream));
    return OK;
}

static enum status loopback_destroy(struct cuda_group *group, bool broken)
{
    (void)broken;
    cuda_group_release(group);
    free(group);
    return OK;
}

static const struct cuda_group_ops loopback_ops = {
    .comm = {"loopback", cuda_comm_all_reduce, cuda_comm_wait, cuda_comm_destroy},
    .sum = loopback_sum,
    .destroy = loopback_destroy,
};

enum status cuda_group_create_loopback(struct cuda_group **out, int size, struct barrier *barrier,
                                       double timeout)
{
    struct cuda_group *group = calloc(1, sizeof *group);

    *out = NULL;
    if (!group)
        return fail(ERR_NOMEM, "no memory for a group of %d ranks", size);
    enum status status = cuda_group_init(group, &loopback_ops, size, barrier, timeout);
    if (status == OK && (size < 1 || size > GPU_MAX_SHARERS))
        status = fail(ERR_INVALID, "distributed.share_gpu: %d ranks on one GPU, expected 1 to %d",
                      size, GPU_MAX_SHARERS);
    if (status != OK) {
        loopback_destroy(group, true);
        return status;
    }
    *out = group;
    return OK;
}
