/* test_fake_nccl.c - the emulated NCCL by itself: one thread drives two devices, which NCCL allows in no
 * other way. */
#include <nccl.h>
#include <pthread.h>
#include <time.h>

#include "cuda/child.h"
#include "cuda/stall.h"

struct pair {
    ncclComm_t comms[2];
    cudaStream_t streams[2];
    void *memory[2];
};

static void pair_create(struct pair *pair)
{
    static const int devices[] = {0, 1};

    CHECK(ncclCommInitAll(pair->comms, 2, devices) == ncclSuccess);
    for (int i = 0; i < 2; i++) {
        CHECK(cudaSetDevice(i) == cudaSuccess);
        CHECK(cudaStreamCreate(&pair->streams[i]) == cudaSuccess);
        CHECK(cudaMalloc(&pair->memory[i], 1024) == cudaSuccess);
    }
}

static void *abort_communicator(void *comm)
{
    CHECK(ncclCommAbort(comm) == ncclSuccess);
    return NULL;
}

static void pair_abort(struct pair *pair)
{
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, abort_communicator, pair->comms[0]) == 0);
    abort_communicator(pair->comms[1]);
    pthread_join(thread, NULL);
    for (int i = 0; i < 2; i++) {
        CHECK(cudaStreamDestroy(pair->streams[i]) == cudaSuccess);
        CHECK(cudaFree(pair->memory[i]) == cudaSuccess);
    }
}

static ncclResult_t pair_sum(const struct pair *pair, int rank, size_t count, ncclDataType_t type)
{
    return ncclAllReduce(pair->memory[rank], pair->memory[rank], count, type, ncclSum,
                         pair->comms[rank], pair->streams[rank]);
}

/* The asynchronous error that both ranks get in the end. */
static void expect_error(const struct pair *pair, ncclResult_t expected, const char *text)
{
    static const struct timespec nap = {0, 1000000};

    for (int rank = 0; rank < 2; rank++) {
        ncclResult_t error = ncclSuccess;
        while (error == ncclSuccess) {
            for (int i = 0; i < 2; i++)     /* so that the devices get on */
                (void)cudaStreamQuery(pair->streams[i]);
            CHECK(ncclCommGetAsyncError(pair->comms[rank], &error) == ncclSuccess);
            nanosleep(&nap, NULL);
        }
        CHECK(error == expected);
        CHECK(strstr(ncclGetLastError(pair->comms[rank]), text) != NULL);
    }
}

static void calls_that_differ(void)
{
    struct pair pair;

    pair_create(&pair);
    CHECK(pair_sum(&pair, 0, 10, ncclFloat32) == ncclSuccess);
    CHECK(pair_sum(&pair, 1, 12, ncclFloat32) == ncclSuccess);
    expect_error(&pair, ncclInvalidUsage, "10 float32, sum; rank 1: 12 float32, sum");
    pair_abort(&pair);
    pair_create(&pair);
    CHECK(pair_sum(&pair, 0, 10, ncclFloat32) == ncclSuccess);
    CHECK(pair_sum(&pair, 1, 10, ncclFloat64) == ncclSuccess);
    expect_error(&pair, ncclInvalidUsage, "number 1: the ranks do not agree");
    pair_abort(&pair);
}

static void calls_that_are_refused(void)
{
    struct pair pair;

    pair_create(&pair);
    CHECK(pair_sum(&pair, 0, 10, ncclInt8) == ncclInvalidArgument);
    CHECK(ncclAllReduce(pair.memory[0], pair.memory[0], 10, ncclFloat32, ncclAvg, pair.comms[0],
                        pair.streams[0]) == ncclInvalidArgument);
    CHECK(ncclAllReduce(pair.memory[0], pair.memory[0], 10, ncclFloat32, ncclSum, pair.comms[0],
                        pair.streams[1]) == ncclInvalidArgument);
    pair_abort(&pair);
}

static void order_on_two_streams(void)
{
    struct pair pair;
    cudaStream_t other;
    int go = 0;

    pair_create(&pair);
    CHECK(cudaStreamCreate(&other) == cudaSuccess);
    stream_stall(pair.streams[1], &go);
    CHECK(pair_sum(&pair, 1, 10, ncclFloat32) == ncclSuccess);
    CHECK(ncclAllReduce(pair.memory[1], pair.memory[1], 10, ncclFloat32, ncclSum, pair.comms[1],
                        other) == ncclSuccess);
    expect_error(&pair, ncclInvalidUsage, "in another order than it queued them");
    __atomic_store_n(&go, 1, __ATOMIC_RELEASE);
    pair_abort(&pair);
    CHECK(cudaStreamDestroy(other) == cudaSuccess);
}

