/* memory.cpp - device and pinned memory, and copies: every address that CUDA is given is looked up,
 * since a host's address would be a fault on a GPU and works here. */
#include "emulator/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "emulator/runtime.h"
#include "emulator/scheduler.h"
#include "emulator/settings.h"
#include "emulator/stream.h"

namespace emulator {

namespace {

struct allocation {
    size_t bytes;
    int owner;
    bool ours;      /* allocated here, not the caller's memory pinned */
};

/* By first address. Destroyed before LeakSanitizer looks, so that it reports what was not freed. */
std::map<uintptr_t, allocation> allocations;
std::map<int, size_t> in_use;
std::set<std::pair<int, int>> peers;
std::mutex mutex;

/* The allocation that holds the address; the caller holds the mutex. */
std::map<uintptr_t, allocation>::const_iterator find(const void *pointer)
{
    const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    auto after = allocations.upper_bound(address);

    if (after == allocations.begin())
        return allocations.end();
    const auto found = std::prev(after);
    return address - found->first < found->second.bytes ? found : allocations.end();
}

bool may_use(int device, int owner)
{
    return owner == device || owner == PINNED_HOST || peers.count({device, owner}) > 0;
}

std::string describe(int owner)
{
    if (owner == PAGEABLE_HOST)
        return "memory of the host";
    if (owner == PINNED_HOST)
        return "pinned memory of the host";
    return "memory of device " + std::to_string(owner);
}

}

int memory_owner(const void *pointer)
{
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = find(pointer);

    return found == allocations.end() ? PAGEABLE_HOST : found->second.owner;
}

size_t memory_in_use(int device)
{
    const std::lock_guard<std::mutex> lock(mutex);

    return in_use[device];
}

void peer_access_enable(int device, int peer)
{
    const std::lock_guard<std::mutex> lock(mutex);

    peers.insert({device, peer});
}

bool peer_access_enabled(int device, int peer)
{
    const std::lock_guard<std::mutex> lock(mutex);

    return peers.count({device, peer}) > 0;
}

void require_device_memory(const char *user, const void *pointer, size_t bytes, int device)
{
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = find(pointer);
    const int owner = found == allocations.end() ? PAGEABLE_HOST : found->second.owner;

    if (bytes == 0)
        return;
    if (!may_use(device, owner))
        stop("%s on device %d was given %p, %s", user, device, pointer, describe(owner).c_str());
    const size_t offset = reinterpret_cast<uintptr_t>(pointer) - found->first;
    if (bytes > found->second.bytes - offset)
        stop("%s on device %d was given %zu bytes at offset %zu of an allocation of %zu", user,
             device, bytes, offset, found->second.bytes);
}

/* Every byte 0xff: floats of any size read it as NaN. */
static cudaError_t allocate(void **pointer, size_t bytes, int owner)
{
    void *memory = nullptr;

    *pointer = nullptr;
    if (bytes == 0)
        return cudaSuccess;
    const std::lock_guard<std::mutex> lock(mutex);
    if (owner >= 0 && bytes > environment().memory - in_use[owner])
        return record_error(cudaErrorMemoryAllocation);
    if (posix_memalign(&memory, 256, bytes) != 0)
        return record_error(cudaErrorMemoryAllocation);
    memset(memory, 0xff, bytes);
    allocations[reinterpret_cast<uintptr_t>(memory)] = {bytes, owner, true};
    in_use[owner] += bytes;
    *pointer = memory;
    return cudaSuccess;
}

/* Forget an allocation that begins at `pointer`; false if there is none. */
static bool forget(void *pointer, bool pinned, bool ours)
{
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = allocations.find(reinterpret_cast<uintptr_t>(pointer));

    if (found == allocations.end() || (found->second.owner == PINNED_HOST) != pinned ||
        found->second.ours != ours)
        return false;
    in_use[found->second.owner] -= found->second.bytes;
    allocations.erase(found);
    return true;
}

/* Who reads and who writes, checked against what the caller said. */
static void check_copy(const char *call, void *to, const void *from, size_t bytes,
                       cudaMemcpyKind kind, int device)
{
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice ||
                           (kind == cudaMemcpyDefault && memory_owner(to) >= 0);
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice ||
                             (kind == cudaMemcpyDefault && memory_owner(from) >= 0);

    if (to_device)
        require_device_memory(call, to, bytes, device);
    else if (memory_owner(to) >= 0)
        stop("%s on device %d writes to memory of a device, but its kind says the host", call,
             device);
    if (from_device)
        require_device_memory(call, from, bytes, device);
    else if (memory_owner(from) >= 0)
        stop("%s on device %d reads memory of a device, but its kind says the host", call, device);
}

static cudaError_t copy(const char *call, void *to, const void *from, size_t bytes,
                        cudaMemcpyKind kind, cudaStream_t stream)
{
    const int device = stream_device(stream);
    const bool captured = capture_of(stream) != nullptr;

    if (fault_due("memcpy", call, device))
        return record_error(cudaErrorInvalidValue);
    if (bytes == 0)
        return cudaSuccess;
    check_copy(call, to, from, bytes, kind, device);
    if (memory_owner(from) == PAGEABLE_HOST && !captured) {
        /* CUDA reads pageable memory before it returns. */
        const char *const first = static_cast<const char *>(from);
        return enqueue(stream, call, [=, staged = std::vector<char>(first, first + bytes)] {
            memcpy(to, staged.data(), bytes);
            return true;
        });
    }
    const cudaError_t error = enqueue(stream, call, [=] {
        memmove(to, from, bytes);
        return true;
    });
    if (error != cudaSuccess || memory_owner(to) != PAGEABLE_HOST || captured)
        return error;
    /* And has written it. */
    wait_for(queue_end(queue_of(stream)));
    return record_error(device_error(device));
}

static cudaError_t set(const char *call, void *to, int value, size_t bytes, cudaStream_t stream)
{
    const int device = stream_device(stream);

    if (fault_due("memcpy", call, device))
        return record_error(cudaErrorInvalidValue);
    require_device_memory(call, to, bytes, device);
    return enqueue(stream, call, [=] {
        memset(to, value, bytes);
        return true;
    });
}

}

