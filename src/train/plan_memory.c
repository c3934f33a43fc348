/* plan_memory.c - the memory of a run: what it takes, what there is, and which batch would fit. */
#include <stdio.h>

#include "base/log.h"
#include "device/gpu.h"
#include "train/checkpoint.h"
#include "train/optimizer.h"
#include "train/plan.h"

/* Of every GPU, for what no plan knows: kernels and cuBLASLt; the buffers of NCCL. Estimates. */
enum { CUDA_MIB = 256, NCCL_MIB = 512 };
/* Of a process with CPU workers, above the bare program: oneDNN's generated code, stacks, buffers of
 * files. Measured (bench/results/step_cpu.md): 6 to 12 with models of up to 10 million parameters, about
 * 20 with 124 million. */
enum { CPU_LIBRARIES_MIB = 9 };

/* ---- what there is ---- */

/* MemAvailable, lowered to what a control group leaves. */
static uint64_t host_available(void)
{
    unsigned long long kilobytes = 0, limit = 0, used = 0, cached = 0;
    char line[256];
    FILE *file = fopen("/proc/meminfo", "re");

    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1)
            break;
    if (file)
        fclose(file);
    uint64_t available = (uint64_t)kilobytes << 10;

    file = fopen("/sys/fs/cgroup/memory.max", "re");
    const bool limited = file && fscanf(file, "%llu", &limit) == 1;
    if (file)
        fclose(file);
    if (!limited)
        return available;
    file = fopen("/sys/fs/cgroup/memory.current", "re");
    const bool counted = file && fscanf(file, "%llu", &used) == 1;
    if (file)
        fclose(file);
    /* Files that were read count as used, but are given up when memory is needed. */
    file = fopen("/sys/fs/cgroup/memory.stat", "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "inactive_file %llu", &cached) == 1)
            break;
    if (file)
        fclose(file);
    used = used > cached ? used - cached : 0;
    const uint64_t left = limit > used ? limit - used : 0;
    return counted && left < available ? left : available;
}

/* Of the GPU that has least. */
static enum status find_available(struct plan_memory *out, int n_gpus)
{
    if (n_gpus == 0) {
        out->available = host_available();
        return OK;
    }
    out->reserved = (uint64_t)(CUDA_MIB + (n_gpus > 1 ? NCCL_MIB : 0)) << 20;
    for (int gpu = 0; gpu < n_gpus; gpu++) {
        uint64_t left;
        TRY(gpu_free_memory(&left, gpu));
        left = left > out->reserved ? left - out->reserved : 0;
        if (gpu == 0 || left < out->available) {
            out->available = left;
            out->gpu = gpu;
        }
    }
    return OK;
}

/* ---- what a run takes ---- */

static enum status needs(struct plan_memory *out, const struct device *dev,
                         const struct model_config *model, const struct config *config,
                         int micro_batch)
{
    struct model_memory generation;
    struct param_table table;

    TRY(model_memory_plan(&out->model, dev, model, micro_batch, MODEL_TRAIN, false));
    TRY(param_table_create(&table, model));
    out->optimizer = optimizer_memory_plan(table.flat_count, device_master(dev));
    if (out->gpu < 0 && config->checkpoint.background)
        out->saving = checkpoint_copy_size(&table);
    param_table_free(&table);
    if (config->evaluation.generate_samples) {
        TRY(model_memory_plan(&generation, dev, model, 1, MODEL_GENERATE, true));
        out->generation = generation.activations + generation.cache;
    }
    return OK;
}

static bool fits(const struct plan_memory *memory)
{
    /* A system that does not say what there is stands in nobody's way. */
    if (memory->gpu < 0 && memory->available == 0)
        return true;
    return plan_memory_needed(memory) <= memory->available;
}

