/* test_nccl.c - all-reduce between emulated GPUs: its results, and what happens when a rank fails,
 * hangs, or does something else than the others. */
#include "base/arena.h"
#include "comm/cuda_comm.h"
#include "cuda/child.h"
#include "cuda/stall.h"
#include "device/cuda.h"
#include "device/gpu.h"
#include "kernels/cuda/loopback.h"
#include "train/world.h"

enum { MAX_RANKS = 8, STEPS = 3, MEMORY = 1 << 19 };

/* Enough for everything that is not to time out. */
static const double PATIENCE = 60;

/* A group of ranks and what becomes of it. */
struct party {
    int size;
    bool loopback;
    double timeout;                         /* 0: PATIENCE */
    enum status (*act)(struct party *party, int rank);
    struct barrier *barrier;
    struct cuda_group *group;
    struct device *devices[MAX_RANKS];
    struct comm *comms[MAX_RANKS];
    void *memory[MAX_RANKS];                /* MEMORY bytes of each device */
    enum status statuses[MAX_RANKS];        /* of act() */
    int released;                           /* for stream_stall() */
};

static enum status take_part(struct worker *worker, void *context)
{
    struct party *party = context;
    const int rank = worker->rank;

    TRY(gpu_open(&party->devices[rank], party->loopback ? 0 : rank, DTYPE_F32, true));
    TRY(device_alloc(party->devices[rank], MEMORY, &party->memory[rank]));
    TRY(comm_cuda_create(&party->comms[rank], party->group, rank, party->devices[rank]));
    TRY(world_barrier(worker));
    return party->statuses[rank] = party->act(party, rank);
}

static enum status party_create(struct party *party)
{
    static const int ordinals[MAX_RANKS] = {0, 1, 2, 3, 4, 5, 6, 7};
    const double timeout = party->timeout > 0 ? party->timeout : PATIENCE;

    TRY(barrier_create(&party->barrier, party->size));
    if (party->loopback)
        return cuda_group_create_loopback(&party->group, party->size, party->barrier, timeout);
    return cuda_group_create_nccl(&party->group, party->size, ordinals, party->barrier, timeout);
}

/* Returns how the ranks' work ended, with its message; *closed: how the group did. */
static enum status party_run(struct party *party, enum status *closed)
{
    char message[512] = "";
    enum status status = party_create(party);

    if (status == OK)
        status = world_run(party->size, party->barrier, take_part, party);
    snprintf(message, sizeof message, "%s", status_message());
    *closed = cuda_group_destroy(party->group);
    __atomic_store_n(&party->released, 1, __ATOMIC_RELEASE);
    for (int rank = 0; rank < party->size; rank++) {
        comm_destroy(party->comms[rank]);
        if (party->devices[rank])
            device_free(party->devices[rank], party->memory[rank], MEMORY);
        device_destroy(party->devices[rank]);
    }
    barrier_destroy(party->barrier);
    return status == OK ? OK : fail(status, "%s", message);
}

/* What rank brings as element i of its tensor in this step: such that the order of a sum shows. */
static double brought(int rank, int step, int64_t i)
{
    return 1.0 / (double)(1 + rank + 3 * step + i % 97);
}

static double summed(const struct party *party, enum dtype dtype, int step, int64_t i)
{
    float single = (float)brought(0, step, i);
    double sum = brought(0, step, i);

    for (int rank = 1; rank < party->size; rank++) {
        single += (float)brought(rank, step, i);
        sum += brought(rank, step, i);
    }
    return dtype == DTYPE_F64 ? sum : single;
}

static void fill(const struct tensor *x, struct device *dev, int rank, int step)
{
    const int64_t count = tensor_count(x);
    void *host = malloc(MEMORY);

    for (int64_t i = 0; i < count; i++) {
        if (x->dtype == DTYPE_F64)
            ((double *)host)[i] = brought(rank, step, i);
        else
            ((float *)host)[i] = (float)brought(rank, step, i);
    }
    CHECK_OK(device_upload(dev, x->data, host, (size_t)count * dtype_size(x->dtype)));
    free(host);
}