using namespace emulator;

extern "C" {

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    const cudaError_t lost = current_device_error();

    if (lost != cudaSuccess)
        return lost;
    require_no_collective("cudaMalloc", current_device());
    if (fault_due("malloc", ""))
        return record_error(cudaErrorMemoryAllocation);
    return allocate(pointer, bytes, current_device());
}

cudaError_t cudaFree(void *pointer)
{
    if (!pointer)
        return cudaSuccess;
    const int owner = memory_owner(pointer);
    if (owner >= 0) {
        require_no_collective("cudaFree", owner);
        wait_for_device(owner);
    }
    if (!forget(pointer, false, true))
        return record_error(cudaErrorInvalidValue);
    free(pointer);
    return owner >= 0 ? record_error(device_error(owner)) : cudaSuccess;
}

cudaError_t cudaMallocAsync(void **pointer, size_t bytes, cudaStream_t)
{
    return cudaMalloc(pointer, bytes);
}

cudaError_t cudaFreeAsync(void *pointer, cudaStream_t)
{
    return cudaFree(pointer);
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned)
{
    require_no_collective("cudaHostAlloc", current_device());
    if (fault_due("host", ""))
        return record_error(cudaErrorMemoryAllocation);
    return allocate(pointer, bytes, PINNED_HOST);
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes)
{
    return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *pointer)
{
    if (!pointer)
        return cudaSuccess;
    require_no_collective("cudaFreeHost", current_device());
    for (int device = 0; device < environment().devices; device++)
        wait_for_device(device);
    if (!forget(pointer, true, true))
        return record_error(cudaErrorInvalidValue);
    free(pointer);
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void *pointer, size_t bytes, unsigned)
{
    if (!pointer || bytes == 0)
        return record_error(cudaErrorInvalidValue);
    if (memory_owner(pointer) != PAGEABLE_HOST)
        return record_error(cudaErrorHostMemoryAlreadyRegistered);
    const std::lock_guard<std::mutex> lock(mutex);
    allocations[reinterpret_cast<uintptr_t>(pointer)] = {bytes, PINNED_HOST, false};
    in_use[PINNED_HOST] += bytes;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *pointer)
{
    return forget(pointer, true, false) ? cudaSuccess
                                        : record_error(cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaHostGetDevicePointer(void **device_pointer, void *pointer, unsigned)
{
    if (memory_owner(pointer) != PINNED_HOST)
        return record_error(cudaErrorInvalidValue);
    *device_pointer = pointer;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *pointer)
{
    const int owner = memory_owner(pointer);

    *attributes = {};
    attributes->type = owner >= 0              ? cudaMemoryTypeDevice
                       : owner == PINNED_HOST ? cudaMemoryTypeHost
                                              : cudaMemoryTypeUnregistered;
    attributes->device = owner >= 0 ? owner : current_device();
    if (owner != PAGEABLE_HOST)
        attributes->devicePointer = const_cast<void *>(pointer);
    if (owner < 0)
        attributes->hostPointer = const_cast<void *>(pointer);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    *total = environment().memory;
    *available = *total - memory_in_use(current_device());
    return current_device_error();
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    return copy("cudaMemcpyAsync", to, from, bytes, kind, stream);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    const cudaError_t error = copy("cudaMemcpy", to, from, bytes, kind, nullptr);

    return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device,
                                size_t bytes, cudaStream_t stream)
{
    require_device_memory("cudaMemcpyPeerAsync", to, bytes, to_device);
    require_device_memory("cudaMemcpyPeerAsync", from, bytes, from_device);
    if (fault_due("memcpy", "cudaMemcpyPeerAsync", stream_device(stream)))
        return record_error(cudaErrorInvalidValue);
    return enqueue(stream, "cudaMemcpyPeerAsync", [=] {
        memmove(to, from, bytes);
        return true;
    });
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    return set("cudaMemsetAsync", to, value, bytes, stream);
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    return set("cudaMemset", to, value, bytes, nullptr);
}

}
