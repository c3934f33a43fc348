#include "base/team.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/thread.h"

enum {
    SPINS = 4000,           /* about 20 microseconds: the gap between two kernels of a step */
    CLOSED = 0x7fffffff,    /* a task number that no job reaches */
};

/* `ticket` holds the job's generation in its high half and its next task in the low half. Between jobs
 * it is closed (no task is left), and only then do the job's other fields change; so whoever takes a
 * ticket by compare-and-swap has read the fields that belong to it. A thread that wakes up late finds
 * no ticket and touches nothing. */
struct team {
    _Atomic uint64_t ticket;
    _Atomic(team_task) task;
    _Atomic(void *) context;
    _Atomic int n_tasks;
    _Atomic int n_done;

    _Atomic int n_sleeping;     /* helpers in cond_wait on `posted` */
    _Atomic bool caller_sleeps;
    _Atomic bool stop;
    pthread_mutex_t lock;
    pthread_cond_t posted, done;

    team_task prepare;
    int n_threads;
    struct helper {
        struct team *team;
        int thread;
        pthread_t handle;
    } *helpers;                 /* n_threads - 1 */
};

static inline void spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint32_t generation_of(uint64_t ticket)
{
    return (uint32_t)(ticket >> 32);
}

/* Take tasks of the current job until none are left. */
static void work(struct team *team, int thread)
{
    uint64_t ticket = atomic_load(&team->ticket);

    for (;;) {
        const team_task task = atomic_load(&team->task);
        void *context = atomic_load(&team->context);
        const int n_tasks = atomic_load(&team->n_tasks);
        const int index = (int)(uint32_t)ticket;

        if (index >= n_tasks)
            return;
        if (!atomic_compare_exchange_weak(&team->ticket, &ticket, ticket + 1))
            continue;
        task(context, index, thread);
        if (atomic_fetch_add(&team->n_done, 1) + 1 == n_tasks &&
            atomic_load(&team->caller_sleeps)) {
            pthread_mutex_lock(&team->lock);
            pthread_cond_signal(&team->done);
            pthread_mutex_unlock(&team->lock);
        }
        ticket = atomic_load(&team->ticket);
    }
}

static void *helper_main(void *opaque)
{
    struct helper *helper = opaque;
    struct team *team = helper->team;
    uint32_t seen = 0;

    if (team->prepare)
        team->prepare(NULL, helper->thread, helper->thread);
    while (!atomic_load(&team->stop)) {
        int spins = 0;
        while (generation_of(atomic_load(&team->ticket)) == seen && spins < SPINS) {
            spin_pause();
            spins++;
        }
        if (spins == SPINS) {
            pthread_mutex_lock(&team->lock);
            atomic_fetch_add(&team->n_sleeping, 1);
            while (generation_of(atomic_load(&team->ticket)) == seen &&
                   !atomic_load(&team->stop))
                pthread_cond_wait(&team->posted, &team->lock);
            atomic_fetch_sub(&team->n_sleeping, 1);
            pthread_mutex_unlock(&team->lock);
        }
        seen = generation_of(atomic_load(&team->ticket));
        work(team, helper->thread);
    }
    return NULL;
}

static void wait_for_tasks(struct team *team, int n_tasks)
{
    for (int spins = 0; spins < SPINS; spins++) {
        if (atomic_load(&team->n_done) == n_tasks)
            return;
        spin_pause();
    }
    pthread_mutex_lock(&team->lock);
    atomic_store(&team->caller_sleeps, true);
    while (atomic_load(&team->n_done) != n_tasks)
        pthread_cond_wait(&team->done, &team->lock);
    atomic_store(&team->caller_sleeps, false);
    pthread_mutex_unlock(&team->lock);
}

void team_run(struct team *team, int n_tasks, team_task task, void *context)
{
    if (team->n_threads == 1 || n_tasks <= 1) {
        for (int i = 0; i < n_tasks; i++)
            task(context, i, 0);
        return;
    }
    const uint32_t generation = generation_of(atomic_load(&team->ticket)) + 1;

    atomic_store(&team->ticket, (uint64_t)(generation - 1) << 32 | CLOSED);
    atomic_store(&team->n_done, 0);
    atomic_store(&team->task, task);
    atomic_store(&team->context, context);
    atomic_store(&team->n_tasks, n_tasks);
    atomic_store(&team->ticket, (uint64_t)generation << 32);
    if (atomic_load(&team->n_sleeping) > 0) {
        pthread_mutex_lock(&team->lock);
        pthread_cond_broadcast(&team->posted);
        pthread_mutex_unlock(&team->lock);
    }
    work(team, 0);
    wait_for_tasks(team, n_tasks);
}

int team_size(const struct team *team)
{
    return team->n_threads;
}

enum status team_create(struct team **out, int n_threads, team_task prepare)
{
    struct team *team = calloc(1, sizeof *team);

    *out = NULL;
    if (!team)
        return fail(ERR_NOMEM, "no memory for a team of %d threads", n_threads);
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->posted, NULL);
    pthread_cond_init(&team->done, NULL);
    team->n_threads = 1;
    team->prepare = prepare;
    if (prepare)
        prepare(NULL, 0, 0);
    team->helpers = calloc((size_t)n_threads, sizeof *team->helpers);
    if (!team->helpers) {
        team_destroy(team);
        return fail(ERR_NOMEM, "no memory for a team of %d threads", n_threads);
    }
    for (; team->n_threads < n_threads; team->n_threads++) {
        struct helper *helper = &team->helpers[team->n_threads - 1];
        helper->team = team;
        helper->thread = team->n_threads;
        if (!thread_start(&helper->handle, helper_main, helper)) {
            const enum status status = fail(ERR_NOMEM, "cannot start thread %d of %d",
                                            team->n_threads + 1, n_threads);
            team_destroy(team);
            return status;
        }
    }
    *out = team;
    return OK;
}

void team_destroy(struct team *team)
{
    if (!team)
        return;
    pthread_mutex_lock(&team->lock);
    atomic_store(&team->stop, true);
    pthread_cond_broadcast(&team->posted);
    pthread_mutex_unlock(&team->lock);
    for (int i = 0; i < team->n_threads - 1; i++)
        pthread_join(team->helpers[i].handle, NULL);
    pthread_cond_destroy(&team->posted);
    pthread_cond_destroy(&team->done);
    pthread_mutex_destroy(&team->lock);
    free(team->helpers);
    free(team);
}

int team_cores(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    const int count = CPU_COUNT(&set);
    return count > 0 ? count : 1;
}
