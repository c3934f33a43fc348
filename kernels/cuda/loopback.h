/* loopback.h - the sum that src/comm/comm_loopback.c needs. */
#ifndef OCTET_CUDA_LOOPBACK_H
#define OCTET_CUDA_LOOPBACK_H

#include "device/cuda.h"
#include "device/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Buffers of the ranks, all in the memory of one GPU. */
struct loopback_buffers {
    void *data[GPU_MAX_SHARERS];
    int size;
};

/* Each of the buffers = the sum of all of them, in order; `count` elements, F32 or F64. */
enum status cuda_loopback_sum(struct device *dev, cudaStream_t stream,
                              const struct loopback_buffers *buffers, enum dtype dtype,
                              int64_t count);

#ifdef __cplusplus
}
#endif
#endif
