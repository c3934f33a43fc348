/* attention_planted.cpp - attention.cu for the race checker, without the barrier or wait for copies
 * that OCTET_PLANTED names, as FILE:LINE: then test_attention must fail. */
#include <stdlib.h>

#include "kernels/cuda/dropout.cuh"
#include "kernels/cuda/ptx.h"

static const char *const planted = getenv("OCTET_PLANTED");

static bool is_planted(const char *file, int line)
{
    const char *name = strrchr(file, '/') + 1;
    const size_t length = strlen(name);

    return strncmp(planted, name, length) == 0 && planted[length] == ':' &&
           atoi(planted + length + 1) == line;
}

struct planted_wait {
    bool left_out;

    template <int groups> void wait() const
    {
        if (!left_out)
            cp_async_wait<groups>();
    }
};

#define LEFT_OUT (planted && is_planted(__FILE__, __LINE__))
#define cp_async_wait planted_wait{LEFT_OUT}.wait
#define __syncthreads() (LEFT_OUT ? (void)0 : (__syncthreads)())
#define __syncwarp() (LEFT_OUT ? (void)0 : (__syncwarp)())

#include "kernels/cuda/attention.cu"
