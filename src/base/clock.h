/* clock.h - time for measuring, which never jumps. */
#ifndef OCTET_CLOCK_H
#define OCTET_CLOCK_H

#include <time.h>

/* Seconds since some moment in the past. */
static inline double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The moment at which seconds_now() will be that, for waits on CLOCK_MONOTONIC. */
static inline struct timespec time_at(double seconds)
{
    const time_t whole = (time_t)seconds;

    return (struct timespec){whole, (long)(1e9 * (seconds - (double)whole))};
}

#endif
