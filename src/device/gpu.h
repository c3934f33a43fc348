/* gpu.h - the GPUs of this machine, for code that must also build without CUDA.
 *
 * Implemented by cuda.c and cuda_info.c where CUDA is there, by no_gpu.c elsewhere. */
#ifndef OCTET_DEVICE_GPU_H
#define OCTET_DEVICE_GPU_H

#include "device/device.h"

enum {
    GPU_MIN_CAPABILITY = 8,     /* the kernels need compute capability 8.0 or newer */
    GPU_MAX_HEAD_SIZE = 256,    /* the largest one that attention can do */
    GPU_MAX_SHARERS = 8,        /* ranks on one GPU, in tests */
};

/* GPUs that can be used; 0 without a driver, without CUDA support in this build, and where all GPUs
 * are too old. */
int gpu_count(void);
/* "there are 2 GPUs", or why there are none: "this build has no CUDA support". */
const char *gpu_support(void);
/* True where there seem to be GPUs and yet gpu_count() is 0. */
bool gpu_is_unusable(void);

/* Open GPU `ordinal` for computing in F32, BF16 or F16. */
enum status gpu_open(struct device **out, int ordinal, enum dtype real, bool deterministic);

/* What follows needs no open device, and leaves the one that the calling thread works with as it
 * is. */
struct gpu_facts {
    char name[64];
    int major, minor;           /* compute capability */
    uint64_t memory;            /* bytes */
};
enum status gpu_facts(struct gpu_facts *out, int ordinal);
enum status gpu_free_memory(uint64_t *bytes, int ordinal);
/* *direct: GPU `from` reads and writes the memory of `to` without the host in between. */
enum status gpu_peer_access(bool *direct, int from, int to);
/* "CUDA driver 13.0, runtime 13.0, cuBLASLt 13.1.0, NCCL 2.28.9" */
enum status gpu_versions(char *text, size_t size);

#endif
