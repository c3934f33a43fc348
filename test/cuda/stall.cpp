#include "cuda/stall.h"

#include "emulator/runtime.h"

void stream_stall(cudaStream_t stream, const int *until)
{
    (void)emulator::enqueue(stream, "stall", [until] {
        return __atomic_load_n(until, __ATOMIC_ACQUIRE) != 0;
    });
}
