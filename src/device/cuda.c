#include "device/cuda.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "device/gpu.h"
#include "kernels/ops.h"

enum { WORKSPACE_MIB = 32 };    /* what NVIDIA advises for Hopper; 4 MiB would do before it */

enum status cuda_fail(const struct device *dev, const char *call, cudaError_t error)
{
    /* The runtime keeps it: the thread's next device would find it. */
    (void)cudaGetLastError();
    return fail(ERR_DEVICE, "%s: %.*s: %s", dev->description, (int)strcspn(call, "("), call,
                cudaGetErrorString(error));
}

static size_t cuda_scratch_size(const struct device *dev, const struct op_limits *limits)
{
    return cuda_kernel_scratch(limits, dev->real);
}

static enum status cuda_reserve(struct device *dev, const struct op_limits *limits)
{
    struct cuda_device *cuda = cuda_device(dev);
    const size_t size = cuda_scratch_size(dev, limits);
    void *memory;

    if (size <= cuda->scratch_size)
        return OK;
    CUDA_TRY(dev, cudaStreamSynchronize(cuda->stream));
    CUDA_TRY(dev, cudaMalloc(&memory, size));
    CUDA_TRY(dev, cudaFree(cuda->scratch));
    cuda->scratch = memory;
    cuda->scratch_size = size;
    return OK;
}

static enum status cuda_alloc(struct device *dev, size_t size, void **out)
{
    *out = NULL;
    const cudaError_t error = cudaMalloc(out, size ? size : 1);
    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return fail(ERR_NOMEM, "%s: cannot get %.1f MiB of memory", dev->description,
                    (double)size / (1 << 20));
    }
    CUDA_TRY(dev, error);
    CUDA_TRY(dev, cudaMemsetAsync(*out, 0, size, cuda_stream(dev)));
    return OK;
}

static void cuda_free(struct device *dev, void *memory, size_t size)
{
    (void)dev;
    (void)size;
    (void)cudaFree(memory);
}

enum status cuda_query(struct device *dev, cudaEvent_t event, const char *call, bool *done)
{
    const cudaError_t error = cudaEventQuery(event);

    *done = error == cudaSuccess;
    if (error == cudaSuccess)
        return OK;
    /* The runtime keeps "not ready" as if it were an error: the next launch would find it. */
    (void)cudaGetLastError();
    return error == cudaErrorNotReady ? OK : cuda_fail(dev, call, error);
}

enum status cuda_wait(struct device *dev, cudaEvent_t event)
{
    static const struct timespec nap = {0, 50000};
    const double start = seconds_now();

    for (;;) {
        bool done;
        TRY(cuda_query(dev, event, "cudaEventQuery", &done));
        if (done)
            return OK;
        const double waited = seconds_now() - start;
        if (dev->timeout > 0 && waited > dev->timeout)
            return fail(ERR_DEVICE, "%s: its work has not ended after %g s", dev->description,
                        dev->timeout);
        if (waited < 0.01)
            sched_yield();
        else
            nanosleep(&nap, NULL);
    }
}

static enum status cuda_sync(struct device *dev)
{
    CUDA_TRY(dev, cudaEventRecord(cuda_device(dev)->idle, cuda_stream(dev)));
    return cuda_wait(dev, cuda_device(dev)->idle);
}

/* Copying to pageable memory waits for the stream in a way that cannot be given up, so that is done
 * first. */
static enum status cuda_download(struct device *dev, void *to, const void *from, size_t size)
{
    TRY(cuda_sync(dev));
    CUDA_TRY(dev, cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToHost, cuda_stream(dev)));
    CUDA_TRY(dev, cudaStreamSynchronize(cuda_stream(dev)));
    return OK;
}

static enum status cuda_zero(struct device *dev, void *memory, size_t size)
{
    CUDA_TRY(dev, cudaMemsetAsync(memory, 0, size, cuda_stream(dev)));
    return OK;
}

