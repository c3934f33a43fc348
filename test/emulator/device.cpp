/* device.cpp - CUDA's devices: how many, what they are like, which is current, and errors. */
#include <stdio.h>
#include <string.h>

#include "emulator/memory.h"
#include "emulator/runtime.h"
#include "emulator/scheduler.h"
#include "emulator/settings.h"

namespace emulator {

static thread_local int current;
static thread_local cudaError_t last_error = cudaSuccess;

int current_device(void)
{
    return current;
}

cudaError_t record_error(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

/* The runtime says the same of no driver at all as of one that is too old. */
static cudaError_t driver_error(void)
{
    return environment().driver / 1000 < CUDART_VERSION / 1000 ? cudaErrorInsufficientDriver
                                                               : cudaSuccess;
}

cudaError_t current_device_error(void)
{
    if (driver_error() != cudaSuccess)
        return record_error(driver_error());
    if (environment().devices == 0)
        return record_error(cudaErrorNoDevice);
    return record_error(device_error(current));
}

static bool is_device(int device)
{
    return device >= 0 && device < environment().devices;
}

static bool can_reach(int device, int peer)
{
    return device != peer && device / environment().peers == peer / environment().peers;
}

struct error_text {
    cudaError_t error;
    const char *name, *text;
};

#define ERROR_TEXT(error, text) {error, #error, text}
static const error_text error_texts[] = {
    ERROR_TEXT(cudaSuccess, "no error"),
    ERROR_TEXT(cudaErrorInvalidValue, "invalid argument"),
    ERROR_TEXT(cudaErrorMemoryAllocation, "out of memory"),
    ERROR_TEXT(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR_TEXT(cudaErrorInsufficientDriver,
               "CUDA driver version is insufficient for CUDA runtime version"),
    ERROR_TEXT(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ERROR_TEXT(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR_TEXT(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ERROR_TEXT(cudaErrorNotReady, "device not ready"),
    ERROR_TEXT(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ERROR_TEXT(cudaErrorLaunchOutOfResources, "too many resources requested for launch"),
    ERROR_TEXT(cudaErrorPeerAccessUnsupported,
               "peer access is not supported between these two devices"),
    ERROR_TEXT(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled"),
    ERROR_TEXT(cudaErrorStreamCaptureUnsupported,
               "operation not permitted when stream is capturing"),
    ERROR_TEXT(cudaErrorStreamCaptureInvalidated,
               "operation failed due to a previous error during capture"),
};

static const error_text *find_text(cudaError_t error)
{
    for (const error_text &known : error_texts)
        if (known.error == error)
            return &known;
    return nullptr;
}

}

using namespace emulator;

extern "C" {

cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = cudaPeekAtLastError();

    last_error = cudaSuccess;
    return error;
}

/* A lost device is an error of every call. */
cudaError_t cudaPeekAtLastError(void)
{
    if (is_device(current))
        record_error(device_error(current));
    return last_error;
}

const char *cudaGetErrorString(cudaError_t error)
{
    const error_text *const known = find_text(error);

    return known ? known->text : "unknown error";
}

const char *cudaGetErrorName(cudaError_t error)
{
    const error_text *const known = find_text(error);

    return known ? known->name : "cudaErrorUnknown";
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = environment().driver;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n_devices)
{
    *n_devices = 0;
    if (driver_error() != cudaSuccess)
        return record_error(driver_error());
    *n_devices = environment().devices;
    return *n_devices > 0 ? cudaSuccess : record_error(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    if (!is_device(device))
        return record_error(cudaErrorInvalidDevice);
    current = device;
    return current_device_error();
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned)
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
{
    if (!is_device(device))
        return record_error(cudaErrorInvalidDevice);
    *properties = {};
    snprintf(properties->name, sizeof properties->name, "Emulated GPU %d", device);
    properties->totalGlobalMem = environment().memory;
    properties->sharedMemPerBlock = 48 << 10;
    properties->sharedMemPerBlockOptin = 227 << 10;
    properties->sharedMemPerMultiprocessor = 228 << 10;
    properties->reservedSharedMemPerBlock = 1 << 10;
    properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->maxThreadsPerMultiProcessor = 2048;
    properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
    properties->maxThreadsDim[2] = 64;
    properties->maxGridSize[0] = 0x7fffffff;
    properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
    properties->major = environment().capability / 10;
    properties->minor = environment().capability % 10;
    properties->multiProcessorCount = 4;
    properties->l2CacheSize = 4 << 20;
    properties->memoryBusWidth = 64;
    properties->concurrentKernels = properties->unifiedAddressing = 1;
    properties->canMapHostMemory = properties->asyncEngineCount = 1;
    properties->pciBusID = device + 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, device);

    if (error != cudaSuccess)
        return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = properties.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = static_cast<int>(properties.sharedMemPerBlock);
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = static_cast<int>(properties.sharedMemPerBlockOptin);
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
        break;
    case cudaDevAttrWarpSize: *value = properties.warpSize; break;
    case cudaDevAttrMultiProcessorCount: *value = properties.multiProcessorCount; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = properties.maxThreadsPerMultiProcessor;
        break;
    case cudaDevAttrL2CacheSize: *value = properties.l2CacheSize; break;
    case cudaDevAttrComputeCapabilityMajor: *value = properties.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; break;
    case cudaDevAttrPciBusId: *value = properties.pciBusID; break;
    case cudaDevAttrClockRate: *value = 1000000; break;         /* kHz */
    case cudaDevAttrMemoryClockRate: *value = 1000000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = properties.memoryBusWidth; break;
    case cudaDevAttrCooperativeLaunch: *value = 0; break;
    case cudaDevAttrMemoryPoolsSupported: *value = 0; break;
    default: stop("cudaDeviceGetAttribute of %d is not emulated", static_cast<int>(attribute));
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device)
{
    if (!is_device(device))
        return record_error(cudaErrorInvalidDevice);
    snprintf(text, static_cast<size_t>(size), "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can_access, int device, int peer)
{
    if (!is_device(device) || !is_device(peer))
        return record_error(cudaErrorInvalidDevice);
    *can_access = can_reach(device, peer);
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned)
{
    if (!is_device(peer) || peer == current)
        return record_error(cudaErrorInvalidDevice);
    if (!can_reach(current, peer))
        return record_error(cudaErrorPeerAccessUnsupported);
    if (peer_access_enabled(current, peer))
        return record_error(cudaErrorPeerAccessAlreadyEnabled);
    peer_access_enable(current, peer);
    return cudaSuccess;
}

}
