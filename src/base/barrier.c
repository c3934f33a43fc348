#include "base/barrier.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/pulse.h"

struct barrier {
    pthread_mutex_t lock;
    pthread_cond_t changed;     /* generation advanced, or cancelled */
    int n_threads, n_arrived;
    unsigned generation;
    _Atomic bool cancelled;
};

enum status barrier_create(struct barrier **out, int n_threads)
{
    struct barrier *barrier = calloc(1, sizeof *barrier);

    *out = barrier;
    if (!barrier)
        return fail(ERR_NOMEM, "no memory for a barrier of %d threads", n_threads);
    pthread_mutex_init(&barrier->lock, NULL);
    pthread_cond_init(&barrier->changed, NULL);
    barrier->n_threads = n_threads;
    return OK;
}

void barrier_destroy(struct barrier *barrier)
{
    if (!barrier)
        return;
    pthread_cond_destroy(&barrier->changed);
    pthread_mutex_destroy(&barrier->lock);
    free(barrier);
}

enum status barrier_wait(struct barrier *barrier, const char *where)
{
    pulse_wait(where);
    pthread_mutex_lock(&barrier->lock);
    const unsigned generation = barrier->generation;
    if (++barrier->n_arrived == barrier->n_threads) {
        barrier->n_arrived = 0;
        barrier->generation++;
        pthread_cond_broadcast(&barrier->changed);
    }
    while (barrier->generation == generation && !atomic_load(&barrier->cancelled))
        pthread_cond_wait(&barrier->changed, &barrier->lock);
    const bool passed = barrier->generation != generation;
    pthread_mutex_unlock(&barrier->lock);
    pulse_wait(NULL);
    return passed ? OK : fail(ERR_CANCELED, "cancelled");
}

void barrier_cancel(struct barrier *barrier)
{
    pthread_mutex_lock(&barrier->lock);
    atomic_store(&barrier->cancelled, true);
    pthread_cond_broadcast(&barrier->changed);
    pthread_mutex_unlock(&barrier->lock);
}

bool barrier_cancelled(const struct barrier *barrier)
{
    return atomic_load(&barrier->cancelled);
}
