#include "train/rescue.h"

#include <stdatomic.h>
#include <stdio.h>

#include "base/log.h"

/* Of two ranks with a state, which one to save: one whose own device did not fail, then that of the
 * later step, then the first. */
static bool is_better(const struct rank *a, const struct rank *b)
{
    const bool a_failed = a->status != OK && a->status != ERR_CANCELED;
    const bool b_failed = b->status != OK && b->status != ERR_CANCELED;

    if (a_failed != b_failed)
        return b_failed;
    return a->progress.step > b->progress.step;
}

/* NULL if no rank has a state worth saving. */
static struct rank *choose_rank(const struct run *run)
{
    struct rank *best = NULL;

    for (int i = 0; i < run->devices.n_workers; i++) {
        struct rank *rank = &run->ranks[i];
        if (atomic_load(&rank->is_over) && rank->is_whole &&
            rank->progress.step != run->start.step && (!best || is_better(rank, best)))
            best = rank;
    }
    return best;
}

/* A worker of its own does it, which can be left behind if it hangs. */
static enum status save_one(struct worker *worker, void *context)
{
    struct run *run = context;
    struct rank *rank;

    (void)worker;
    saves_wait(&run->saves);
    while ((rank = choose_rank(run))) {
        if (saves_write_stopped(&run->saves, rank_content(rank)) == OK)
            return OK;
        log_warning("not saved: %s", status_message());
        rank->is_whole = false;     /* its device may have failed: on to the next */
    }
    return OK;
}

int run_rescue(struct run *run, struct watchdog *dog)
{
    struct world_watch *watch;
    struct barrier *barrier;
    char reason[1024];

    /* Whoever hangs in a save may go on with it at any time; what is there stays. */
    if (dog->lost_in_save || (saves_are_idle(&run->saves) && !choose_rank(run)))
        return 0;
    snprintf(reason, sizeof reason, "%s", status_message());
    watch = watchdog_watch(dog);
    enum status status = barrier_create(&barrier, 1);
    if (status == OK)
        status = world_run_watched(1, barrier, save_one, run, watch);
    if (dog->watch.n_lost == 0)
        barrier_destroy(barrier);
    if (status != OK)
        log_warning("not saved: %s", status_message());
    (void)fail(OK, "%s", reason);
    return dog->watch.n_lost;
}
