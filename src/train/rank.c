/* rank.c - what one worker owns, and one step of it. */
#include <math.h>
#include <stdlib.h>

#include "data/sample_order.h"
#include "train/run.h"

static enum status create_comm(struct rank *rank)
{
    struct run *run = rank->run;

    if (rank->worker->size == 1)
        return comm_self_create(&rank->comm);
    if (run->devices.on_gpus)
        return comm_cuda_create(&rank->comm, run->gpu_group, rank->worker->rank, rank->dev);
    return comm_local_create(&rank->comm, run->group, rank->worker->rank, rank->dev);
}

static enum status load_state(struct rank *rank)
{
    struct run *run = rank->run;

    if (run->resume.path) {
        TRY(checkpoint_load_weights(&run->resume, rank->model));
        return checkpoint_load_optimizer(&run->resume, &rank->optimizer);
    }
    if (run->init_path)
        return weights_load(run->init_path, rank->model);
    return model_init(rank->model, (uint64_t)run->config.run.seed);
}

enum status rank_create(struct rank *rank, struct run *run, struct worker *worker)
{
    const size_t tokens = (size_t)run->batch.micro_batch * (size_t)run->model.max_seq_len;
    const struct optimizer_config optimizer = {
        run->config.training.adam_beta1, run->config.training.adam_beta2,
        run->config.training.adam_epsilon, run->config.training.weight_decay,
        run->config.training.max_grad_norm,
    };

    *rank = (struct rank){.worker = worker, .run = run, .progress = run->start,
                          .evaluated_step = -1};
    TRY(plan_open_device(&rank->dev, &run->devices, worker->rank));
    TRY(create_comm(rank));
    TRY(model_create(&rank->model, rank->dev, &run->model, run->batch.micro_batch, MODEL_TRAIN,
                     NULL));
    TRY(optimizer_create(&rank->optimizer, rank->dev, rank->model, &optimizer));
    rank->ids = malloc(tokens * sizeof *rank->ids);
    rank->targets = malloc(tokens * sizeof *rank->targets);
    if (!rank->ids || !rank->targets)
        return fail(ERR_NOMEM, "no memory for a micro-batch of %zu tokens", tokens);
    if (worker->rank == 0 && run->config.evaluation.generate_samples) {
        TRY(model_create(&rank->writer, rank->dev, &run->model, 1, MODEL_GENERATE, rank->model));
        TRY(generator_create(&rank->generator, rank->writer,
                             run->data.tokenizer.vocab_size));
    }
    return load_state(rank);
}

void rank_free(struct rank *rank)
{
    generator_destroy(rank->generator);
    model_destroy(rank->writer);
    free(rank->ids);
    free(rank->targets);
    optimizer_free(&rank->optimizer);
    model_destroy(rank->model);
    comm_destroy(rank->comm);
    device_destroy(rank->dev);
    *rank = (struct rank){0};
}

struct checkpoint_content rank_content(const struct rank *rank)
{
    const struct run *run = rank->run;

    return (struct checkpoint_content){&run->config, &run->data.tokenizer, rank->model,
                                       &rank->optimizer, rank->progress, run->data.digest};
}

/* Fill ids and targets with windows first .. first + micro_batch - 1 of this epoch's order. */
static void load_windows(struct rank *rank, int64_t first)
{
    const struct run *run = rank->run;
    const int length = run->model.max_seq_len;

    for (int i = 0; i < run->batch.micro_batch; i++) {
        int64_t window = first + i;
        if (run->config.data.shuffle)
            window = sample_order((uint64_t)run->config.run.seed, (uint32_t)rank->progress.epoch,
                                  window, run->steps.windows);
        dataset_window(&run->data, SPLIT_TRAIN, window, length, rank->ids + (int64_t)i * length,
                       rank->targets + (int64_t)i * length);
    }
}

/* The part of the flat gradients whose sum over the ranks has not begun: matrices 0 .. end-1. */
struct bucket {
    struct rank *rank;
    int64_t end;
};

enum { BUCKET_BYTES = 25 << 20 };   /* large enough for full bandwidth, small enough to overlap */

/* A backward pass has completed the matrices' gradients from `first` on: sum a bucket of them while
 * the pass goes on below it. */
static enum status gradients_ready(void *context, int64_t first)
{
    struct bucket *bucket = context;
    const struct tensor gradients = model_gradients(bucket->rank->model);
    const struct tensor part = tensor_rows(&gradients, first, bucket->end - first);

