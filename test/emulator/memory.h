/* memory.h - the register of memory that emulated devices know. */
#ifndef OCTET_EMULATOR_MEMORY_H
#define OCTET_EMULATOR_MEMORY_H

#include <stddef.h>

namespace emulator {

/* What stands for a device as the owner of pinned host memory, and of memory CUDA never saw. */
constexpr int PINNED_HOST = -1;
constexpr int PAGEABLE_HOST = -2;

/* Whose memory it is. */
int memory_owner(const void *pointer);
/* Bytes of the device in use. */
size_t memory_in_use(int device);

void peer_access_enable(int device, int peer);
bool peer_access_enabled(int device, int peer);

}

#endif
