/* launch.h - how a CUDA file starts its kernels, under nvcc and under the emulator of the tests.
 *
 *     LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...);
 *     LAUNCH((kernel<32>), ...);                    // a template's commas need parentheses
 *
 * and, inside a kernel, DYN_SHARED(float, tile) for `extern __shared__ float tile[]`. Launch errors
 * are read by the caller with CUDA_LAUNCHED(dev, "op"). */
#ifndef OCTET_CUDA_LAUNCH_H
#define OCTET_CUDA_LAUNCH_H

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#define DYN_SHARED(type, name)                                                                  \
    extern __shared__ __align__(16) unsigned char name##_bytes[];                               \
    type *name = reinterpret_cast<type *>(name##_bytes)

#else
#include "emulator/cuda_emulator.h"
#endif

#endif
