/* cuda_emulator.h - CUDA C++ for a machine without a GPU: what a .cu file sees when a C++ compiler
 * builds it.
 *
 * A block's threads are fibers of one OS thread (block.cpp); launches, copies and events are queued
 * on emulated streams (stream.cpp). By hand, a .cu file and a test that links it:
 *
 *     g++ -x c++ -std=c++17 -D_GNU_SOURCE -g -O1 -Wall -Wextra -Isrc -I. -Itest \
 *         -isystem /usr/local/cuda/include -c kernels/cuda/NAME.cu
 *     g++ ... -c    each of test/emulator/NAME.cpp but race.cpp and tests
 *     g++ NAME.o ... -lpthread
 *
 * -fsanitize=address,undefined on every file finds accesses outside memory. -fsanitize=thread on
 * the .cu files alone, linked with race.cpp and without -fsanitize=thread, reports shared memory
 * that two threads use without a barrier between them. Settings, all from the environment:
 * settings.h. */
#ifndef OCTET_CUDA_EMULATOR_H
#define OCTET_CUDA_EMULATOR_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
/* A block never leaves its OS thread, so this is one copy for each block that runs. */
#define __shared__ static __thread
#ifndef __align__
#define __align__(n) __attribute__((aligned(n)))
#endif

namespace emulator {

struct thread {
    uint3 index;
    int number, warp, lane;
    unsigned warp_epoch;        /* grows with each __syncwarp; what is smaller came before */
};

struct block {
    uint3 index;
    dim3 size, grid;
    void *shared;               /* dynamic shared memory */
    size_t shared_size;
    unsigned epoch;             /* blocks and barriers that the OS thread has seen so far */
    unsigned first_epoch;       /* the one in which this block began */
};

/* The running thread and its block; NULL outside kernels. */
extern __thread thread *self;
extern __thread block *self_block;

/* Where a kernel stands, for messages and to tell two barriers from each other. */
struct place {
    const char *file;
    int line;
};
constexpr place here(const char *file = __builtin_FILE(), int line = __builtin_LINE())
{
    return {file, line};
}

/* All threads of the block that have not returned; the result is the sum of `value`. */
int block_barrier(int value, const char *name, place where);

/* The one warp-wide operation: every lane of `mask` that has not returned leaves a pointer, and the
 * last one to come calls `function` for all. lanes[i] is lane i's pointer, `mask` the lanes there.
 * Without a function it is __syncwarp, the only one that orders the lanes' accesses to memory. */
using warp_function = void (*)(void *const lanes[32], unsigned mask);
void warp_collective(unsigned mask, void *argument, warp_function function, const char *name,
                     place where);
unsigned warp_active(void);

/* For kernels/cuda/ptx.h. Fragments are laid out as the PTX manual draws them for mma.m16n8k16 and
 * ldmatrix; all 32 lanes take part. */
void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], place where = here());
void mma_m16n8k16_f16(float d[4], const uint32_t a[4], const uint32_t b[2], place where = here());
/* `row`: lane i gives the address of row i % 8 of matrix i / 8, 16-byte aligned. */
void ldmatrix_x2(uint32_t out[2], const void *row, place where = here());
void ldmatrix_x4(uint32_t out[4], const void *row, place where = here());
void ldmatrix_x2_trans(uint32_t out[2], const void *row, place where = here());
void ldmatrix_x4_trans(uint32_t out[4], const void *row, place where = here());
/* Copies land no sooner than cp_async_wait says; what lies beyond source_bytes becomes zero. */
void cp_async(void *shared, const void *global, int bytes, int source_bytes, place where = here());
void cp_async_commit(void);
void cp_async_wait(int groups_in_flight);

struct launch {
    std::string kernel;         /* as the source names it */
    const void *function;
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
};

/* Stop with a message if the launch was given memory that its device cannot reach. */
void check_pointer_argument(const launch &launch, const void *pointer);
void check_struct_argument(const launch &launch, const void *bytes, size_t size);
/* Queue the launch; its error is for cudaGetLastError. */
void submit_launch(launch launch, std::function<void()> thread_body);

template <class T> void check_argument(const launch &launch, T argument)
{
    if constexpr (std::is_pointer_v<T>) {
        check_pointer_argument(launch, reinterpret_cast<const void *>(argument));
    } else if constexpr (std::is_class_v<T>) {
#if defined(__GNUC__) && !defined(__clang__)
        __builtin_clear_padding(&argument);     /* may hold part of an older pointer */
#endif
        check_struct_argument(launch, &argument, sizeof argument);
    }
}

/* Arguments are converted and copied now, as <<<>>> does, not when the kernel runs. */
template <class... Parameters, class... Arguments>
void launch_kernel(launch launch, void (*kernel)(Parameters...), Arguments &&...arguments)
{
    static_assert(sizeof...(Parameters) == sizeof...(Arguments),
                  "a kernel launched with the wrong number of arguments");
    const std::tuple<std::decay_t<Parameters>...> copies(
        static_cast<std::decay_t<Parameters>>(arguments)...);

    launch.function = reinterpret_cast<const void *>(kernel);
    std::apply([&](const auto &...copy) { (check_argument(launch, copy), ...); }, copies);
    submit_launch(std::move(launch), [kernel, copies] { std::apply(kernel, copies); });
}

}

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    emulator::launch_kernel({#kernel, nullptr, dim3(grid), dim3(block),                         \
                             static_cast<size_t>(shared_bytes), (stream)},                      \
                            kernel, ##__VA_ARGS__)
#define DYN_SHARED(type, name) type *name = reinterpret_cast<type *>(emulator::self_block->shared)

constexpr int warpSize = 32;
#define threadIdx (emulator::self->index)
#define blockIdx (emulator::self_block->index)
#define blockDim (emulator::self_block->size)
#define gridDim (emulator::self_block->grid)

/* As nvcc's <cuda_runtime.h> has them, for kernels instead of addresses. */
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute,
                                 int value)
{
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attribute, value);
}
template <class... Parameters>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, void (*kernel)(Parameters...))
{
    return cudaFuncGetAttributes(attributes, reinterpret_cast<const void *>(kernel));
}
template <class... Parameters>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n_blocks,
                                                          void (*kernel)(Parameters...),
                                                          int n_threads, size_t shared_bytes)
{
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        n_blocks, reinterpret_cast<const void *>(kernel), n_threads, shared_bytes);
}

#include "emulator/device_functions.h"

#endif
