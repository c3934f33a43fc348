/* cuda_upload.c - copies to the GPU through pinned memory: no call waits for the GPU's other work, or
 * leaves the GPU reading what is the caller's. */
#include <stdlib.h>
#include <string.h>

#include "device/cuda.h"

enum { HALF = 2 << 20, ALIGNMENT = 64 };

/* One half is filled while the GPU may still be reading the other. */
struct cuda_staging {
    char *memory;               /* pinned, 2 HALF */
    int half;                   /* the one that is being filled */
    size_t used;                /* bytes of it */
    cudaEvent_t copied[2];      /* all copies from this half */
};

enum status cuda_staging_create(struct device *dev, struct cuda_staging **out)
{
    struct cuda_staging *s = *out = calloc(1, sizeof *s);
    void *memory;

    if (!s)
        return fail(ERR_NOMEM, "%s: no memory", dev->description);
    CUDA_TRY(dev, cudaHostAlloc(&memory, 2 * HALF, cudaHostAllocDefault));
    s->memory = memory;
    for (int i = 0; i < 2; i++)
        CUDA_TRY(dev, cudaEventCreateWithFlags(&s->copied[i], cudaEventDisableTiming));
    return OK;
}

void cuda_staging_destroy(struct cuda_staging *s)
{
    if (!s)
        return;
    for (int i = 0; i < 2; i++)
        if (s->copied[i])
            (void)cudaEventDestroy(s->copied[i]);
    (void)cudaFreeHost(s->memory);
    free(s);
}

static enum status turn(struct device *dev, struct cuda_staging *s)
{
    CUDA_TRY(dev, cudaEventRecord(s->copied[s->half], cuda_stream(dev)));
    s->half = !s->half;
    s->used = 0;
    return cuda_wait(dev, s->copied[s->half]);
}

enum status cuda_upload(struct device *dev, void *to, const void *from, size_t size)
{
    struct cuda_staging *s = cuda_device(dev)->staging;

    for (size_t done = 0; done < size;) {
        if (s->used == HALF)
            TRY(turn(dev, s));
        const size_t room = HALF - s->used, left = size - done, piece = left < room ? left : room;
        char *pinned = s->memory + (size_t)s->half * HALF + s->used;
        memcpy(pinned, (const char *)from + done, piece);
        CUDA_TRY(dev, cudaMemcpyAsync((char *)to + done, pinned, piece, cudaMemcpyHostToDevice,
                                      cuda_stream(dev)));
        s->used += (piece + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        done += piece;
    }
    return OK;
}
