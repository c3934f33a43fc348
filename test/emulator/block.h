/* block.h - runs a launch: one block after the other, each block's threads as fibers. */
#ifndef OCTET_EMULATOR_BLOCK_H
#define OCTET_EMULATOR_BLOCK_H

#include <vector>

#include "emulator/cuda_emulator.h"

namespace emulator {

/* `thread_body` runs once for each thread. Returns when all blocks have ended; a mistake of the
 * kernel that can be seen stops the program. */
void run_grid(const launch &launch, const std::function<void()> &thread_body);

/* Stop, naming the running kernel, block and thread. */
[[noreturn]] void stop_in_kernel(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Set by race.cpp where it is linked: called for ldmatrix and cp.async, which the compiler does
 * not see. cp.async writes when it is issued and when it lands, since it may do so between. */
extern void (*shared_access)(const void *address, int bytes, bool write);

/* cp.async copies that a thread has begun, in order, and the groups it has committed. */
struct async_copy {
    void *shared;
    const void *global;
    int bytes, source_bytes, group;
};
struct async_copies {
    std::vector<async_copy> pending;
    int groups = 0;
};
async_copies &running_thread_copies();

}

#endif
