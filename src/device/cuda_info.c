/* cuda_info.c - what the CUDA driver and libraries tell about themselves and the GPUs, and what
 * keeps GPUs from being used. */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/gpu.h"

/* What was found at the first look: GPUs do not come and go while a process runs. */
static struct {
    int count;
    bool is_unusable;
    char text[512];
} found;

static pthread_once_t looked = PTHREAD_ONCE_INIT;

static enum status info_fail(int ordinal, const char *call, cudaError_t error)
{
    (void)cudaGetLastError();
    return fail(ERR_DEVICE, "GPU %d: %s: %s", ordinal, call, cudaGetErrorString(error));
}

#define INFO_TRY(ordinal, call, ...)                                \
    do {                                                            \
        const cudaError_t info_error = call(__VA_ARGS__);           \
        if (info_error != cudaSuccess)                              \
            return info_fail((ordinal), #call, info_error);         \
    } while (0)

/* "13.0", from what CUDA calls 13000. */
static const char *version_text(char text[32], int version)
{
    snprintf(text, 32, "%d.%d", version / 1000, version % 1000 / 10);
    return text;
}

/* " (CUDA_VISIBLE_DEVICES is "0,1")" */
static const char *visible_text(char text[128])
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");

    text[0] = '\0';
    if (visible)
        snprintf(text, 128, " (CUDA_VISIBLE_DEVICES is \"%.80s\")", visible);
    return text;
}

/* The runtime gives the same error for no driver at all and for one that is too old. */
static void explain_driver(void)
{
    char text[32], needed[32];
    int driver = 0, runtime = 0;

    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    if (driver == 0) {
        snprintf(found.text, sizeof found.text, "no CUDA driver was found (nvidia-smi would show "
                 "it): install NVIDIA's driver");
        return;
    }
    found.is_unusable = true;
    snprintf(found.text, sizeof found.text, "the CUDA driver is too old: it supports CUDA %s and "
             "this program needs %s: update NVIDIA's driver%s", version_text(text, driver),
             version_text(needed, runtime), driver / 1000 >= 12 ? ", or build with CUDA 12" : "");
}

static void explain(cudaError_t error)
{
    char visible[128];

    (void)cudaGetLastError();
    if (error == cudaErrorInsufficientDriver) {
        explain_driver();
    } else if (error == cudaErrorNoDevice || error == cudaSuccess) {
        snprintf(found.text, sizeof found.text, "no GPU is visible%s", visible_text(visible));
    } else {
        found.is_unusable = true;
        snprintf(found.text, sizeof found.text, "the CUDA driver does not work: %s%s; nvidia-smi "
                 "may tell more", cudaGetErrorString(error), visible_text(visible));
    }
}

static bool is_new_enough(int ordinal)
{
    int major = 0;

    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal) != cudaSuccess)
        (void)cudaGetLastError();
    return major >= GPU_MIN_CAPABILITY;
}

static void explain_age(void)
{
    struct gpu_facts facts = {0};

    (void)gpu_facts(&facts, 0);
    found.is_unusable = true;
    snprintf(found.text, sizeof found.text, "Octet needs a GPU of compute capability %d.0 or "
             "newer, and GPU 0 (%s) has %d.%d", GPU_MIN_CAPABILITY, facts.name, facts.major,
             facts.minor);
}

static void look(void)
{
    char visible[128];
    int count = 0, n_usable = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);

    if (error != cudaSuccess || count == 0) {
        explain(error);
        return;
    }
    for (int i = 0; i < count; i++)
        n_usable += is_new_enough(i);
    if (n_usable == 0) {
        explain_age();
        return;
    }
    found.count = count;
    snprintf(found.text, sizeof found.text, "there %s %d GPU%s%s", count == 1 ? "is" : "are", count,
             count == 1 ? "" : "s", visible_text(visible));
}

int gpu_count(void)
{
    pthread_once(&looked, look);
    return found.count;
}

const char *gpu_support(void)
{
    pthread_once(&looked, look);
    return found.text;
}

bool gpu_is_unusable(void)
{
    pthread_once(&looked, look);
    return found.is_unusable;
}

enum status gpu_facts(struct gpu_facts *out, int ordinal)
{
    struct cudaDeviceProp properties;

    *out = (struct gpu_facts){0};
    INFO_TRY(ordinal, cudaGetDeviceProperties, &properties, ordinal);
    *out = (struct gpu_facts){.major = properties.major, .minor = properties.minor,
                              .memory = properties.totalGlobalMem};
    snprintf(out->name, sizeof out->name, "%.60s", properties.name);
    return OK;
}

enum status gpu_free_memory(uint64_t *bytes, int ordinal)
{
    size_t left, total;
    int current;

    *bytes = 0;
    INFO_TRY(ordinal, cudaGetDevice, &current);
    INFO_TRY(ordinal, cudaSetDevice, ordinal);
    const cudaError_t error = cudaMemGetInfo(&left, &total);
    INFO_TRY(ordinal, cudaSetDevice, current);
    if (error != cudaSuccess)
        return info_fail(ordinal, "cudaMemGetInfo", error);
    *bytes = left;
    return OK;
}

enum status gpu_peer_access(bool *direct, int from, int to)
{
    int can_access;

    *direct = false;
    INFO_TRY(from, cudaDeviceCanAccessPeer, &can_access, from, to);
    *direct = can_access;
    return OK;
}

enum status gpu_versions(char *text, size_t size)
{
    char driver_text[32], runtime_text[32];
    const size_t cublas = cublasLtGetVersion();
    int driver = 0, runtime = 0, nccl = 0;

    INFO_TRY(0, cudaDriverGetVersion, &driver);
    INFO_TRY(0, cudaRuntimeGetVersion, &runtime);
    const ncclResult_t result = ncclGetVersion(&nccl);
    if (result != ncclSuccess)
        return fail(ERR_DEVICE, "ncclGetVersion: %s", ncclGetErrorString(result));
    snprintf(text, size, "CUDA driver %s, runtime %s, cuBLASLt %zu.%zu.%zu, NCCL %d.%d.%d",
             version_text(driver_text, driver), version_text(runtime_text, runtime),
             cublas / 10000, cublas / 100 % 100, cublas % 100, nccl / 10000, nccl / 100 % 100,
             nccl % 100);
    return OK;
}
