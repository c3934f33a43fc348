/* plan_gpu.c - can the GPUs of a plan do what the settings ask of them, and how do they talk? */
#include <stdlib.h>

#include "comm/cuda_comm.h"
#include "device/gpu.h"
#include "train/plan.h"

static enum status check_capability(int gpu)
{
    struct gpu_facts facts;

    TRY(gpu_facts(&facts, gpu));
    if (facts.major >= GPU_MIN_CAPABILITY)
        return OK;
    return fail(ERR_INVALID, "GPU %d (%s): compute capability %d.%d; Octet needs %d.0 or newer: "
                "leave it out with CUDA_VISIBLE_DEVICES, or use --device cpu", gpu, facts.name,
                facts.major, facts.minor, GPU_MIN_CAPABILITY);
}

static enum status check_head_size(const struct config *config)
{
    const int64_t dim = config->model.dim, heads = config->model.heads, size = dim / heads;

    if (size <= GPU_MAX_HEAD_SIZE)
        return OK;
    return fail(ERR_INVALID, "model.dim = %lld, model.heads = %lld: heads of %lld, and GPUs can do "
                "sizes up to %d (32, 64 and 128 are fastest): raise model.heads, lower model.dim, "
                "or use --device cpu", (long long)dim, (long long)heads, (long long)size,
                GPU_MAX_HEAD_SIZE);
}

enum status plan_check_gpus(const struct plan_devices *plan, const struct config *config)
{
    for (int i = 0; i < plan_n_gpus(plan); i++)
        TRY(check_capability(i));
    return check_head_size(config);
}

enum status plan_create_group(struct cuda_group **out, const struct plan_devices *plan,
                              struct barrier *barrier, double timeout)
{
    const int n = plan->n_workers;

    *out = NULL;
    /* Sums inside the switches of NVLink add in an order that varies (NVIDIA/nccl issue 1497). */
    if (plan->deterministic && setenv("NCCL_NVLS_ENABLE", "0", 0) != 0)
        return fail_errno(ERR_NOMEM, "setenv");
    if (plan->share_gpu)
        return cuda_group_create_loopback(out, n, barrier, timeout);
    int *ordinals = malloc((size_t)n * sizeof *ordinals);
    if (!ordinals)
        return fail(ERR_NOMEM, "no memory for %d GPUs", n);
    for (int i = 0; i < n; i++)
        ordinals[i] = i;
    const enum status status = cuda_group_create_nccl(out, n, ordinals, barrier, timeout);
    free(ordinals);
    return status;
}
