/* no_gpu.c - the GPUs of a build without CUDA: none. */
#include "device/gpu.h"

static enum status fail_without(int ordinal)
{
    return fail(ERR_INVALID, "GPU %d: %s", ordinal, gpu_support());
}

int gpu_count(void)
{
    return 0;
}

const char *gpu_support(void)
{
    return "this build has no CUDA support";
}

bool gpu_is_unusable(void)
{
    return false;
}

enum status gpu_open(struct device **out, int ordinal, enum dtype real, bool deterministic)
{
    (void)real;
    (void)deterministic;
    *out = NULL;
    return fail_without(ordinal);
}

enum status gpu_facts(struct gpu_facts *out, int ordinal)
{
    *out = (struct gpu_facts){0};
    return fail_without(ordinal);
}

enum status gpu_free_memory(uint64_t *bytes, int ordinal)
{
    *bytes = 0;
    return fail_without(ordinal);
}

enum status gpu_peer_access(bool *direct, int from, int to)
{
    (void)to;
    *direct = false;
    return fail_without(from);
}

enum status gpu_versions(char *text, size_t size)
{
    (void)text;
    (void)size;
    return fail(ERR_INVALID, "%s", gpu_support());
}
