#include "train/world.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/thread.h"
#include "train/fault.h"

struct start {
    struct worker worker;
    worker_main main;
    void *context;
    pthread_t thread;
};

struct world {
    struct barrier *barrier;
    double *agreed[2];          /* a number of each worker; in turn, so that one barrier between
                                 * writes is enough */
    int n_workers, n_started;
    struct start *starts;       /* one for each worker */
    pthread_mutex_t lock;       /* of all below, but not of the pulses */
    pthread_cond_t changed;     /* a worker is over */
    struct watched *watched;    /* one for each worker */
    enum status status;         /* of the first failure */
    int failed_rank;            /* -1: its message names the ranks */
    char message[1024];
};

/* ---- on the workers' threads ---- */

static void world_fail(struct world *world, int rank, enum status status)
{
    pthread_mutex_lock(&world->lock);
    if (world->status == OK) {
        world->status = status;
        world->failed_rank = status == ERR_DIVERGED ? -1 : rank;
        snprintf(world->message, sizeof world->message, "%s", status_message());
    }
    pthread_mutex_unlock(&world->lock);
    barrier_cancel(world->barrier);
}

static void *worker_thread(void *opaque)
{
    struct start *start = opaque;
    struct world *world = start->worker.world;
    struct watched *watched = &world->watched[start->worker.rank];

    pulse_attach(&watched->pulse);
    const enum status status = start->main(&start->worker, start->context);
    if (status != OK)
        world_fail(world, start->worker.rank, status);
    pthread_mutex_lock(&world->lock);
    watched->is_over = true;
    pthread_cond_signal(&world->changed);
    pthread_mutex_unlock(&world->lock);
    return NULL;
}

/* ---- on the thread that waits for them ---- */

static void world_destroy(struct world *world)
{
    pthread_cond_destroy(&world->changed);
    pthread_mutex_destroy(&world->lock);
    free(world->agreed[0]);
    free(world->agreed[1]);
    free(world->watched);
    free(world->starts);
    free(world);
}

static enum status world_create(struct world **out, int n_workers, struct barrier *barrier)
{
    struct world *world = calloc(1, sizeof *world);
    pthread_condattr_t attributes;

    *out = world;
    if (!world)
        return fail(ERR_NOMEM, "no memory for %d workers", n_workers);
    world->barrier = barrier;
    world->n_workers = n_workers;
    pthread_mutex_init(&world->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);    /* that of seconds_now() */
    pthread_cond_init(&world->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    world->starts = calloc((size_t)n_workers, sizeof *world->starts);
    world->watched = calloc((size_t)n_workers, sizeof *world->watched);
    for (int i = 0; i < 2; i++)
        world->agreed[i] = calloc((size_t)n_workers, sizeof *world->agreed[i]);
    if (!world->starts || !world->watched || !world->agreed[0] || !world->agreed[1]) {
        world_destroy(world);
        return fail(ERR_NOMEM, "no memory for %d workers", n_workers);
    }
    for (int i = 0; i < n_workers; i++)
        world->watched[i].is_over = true;
    return OK;
}

static bool start_worker(struct world *world, int rank, worker_main main, void *context)
{
    struct start *start = &world->starts[rank];

    *start = (struct start){.worker = {.rank = rank, .size = world->n_workers, .world = world},
                            .main = main, .context = context};
    world->watched[rank].is_over = false;
    if (fault_here(rank, "thread", 0) == OK &&
        thread_start(&start->thread, worker_thread, start))
        return true;
    world->watched[rank].is_over = true;
    return false;
}

static void start_workers(struct world *world, worker_main main, void *context)
{
    for (; world->n_started < world->n_workers; world->n_started++)
        if (!start_worker(world, world->n_started, main, context)) {
            (void)fail(ERR_NOMEM, "cannot start its thread");
            world_fail(world, world->n_started, ERR_NOMEM);
            return;
        }
}

static bool all_have_ended(const struct world *world)
{
    for (int i = 0; i < world->n_workers; i++)
        if (!world->watched[i].is_over && !world->watched[i].is_lost)
            return false;
    return true;
}

static void look_after(struct world *world, const struct world_watch *watch, double seconds)
{
    const size_t length = strlen(world->message);
    const bool failed = world->status != OK;
    const enum status status = watch->look(watch->context, world->watched, world->n_workers,
                                           seconds, failed);

    if (status == OK)
        return;
    if (!failed) {
        world->status = status;
        world->failed_rank = -1;
    }
    snprintf(world->message + length, sizeof world->message - length, "%s%s", failed ? "; " : "",
             status_message());
    barrier_cancel(world->barrier);
}

static void wait_for_workers(struct world *world, const struct world_watch *watch)
{
    double last_look = seconds_now();

    pthread_mutex_lock(&world->lock);
    while (!all_have_ended(world)) {
        if (!watch) {
            pthread_cond_wait(&world->changed, &world->lock);
            continue;
        }
        const struct timespec next = time_at(last_look + watch->interval);
        pthread_cond_timedwait(&world->changed, &world->lock, &next);
        const double now = seconds_now();
        if (now - last_look >= watch->interval && !all_have_ended(world)) {
            look_after(world, watch, now - last_look);
            last_look = now;
        }
    }
    pthread_mutex_unlock(&world->lock);
}

/* The number of threads that are left behind. */
static int join_workers(struct world *world)
{
    int n_lost = 0;

    for (int i = 0; i < world->n_started; i++) {
        pthread_mutex_lock(&world->lock);
        const bool is_over = world->watched[i].is_over;     /* a lost one may have come back */
        pthread_mutex_unlock(&world->lock);
        if (is_over) {
            pthread_join(world->starts[i].thread, NULL);
        } else {
            pthread_detach(world->starts[i].thread);
            n_lost++;
        }
    }
    return n_lost;
}

/* The status of the run, with its message as this thread's. */
static enum status world_status(struct world *world)
{
    pthread_mutex_lock(&world->lock);
    const enum status status = world->status;
    if (status != OK && (world->n_workers == 1 || world->failed_rank < 0))
        (void)fail(status, "%s", world->message);
    else if (status != OK)
        (void)fail(status, "rank %d: %s", world->failed_rank, world->message);
    pthread_mutex_unlock(&world->lock);
    return status;
}

enum status world_run_watched(int n_workers, struct barrier *barrier, worker_main main,
                              void *context, struct world_watch *watch)
{
    struct world *world;

    TRY(world_create(&world, n_workers, barrier));
    start_workers(world, main, context);
    wait_for_workers(world, watch);
    const int n_lost = join_workers(world);
    const enum status status = world_status(world);
    if (n_lost == 0)        /* else it stays, for those who may come back */
        world_destroy(world);
    if (watch)
        watch->n_lost = n_lost;
    return status;
}

enum status world_run(int n_workers, struct barrier *barrier, worker_main main, void *context)
{
    return world_run_watched(n_workers, barrier, main, context, NULL);
}

/* ---- on the workers' threads, for their mains ---- */

enum status world_barrier(struct worker *worker)
{
    return barrier_wait(worker->world->barrier, "a barrier");
}

bool world_failed(const struct worker *worker)
{
    return barrier_cancelled(worker->world->barrier);
}

enum status world_agree(struct worker *worker, double *value)
{
    double *numbers = worker->world->agreed[worker->n_agreed++ % 2];

    numbers[worker->rank] = *value;
    TRY(barrier_wait(worker->world->barrier, "a barrier"));
    for (int i = 0; i < worker->size; i++)
        if (numbers[i] > *value)
            *value = numbers[i];
    return OK;
}
