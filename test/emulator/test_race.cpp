/* test_race.cpp - the race checker finds each planted race in one run, whatever the order of the
 * threads, and none in kernels that are right. planted.cpp is compiled with -fsanitize=thread. */
#include "emulator/child.h"
#include "emulator/planted_cases.h"

static void none_in_right_kernels(void)
{
    for (const char *order : {FORWARD, REVERSED, RANDOM})
        CHECK_RIGHT(run_case({order}, all_kernels_are_right));
}

static void missing_barriers(void)
{
    for (const char *order : {FORWARD, REVERSED, RANDOM}) {
        CHECK_STOPPED(run_case({order}, [] { return row_sums_are_right(SUMS_NO_BARRIER); }),
                      "static shared memory", "row_sums_kernel", "block (",
                      "addr2line -e ");
        CHECK_STOPPED(run_case({order}, [] { return row_sums_are_right(SUMS_NO_SECOND_BARRIER); }),
                      "race in static shared memory", "row_sums_kernel");
        CHECK_STOPPED(run_case({order}, [] { return reverse_is_right(REVERSE_NO_BARRIER); }),
                      "dynamic shared memory", "reverse_kernel");
        CHECK_STOPPED(run_case({order}, [] { return reverse_is_right(REVERSE_NO_SECOND_BARRIER); }),
                      "race in dynamic shared memory", "without a barrier between");
    }
}

static void missing_syncwarp(void)
{
    for (const char *order : {FORWARD, REVERSED, RANDOM})
        CHECK_STOPPED(run_case({order}, [] { return rotation_is_right(false); }),
                      "static shared memory", "rotate_kernel<false>");
}

static void a_shuffle_is_no_barrier(void)
{
    for (const char *order : {FORWARD, REVERSED, RANDOM})
        CHECK_STOPPED(run_case({order}, [] { return row_sums_are_right(SUMS_SHUFFLE_AS_BARRIER); }),
                      "static shared memory", "row_sums_kernel");
}

static void two_writes(void)
{
    CHECK_STOPPED(run_case({FORWARD}, [] { return row_sums_are_right(SUMS_ALL_LANES_WRITE); }),
                  "race in static shared memory", "it writes what thread", "wrote");
}

/* With nothing but reads before it, the write is where it shows. */
static void a_write_after_reads(void)
{
    CHECK_STOPPED(run_case({FORWARD}, [] { return row_sums_are_right(SUMS_NO_SECOND_BARRIER); }),
                  "it writes what thread", "read, without");
}

static void a_load_of_nothing(void)
{
    CHECK_STOPPED(run_case({FORWARD}, [] { return row_sums_are_right(SUMS_UNWRITTEN); }),
                  "which no thread has written", "row_sums_kernel");
}

int main(void)
{
    CASE(none_in_right_kernels);
    CASE(missing_barriers);
    CASE(missing_syncwarp);
    CASE(a_shuffle_is_no_barrier);
    CASE(two_writes);
    CASE(a_write_after_reads);
    CASE(a_load_of_nothing);
    return check_finish();
}
