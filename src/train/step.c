/* step.c - one optimizer step of a worker, and the rehearsal before the first. */
#include <math.h>

#include "base/pulse.h"
#include "data/sample_order.h"
#include "train/fault.h"
#include "train/run.h"
#include "train/step.h"
#include "train/watchdog.h"

int64_t step_window(const struct rank *rank, int64_t in_batch)
{
    const struct run *run = rank->run;
    const int64_t place = rank->progress.position + in_batch;

    return !run->config.data.shuffle ? place
           : sample_order((uint64_t)run->config.run.seed, (uint32_t)rank->progress.epoch, place,
                          run->steps.windows);
}

int64_t step_first_window(const struct rank *rank, int micro)
{
    const struct plan_batch *plan = &rank->run->batch;
    const int64_t part = (int64_t)plan->micro_batch * plan->accumulation;

    return rank->worker->rank * part + (int64_t)micro * plan->micro_batch;
}

enum status step_load(struct rank *rank, int micro)
{
    const struct run *run = rank->run;
    const int length = run->model.max_seq_len;
    const int64_t first = step_first_window(rank, micro);
    const struct model_batch batch = {rank->ids, rank->targets, run->batch.micro_batch, length};
    const struct model_step step = {(uint64_t)run->config.run.seed, (uint32_t)rank->progress.step,
                                    first};

    pulse_beat();
    for (int64_t i = 0; i < run->batch.micro_batch; i++)
        TRY(dataset_window(&run->data, SPLIT_TRAIN, step_window(rank, first + i), length,
                           rank->ids + i * length, rank->targets + i * length));
    TRY(dataset_check_whole(&run->data));
    return model_load(rank->model, &batch, &step);
}

enum status step_fault(struct rank *rank)
{
    const struct tensor gradients = model_gradients(rank->model);
    const int64_t first_of_vectors = model_param_table(rank->model)->decay_count;
    const float nan = NAN;

    if (rank->rehearsing || !fault_in_gradient(rank->worker->rank, rank->progress.step))
        return OK;
    /* One that is summed over the ranks only when the backward pass is over. */
    return device_upload(rank->dev, (float *)gradients.data + first_of_vectors, &nan, sizeof nan);
}

/* The sections of a step (device.h): a micro-batch whose gradients are not summed over the ranks yet;
 * then the parts of the last one, each of which completes a bucket of them. */
enum { SECTION_MICRO_BATCH, SECTION_FIRST_PART };

/* The part of the flat gradients whose sum over the ranks has not begun: matrices 0 .. end-1. */
struct bucket {
    struct rank *rank;
    int64_t end;
    int section;
};

static enum status section_begin(struct rank *rank, int section)
{
    return rank->run->config.distributed.cuda_graphs ? device_section_begin(rank->dev, section) : OK;
}

static enum status section_end(struct rank *rank)
{
    return rank->run->config.distributed.cuda_graphs ? device_section_end(rank->dev) : OK;
}

enum { BUCKET_BYTES = 25 << 20 };   /* large enough for full bandwidth, small enough to overlap */

/* A backward pass has completed the matrices' gradients from `first` on: sum a bucket of them while
 * the pass goes on below it. */
static enum status gradients_ready(void *context, int64_t first)
{
    struct bucket *bucket = context;
    struct rank *rank = bucket->rank;
    const struct tensor gradients = model_gradients(rank->model);
    const struct tensor part = tensor_rows(&gradients, first, bucket->end - first);

    if (first > 0 && part.shape[0] * (int64_t)dtype_size(part.dtype) < BUCKET_BYTES)
        return OK;
    bucket->end = first;
    TRY(section_end(rank));
    if (!rank->rehearsing)
        TRY(comm_all_reduce(rank->comm, &part));
    return first > 0 ? section_begin(rank, ++bucket->section) : OK;
}

/* What no bucket holds: the vectors' gradients, and the sums of losses and hits. */
static enum status reduce_rest(struct rank *rank)
{
    const struct param_table *table = model_param_table(rank->model);
    const struct tensor gradients = model_gradients(rank->model), sums = model_sums(rank->model);
    const struct tensor vectors = tensor_rows(&gradients, table->decay_count,
                                              table->flat_count - table->decay_count);

