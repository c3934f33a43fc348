/* runtime.h - what the emulated libraries (CUDA's runtime, cuBLASLt, NCCL) share: work on streams,
 * who owns which memory, and errors. */
#ifndef OCTET_EMULATOR_RUNTIME_H
#define OCTET_EMULATOR_RUNTIME_H

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include <functional>

#include "emulator/fault.h"

namespace emulator {

/* Queue work on `stream` (of the current device where it is the null stream). `run` is called
 * without locks, on any thread that waits, when all that was queued before it there is done. It
 * returns false if it must wait for work of other streams, and is called again later; it never
 * blocks. `name`, a literal, goes into messages. The error is the device's own, once it is lost. */
cudaError_t enqueue(cudaStream_t stream, const char *name, std::function<bool()> run);

/* Operations that have run on all devices so far: while it grows, whoever is waited for may still
 * come. */
uint64_t operations_done(void);

/* Stop with a message if a collective is under way on the device: `call` may wait for all that the
 * device does, and so for other ranks, which may wait for this one. */
void require_no_collective(const char *call, int device);

/* Of the calling thread, and of a stream. */
int current_device(void);
int stream_device(cudaStream_t stream);

/* Stop with a message unless all `bytes` at `pointer` are memory that `device` may use: its own, a
 * peer's to which it has enabled access, or pinned memory of the host. `user` says who was given it
 * ("ncclAllReduce"). */
void require_device_memory(const char *user, const void *pointer, size_t bytes, int device);

inline bool fault_due(const char *kind, const char *name)
{
    return fault_due(kind, name, current_device());
}

/* Leave an error for cudaGetLastError; returns it. */
cudaError_t record_error(cudaError_t error);
/* The same for the error of a lost device, if the current one is. */
cudaError_t current_device_error(void);

}

#endif