static void cuda_destroy(struct device *dev)
{
    struct cuda_device *cuda = cuda_device(dev);

    /* After an error these fail too, and nothing is left to do about it. */
    (void)cudaSetDevice(cuda->ordinal);
    cuda_sections_free(dev);
    cuda_staging_destroy(cuda->staging);
    if (cuda->idle)
        (void)cudaEventDestroy(cuda->idle);
    cuda_matmul_cache_free(cuda->matmuls);
    if (cuda->cublas)
        (void)cublasLtDestroy(cuda->cublas);
    (void)cudaFree(cuda->workspace);
    (void)cudaFree(cuda->scratch);
    if (cuda->comm_stream)
        (void)cudaStreamDestroy(cuda->comm_stream);
    if (cuda->stream)
        (void)cudaStreamDestroy(cuda->stream);
    free(cuda);
}

static const struct device_ops cuda_memory = {
    .backend = "cuda",
    .scratch_size = cuda_scratch_size,
    .reserve = cuda_reserve,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .upload = cuda_upload,
    .download = cuda_download,
    .zero = cuda_zero,
    .sync = cuda_sync,
    .section_begin = cuda_section_begin,
    .section_end = cuda_section_end,
    .sections_forget = cuda_sections_forget,
    .destroy = cuda_destroy,
};

static enum status create_streams(struct cuda_device *cuda)
{
    struct device *dev = &cuda->base;
    int lowest, highest;

    CUDA_TRY(dev, cudaDeviceGetStreamPriorityRange(&lowest, &highest));
    CUDA_TRY(dev, cudaStreamCreateWithPriority(&cuda->stream, cudaStreamNonBlocking, lowest));
    CUDA_TRY(dev, cudaStreamCreateWithPriority(&cuda->comm_stream, cudaStreamNonBlocking,
                                               highest));
    return OK;
}

static enum status open_device(struct cuda_device *cuda)
{
    struct device *dev = &cuda->base;
    struct cudaDeviceProp properties;

    CUDA_TRY(dev, cudaSetDevice(cuda->ordinal));
    CUDA_TRY(dev, cudaGetDeviceProperties(&properties, cuda->ordinal));
    snprintf(dev->description, sizeof dev->description, "GPU %d (%.60s)", cuda->ordinal,
             properties.name);
    if (properties.major < GPU_MIN_CAPABILITY)
        return fail(ERR_INVALID, "%s: compute capability %d.%d; Octet needs %d.0 or newer",
                    dev->description, properties.major, properties.minor, GPU_MIN_CAPABILITY);
    cuda->n_sms = properties.multiProcessorCount;
    TRY(create_streams(cuda));
    CUDA_TRY(dev, cudaEventCreateWithFlags(&cuda->idle, cudaEventDisableTiming));
    TRY(cuda_staging_create(dev, &cuda->staging));
    const cublasStatus_t status = cublasLtCreate(&cuda->cublas);
    if (status != CUBLAS_STATUS_SUCCESS)
        return fail(ERR_DEVICE, "%s: cublasLtCreate: status %d", dev->description, (int)status);
    cuda->workspace_size = (size_t)WORKSPACE_MIB << 20;
    CUDA_TRY(dev, cudaMalloc(&cuda->workspace, cuda->workspace_size));
    return OK;
}

enum status gpu_open(struct device **out, int ordinal, enum dtype real, bool deterministic)
{
    struct cuda_device *cuda = calloc(1, sizeof *cuda);

    *out = NULL;
    if (!cuda)
        return fail(ERR_NOMEM, "GPU %d: no memory", ordinal);
    cuda->base = (struct device){.memory = &cuda_memory, .ops = cuda_ops(), .index = ordinal,
                                 .real = real};
    snprintf(cuda->base.description, sizeof cuda->base.description, "GPU %d", ordinal);
    cuda->ordinal = ordinal;
    cuda->deterministic = deterministic;
    const enum status status = open_device(cuda);
    if (status != OK) {
        cuda_destroy(&cuda->base);
        return status;
    }
    *out = &cuda->base;
    return OK;
}
