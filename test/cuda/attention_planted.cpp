/* attention_planted.cpp - attention.cu without the one of its barriers and waits for copies that
 * PLANT counts to, in the order of the files: with it test_attention must fail. */
#include "kernels/cuda/dropout.cuh"
#include "kernels/cuda/ptx.h"

template <bool PLANTED> struct maybe_wait {
    template <int groups> static void wait(void) { cp_async_wait<groups>(); }
};
template <> struct maybe_wait<true> {
    template <int groups> static void wait(void) {}
};

static const int first_number = __COUNTER__ + 1;

#define cp_async_wait maybe_wait<__COUNTER__ - first_number == PLANT>::wait
#define __syncthreads() (__COUNTER__ - first_number == PLANT ? (void)0 : (__syncthreads)())

#include "kernels/cuda/attention.cu"

static_assert(PLANT < __COUNTER__ - first_number, "there are fewer");
