/* worker.c - the life of one worker: steps, epochs, evaluations and saves, until the run ends. */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "train/run.h"
#include "train/stop.h"

enum { SAVE_NOW = 1000 };       /* added to a signal's number in what the ranks agree on */

static bool is_first(const struct rank *rank)
{
    return rank->worker->rank == 0;
}

static bool epoch_is_over(const struct rank *rank)
{
    return rank->progress.position + rank->run->batch.global_batch > rank->run->steps.windows;
}

static bool is_due(int64_t every, int64_t count)
{
    return every > 0 && count % every == 0;
}

/* What is due at the end of an epoch. If a signal or a failure interrupts the evaluation, the
 * epoch's end is left to be done again by the resumed run. */
static enum status end_epoch(struct rank *rank, bool *stopped)
{
    struct run *run = rank->run;
    const struct progress_state before = rank->progress;

    *stopped = false;
    rank->progress.epoch++;
    rank->progress.position = 0;
    if (is_due(run->config.evaluation.eval_every, rank->progress.epoch)) {
        const enum status status = rank_evaluate(rank, stopped);
        if (status != OK || *stopped) {
            rank->progress = before;
            return status;
        }
        TRY(rank_write_samples(rank));
    }
    /* Behind bad steps it would only push out good ones. */
    if (is_first(rank) && rank->progress.health.bad_in_row == 0 &&
        is_due(run->config.checkpoint.save_every, rank->progress.epoch))
        saves_begin_epoch(&run->saves, rank->progress.epoch, rank_content(rank));
    return OK;
}

/* Between two steps: agree with the other ranks whether a signal ends the run here, and whether
 * last_checkpoint is saved, by time, for a signal or again after a failure. */
static enum status settle(struct rank *rank, int *signal)
{
    struct run *run = rank->run;
    const double interval = 60 * run->config.checkpoint.save_minutes;
    double value = stop_signal();

    /* Nobody wants to go back into the middle of a trouble. */
    if (is_first(rank) && rank->progress.health.bad_in_row == 0 &&
        (stop_take_save_request() || saves_are_due(&run->saves, interval)))
        value += SAVE_NOW;
    TRY(world_agree(rank->worker, &value));
    *signal = (int)value % SAVE_NOW;
    /* The end saves too. */
    if (is_first(rank) && value >= SAVE_NOW && !*signal)
        saves_begin(&run->saves, SAVE_LAST, rank_content(rank));
    return OK;
}

/* Steps until the run is complete or a signal stops it. */
static enum status train(struct rank *rank, int *signal)
{
    struct run *run = rank->run;

    *signal = 0;
    for (;;) {
        if (epoch_is_over(rank)) {
            bool stopped;
            TRY(end_epoch(rank, &stopped));
            if (stopped)
                *signal = stop_signal();
            else
                TRY(settle(rank, signal));
        }
        if (*signal || rank->progress.step >= run->steps.total)
            return OK;

        const double start = seconds_now();
        struct monitor_step record;
        if (is_first(rank))
            saves_state_changes(&run->saves);
        TRY(rank_step(rank, &record));
        record.seconds = seconds_now() - start;
        if (is_first(rank))
            monitor_step(run->monitor, &record);
        if (rank->progress.health.bad_in_row >= run->config.training.max_bad_steps)
            TRY(rank_go_back(rank));
        TRY(settle(rank, signal));
    }
}

static enum status interrupted(struct rank *rank, int signal)
{
    struct run *run = rank->run;

    if (!is_first(rank))
        return OK;
    run->stopped_by = signal;
    TRY(saves_write_stopped(&run->saves, rank_content(rank)));
    log_info("stopped by signal %d after step %lld; --resume auto goes on", signal,
             (long long)rank->progress.step);
    return OK;
}

static void report_skipped(const struct health *health)
{
    if (health->skipped > 0)
        log_warning("%lld steps changed no weights%s", (long long)health->skipped,
                    health->bad_in_row > 0 ? ", the last ones among them: the model may be of no use"
                                           : "");
}

static enum status finish(struct rank *rank)
{
    struct run *run = rank->run;
    bool stopped = false;

    if (rank->evaluated_step != rank->progress.step) {
        TRY(rank_evaluate(rank, &stopped));
        if (stopped)
            return interrupted(rank, stop_signal());
        TRY(rank_write_samples(rank));
    }
    if (!is_first(rank))
        return OK;
    if (rank->progress.health.bad_in_row == 0 && stop_take_save_request())
        saves_begin(&run->saves, SAVE_LAST, rank_content(rank));
    rank->progress.finished = true;
    const enum status status = saves_write(&run->saves, SAVE_FINAL, rank_content(rank));
    /* Then the run that goes on from last_checkpoint has it to write. */
    rank->progress.finished = status == OK;
    TRY(status);
    report_skipped(&rank->progress.health);
    const double best_loss = saves_best_loss(&run->saves);
    if (isfinite(best_loss))
        log_info("done: %lld steps, best validation loss %.4f (perplexity %.2f)",
                 (long long)rank->progress.step, best_loss, exp(best_loss));
    else
        log_info("done: %lld steps", (long long)rank->progress.step);
    return OK;
}

static enum status live(struct rank *rank, struct run *run, struct worker *worker)
{
    int signal;

    TRY(rank_create(rank, run, worker));
    TRY(world_barrier(worker));
    stop_at_steps();
    TRY(train(rank, &signal));
    return signal ? interrupted(rank, signal) : finish(rank);
}

enum status run_worker(struct worker *worker, void *context)
{
    struct run *run = context;
    struct rank *rank = &run->ranks[worker->rank];

    rank->status = live(rank, run, worker);
    atomic_store(&rank->is_over, true);
    return rank->status;
}