/* By bisection: what one window more takes depends on the kernels' scratch memory. */
static enum status find_largest_batch(struct plan_memory *out, const struct device *dev,
                                      const struct model_config *model,
                                      const struct config *config, int micro_batch)
{
    int fitting = 0, too_large = micro_batch;

    while (too_large - fitting > 1) {
        const int batch = fitting + (too_large - fitting) / 2;
        struct plan_memory trial = *out;
        TRY(needs(&trial, dev, model, config, batch));
        *(fits(&trial) ? &fitting : &too_large) = batch;
    }
    out->largest_batch = fitting;
    return OK;
}

enum status plan_memory(struct plan_memory *out, const struct device *dev,
                        const struct plan_devices *devices, const struct model_config *model,
                        const struct config *config, int micro_batch)
{
    const int n_gpus = plan_n_gpus(devices);

    *out = (struct plan_memory){.largest_batch = micro_batch,
                                .n_sharing = n_gpus > 1 ? 1 : devices->n_workers, .gpu = -1};
    TRY(find_available(out, n_gpus));
    if (out->gpu < 0)
        out->libraries = (uint64_t)CPU_LIBRARIES_MIB << 20;
    TRY(needs(out, dev, model, config, micro_batch));
    return fits(out) ? OK : find_largest_batch(out, dev, model, config, micro_batch);
}

uint64_t plan_memory_total(const struct plan_memory *memory, int n_workers)
{
    const struct model_memory *model = &memory->model;
    const uint64_t each = model->weights + model->gradients + model->activations + model->scratch +
                          memory->optimizer;

    return each * (uint64_t)n_workers + memory->generation + memory->saving + memory->libraries;
}

uint64_t plan_memory_needed(const struct plan_memory *memory)
{
    return plan_memory_total(memory, memory->n_sharing);
}

/* ---- reports ---- */

static double mebibytes(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

/* Who takes it, and where. */
struct place {
    char takers[48], where[80];
};

static struct place place_of(const struct plan_memory *memory)
{
    struct place place;

    if (memory->gpu >= 0 && memory->n_sharing == 1)
        snprintf(place.takers, sizeof place.takers, "each GPU");
    else
        snprintf(place.takers, sizeof place.takers, "%d worker%s%s", memory->n_sharing,
                 memory->n_sharing == 1 ? "" : "s", memory->libraries > 0 ? " and libraries" : "");
    if (memory->gpu < 0)
        snprintf(place.where, sizeof place.where, "this machine");
    else
        snprintf(place.where, sizeof place.where, "GPU %d, where %.0f MiB are left to CUDA itself",
                 memory->gpu, mebibytes(memory->reserved));
    return place;
}

void plan_memory_print(const struct plan_memory *memory)
{
    const struct place place = place_of(memory);

    log_info("memory per worker, MiB: weights %.1f, gradients %.1f, optimizer %.1f, activations "
             "%.1f, generation %.1f, saving %.1f, scratch %.1f", mebibytes(memory->model.weights),
             mebibytes(memory->model.gradients), mebibytes(memory->optimizer),
             mebibytes(memory->model.activations), mebibytes(memory->generation),
             mebibytes(memory->saving), mebibytes(memory->model.scratch));
    log_info("memory in all: %.1f MiB for %s, %.1f MiB available on %s",
             mebibytes(plan_memory_needed(memory)), place.takers, mebibytes(memory->available),
             place.where);
}

enum status plan_memory_check(const struct plan_memory *memory)
{
    const struct place place = place_of(memory);
    char advice[128];

    if (fits(memory))
        return OK;
    if (memory->largest_batch > 0)
        snprintf(advice, sizeof advice, "training.batch_size = %d would fit (a larger "
                 "gradient_accumulation_steps makes up for it)", memory->largest_batch);
    else
        snprintf(advice, sizeof advice, "not even training.batch_size = 1 fits: lower model.depth, "
                 "model.dim or model.max_seq_len");
    return fail(ERR_INVALID, "%.1f MiB of memory are needed for %s and %.1f MiB are available on "
                "%s: %s", mebibytes(plan_memory_needed(memory)), place.takers,
                mebibytes(memory->available), place.where, advice);
}
