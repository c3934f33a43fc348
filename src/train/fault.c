#include "train/fault.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    char kind[8], phase[16];    /* kind "": no fault */
    int rank;
    long long step;
    _Atomic bool is_over;
} wanted;

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void read_wanted(void)
{
    const char *text = getenv("OCTET_TEST_FAULT");

    if (text && sscanf(text, "%7[a-z]:rank=%d:phase=%15[a-z]:step=%lld", wanted.kind, &wanted.rank,
                       wanted.phase, &wanted.step) < 3)
        wanted.kind[0] = '\0';
}

enum status fault_here(int rank, const char *phase, int64_t step)
{
    pthread_once(&once, read_wanted);
    if (!wanted.kind[0] || rank != wanted.rank || step != wanted.step ||
        strcmp(phase, wanted.phase) != 0 || atomic_exchange(&wanted.is_over, true))
        return OK;
    while (strcmp(wanted.kind, "hang") == 0)
        pause();
    return fail(ERR_NOMEM, "a fault for a test (%s, step %lld)", phase, (long long)step);
}