static void check_sum(const struct tensor *x, struct device *dev, const struct party *party,
                      int step)
{
    const int64_t count = tensor_count(x);
    void *host = malloc(MEMORY);

    CHECK_OK(device_download(dev, host, x->data, (size_t)count * dtype_size(x->dtype)));
    for (int64_t i = 0; i < count; i++) {
        const double value = x->dtype == DTYPE_F64 ? ((double *)host)[i] : ((float *)host)[i];
        if (value != summed(party, x->dtype, step, i)) {
            check_report(__FILE__, __LINE__, "%d ranks, step %d, %d of %d %s: %.17g, expected "
                         "%.17g", party->size, step, (int)i, (int)count, dtype_name(x->dtype),
                         value, summed(party, x->dtype, step, i));
            break;
        }
    }
    free(host);
}

/* All tensors under way at once, each queued as soon as it is written; then again over the same
 * memory. */
static enum status sum_tensors(struct party *party, int rank)
{
    enum { N = 6 };
    struct arena arena = {party->memory[rank], 0};
    struct device *dev = party->devices[rank];
    struct comm *comm = party->comms[rank];
    const struct tensor tensors[N] = {
        arena_tensor(&arena, DTYPE_F32, 1, 1), arena_tensor(&arena, DTYPE_F32, 70001, 1),
        arena_tensor(&arena, DTYPE_F64, 2, 1), arena_tensor(&arena, DTYPE_F64, 9, 37),
        arena_tensor(&arena, DTYPE_F32, 0, 5), arena_tensor(&arena, DTYPE_F32, 258, 1),
    };

    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < N; i++) {
            fill(&tensors[i], dev, rank, step);
            TRY(comm_all_reduce(comm, &tensors[i]));
        }
        TRY(comm_wait(comm));
        for (int i = 0; i < N; i++)
            check_sum(&tensors[i], dev, party, step);
    }
    return comm_wait(comm);
}

static void sums(bool loopback)
{
    for (int size = 1; size <= MAX_RANKS; size++) {
        struct party party = {.size = size, .loopback = loopback, .act = sum_tensors};
        enum status closed;
        CHECK_OK(party_run(&party, &closed));
        CHECK(closed == OK);
    }
}

static void nccl_sums(void)
{
    sums(false);
}

static void loopback_sums(void)
{
    sums(true);
}

/* Queue an all-reduce of this many numbers and wait for it. */
static enum status sum_some(struct party *party, int rank, enum dtype dtype, int64_t count)
{
    const struct tensor x = tensor_1d(party->memory[rank], dtype, count);

    TRY(comm_all_reduce(party->comms[rank], &x));
    return comm_wait(party->comms[rank]);
}

/* The party must fail with this status, with the culprit and the text in its message, and every
 * rank end for the same reason or canceled; the group must close. */
static void expect_failure(struct party party, enum status expected, const char *culprit,
                           const char *text)
{
    enum status closed;

    CHECK_FAILS(party_run(&party, &closed), expected, text);
    CHECK(strstr(status_message(), culprit) != NULL);
    CHECK(closed == OK);
    for (int rank = 0; rank < party.size; rank++)
        CHECK(party.statuses[rank] == expected || party.statuses[rank] == ERR_CANCELED);
}

static enum status sum_ten(struct party *party, int rank)
{
    for (int i = 0; i < STEPS; i++)
        TRY(sum_some(party, rank, DTYPE_F32, 10));
    return OK;
}

static enum status sum_too_many_on_2(struct party *party, int rank)
{
    return sum_some(party, rank, DTYPE_F32, rank == 2 ? 11 : 10);
}

static enum status sum_doubles_on_1(struct party *party, int rank)
{
    return sum_some(party, rank, rank == 1 ? DTYPE_F64 : DTYPE_F32, 10);
}

static enum status sum_halves(struct party *party, int rank)
{
    return sum_some(party, rank, DTYPE_BF16, 10);
}

