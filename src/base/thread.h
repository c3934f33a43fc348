/* thread.h - threads that take no signals. */
#pragma once

#include <pthread.h>
#include <stdbool.h>

/* As pthread_create() with the default attributes, but all signals that come from outside are
 * blocked on the new thread and on those that it starts; the main thread takes them. A handler must
 * not interrupt a kernel: oneDNN's AVX-512 sgemm runs with the stack pointer in a block of the heap,
 * where the frame of a handler would overwrite the block below. Returns false if there cannot be
 * another thread. */
bool thread_start(pthread_t *thread, void *(*main)(void *), void *argument);