static void nap(void *unused)
{
    static const struct timespec fifty_ms = {0, 50000000};

    (void)unused;
    nanosleep(&fifty_ms, NULL);
}

/* Rank 1 takes twice as long as the limit and more, but something moves all the while. */
static void slow_rank_is_not_missing(void)
{
    enum { NAPS = 45 };
    ncclResult_t error;
    struct pair pair;
    int go = 0;

    pair_create(&pair);
    stream_stall(pair.streams[1], &go);
    for (int i = 0; i < NAPS; i++)
        CHECK(cudaLaunchHostFunc(pair.streams[1], nap, NULL) == cudaSuccess);
    for (int rank = 0; rank < 2; rank++)
        CHECK(pair_sum(&pair, rank, 10, ncclFloat32) == ncclSuccess);
    __atomic_store_n(&go, 1, __ATOMIC_RELEASE);
    CHECK(cudaStreamSynchronize(pair.streams[0]) == cudaSuccess);
    CHECK(ncclCommGetAsyncError(pair.comms[0], &error) == ncclSuccess && error == ncclSuccess);
    pair_abort(&pair);
}

static void rank_is_missing(void)
{
    struct pair pair;

    pair_create(&pair);
    CHECK(pair_sum(&pair, 0, 10, ncclFloat32) == ncclSuccess);
    CHECK(cudaStreamSynchronize(pair.streams[0]) == cudaSuccess);
}

/* Both would have a GPU wait for the other ranks, which may wait for this thread. */
static void allocated_while_pending(void)
{
    struct pair pair;
    void *memory;

    pair_create(&pair);
    CHECK(pair_sum(&pair, 0, 10, ncclFloat32) == ncclSuccess);
    CHECK(cudaMalloc(&memory, 1) == cudaSuccess);       /* on device 1 */
    CHECK(cudaSetDevice(0) == cudaSuccess);
    (void)cudaMalloc(&memory, 1);
}

static void freed_while_pending(void)
{
    struct pair pair;

    pair_create(&pair);
    CHECK(pair_sum(&pair, 0, 10, ncclFloat32) == ncclSuccess);
    (void)cudaFree(pair.memory[0]);
}

static void destroyed_while_pending(void)
{
    struct pair pair;

    pair_create(&pair);
    CHECK(pair_sum(&pair, 0, 10, ncclFloat32) == ncclSuccess);
    (void)ncclCommDestroy(pair.comms[0]);
}

static void used_after_close(void)
{
    struct pair pair;
    ncclResult_t error;

    pair_create(&pair);
    CHECK(ncclCommDestroy(pair.comms[0]) == ncclSuccess);
    (void)ncclCommGetAsyncError(pair.comms[0], &error);
}

static void memory_of_another_device(void)
{
    struct pair pair;

    pair_create(&pair);
    (void)ncclAllReduce(pair.memory[1], pair.memory[0], 10, ncclFloat32, ncclSum, pair.comms[0],
                        pair.streams[0]);
}

#define GPUS "OCTET_EMULATED_GPUS=8"

int main(int argc, char **argv)
{
    child_arguments(argc, argv);
    CHILD_CASE(calls_that_differ, GPUS);
    CHILD_CASE(calls_that_are_refused, GPUS);
    CHILD_CASE(order_on_two_streams, GPUS);
    CHILD_CASE(slow_rank_is_not_missing, GPUS, "OCTET_EMULATOR_TIMEOUT=1");
    CHILD_STOPS(rank_is_missing, "missing ranks: 1", GPUS, "OCTET_EMULATOR_TIMEOUT=0.2");
    CHILD_STOPS(allocated_while_pending, "cudaMalloc on device 0 while a collective", GPUS);
    CHILD_STOPS(freed_while_pending, "cudaFree on device 0 while a collective", GPUS);
    CHILD_STOPS(destroyed_while_pending, "rank 0 has a collective pending", GPUS);
    CHILD_STOPS(used_after_close, "the communicator of rank 0 is closed", GPUS);
    CHILD_STOPS(memory_of_another_device, "ncclAllReduce", GPUS);
    return check_finish();
}
