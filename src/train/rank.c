/* rank.c - what one worker owns. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "train/fault.h"
#include "train/probe.h"
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

enum status rank_load_start(struct rank *rank)
{
    const struct run *run = rank->run;

    if (run->resume.path) {
        TRY(checkpoint_load_weights(&run->resume, rank->model));
        return checkpoint_load_optimizer(&run->resume, &rank->optimizer);
    }
    TRY(optimizer_reset(&rank->optimizer));
    if (run->init_path)
        return weights_load(run->init_path, rank->model);
    return model_init(rank->model, (uint64_t)run->config.run.seed);
}

/* The first window, whatever the order: its step says nothing about a run's progress. */
static enum status load_probe_tokens(struct rank *rank)
{
    const int length = rank->run->model.max_seq_len;

    rank->probe_tokens = calloc((size_t)length + 1, sizeof *rank->probe_tokens);
    if (!rank->probe_tokens)
        return fail(ERR_NOMEM, "no memory for a window of %d tokens", length);
    return dataset_window(&rank->run->data, SPLIT_TRAIN, 0, length, rank->probe_tokens,
                          rank->probe_tokens + 1);
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
    TRY(fault_here(worker->rank, "start", 0));
    TRY(plan_open_device(&rank->dev, &run->devices, worker->rank));
    TRY(create_comm(rank));
    TRY(model_create(&rank->model, rank->dev, &run->model, run->batch.micro_batch, MODEL_TRAIN,
                     NULL));
    TRY(optimizer_create(&rank->optimizer, rank->dev, rank->model, &optimizer));
    rank->ids = calloc(tokens, sizeof *rank->ids);
    rank->targets = calloc(tokens, sizeof *rank->targets);
    if (!rank->ids || !rank->targets)
        return fail(ERR_NOMEM, "no memory for a micro-batch of %zu tokens", tokens);
    if (worker->rank == 0)
        TRY(load_probe_tokens(rank));
    if (worker->rank == 0 && run->config.evaluation.generate_samples) {
        TRY(model_create(&rank->writer, rank->dev, &run->model, 1, MODEL_GENERATE, rank->model));
        TRY(generator_create(&rank->generator, rank->writer,
                             run->data.tokenizer.vocab_size));
    }
    TRY(rank_rehearse(rank));
    TRY(rank_load_start(rank));
    rank->is_whole = true;
    /* What oneDNN needs for it is taken now, and not missing when the first save comes. */
    if (rank->probe_tokens && !run->devices.on_gpus)
        (void)rank_take_probe(rank, &(struct probe){0});
    return OK;
}

void rank_free(struct rank *rank)
{
    generator_destroy(rank->generator);
    model_destroy(rank->writer);
    free(rank->ids);
    free(rank->targets);
    free(rank->probe_tokens);
    optimizer_free(&rank->optimizer);
    model_destroy(rank->model);
    comm_destroy(rank->comm);
    device_destroy(rank->dev);
    *rank = (struct rank){0};
}

enum status rank_take_probe(struct rank *rank, struct probe *probe)
{
    probe->tokens = rank->probe_tokens;
    return probe_take(probe, rank->dev, rank->model, (uint64_t)rank->run->config.run.seed,
                      &rank->progress);
}

struct checkpoint_content rank_content(struct rank *rank)
{
    const struct run *run = rank->run;
    struct probe *probe = &rank->probe;

    /* A save needs none: what fails here, or is not finite, is left out. */
    if (rank->probe_tokens && !probe->tokens && !atomic_load(&rank->is_over) &&
        (rank_take_probe(rank, probe) != OK || !isfinite(probe->loss) ||
         !isfinite(probe->grad_norm)))
        probe->tokens = NULL;
    return (struct checkpoint_content){&run->config, &run->data.tokenizer, rank->model,
                                       &rank->optimizer, rank->progress, run->data.digest,
                                       rank->probe, NULL};
}
