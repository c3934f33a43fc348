/* no_gpu.c - the GPUs of a build without CUDA: none. */
#include "device/gpu.h"

int gpu_count(void)
{
    return 0;
}

const char *gpu_support(void)
{
    return "this build has no CUDA support";
}

enum status gpu_open(struct device **out, int ordinal, enum dtype real, bool deterministic)
{
    (void)real;
    (void)deterministic;
    *out = NULL;
    return fail(ERR_INVALID, "GPU %d: %s", ordinal, gpu_support());
}