    if (first > 0 && part.shape[0] * (int64_t)dtype_size(part.dtype) < BUCKET_BYTES)
        return OK;
    bucket->end = first;
    return comm_all_reduce(bucket->rank->comm, &part);
}

/* What no bucket holds: the vectors' gradients, and the sums of losses and hits. */
static enum status reduce_rest(struct rank *rank)
{
    const struct param_table *table = model_param_table(rank->model);
    const struct tensor gradients = model_gradients(rank->model), sums = model_sums(rank->model);
    const struct tensor vectors = tensor_rows(&gradients, table->decay_count,
                                              table->flat_count - table->decay_count);

    TRY(comm_all_reduce(rank->comm, &vectors));
    TRY(comm_all_reduce(rank->comm, &sums));
    return comm_wait(rank->comm);
}

/* Forward and backward of this rank's part of the global batch: micro-batches in order, the last one
 * with the sum over the ranks beside it. */
static enum status accumulate(struct rank *rank, double loss_scale)
{
    struct bucket bucket = {rank, model_param_table(rank->model)->decay_count};
    const struct model_hook hook = {gradients_ready, &bucket};
    const struct run *run = rank->run;
    const struct plan_batch *plan = &run->batch;
    const int64_t part = (int64_t)plan->micro_batch * plan->accumulation;

    TRY(model_begin(rank->model));
    for (int micro = 0; micro < plan->accumulation; micro++) {
        const int64_t in_batch = rank->worker->rank * part + (int64_t)micro * plan->micro_batch;
        const struct model_batch batch = {rank->ids, rank->targets, plan->micro_batch,
                                          run->model.max_seq_len};
        const struct model_step step = {(uint64_t)run->config.run.seed,
                                        (uint32_t)rank->progress.step, in_batch};
        load_windows(rank, rank->progress.position + in_batch);
        TRY(model_train_batch(rank->model, &batch, &step, loss_scale,
                              micro + 1 == plan->accumulation ? &hook : NULL));
    }
    return reduce_rest(rank);
}

/* Float16 overflows where gradients are large and loses them where they are small: the loss is scaled up
 * as far as it goes (Micikevicius et al. 2018, section 3.2). An overflow halves the scale and passes
 * over the update; a long time without one doubles it. */
enum { SCALE_GROWTH_STEPS = 2000 };

static enum status adapt_loss_scale(struct rank *rank, double grad_norm)
{
    struct progress_state *progress = &rank->progress;

    if (!isfinite(grad_norm) && (rank->dev->real != DTYPE_F16 || progress->loss_scale <= 1))
        return fail(ERR_DEVICE, "step %lld: the gradient norm is %g; the weights were left as they "
                    "are (a lower learning_rate or max_grad_norm may help)",
                    (long long)progress->step + 1, grad_norm);
    if (rank->dev->real != DTYPE_F16)
        return OK;
    if (!isfinite(grad_norm)) {
        progress->loss_scale /= 2;
        progress->scale_steps = 0;
    } else if (++progress->scale_steps == SCALE_GROWTH_STEPS) {
        progress->loss_scale *= 2;
        progress->scale_steps = 0;
    }
    return OK;
}

enum status rank_step(struct rank *rank, struct monitor_step *record)
{
    const struct run *run = rank->run;
    struct progress_state *progress = &rank->progress;
    const int64_t tokens = run->batch.global_batch * run->model.max_seq_len;
    const struct tensor sums = model_sums(rank->model);
    const double lr = schedule_lr(&run->schedule, progress->step);
    double totals[2], grad_norm;

    TRY(accumulate(rank, progress->loss_scale / (double)tokens));
    TRY(device_download(rank->dev, totals, sums.data, sizeof totals));
    TRY(optimizer_step(&rank->optimizer, progress->step + 1, lr, progress->loss_scale,
                       &grad_norm));
    TRY(adapt_loss_scale(rank, grad_norm));

    progress->step++;
    progress->position += run->batch.global_batch;
    progress->tokens += tokens;
    *record = (struct monitor_step){
        .step = progress->step,
        .epoch = progress->epoch + 1,
        .loss = totals[0] / (double)tokens,
        .grad_norm = grad_norm,
        .lr = lr,
        .tokens = tokens,
        .tokens_total = progress->tokens,
    };
    return OK;
}
