/* comm_nccl.c - collectives through NCCL: one communicator for each GPU, all made at once. */
#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/thread.h"
#include "comm/cuda_group.h"

enum { ABORT_SECONDS = 5 };

struct nccl_group {
    struct cuda_group base;
    ncclComm_t *communicators;  /* one for each rank, used by that rank's thread alone */
};

static ncclComm_t communicator(const struct cuda_comm *comm)
{
    return ((const struct nccl_group *)comm->group)->communicators[comm->base.rank];
}

/* ": " and what NCCL itself says of its latest error, if anything. */
static const char *nccl_details(char *text, size_t size, ncclComm_t communicator)
{
    const char *details = ncclGetLastError(communicator);

    snprintf(text, size, "%s%s", details && *details ? ": " : "", details ? details : "");
    return text;
}

static enum status nccl_fail(const struct cuda_comm *comm, const char *call, ncclResult_t result)
{
    return fail(ERR_COMM, "%s: %s: %s%s", comm->dev->description, call, ncclGetErrorString(result),
                nccl_details((char[512]){0}, 512, communicator(comm)));
}

static enum status nccl_sum(struct cuda_comm *comm, const struct tensor *x)
{
    const ncclDataType_t type = x->dtype == DTYPE_F64 ? ncclFloat64 : ncclFloat32;
    const cudaStream_t stream = cuda_device(comm->dev)->comm_stream;
    const ncclResult_t result = ncclAllReduce(x->data, x->data, (size_t)tensor_count(x), type,
                                              ncclSum, communicator(comm), stream);

    if (result != ncclSuccess)
        return nccl_fail(comm, "ncclAllReduce", result);
    CUDA_TRY(comm->dev, cudaEventRecord(comm->done, stream));
    return OK;
}

static enum status nccl_check(struct cuda_comm *comm)
{
    ncclResult_t later;
    const ncclResult_t result = ncclCommGetAsyncError(communicator(comm), &later);

    if (result != ncclSuccess)
        return nccl_fail(comm, "ncclCommGetAsyncError", result);
    if (later != ncclSuccess && later != ncclInProgress)
        return nccl_fail(comm, "all-reduce", later);
    return OK;
}

static void *abort_one(void *opaque)
{
    return ncclCommAbort(opaque) == ncclSuccess ? NULL : opaque;
}

/* All communicators at the same time, since each may wait for the others; and on threads of their
 * own, since even so it may never return. Those threads are then left behind. */
static enum status abort_all(const struct nccl_group *group)
{
    const int size = group->base.size;
    pthread_t *threads = calloc((size_t)size, sizeof *threads);
    const struct timespec deadline = time_at(seconds_now() + ABORT_SECONDS);
    int n_started = 0, n_aborted = 0;

    if (!threads)
        return fail(ERR_NOMEM, "no memory to abort %d communicators", size);
    while (n_started < size &&
           thread_start(&threads[n_started], abort_one, group->communicators[n_started]))
        n_started++;
    for (int i = 0; i < n_started; i++) {
        void *failed;
        if (pthread_clockjoin_np(threads[i], &failed, CLOCK_MONOTONIC, &deadline) == 0 && !failed)
            n_aborted++;
    }
    free(threads);
    if (n_aborted < size)
        return fail(ERR_COMM, "NCCL: %d of %d communicators could not be aborted in %d s",
                    size - n_aborted, size, ABORT_SECONDS);
    return OK;
}

static enum status destroy_all(const struct nccl_group *group)
{
    enum status status = OK;

    for (int rank = 0; rank < group->base.size; rank++) {
        const ncclResult_t result = ncclCommDestroy(group->communicators[rank]);
        if (result != ncclSuccess)
            status = fail(ERR_COMM, "NCCL: cannot close the communicator of rank %d: %s", rank,
                          ncclGetErrorString(result));
    }
    return status;
}

static void nccl_release(struct nccl_group *group)
{
    free(group->communicators);
    cuda_group_release(&group->base);
    free(group);
}

static enum status nccl_destroy(struct cuda_group *base, bool broken)
{
    struct nccl_group *group = (struct nccl_group *)base;
    const enum status status = broken ? abort_all(group) : destroy_all(group);

    nccl_release(group);
    return status;
}

static const struct cuda_group_ops nccl_ops = {
    .comm = {"nccl", cuda_comm_all_reduce, cuda_comm_wait, cuda_comm_destroy},
    .sum = nccl_sum,
    .check = nccl_check,
    .destroy = nccl_destroy,
};

/* ---- the start ---- */

struct opening {
    int size;
    int *ordinals;
    ncclComm_t *communicators;
    ncclResult_t result;
    char details[512];
};

static void *open_all(void *opaque)
{
    struct opening *opening = opaque;

    opening->result = ncclCommInitAll(opening->communicators, opening->size, opening->ordinals);
    if (opening->result != ncclSuccess)
        nccl_details(opening->details, sizeof opening->details, NULL);
    return NULL;
}

static void opening_free(struct opening *opening)
{
    free(opening->ordinals);
    free(opening->communicators);
    free(opening);
}

static struct opening *opening_create(int size, const int *ordinals)
{
    struct opening *opening = calloc(1, sizeof *opening);

    if (!opening)
        return NULL;
    opening->size = size;
    opening->ordinals = calloc((size_t)size, sizeof *opening->ordinals);
    opening->communicators = calloc((size_t)size, sizeof *opening->communicators);
    if (!opening->ordinals || !opening->communicators) {
        opening_free(opening);
        return NULL;
    }
    memcpy(opening->ordinals, ordinals, (size_t)size * sizeof *ordinals);
    return opening;
}

/* On a thread of its own, which may never return; then it is left behind with what it works on. */
static enum status open_communicators(struct nccl_group *group, const int *ordinals, double timeout)
{
    const int size = group->base.size;
    const struct timespec deadline = time_at(seconds_now() + timeout);
    struct opening *opening = opening_create(size, ordinals);
    enum status status = OK;
    pthread_t thread;

    if (!opening)
        return fail(ERR_NOMEM, "no memory for %d communicators", size);
    if (!thread_start(&thread, open_all, opening)) {
        opening_free(opening);
        return fail(ERR_NOMEM, "cannot start the thread that opens NCCL");
    }
    if (pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &deadline) != 0)
        return fail(ERR_DEVICE, "NCCL between %d GPUs: ncclCommInitAll has not come back in %g s; "
                    "NCCL_DEBUG=INFO tells more", size, timeout);
    if (opening->result == ncclSuccess) {
        group->communicators = opening->communicators;
        opening->communicators = NULL;
    } else {
        status = fail(ERR_COMM, "NCCL between %d GPUs: %s%s; NCCL_DEBUG=INFO tells more", size,
                      ncclGetErrorString(opening->result), opening->details);
    }
    opening_free(opening);
    return status;
}

enum status cuda_group_create_nccl(struct cuda_group **out, int size, const int *ordinals,
                                   struct barrier *barrier, double timeout)
{
    struct nccl_group *group = calloc(1, sizeof *group);

    *out = NULL;
    if (!group)
        return fail(ERR_NOMEM, "no memory for a group of %d ranks", size);
    enum status status = cuda_group_init(&group->base, &nccl_ops, size, barrier, timeout);
    if (status == OK)
        status = open_communicators(group, ordinals, timeout);
    if (status != OK) {
        nccl_release(group);
        return status;
    }
    *out = &group->base;
    return OK;
}
