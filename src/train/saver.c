#include "train/saver.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/pulse.h"
#include "base/thread.h"
#include "train/fault.h"
#include "train/save_folder.h"

/* Of one copy: last_checkpoint, the best model, an epoch, and last_checkpoint of the next epoch. */
enum { MAX_JOBS = 4 };

struct job {
    char name[SAVE_NAME_SIZE];
    struct checkpoint_content content;
};

struct saver {
    saver_write write;
    void *context;
    float *copy;                /* NULL: no thread */
    size_t copy_size;
    pthread_t thread;
    bool has_thread;
    struct pulse pulse;         /* of the thread */
    pthread_mutex_t lock;       /* of all below */
    pthread_cond_t changed;
    struct job jobs[MAX_JOBS];  /* for the thread, all of one copy; the first is being written */
    int n_jobs;                 /* 0 while is_taken */
    bool is_taken;              /* somebody else writes, or makes a copy */
    bool copy_is_current;
    bool is_over;
};

/* ---- on its thread ---- */

static void *write_jobs(void *opaque)
{
    struct saver *saver = opaque;

    pulse_attach(&saver->pulse);
    pthread_mutex_lock(&saver->lock);
    for (;;) {
        while (saver->n_jobs == 0 && !saver->is_over)
            pthread_cond_wait(&saver->changed, &saver->lock);
        if (saver->n_jobs == 0)
            break;
        const struct job job = saver->jobs[0];
        pthread_mutex_unlock(&saver->lock);
        saver->write(saver->context, job.name, job.content);
        pthread_mutex_lock(&saver->lock);
        memmove(saver->jobs, saver->jobs + 1, (size_t)--saver->n_jobs * sizeof *saver->jobs);
        pthread_cond_broadcast(&saver->changed);
    }
    pthread_mutex_unlock(&saver->lock);
    return NULL;
}

/* ---- set-up ---- */

/* Every page is touched, so that memory is found to be short now, and the first copy is as fast as
 * all others. */
static enum status alloc_copy(struct saver *saver, size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return fail_errno(ERR_NOMEM, "cannot get %.1f MiB of memory to save from in the background "
                          "(checkpoint.background = false does without)",
                          (double)size / (1 << 20));
    (void)madvise(memory, size, MADV_HUGEPAGE);
    memset(memory, 0, size);
    saver->copy = memory;
    saver->copy_size = size;
    return OK;
}

static enum status start_thread(struct saver *saver)
{
    saver->has_thread = fault_here(0, "saver", 0) == OK &&
                        thread_start(&saver->thread, write_jobs, saver);
    return saver->has_thread ? OK : fail(ERR_NOMEM, "cannot start the thread that saves in the "
                                         "background (checkpoint.background = false does without)");
}

enum status saver_create(struct saver **out, size_t copy_size, saver_write write, void *context)
{
    struct saver *saver = calloc(1, sizeof *saver);
    pthread_condattr_t attributes;
    enum status status = OK;

    *out = saver;
    if (!saver)
        return fail(ERR_NOMEM, "no memory for saving");
    saver->write = write;
    saver->context = context;
    pthread_mutex_init(&saver->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);    /* that of seconds_now() */
    pthread_cond_init(&saver->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    if (copy_size > 0) {
        TRY_GOTO(status, alloc_copy(saver, copy_size), done);
        TRY_GOTO(status, start_thread(saver), done);
    }
done:
    if (status != OK) {
        saver_destroy(saver);
        *out = NULL;
    }
    return status;
}

void saver_destroy(struct saver *saver)
{
    if (!saver)
        return;
    if (saver->has_thread) {
        pthread_mutex_lock(&saver->lock);
        saver->is_over = true;
        pthread_cond_broadcast(&saver->changed);
        pthread_mutex_unlock(&saver->lock);
        pthread_join(saver->thread, NULL);
    }
    if (saver->copy)
        munmap(saver->copy, saver->copy_size);
    pthread_cond_destroy(&saver->changed);
    pthread_mutex_destroy(&saver->lock);
    free(saver);
}

/* ---- turns ---- */

static bool is_idle(const struct saver *saver)
{
    return saver->n_jobs == 0 && !saver->is_taken;
}

/* With the lock held. */
static void take_turn(struct saver *saver)
{
    const double look = 0.1;
    unsigned before = atomic_load(&saver->pulse.beats);

    while (!is_idle(saver)) {
        const struct timespec next = time_at(seconds_now() + look);
        pthread_cond_timedwait(&saver->changed, &saver->lock, &next);
        const unsigned beats = atomic_load(&saver->pulse.beats);
        if (beats != before)
            pulse_beat();
        before = beats;
    }
    saver->is_taken = true;
}

static void end_turn(struct saver *saver)
{
    saver->is_taken = false;
    pthread_cond_broadcast(&saver->changed);
}

void saver_take_turn(struct saver *saver)
{
    pthread_mutex_lock(&saver->lock);
    take_turn(saver);
    pthread_mutex_unlock(&saver->lock);
}

void saver_end_turn(struct saver *saver)
{
    pthread_mutex_lock(&saver->lock);
    end_turn(saver);
    pthread_mutex_unlock(&saver->lock);
}

bool saver_is_idle(struct saver *saver)
{
    pthread_mutex_lock(&saver->lock);
    const bool idle = is_idle(saver);
    pthread_mutex_unlock(&saver->lock);
    return idle;
}

/* ---- the copy ---- */

bool saver_has_thread(const struct saver *saver)
{
    return saver->has_thread;
}

/* With the lock held. */
static enum status renew_copy(struct saver *saver, struct checkpoint_content *content)
{
    take_turn(saver);
    pthread_mutex_unlock(&saver->lock);
    const enum status status = checkpoint_copy(content, saver->copy);
    pthread_mutex_lock(&saver->lock);
    saver->copy_is_current = status == OK;
    end_turn(saver);
    return status;
}

enum status saver_begin(struct saver *saver, const char *name, struct checkpoint_content content)
{
    struct job job = {.content = content};
    enum status status = OK;

    snprintf(job.name, sizeof job.name, "%s", name);
    job.content.copy = saver->copy;
    pthread_mutex_lock(&saver->lock);
    if (!saver->copy_is_current || saver->is_taken || saver->n_jobs == MAX_JOBS)
        status = renew_copy(saver, &content);
    if (status == OK) {
        saver->jobs[saver->n_jobs++] = job;
        pthread_cond_broadcast(&saver->changed);
    }
    pthread_mutex_unlock(&saver->lock);
    return status;
}

void saver_state_changes(struct saver *saver)
{
    pthread_mutex_lock(&saver->lock);
    saver->copy_is_current = false;
    pthread_mutex_unlock(&saver->lock);
}