    TRY(fault_here(rank->worker->rank, "collective", rank->progress.step));
    TRY(comm_all_reduce(rank->comm, &vectors));
    TRY(comm_all_reduce(rank->comm, &sums));
    return comm_wait(rank->comm);
}

/* Forward and backward of the micro-batch on the device. With `is_last` the gradients are complete, and
 * their sums over the ranks go on beside the rest of the backward pass. */
static enum status train_micro_batch(struct rank *rank, double loss_scale, bool is_last)
{
    struct bucket bucket = {rank, model_param_table(rank->model)->decay_count, SECTION_FIRST_PART};
    const struct model_hook hook = {gradients_ready, &bucket};

    if (is_last && rank->worker->size > 1) {
        TRY(section_begin(rank, bucket.section));
        return model_train(rank->model, loss_scale, &hook);
    }
    TRY(section_begin(rank, SECTION_MICRO_BATCH));
    TRY(model_train(rank->model, loss_scale, NULL));
    return section_end(rank);
}

double step_loss_scale(const struct rank *rank)
{
    return rank->progress.loss_scale /
           (double)(rank->run->batch.global_batch * rank->run->model.max_seq_len);
}

/* This rank's part of the global batch, micro-batch by micro-batch from `first` on, and the sums over the
 * ranks. */
static enum status accumulate(struct rank *rank, int first)
{
    const int n_micros = rank->run->batch.accumulation;

    TRY(model_begin(rank->model));
    for (int micro = first; micro < n_micros; micro++) {
        TRY(step_load(rank, micro));
        const enum status status = train_micro_batch(rank, step_loss_scale(rank),
                                                     micro + 1 == n_micros);
        if (status != OK) {
            (void)device_sections_forget(rank->dev);
            return status;
        }
        TRY(step_fault(rank));
    }
    return rank->rehearsing || rank->worker->size == 1 ? OK : reduce_rest(rank);
}

/* The last two micro-batches of a step: one of each kind. */
static int first_of_each_kind(const struct rank *rank)
{
    const int accumulation = rank->run->batch.accumulation;

    return accumulation > 2 ? accumulation - 2 : 0;
}

/* A step's forward and backward work, for nothing and without collectives. */
static enum status rehearse_passes(struct rank *rank)
{
    rank->rehearsing = true;
    const enum status status = accumulate(rank, first_of_each_kind(rank));
    rank->rehearsing = false;
    TRY(status);
    return device_sync(rank->dev);
}

/* Whatever else a run does on its device. Weights, gradients and moments are zero, and stay so. */
static enum status rehearse_rest(struct rank *rank)
{
    const struct model_batch batch = {rank->ids, rank->targets, rank->run->batch.micro_batch,
                                      rank->run->model.max_seq_len};
    const struct sampling likeliest = {.temperature = 0, .top_p = 1};
    struct probe probe;
    int32_t id = 0;
    double norm;

    TRY(model_evaluate_batch(rank->model, &batch));
    TRY(model_begin(rank->model));
    TRY(optimizer_norm(&rank->optimizer, rank->progress.loss_scale, &norm));
    TRY(optimizer_update(&rank->optimizer, 1, 0, rank->progress.loss_scale));
    if (rank->probe_tokens)
        TRY(rank_take_probe(rank, &probe));
    if (rank->generator) {
        TRY(generator_append(rank->generator, &id, 1));
        TRY(generator_next(rank->generator, &likeliest, &id));
    }
    return device_sync(rank->dev);
}

enum status rank_rehearse(struct rank *rank)
{
    if (!rank->run->devices.on_gpus)
        return OK;
    /* Once as it is, once recorded; then with the collectives, when no rank has anything left to
     * allocate or load. */
    TRY(rehearse_passes(rank));
    TRY(rehearse_rest(rank));
    TRY(rehearse_passes(rank));
    if (rank->worker->size == 1)
        return OK;
    TRY(world_barrier(rank->worker));
    TRY(accumulate(rank, first_of_each_kind(rank)));
    TRY(device_sync(rank->dev));
    return world_barrier(rank->worker);
}

