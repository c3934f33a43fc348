/* evaluate.c - validation over all workers, and the samples that go with it. */
#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/pulse.h"
#include "train/fault.h"
#include "train/run.h"
#include "train/stop.h"
#include "train/watchdog.h"

static int64_t evaluation_windows(const struct run *run)
{
    const int64_t all = dataset_windows(&run->data, SPLIT_VAL, run->model.max_seq_len);
    const int64_t limit = run->config.evaluation.eval_steps * run->config.training.batch_size;

    return limit > 0 && limit < all ? limit : all;
}

/* This rank's windows first .. end-1, a batch at a time. Every rank makes the same number of rounds,
 * because they agree in each whether a signal came. */
static enum status evaluate_part(struct rank *rank, int64_t windows, bool *stopped)
{
    struct run *run = rank->run;
    const int length = run->model.max_seq_len, size = rank->worker->size;
    const int64_t micro = run->batch.micro_batch;
    const int64_t first = windows * rank->worker->rank / size;
    const int64_t end = windows * (rank->worker->rank + 1) / size;
    const int64_t rounds = ((windows + size - 1) / size + micro - 1) / micro;

    TRY(model_begin(rank->model));
    for (int64_t round = 0; round < rounds; round++) {
        const int64_t from = first + round * micro;
        const int64_t count = end - from < micro ? end - from : micro;
        double stop = stop_signal();

        TRY(world_agree(rank->worker, &stop));
        *stopped = stop != 0;
        if (*stopped)
            return OK;
        for (int64_t i = 0; i < count; i++)
            TRY(dataset_window(&run->data, SPLIT_VAL, from + i, length, rank->ids + i * length,
                               rank->targets + i * length));
        TRY(dataset_check_whole(&run->data));
        const struct model_batch batch = {rank->ids, rank->targets, (int)count, length};
        if (count > 0)
            TRY(model_evaluate_batch(rank->model, &batch));
        if (rank->worker->rank == 0) {
            char text[64];
            snprintf(text, sizeof text, "evaluating %lld/%lld", (long long)round + 1,
                     (long long)rounds);
            monitor_activity(run->monitor, text);
        }
    }
    return OK;
}

/* For rank 0. */
static void report(struct rank *rank, const double totals[2], int64_t tokens, double seconds)
{
    struct run *run = rank->run;
    const double loss = totals[0] / (double)tokens;
    /* Behind bad steps it would only push out a good one. */
    const bool is_best = rank->progress.health.bad_in_row == 0 &&
                         loss < saves_best_loss(&run->saves);
    const struct monitor_evaluation evaluation = {
        .step = rank->progress.step,
        .epoch = rank->progress.position == 0 ? rank->progress.epoch : rank->progress.epoch + 1,
        .loss = loss,
        .perplexity = exp(loss),
        .accuracy = totals[1] / (double)tokens,
        .is_best = is_best,
        .seconds = seconds,
    };

    monitor_evaluation(run->monitor, &evaluation);
    if (!is_best)
        return;
    rank->progress.best_loss = loss;
    saves_begin(&run->saves, SAVE_BEST, rank_content(rank));
}

enum status rank_evaluate(struct rank *rank, bool *stopped)
{
    const int64_t windows = evaluation_windows(rank->run);
    const struct tensor sums = model_sums(rank->model);
    const double start = seconds_now();
    double totals[2];

    *stopped = false;
    rank->evaluated_step = rank->progress.step;
    if (windows == 0)
        return OK;
    (void)pulse_phase(PHASE_EVALUATION);
    enum status status = fault_here(rank->worker->rank, "evaluation", rank->progress.step);
    if (status == OK)
        status = evaluate_part(rank, windows, stopped);
    if (rank->worker->rank == 0)
        monitor_activity(rank->run->monitor, NULL);
    TRY(status);
    if (*stopped)
        return OK;
    TRY(comm_all_reduce(rank->comm, &sums));
    TRY(comm_wait(rank->comm));
    TRY(device_download(rank->dev, totals, sums.data, sizeof totals));
    if (rank->worker->rank == 0)
        report(rank, totals, windows * rank->run->model.max_seq_len, seconds_now() - start);
    return OK;
}
