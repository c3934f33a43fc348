#include "train/world.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct world {
    struct barrier *barrier;
    double agreed[2];           /* in turn, so that one barrier between writes is enough */
    pthread_mutex_t lock;       /* of the three below */
    enum status status;         /* of the first failure */
    int failed_rank;
    char message[1024];
};

struct start {
    struct worker worker;
    worker_main main;
    void *context;
    pthread_t thread;
};

static void world_fail(struct world *world, int rank, enum status status)
{
    pthread_mutex_lock(&world->lock);
    if (world->status == OK) {
        world->status = status;
        world->failed_rank = rank;
        snprintf(world->message, sizeof world->message, "%s", status_message());
    }
    pthread_mutex_unlock(&world->lock);
    barrier_cancel(world->barrier);
}

static void *worker_thread(void *opaque)
{
    struct start *start = opaque;
    const enum status status = start->main(&start->worker, start->context);

    if (status != OK)
        world_fail(start->worker.world, start->worker.rank, status);
    return NULL;
}

enum status world_run(int n_workers, struct barrier *barrier, worker_main main, void *context)
{
    struct world world = {.barrier = barrier, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct start *starts = calloc((size_t)n_workers, sizeof *starts);
    int n_started = 0;

    if (!starts)
        return fail(ERR_NOMEM, "no memory for %d workers", n_workers);
    for (; n_started < n_workers; n_started++) {
        struct start *start = &starts[n_started];
        *start = (struct start){.worker = {.rank = n_started, .size = n_workers, .world = &world}, .main = main,
                                .context = context};
        if (pthread_create(&start->thread, NULL, worker_thread, start) != 0) {
            fail(ERR_NOMEM, "cannot start its thread");
            world_fail(&world, n_started, ERR_NOMEM);
            break;
        }
    }
    for (int i = 0; i < n_started; i++)
        pthread_join(starts[i].thread, NULL);
    free(starts);
    pthread_mutex_destroy(&world.lock);
    if (world.status == OK)
        return OK;
    if (n_workers == 1)
        return fail(world.status, "%s", world.message);
    return fail(world.status, "rank %d: %s", world.failed_rank, world.message);
}

enum status world_barrier(struct worker *worker)
{
    return barrier_wait(worker->world->barrier);
}

bool world_failed(const struct worker *worker)
{
    return barrier_cancelled(worker->world->barrier);
}

enum status world_agree(struct worker *worker, double *value)
{
    double *slot = &worker->world->agreed[worker->n_agreed++ % 2];

    if (worker->rank == 0)
        *slot = *value;
    TRY(barrier_wait(worker->world->barrier));
    *value = *slot;
    return OK;
}
