/* launch.cpp - kernel launches: limits, arguments, and what a kernel says of itself. */
#include <map>
#include <memory>
#include <mutex>

#include "emulator/block.h"
#include "emulator/memory.h"
#include "emulator/runtime.h"
#include "emulator/scheduler.h"
#include "emulator/settings.h"

namespace emulator {

namespace {

constexpr size_t SHARED_WITHOUT_ASKING = 48 << 10, SHARED_AT_MOST = 227 << 10;

/* Dynamic shared memory that cudaFuncSetAttribute has allowed, by device and kernel. */
std::map<std::pair<int, const void *>, size_t> shared_limits;
std::mutex mutex;

size_t shared_limit(int device, const void *function)
{
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = shared_limits.find({device, function});

    return found == shared_limits.end() ? SHARED_WITHOUT_ASKING : found->second;
}

/* "(gelu<float>)" was the argument of a macro. */
std::string without_parentheses(const std::string &name)
{
    return name.front() == '(' ? name.substr(1, name.size() - 2) : name;
}

cudaError_t check_limits(const launch &what, int device)
{
    const dim3 grid = what.grid, block = what.block;
    const uint64_t n_threads = static_cast<uint64_t>(block.x) * block.y * block.z;

    if (n_threads == 0 || n_threads > 1024 || block.z > 64 || grid.x == 0 || grid.x > INT32_MAX ||
        grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535)
        return cudaErrorInvalidConfiguration;
    if (what.shared_bytes > shared_limit(device, what.function))
        return cudaErrorInvalidValue;
    if (device != current_device())
        return cudaErrorInvalidResourceHandle;
    if (fault_due("launch", what.kernel.c_str(), device))
        return cudaErrorLaunchOutOfResources;
    return cudaSuccess;
}

void check_owner(const launch &what, const void *pointer, int owner)
{
    const int device = stream_device(what.stream);

    if (owner == PAGEABLE_HOST)
        stop("kernel %s on device %d was given %p, memory of the host",
             without_parentheses(what.kernel).c_str(), device, pointer);
    if (owner >= 0 && owner != device && !peer_access_enabled(device, owner))
        stop("kernel %s on device %d was given %p, memory of device %d",
             without_parentheses(what.kernel).c_str(), device, pointer, owner);
}

}

void check_pointer_argument(const launch &what, const void *pointer)
{
    int owner = memory_owner(pointer);

    if (!pointer)
        return;
    if (owner == PAGEABLE_HOST)     /* the end of an allocation: an array without elements */
        owner = memory_owner(static_cast<const char *>(pointer) - 1);
    check_owner(what, pointer, owner);
}

/* Which of a struct's bytes are pointers is not known here, but a word that happens to be the
 * address of another device's memory is one. */
void check_struct_argument(const launch &what, const void *bytes, size_t size)
{
    const char *const first = static_cast<const char *>(bytes);

    for (size_t i = 0; i + sizeof(void *) <= size; i += sizeof(void *)) {
        const void *word;
        memcpy(&word, first + i, sizeof word);
        const int owner = memory_owner(word);
        if (owner >= 0)
            check_owner(what, word, owner);
    }
}

void submit_launch(launch what, std::function<void()> thread_body)
{
    const int device = stream_device(what.stream);

    what.kernel = without_parentheses(what.kernel);
    const cudaError_t error = check_limits(what, device);
    if (error != cudaSuccess) {
        record_error(error);
        return;
    }
    const auto run = [device, what, thread_body] {
        if (fault_due("kernel", what.kernel.c_str(), device))
            fail_device(device, cudaErrorIllegalAddress);
        else
            run_grid(what, thread_body);
        return true;
    };
    enqueue(what.stream, "a kernel", run);
}

}

using namespace emulator;

extern "C" {

cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    if (value < 0 || static_cast<size_t>(value) > SHARED_AT_MOST)
        return record_error(cudaErrorInvalidValue);
    const std::lock_guard<std::mutex> lock(mutex);
    shared_limits[{current_device(), function}] = static_cast<size_t>(value);
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *function)
{
    *attributes = {};
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 32;
    attributes->binaryVersion = attributes->ptxVersion = environment().capability;
    attributes->maxDynamicSharedSizeBytes =
        static_cast<int>(shared_limit(current_device(), function));
    return current_device_error();
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n_blocks, const void *,
                                                          int n_threads, size_t shared_bytes)
{
    if (n_threads < 1 || n_threads > 1024)
        return record_error(cudaErrorInvalidValue);
    const int by_threads = 2048 / n_threads;
    const int by_shared = static_cast<int>(SHARED_AT_MOST / (shared_bytes + 1024));
    *n_blocks = by_threads < by_shared ? by_threads : by_shared;
    return cudaSuccess;
}

}