static void disagreement(void)
{
    for (int loopback = 0; loopback < 2; loopback++) {
        expect_failure((struct party){.size = 3, .loopback = loopback, .act = sum_too_many_on_2},
                       ERR_COMM, "rank ", "came with 1");
        expect_failure((struct party){.size = 2, .loopback = loopback, .act = sum_doubles_on_1},
                       ERR_COMM, "rank ", "came with 10 F");
        expect_failure((struct party){.size = 2, .loopback = loopback, .act = sum_halves},
                       ERR_COMM, "rank ", "all-reduce of BF16: expected F32 or F64");
    }
}

/* Rank 1 fails for a reason of its own; the others are on their way to the collective. */
static enum status rank_1_fails_before(struct party *party, int rank)
{
    if (rank == 1)
        return fail(ERR_IO, "disk full");
    return sum_ten(party, rank);
}

/* The same when the others' collective waits for a GPU that hangs. */
static enum status rank_1_fails_after(struct party *party, int rank)
{
    const struct tensor x = tensor_1d(party->memory[rank], DTYPE_F32, 10);

    if (rank == 1)
        stream_stall(cuda_stream(party->devices[rank]), &party->released);
    TRY(comm_all_reduce(party->comms[rank], &x));
    if (rank == 1)
        return fail(ERR_IO, "disk full");
    return comm_wait(party->comms[rank]);
}

static void cancel_while_waiting(void)
{
    for (int loopback = 0; loopback < 2; loopback++) {
        expect_failure((struct party){.size = 4, .loopback = loopback,
                                      .act = rank_1_fails_before}, ERR_IO, "rank 1: ", "disk full");
        expect_failure((struct party){.size = 4, .loopback = loopback,
                                      .act = rank_1_fails_after}, ERR_IO, "rank 1: ", "disk full");
    }
}

/* The GPUs of ranks 1 and 3 never get to the collective. */
static enum status ranks_1_and_3_hang(struct party *party, int rank)
{
    if (rank % 2 == 1)
        stream_stall(cuda_stream(party->devices[rank]), &party->released);
    return sum_ten(party, rank);
}

static void gpu_hangs(void)
{
    for (int loopback = 0; loopback < 2; loopback++)
        expect_failure((struct party){.size = 4, .loopback = loopback, .timeout = 0.5,
                                      .act = ranks_1_and_3_hang}, ERR_COMM, "rank ",
                       "all-reduce 1: no result after 0.5 s; not reached by rank 1, 3");
}

/* Everybody came, and yet there is no end to it. */
static void nccl_hangs(void)
{
    expect_failure((struct party){.size = 3, .timeout = 0.5, .act = sum_ten}, ERR_COMM, "rank ",
                   "all-reduce 2: no result after 0.5 s, though all ranks have reached it");
}

/* NCCL itself notices, before our time limit. */
static void nccl_misses_a_rank(void)
{
    expect_failure((struct party){.size = 3, .act = sum_ten}, ERR_COMM, "rank ",
                   "ncclAllReduce number 2: missing ranks: 2");
}

static void nccl_fails_later(void)
{
    expect_failure((struct party){.size = 3, .act = sum_ten}, ERR_COMM, "rank 1: GPU 1 (",
                   "all-reduce: remote process exited or there was a network error: an error that "
                   "was asked for");
}

static void nccl_fails_at_once(void)
{
    expect_failure((struct party){.size = 3, .act = sum_ten}, ERR_COMM, "rank 1: GPU 1 (",
                   "ncclAllReduce: unhandled system error");
}

/* A kernel before the collective crashes, on one GPU. */
static enum status compute_and_sum(struct party *party, int rank)
{
    struct device *dev = party->devices[rank];
    const struct loopback_buffers buffers = {{party->memory[rank]}, 1};

    TRY(cuda_loopback_sum(dev, cuda_stream(dev), &buffers, DTYPE_F32, 10));
    return sum_ten(party, rank);
}

static void gpu_is_lost(void)
{
    struct party party = {.size = 3, .act = compute_and_sum};
    enum status closed;

    const enum status status = party_run(&party, &closed);
    /* Whether a call of CUDA is the first that the lost GPU refuses, or one of NCCL. */
    CHECK(status == ERR_DEVICE || status == ERR_COMM);
    CHECK(strstr(status_message(), "rank 1: GPU 1 (") != NULL);
    CHECK(closed == OK);
    CHECK(party.statuses[0] == ERR_CANCELED && party.statuses[2] == ERR_CANCELED);
}

