/* test_world.c - workers, the barrier that an error cancels, and the sum over ranks. */
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "device/cpu.h"
#include "test/check.h"
#include "train/world.h"

struct plan {
    int fail_rank, fail_step, n_steps;
};

static enum status walk(struct worker *worker, void *context)
{
    const struct plan *plan = context;

    for (int step = 0; step < plan->n_steps; step++) {
        double value = worker->rank * 1000 + step;
        if (worker->rank == plan->fail_rank && step == plan->fail_step)
            return fail(ERR_DEVICE, "broken at step %d", step);
        TRY(world_barrier(worker));
        TRY(world_agree(worker, &value));
        if (value != (worker->size - 1) * 1000 + step)
            return fail(ERR_COMM, "rank %d agreed on %g in step %d", worker->rank, value, step);
    }
    return OK;
}

static enum status run_walk(int n, struct plan plan)
{
    struct barrier *barrier;

    TRY(barrier_create(&barrier, n));
    const enum status status = world_run(n, barrier, walk, &plan);
    barrier_destroy(barrier);
    return status;
}

static void all_arrive(void)
{
    for (int n = 1; n <= 8; n++)
        CHECK_OK(run_walk(n, (struct plan){-1, 0, 50}));
}

static void first_failure_is_named(void)
{
    for (int n = 2; n <= 6; n++)
        for (int rank = 0; rank < n; rank++) {
            char expected[64];
            snprintf(expected, sizeof expected, "rank %d: broken at step %d", rank, 3 * rank);
            CHECK_FAILS(run_walk(n, (struct plan){rank, 3 * rank, 20}), ERR_DEVICE, expected);
        }
    CHECK_FAILS(run_walk(1, (struct plan){0, 0, 1}), ERR_DEVICE, "broken at step 0");
}

enum { MOST = 20011 };

struct sum {
    int64_t count;
    enum dtype dtype;
    int wrong_rank;             /* comes with one element less; -1: none */
    struct comm_group *group;
    struct barrier *barrier;
    float f32[5][MOST];
    double f64[5][MOST];
    struct device *devices[5];
    struct comm *comms[5];
};

static double element(int rank, int64_t i)
{
    return 1.0 / (double)(3 + i % 1001) + rank * 0.37;
}

static enum status add_up(struct worker *worker, void *context)
{
    struct sum *s = context;
    const int rank = worker->rank;
    void *data = s->dtype == DTYPE_F32 ? (void *)s->f32[rank] : (void *)s->f64[rank];
    const struct tensor x = tensor_1d(data, s->dtype, s->count - (rank == s->wrong_rank));

    for (int64_t i = 0; i < s->count; i++) {
        s->f32[rank][i] = (float)element(rank, i);
        s->f64[rank][i] = element(rank, i);
    }
    TRY(cpu_device_create(&s->devices[rank], rank, 1 + rank % 2, DTYPE_F32));
    TRY(comm_local_create(&s->comms[rank], s->group, rank, s->devices[rank]));
    return comm_all_reduce(s->comms[rank], &x);
}

/* The same sum on every rank, added in the order of the ranks: equal to the bit. */
static void check_sum(const struct sum *s, int n)
{
    for (int64_t i = 0; i < s->count; i++) {
        float f32 = (float)element(0, i);
        double f64 = element(0, i);
        for (int rank = 1; rank < n; rank++) {
            f32 += (float)element(rank, i);
            f64 += element(rank, i);
        }
        for (int rank = 0; rank < n; rank++)
            if (s->dtype == DTYPE_F32 ? s->f32[rank][i] != f32 : s->f64[rank][i] != f64) {
                check_report(__FILE__, __LINE__, "%d ranks, %lld elements: rank %d, element %lld", n,
                             (long long)s->count, rank, (long long)i);
                return;
            }
    }
}

static enum status run_sum(struct sum *s, int n)
{
    enum status status;

    TRY(barrier_create(&s->barrier, n));
    TRY(comm_group_create(&s->group, n, s->barrier));
    status = world_run(n, s->barrier, add_up, s);
    for (int rank = 0; rank < n; rank++) {
        comm_destroy(s->comms[rank]);
        device_destroy(s->devices[rank]);
        s->comms[rank] = NULL;
        s->devices[rank] = NULL;
    }
    comm_group_destroy(s->group);
    barrier_destroy(s->barrier);
    return status;
}

static void sums_in_rank_order(void)
{
    static struct sum s;
    static const int64_t counts[] = {1, 2, 3, 2047, 2048, 2049, 10007, MOST};

    for (int n = 2; n <= 5; n++)
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            for (int wide = 0; wide < 2; wide++) {
                s.count = counts[i];
                s.dtype = wide ? DTYPE_F64 : DTYPE_F32;
                s.wrong_rank = -1;
                CHECK_OK(run_sum(&s, n));
                check_sum(&s, n);
            }
}

static void mismatch_is_an_error(void)
{
    static struct sum s = {.count = 100, .dtype = DTYPE_F32, .wrong_rank = 1};

    CHECK_FAILS(run_sum(&s, 3), ERR_COMM, "all-reduce");
}

static void alone(void)
{
    float x[3] = {1, 2, 3};
    const struct tensor t = tensor_1d(x, DTYPE_F32, 3);
    struct comm *comm;

    CHECK_OK(comm_self_create(&comm));
    CHECK_OK(comm_all_reduce(comm, &t));
    CHECK(x[0] == 1 && x[1] == 2 && x[2] == 3 && comm->size == 1 && comm->rank == 0);
    comm_destroy(comm);
}

int main(void)
{
    CASE(all_arrive);
    CASE(first_failure_is_named);
    CASE(sums_in_rank_order);
    CASE(mismatch_is_an_error);
    CASE(alone);
    return check_finish();
}
