#include "train/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/team.h"
#include "device/cpu.h"
#include "device/gpu.h"
#include "train/optimizer.h"

enum { MAX_CPU_WORKERS = 256 };

enum status plan_model(struct model_config *out, const struct config *config, int tokenizer_vocab)
{
    const int64_t vocab = config->model.vocab_size ? config->model.vocab_size : tokenizer_vocab;

    if (vocab < tokenizer_vocab)
        return fail(ERR_INVALID, "model.vocab_size = %lld: the tokenizer has %d tokens; use 0 or at "
                    "least that many", (long long)vocab, tokenizer_vocab);
    *out = (struct model_config){
        .vocab_size = (int)vocab,
        .max_seq_len = (int)config->model.max_seq_len,
        .dim = (int)config->model.dim,
        .depth = (int)config->model.depth,
        .heads = (int)config->model.heads,
        .mlp_dim = (int)config->model.mlp_dim,
        .dropout = config->model.dropout,
        .use_rotary_emb = config->model.use_rotary_emb,
    };
    return OK;
}

static enum status plan_gpus(struct plan_devices *out, const struct config *config, int count)
{
    const int64_t asked = config->distributed.gpus;

    if (count == 0)
        return fail(ERR_INVALID, "distributed.device = cuda: %s; use auto or cpu", gpu_support());
    if (asked > count)
        return fail(ERR_INVALID, "distributed.gpus = %lld: there %s %d GPU%s", (long long)asked,
                    count == 1 ? "is" : "are", count, count == 1 ? "" : "s");
    *out = (struct plan_devices){true, asked ? (int)asked : count, 0, DTYPE_F32};
    if (config->training.use_amp)
        out->real = strcmp(config->training.amp_dtype, "float16") == 0 ? DTYPE_F16 : DTYPE_BF16;
    return OK;
}

static enum status plan_cpu(struct plan_devices *out, const struct config *config)
{
    const int64_t asked = config->distributed.gpus;
    const int cores = team_cores();

    if (asked > MAX_CPU_WORKERS)
        return fail(ERR_INVALID, "distributed.gpus = %lld: at most %d CPU workers can run; there "
                    "are %d cores", (long long)asked, MAX_CPU_WORKERS, cores);
    *out = (struct plan_devices){false, asked ? (int)asked : 1, 1, DTYPE_F32};
    if (cores > out->n_workers)
        out->threads = cores / out->n_workers;
    if (out->n_workers > cores)
        log_notice("%d CPU workers share %d core%s: more workers than cores only makes sense for "
                   "trials", out->n_workers, cores, cores == 1 ? "" : "s");
    return OK;
}

enum status plan_devices(struct plan_devices *out, const struct config *config)
{
    const char *device = config->distributed.device;
    const int count = strcmp(device, "cpu") == 0 ? 0 : gpu_count();

    if (count > 0 || strcmp(device, "cuda") == 0)
        return plan_gpus(out, config, count);
    return plan_cpu(out, config);
}

enum status plan_open_device(struct device **out, const struct plan_devices *plan, int rank)
{
    if (plan->on_gpus)
        return gpu_open(out, rank, plan->real, true);
    return cpu_device_create(out, rank, plan->threads);
}

enum status plan_batch(struct plan_batch *out, const struct config *config, int n_workers,
                       int64_t kept_global)
{
    const int64_t micro = config->training.batch_size;
    const int64_t accumulation = config->training.gradient_accumulation_steps;
    const int64_t asked = micro * accumulation * n_workers;

    *out = (struct plan_batch){(int)micro, (int)accumulation, asked};
    if (kept_global == 0 || kept_global == asked)
        return OK;
    if (kept_global % n_workers != 0)
        return fail(ERR_INVALID, "the run to be resumed has %lld windows in a step, which %d workers "
                    "cannot share equally: choose a divisor for --gpus, or set "
                    "training.batch_size to go on with another batch", (long long)kept_global,
                    n_workers);

    /* The largest micro-batch within batch_size that divides a worker's part. */
    const int64_t part = kept_global / n_workers;
    int64_t fitting = micro < part ? micro : part;
    while (part % fitting != 0)
        fitting--;
    *out = (struct plan_batch){(int)fitting, (int)(part / fitting), kept_global};
    log_notice("resuming on %d worker%s: batch_size %d and gradient_accumulation_steps %d keep the "
               "run's %lld windows in a step", n_workers, n_workers == 1 ? "" : "s",
               out->micro_batch, out->accumulation, (long long)kept_global);
    return OK;
}

