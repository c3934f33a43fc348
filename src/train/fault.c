#include "train/fault.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    char kind[8], phase[16];    /* kind "": no fault */
    int rank;
    long long step;
    _Atomic int times;          /* left */
} wanted;

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void read_wanted(void)
{
    const char *text = getenv("OCTET_TEST_FAULT");
    int times = 1;

    if (text && sscanf(text, "%7[a-z]:rank=%d:phase=%15[a-z]:step=%lld:times=%d", wanted.kind,
                       &wanted.rank, wanted.phase, &wanted.step, &times) < 3)
        wanted.kind[0] = '\0';
    wanted.times = times;
}

static bool is_wanted(int rank, const char *phase, int64_t step)
{
    pthread_once(&once, read_wanted);
    return wanted.kind[0] && rank == wanted.rank && step >= wanted.step &&
           strcmp(phase, wanted.phase) == 0 && atomic_fetch_sub(&wanted.times, 1) > 0;
}

enum status fault_here(int rank, const char *phase, int64_t step)
{
    if (!is_wanted(rank, phase, step))
        return OK;
    while (strcmp(wanted.kind, "hang") == 0)
        pause();
    return fail(ERR_NOMEM, "a fault for a test (%s, step %lld)", phase, (long long)step);
}

bool fault_in_gradient(int rank, int64_t step)
{
    return is_wanted(rank, "gradient", step);
}