static void nccl_does_not_start(void)
{
    struct party party = {.size = 2, .act = sum_ten};
    enum status closed;

    CHECK_FAILS(party_run(&party, &closed), ERR_COMM,
                "NCCL between 2 GPUs: unhandled system error");
    CHECK(closed == OK);
}

static void groups_that_cannot_be(void)
{
    static const int twice[] = {0, 0}, beyond[] = {0, 99};
    struct barrier *barrier;
    struct cuda_group *group;

    CHECK_OK(barrier_create(&barrier, 2));
    CHECK_FAILS(cuda_group_create_nccl(&group, 2, twice, barrier, 1), ERR_COMM, "invalid usage");
    CHECK_FAILS(cuda_group_create_nccl(&group, 2, beyond, barrier, 1), ERR_COMM,
                "invalid argument");
    CHECK_FAILS(cuda_group_create_loopback(&group, GPU_MAX_SHARERS + 1, barrier, 1),
                ERR_INVALID, "9 ranks on one GPU, expected 1 to 8");
    CHECK(group == NULL);
    CHECK_OK(cuda_group_destroy(NULL));
    barrier_destroy(barrier);
}

/* A communicator that cannot be aborted: that is said, after 10 s, and nobody waits any longer. */
static void abort_hangs(void)
{
    struct party party = {.size = 3, .act = rank_1_fails_after};
    enum status closed;

    CHECK_FAILS(party_run(&party, &closed), ERR_IO, "disk full");
    CHECK(closed == ERR_COMM);
}

static void closing_fails(void)
{
    struct party party = {.size = 2, .act = sum_ten};
    enum status closed;

    CHECK_OK(party_run(&party, &closed));
    CHECK_FAILS(closed, ERR_COMM, "NCCL: cannot close the communicator of rank 1");
}

#define GPUS "OCTET_EMULATED_GPUS=8"
#define FAIL(rule) "OCTET_EMULATOR_FAIL=" rule

int main(int argc, char **argv)
{
    child_arguments(argc, argv);
    CHILD_CASE(nccl_sums, GPUS);
    CHILD_CASE(loopback_sums, GPUS);
    CHILD_CASE(nccl_sums, GPUS, "OCTET_EMULATOR_STREAMS=random", "OCTET_EMULATOR_SEED=1");
    CHILD_CASE(nccl_sums, GPUS, "OCTET_EMULATOR_STREAMS=random", "OCTET_EMULATOR_SEED=2");
    CHILD_CASE(loopback_sums, GPUS, "OCTET_EMULATOR_STREAMS=random", "OCTET_EMULATOR_SEED=1");
    CHILD_CASE(loopback_sums, GPUS, "OCTET_EMULATOR_STREAMS=random", "OCTET_EMULATOR_SEED=2");
    CHILD_CASE(disagreement, GPUS);
    CHILD_CASE(cancel_while_waiting, GPUS);
    CHILD_CASE(gpu_hangs, GPUS);
    CHILD_CASE(nccl_hangs, GPUS, FAIL("nccl-lost:ncclAllReduce:2@2"));
    CHILD_CASE(nccl_misses_a_rank, GPUS, FAIL("nccl-lost:ncclAllReduce:2@2"),
               "OCTET_EMULATOR_TIMEOUT=0.5");
    CHILD_CASE(nccl_fails_later, GPUS, FAIL("nccl-async:ncclAllReduce:2@1"));
    CHILD_CASE(nccl_fails_at_once, GPUS, FAIL("nccl:ncclAllReduce:2@1"));
    CHILD_CASE(gpu_is_lost, GPUS, FAIL("kernel:loopback_sum_kernel:1@1"));
    CHILD_CASE(nccl_does_not_start, GPUS, FAIL("nccl:ncclCommInitAll:1"));
    CHILD_CASE(groups_that_cannot_be, GPUS);
    CHILD_CASE(abort_hangs, GPUS, FAIL("nccl-hang:ncclCommAbort:1@0"));
    CHILD_CASE(closing_fails, GPUS, FAIL("nccl:ncclCommDestroy:1@1"));
    return check_finish();
}
