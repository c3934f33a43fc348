/* arena.h - tensors laid out one after the other in a single block of device memory.
 *
 * The same layout function runs twice: with base NULL it only measures, then, with the memory that
 * `used` says, it places. So a plan can be printed, and checked, before anything is allocated. */
#ifndef OCTET_ARENA_H
#define OCTET_ARENA_H

#include "base/tensor.h"

struct arena {
    char *base;             /* NULL: measure only */
    size_t used;            /* bytes so far */
};

enum { ARENA_ALIGNMENT = 256 };

static inline void *arena_take(struct arena *arena, size_t size)
{
    void *memory = arena->base ? arena->base + arena->used : NULL;

    arena->used += (size + ARENA_ALIGNMENT - 1) / ARENA_ALIGNMENT * ARENA_ALIGNMENT;
    return memory;
}

static inline struct tensor arena_tensor(struct arena *arena, enum dtype dtype, int64_t rows,
                                         int64_t columns)
{
    return tensor_2d(arena_take(arena, (size_t)(rows * columns) * dtype_size(dtype)), dtype, rows,
                     columns);
}

#endif
