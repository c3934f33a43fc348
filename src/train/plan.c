#include "train/plan.h"

#include <string.h>

#include "base/log.h"
#include "base/team.h"
#include "device/cpu.h"
#include "device/gpu.h"

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
    if (asked > count && !config->distributed.share_gpu)
        return fail(ERR_INVALID, "distributed.gpus = %lld: %s", (long long)asked, gpu_support());
    if (config->distributed.share_gpu && asked > GPU_MAX_SHARERS)
        return fail(ERR_INVALID, "distributed.gpus = %lld: at most %d ranks can share a GPU",
                    (long long)asked, GPU_MAX_SHARERS);
    *out = (struct plan_devices){.on_gpus = true, .n_workers = asked ? (int)asked : count,
                                 .real = DTYPE_F32, .deterministic = config->run.deterministic,
                                 .share_gpu = config->distributed.share_gpu,
                                 .timeout = config->distributed.comm_timeout};
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
    *out = (struct plan_devices){.n_workers = asked ? (int)asked : 1, .threads = 1,
                                 .real = DTYPE_F32};
    if (config->training.use_amp && strcmp(config->training.amp_dtype, "bfloat16") == 0 &&
        cpu_has_bf16())
        out->real = DTYPE_BF16;
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

    if (count > 0 || strcmp(device, "cuda") == 0) {
        TRY(plan_gpus(out, config, count));
        return plan_check_gpus(out, config);
    }
    if (strcmp(device, "auto") == 0 && gpu_is_unusable())
        log_notice("computing on the CPU: %s", gpu_support());
    return plan_cpu(out, config);
}

enum status plan_open_device(struct device **out, const struct plan_devices *plan, int rank)
{
    if (plan->on_gpus) {
        TRY(gpu_open(out, plan->share_gpu ? 0 : rank, plan->real, plan->deterministic));
        (*out)->timeout = plan->timeout;
        return OK;
    }
    return cpu_device_create(out, rank, plan->threads, plan->real);
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