/* The loss scale is part of what was recorded. No collective is under way between two steps. */
static enum status record_again(struct rank *rank)
{
    TRY(world_barrier(rank->worker));
    TRY(device_sections_forget(rank->dev));
    TRY(rehearse_passes(rank));
    return world_barrier(rank->worker);
}

/* Float16 overflows where gradients are large and loses them where they are small: the loss is scaled up
 * as far as it goes (Micikevicius et al. 2018, section 3.2). An overflow halves the scale and passes
 * over the update; a long time without one doubles it. */
enum { SCALE_GROWTH_STEPS = 2000 };

static void adapt_loss_scale(struct progress_state *progress, enum step_verdict verdict)
{
    if (verdict == STEP_OVERFLOW) {
        progress->loss_scale /= 2;
        progress->scale_steps = 0;
    } else if (verdict == STEP_GOOD && ++progress->scale_steps == SCALE_GROWTH_STEPS) {
        progress->loss_scale *= 2;
        progress->scale_steps = 0;
    }
}

/* Whether this step may change the weights: the same on all ranks, whatever one alone may have seen. */
static enum status judge(struct rank *rank, double loss, double grad_norm, enum step_verdict *verdict)
{
    const struct progress_state *progress = &rank->progress;
    const struct spike_limits limits = run_spike_limits(rank->run);
    const bool may_overflow = rank->dev->real == DTYPE_F16 && progress->loss_scale > 1;
    double agreed = health_judge(&progress->health, &limits, loss, grad_norm, may_overflow);

    TRY(world_agree(rank->worker, &agreed));
    *verdict = (enum step_verdict)agreed;
    return *verdict < STEP_SPIKE ? OK : rank_report_bad_step(rank, *verdict, loss, grad_norm);
}

static enum status update(struct rank *rank)
{
    const struct progress_state *progress = &rank->progress;
    const double lr = schedule_lr(&rank->run->schedule, progress->step);

    rank->is_whole = false;
    TRY(fault_here(rank->worker->rank, "update", progress->step));
    TRY(optimizer_update(&rank->optimizer, progress->health.updates + 1, lr,
                         progress->loss_scale));
    rank->is_whole = true;
    return OK;
}

enum status rank_step(struct rank *rank, struct monitor_step *record)
{
    const struct run *run = rank->run;
    struct progress_state *progress = &rank->progress;
    const int64_t tokens = run->batch.global_batch * run->model.max_seq_len;
    const struct tensor sums = model_sums(rank->model);
    const struct spike_limits limits = run_spike_limits(run);
    const double scale = progress->loss_scale;
    double totals[2], grad_norm;
    enum step_verdict verdict;

    (void)pulse_phase(PHASE_STEP);
    TRY(fault_here(rank->worker->rank, "forward", progress->step));
    TRY(accumulate(rank, 0));
    rank->probe.tokens = NULL;
    TRY(optimizer_norm(&rank->optimizer, scale, &grad_norm));
    TRY(device_download(rank->dev, totals, sums.data, sizeof totals));
    const double loss = totals[0] / (double)tokens;
    TRY(judge(rank, loss, grad_norm, &verdict));
    if (verdict == STEP_GOOD)
        TRY(update(rank));
    if (rank->dev->real == DTYPE_F16)
        adapt_loss_scale(progress, verdict);
    health_note(&progress->health, &limits, verdict, loss);

    progress->step++;
    progress->position += run->batch.global_batch;
    progress->tokens += tokens;
    *record = (struct monitor_step){
        .step = progress->step,
        .epoch = progress->epoch + 1,
        .loss = loss,
        .grad_norm = grad_norm,
        .lr = schedule_lr(&run->schedule, progress->step - 1),
        .tokens = tokens,
        .tokens_total = progress->tokens,
        .is_skipped = verdict != STEP_GOOD,
    };
    return progress->loss_scale == scale ? OK : record_again(rank);
}
