/* worker.c - the life of one worker: steps, epochs, evaluations and saves, until the run ends. */
#include <math.h>
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

/* A save that fails costs nothing but itself: the older files are whole, and the next may work. */
static void try_save(struct rank *rank, const char *name)
{
    if (is_first(rank) && saves_write(&rank->run->saves, name, rank_content(rank)) != OK)
        log_warning("not saved: %s", status_message());
}

static bool is_due(int64_t every, int64_t count)
{
    return every > 0 && count % every == 0;
}

/* What is due at the end of an epoch. If a signal interrupts the evaluation, the epoch's end is left
 * to be done again by the resumed run. */
static enum status end_epoch(struct rank *rank, bool *stopped)
{
    struct run *run = rank->run;
    const struct progress_state before = rank->progress;

    *stopped = false;
    rank->progress.epoch++;
    rank->progress.position = 0;
    if (is_due(run->config.evaluation.eval_every, rank->progress.epoch)) {
        TRY(rank_evaluate(rank, stopped));
        if (*stopped) {
            rank->progress = before;
            return OK;
        }
        TRY(rank_write_samples(rank));
    }
    if (is_first(rank) && is_due(run->config.checkpoint.save_every, rank->progress.epoch) &&
        saves_write_epoch(&run->saves, rank->progress.epoch, rank_content(rank)) != OK)
        log_warning("not saved: %s", status_message());
    return OK;
}

/* Agree with the other ranks whether to stop or to save after this step. */
static enum status agree(struct rank *rank, double last_save, int *signal, bool *save)
{
    const double interval = 60 * rank->run->config.checkpoint.save_minutes;
    double value = stop_signal();

    if (interval > 0 && seconds_now() - last_save > interval)
        value += SAVE_NOW;
    TRY(world_agree(rank->worker, &value));
    *save = value >= SAVE_NOW;
    *signal = (int)value % SAVE_NOW;
    return OK;
}

/* Steps until the run is complete or a signal stops it. */
static enum status train(struct rank *rank, int *signal)
{
    struct run *run = rank->run;
    double last_save = seconds_now();

    *signal = 0;
    for (;;) {
        bool stopped = false, save;
        if (epoch_is_over(rank))
            TRY(end_epoch(rank, &stopped));
        if (stopped)
            *signal = stop_signal();
        if (*signal || rank->progress.step >= run->steps.total)
            return OK;

        const double start = seconds_now();
        struct monitor_step record;
        TRY(rank_step(rank, &record));
        record.seconds = seconds_now() - start;
        if (is_first(rank))
            monitor_step(run->monitor, &record);
        TRY(agree(rank, last_save, signal, &save));
        if (save) {
            try_save(rank, SAVE_LAST);
            last_save = seconds_now();
        }
    }
}

static enum status interrupted(struct rank *rank, int signal)
{
    struct run *run = rank->run;

    if (!is_first(rank))
        return OK;
    run->stopped_by = signal;
    TRY(saves_write(&run->saves, SAVE_LAST, rank_content(rank)));
    log_info("stopped by signal %d after step %lld; --resume auto goes on", signal,
             (long long)rank->progress.step);
    return OK;
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
    rank->progress.finished = true;
    TRY(saves_write(&run->saves, SAVE_FINAL, rank_content(rank)));
    if (isfinite(rank->progress.best_loss))
        log_info("done: %lld steps, best validation loss %.4f (perplexity %.2f)",
                 (long long)rank->progress.step, rank->progress.best_loss,
                 exp(rank->progress.best_loss));
    else
        log_info("done: %lld steps", (long long)rank->progress.step);
    return OK;
}

/* After a failure, of this rank or another: what rank 0 has is saved if it is the state between two
 * steps. The message of the failure is kept. */
static void rescue(struct rank *rank)
{
    char reason[1024];

    if (!is_first(rank) || !rank->is_whole || rank->progress.step == rank->run->start.step)
        return;
    snprintf(reason, sizeof reason, "%s", status_message());
    if (saves_write(&rank->run->saves, SAVE_LAST, rank_content(rank)) != OK)
        log_warning("not saved: %s", status_message());
    (void)fail(OK, "%s", reason);
}

enum status run_worker(struct worker *worker, void *context)
{
    struct run *run = context;
    struct rank *rank = &run->ranks[worker->rank];
    int signal;

    TRY(rank_create(rank, run, worker));
    TRY(world_barrier(worker));
    enum status status = train(rank, &signal);
    if (status == OK)
        status = signal ? interrupted(rank, signal) : finish(rank);
    if (status != OK)
        rescue(rank);
    return status;
}
