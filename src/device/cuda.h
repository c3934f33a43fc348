/* cuda.h - a GPU as a device: one compute stream, one collective stream, cuBLASLt. gpu_open() of gpu.h
 * makes one.
 *
 * Only src/device/cuda*, the communicators between GPUs in src/comm and kernels/cuda include this
 * file. */
#ifndef OCTET_DEVICE_CUDA_H
#define OCTET_DEVICE_CUDA_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_matmul_cache;
struct cuda_sections;
struct cuda_staging;

struct cuda_device {
    struct device base;
    int ordinal;                /* as the CUDA runtime counts visible GPUs */
    cudaStream_t stream;        /* everything but collectives */
    cudaStream_t comm_stream;   /* collectives; highest priority */
    cublasLtHandle_t cublas;
    void *workspace;            /* of cuBLASLt */
    size_t workspace_size;
    struct cuda_matmul_cache *matmuls;
    struct cuda_sections *sections; /* NULL before the first one */
    struct cuda_staging *staging;
    cudaEvent_t idle;           /* what cuda_sync() waits for */
    void *scratch;              /* of the kernels: at least scratch_size bytes, 256-aligned */
    size_t scratch_size;
    int n_sms;                  /* multiprocessors */
    bool deterministic;         /* product algorithms by heuristic order, not by timing */
    bool tf32;                  /* products of F32 matrices may round their inputs to TF32 */
};

static inline struct cuda_device *cuda_device(struct device *dev)
{
    return (struct cuda_device *)dev;
}
static inline cudaStream_t cuda_stream(struct device *dev)
{
    return cuda_device(dev)->stream;
}

/* Record "GPU 3 (NAME): CALL: cudaGetErrorString" and return ERR_DEVICE. `call` may go on with its
 * arguments in parentheses, which are left out. */
enum status cuda_fail(const struct device *dev, const char *call, cudaError_t error);

#define CUDA_TRY(dev, call)                                     \
    do {                                                        \
        const cudaError_t cuda_error = (call);                  \
        if (cuda_error != cudaSuccess)                          \
            return cuda_fail((dev), #call, cuda_error);         \
    } while (0)

/* After LAUNCH: the status of the launch itself. */
static inline enum status cuda_launched(struct device *dev, const char *op)
{
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? OK : cuda_fail(dev, op, error);
}

/* Bytes of device scratch that the kernels need for these limits: the largest cuda_*_scratch() of the
 * families in kernels/cuda/cuda_ops.h. */
size_t cuda_kernel_scratch(const struct op_limits *limits, enum dtype real);

/* out (m, n) = a (m, k) b (k, n) (+ bias, one for each column) (+ out), all row-major, `transpose`
 * meaning that the stored matrix is the other way round. Sums in float32. */
struct cuda_matmul {
    bool transpose_a, transpose_b;
    bool accumulate;            /* out += */
    int64_t m, n, k;
    const struct tensor *a, *b; /* of the same type */
    const struct tensor *out;   /* of that type, or F32 */
    const struct tensor *bias;  /* of out's type; NULL: none */
};
/* Descriptors and the algorithm of a shape are made once, at its first use, which waits for the
 * device unless it is `deterministic`; so every shape should have its first use before the first
 * collective. While the algorithms of an accumulating product are timed, the kernels' scratch memory
 * keeps a copy of `out`; where that does not fit, the first heuristic is taken. */
enum status cuda_matmul(struct device *dev, const struct cuda_matmul *product);
/* NULL is fine. */
void cuda_matmul_cache_free(struct cuda_matmul_cache *cache);

/* The rows of struct device_ops, and what they leave behind (cuda_sections.c). */
enum status cuda_section_begin(struct device *dev, int section);
enum status cuda_section_end(struct device *dev);
enum status cuda_sections_forget(struct device *dev);
void cuda_sections_free(struct device *dev);

/* *done: the event has happened, and with it all that was queued before it. An error is that of `call`. */
enum status cuda_query(struct device *dev, cudaEvent_t event, const char *call, bool *done);
/* Poll until the event has happened: never a call that blocks, for a GPU may hang. ERR_DEVICE after
 * dev->timeout. */
enum status cuda_wait(struct device *dev, cudaEvent_t event);

/* cuda_upload.c: what copies to the GPU need, and the row of struct device_ops. On an error *out is
 * to be destroyed all the same; NULL is fine. */
enum status cuda_staging_create(struct device *dev, struct cuda_staging **out);
void cuda_staging_destroy(struct cuda_staging *staging);
enum status cuda_upload(struct device *dev, void *to, const void *from, size_t size);

/* The table of CUDA kernels (kernels/cuda/table.c). */
const struct op_table *cuda_ops(void);

#ifdef __cplusplus
}
#endif
#endif
