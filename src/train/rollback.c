/* rollback.c - after too many bad steps: back to weights from before the trouble began. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "train/run.h"

/* The latest step of which the files in save_dir are this run's: until its first save moves others aside,
 * that of the checkpoint that it goes on from, if that lies there; -1: none is. */
static int64_t latest_own_step(const struct run *run)
{
    const size_t length = strlen(run->saves.folder);
    const char *resumed = run->resume.path;

    if (run->saves.has_room)
        return INT64_MAX;
    if (!resumed || strncmp(resumed, run->saves.folder, length) != 0 || resumed[length] != '/')
        return -1;
    return run->start.step;
}

/* Rank 0: the newest good state on the disk that was not tried in vain; else the newest of all, which
 * other text may take elsewhere. Where nothing is saved, the run goes back to where it started. */
static enum status open_earlier(struct run *run, const struct health *health)
{
    char *path;

    saves_wait(&run->saves);
    const struct saves_range range = {latest_own_step(run), health->barred_from, health->barred_to};
    const struct saves_range any = {range.latest, 0, -1};
    enum status status = saves_find_good(run->saves.folder, &range, &path);
    if (status == OK && !path)
        status = saves_find_good(run->saves.folder, &any, &path);
    if (status == OK && path)
        status = checkpoint_open(&run->earlier, path);
    free(path);
    return status;
}

static enum status load(struct rank *rank)
{
    const struct run *run = rank->run;

    if (!run->earlier.path) {
        const enum status status = rank_load_start(rank);
        /* A file that was good at the start is no fault of the settings. */
        return status == ERR_INVALID ? fail_prefix(ERR_IO, "going back to the start: ") : status;
    }
    TRY(checkpoint_load_weights(&run->earlier, rank->model));
    return checkpoint_load_optimizer(&run->earlier, &rank->optimizer);
}

static enum status give_up(const struct rank *rank)
{
    const struct run *run = rank->run;

    return fail(ERR_DIVERGED, "step %lld: %lld bad steps in a row, and training.max_rollbacks = %lld: "
                "the run ends (a lower training.learning_rate may help)",
                (long long)rank->progress.step, (long long)rank->progress.health.bad_in_row,
                (long long)run->config.training.max_rollbacks);
}

enum status rank_go_back(struct rank *rank)
{
    struct run *run = rank->run;
    struct progress_state *progress = &rank->progress;
    const bool is_first = rank->worker->rank == 0;

    /* Nobody wants to go on from here: the rescue has nothing to save. */
    rank->is_whole = false;
    if (progress->health.rollbacks >= run->config.training.max_rollbacks)
        return give_up(rank);
    if (is_first)
        TRY(open_earlier(run, &progress->health));
    TRY(world_barrier(rank->worker));
    TRY(load(rank));
    const struct progress_state *then = run->earlier.path ? &run->earlier.progress : &run->start;
    health_go_back(&progress->health, &then->health, then->step, progress->step);
    rank->is_whole = true;
    rank->probe.tokens = NULL;
    if (is_first)
        log_warning("after step %lld: back to the weights of step %lld (%s), which go on with what "
                    "comes next in the training text; %lld of at most %lld times",
                    (long long)progress->step, (long long)then->step,
                    run->earlier.path ? run->earlier.path : "the start of this run",
                    (long long)progress->health.rollbacks,
                    (long long)run->config.training.max_rollbacks);
    TRY(world_barrier(rank->worker));
    if (is_first)
        checkpoint_close(&run->earlier);
    return OK;
}