enum status plan_steps(struct plan_steps *out, const struct config *config,
                       const struct dataset *data, int64_t global_batch, int64_t epoch,
                       int64_t position, int64_t step)
{
    const int64_t length = config->model.max_seq_len;
    const int64_t windows = dataset_windows(data, SPLIT_TRAIN, (int)length);

    if (windows < global_batch)
        return fail(ERR_INVALID, "%s: the training part has %lld tokens; one step of %lld windows "
                    "of %lld tokens needs at least %lld: prepare more text (or with --repeat), or "
                    "lower batch_size, gradient_accumulation_steps, max_seq_len or --gpus",
                    data->path, (long long)data->streams[SPLIT_TRAIN].count,
                    (long long)global_batch, (long long)length,
                    (long long)(global_batch * length + 1));

    *out = (struct plan_steps){.windows = windows, .per_epoch = windows / global_batch};
    if (config->training.max_steps) {
        out->total = config->training.max_steps;
    } else {
        /* What is left of the epochs, counted from where the run stands: after a resume the steps
         * done may have been of another size. */
        const int64_t left = position > windows ? 0 : (windows - position) / global_batch;
        out->total = step + left + (config->training.num_epochs - epoch - 1) * out->per_epoch;
    }
    if (out->total <= step) {
        out->epochs = position ? epoch + 1 : epoch;
        return OK;
    }
    const int64_t done = position / global_batch;
    out->epochs = epoch + 1;
    if (out->total > step - done + out->per_epoch)
        out->epochs += (out->total - (step - done) - 1) / out->per_epoch;
    return OK;
}

/* MemAvailable, lowered to what a control group leaves. */
static uint64_t memory_available(void)
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

enum status plan_memory(struct plan_memory *out, const struct device *dev,
                        const struct model_config *model, const struct config *config,
                        int micro_batch)
{
    struct model_memory generation;
    struct param_table table;

    *out = (struct plan_memory){0};
    TRY(model_memory_plan(&out->model, dev, model, micro_batch, MODEL_TRAIN, false));
    TRY(param_table_create(&table, model));
    out->optimizer = optimizer_memory_plan(table.flat_count, device_master(dev));
    param_table_free(&table);
    if (config->evaluation.generate_samples) {
        TRY(model_memory_plan(&generation, dev, model, 1, MODEL_GENERATE, true));
        out->generation = generation.activations + generation.cache;
    }
    out->available = memory_available();
    return OK;
}

uint64_t plan_memory_total(const struct plan_memory *memory, int n_workers)
{
    const struct model_memory *model = &memory->model;
    const uint64_t each = model->weights + model->gradients + model->activations + model->scratch +
                          memory->optimizer;

    return each * (uint64_t)n_workers + memory->generation;
}

static double mebibytes(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

void plan_memory_print(const struct plan_memory *memory, int n_workers)
{
    log_info("memory per worker, MiB: weights %.1f, gradients %.1f, optimizer %.1f, activations "
             "%.1f, generation %.1f, scratch %.1f", mebibytes(memory->model.weights),
             mebibytes(memory->model.gradients), mebibytes(memory->optimizer),
             mebibytes(memory->model.activations), mebibytes(memory->generation),
             mebibytes(memory->model.scratch));
    log_info("memory in all: %.1f MiB for %d worker%s, %.1f MiB available",
             mebibytes(plan_memory_total(memory, n_workers)), n_workers, n_workers == 1 ? "" : "s",
             mebibytes(memory->available));
}

enum status plan_memory_check(const struct plan_memory *memory, int n_workers)
{
    const double needed = mebibytes(plan_memory_total(memory, n_workers));

    if (memory->available == 0 || needed <= mebibytes(memory->available))
        return OK;
    return fail(ERR_INVALID, "this run needs %.0f MiB of memory (%d worker%s) and %.0f MiB are "
                "available: lower training.batch_size (and raise gradient_accumulation_steps), "
                "the model, or --gpus", needed, n_workers, n_workers == 1 ? "" : "s",
                mebibytes(memory->available));
}
