#include "train/watchdog.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"

static const double FACTOR = 5;             /* times the slowest so far */
static const double LOOKS = 20;             /* in the shortest deadline, */
static const double LONGEST_INTERVAL = 1;   /* but at least one in so many seconds */
static const double GRACE = 10;             /* seconds to end in, after a failure */
enum { END_SECONDS = 3 };

static const char *const phase_names[N_PHASES] = {
    [PHASE_START] = "at the start",
    [PHASE_STEP] = "in a step",
    [PHASE_EVALUATION] = "in an evaluation",
    [PHASE_SAMPLES] = "while writing samples",
    [PHASE_SAVE] = "in a save",
};

static enum phase phase_of(unsigned phases)
{
    return (enum phase)(phases % PULSE_PHASES);
}

static enum phase current_phase(const struct watched *worker)
{
    return phase_of(atomic_load(&worker->pulse.phases));
}

static double deadline(const struct watchdog *dog, enum phase phase)
{
    const double scaled = FACTOR * dog->slowest[phase];

    return scaled > dog->least ? scaled : dog->least;
}

/* ---- what has changed since the last look ---- */

static void note_progress(struct watchdog *dog, const struct watched *workers, int n,
                          double seconds)
{
    for (int i = 0; i < n; i++) {
        struct watched_progress *progress = &dog->workers[i];
        const unsigned beats = atomic_load(&workers[i].pulse.beats);
        progress->still = beats == progress->beats ? progress->still + seconds : 0;
        progress->beats = beats;
    }
}

/* Rank 0 takes part in every phase, and in none but a save on its own. */
static void measure(struct watchdog *dog, const struct watched *first, double seconds)
{
    const unsigned phases = atomic_load(&first->pulse.phases);
    double *slowest = &dog->slowest[phase_of(dog->phases)];

    dog->in_phase += seconds;
    if (phases == dog->phases)
        return;
    if (dog->in_phase > *slowest)
        *slowest = dog->in_phase;
    dog->phases = phases;
    dog->in_phase = 0;
}

/* ---- messages ---- */

struct text {
    char data[900];
    size_t length;
};

static void add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *text, const char *format, ...)
{
    const size_t room = sizeof text->data - text->length;
    va_list args;

    va_start(args, format);
    const int length = vsnprintf(text->data + text->length, room, format, args);
    va_end(args);
    text->length += (size_t)length < room ? (size_t)length : room - 1;
}

static void add_rank(const struct watchdog *dog, struct text *text, int rank)
{
    const struct plan_devices *devices = dog->devices;

    add(text, "%srank %d (%s %d)", text->length ? "; " : "", rank,
        devices->on_gpus ? "GPU" : "CPU worker", devices->share_gpu ? 0 : rank);
}

static void add_hang(const struct watchdog *dog, struct text *text, const struct watched *workers,
                     int rank)
{
    const enum phase phase = current_phase(&workers[rank]);

    add_rank(dog, text, rank);
    add(text, " hangs %s: no progress for %.1f s", phase_names[phase], dog->workers[rank].still);
    if (dog->slowest[phase] > 0)
        add(text, ", where the slowest so far took %.1f s in all", dog->slowest[phase]);
}

/* Who waits, and where. */
static void add_waits(struct text *text, const struct watched *workers, int n)
{
    const char *before = NULL;

    for (int i = 0; i < n; i++) {
        const char *where = workers[i].is_over ? NULL : atomic_load(&workers[i].pulse.wait);
        if (where && where == before)
            add(text, ", %d", i);
        else if (where)
            add(text, "%swaiting in %s: rank %d", text->length ? "; " : "", where, i);
        before = where ? where : before;
    }
}

/* ---- looks ---- */

static void lose(struct watchdog *dog, struct watched *worker)
{
    worker->is_lost = true;
    if (current_phase(worker) == PHASE_SAVE)
        dog->lost_in_save = true;
}

/* Workers that neither wait nor get on. */
static enum status find_hangs(struct watchdog *dog, struct watched *workers, int n)
{
    struct text text = {.length = 0};

    for (int i = 0; i < n; i++) {
        if (workers[i].is_over || atomic_load(&workers[i].pulse.wait) ||
            dog->workers[i].still <= deadline(dog, current_phase(&workers[i])))
            continue;
        add_hang(dog, &text, workers, i);
        lose(dog, &workers[i]);
    }
    if (text.length == 0)
        return OK;
    add_waits(&text, workers, n);
    return fail(ERR_DEVICE, "%s (if it is only slow, raise distributed.watchdog)", text.data);
}

/* Workers all of which wait: for GPUs that do not end a sum, of which the collective itself
 * knows more; or for one of them that is over. */
static enum status find_deadlock(struct watchdog *dog, const struct watched *workers, int n)
{
    struct text text = {.length = 0};

    for (int i = 0; i < n; i++)
        if (!workers[i].is_over &&
            (!atomic_load(&workers[i].pulse.wait) ||
             dog->workers[i].still <= deadline(dog, current_phase(&workers[i]))))
            return OK;
    if (dog->gpus && !dog->has_given_up) {
        dog->has_given_up = true;
        cuda_group_give_up(dog->gpus);
        for (int i = 0; i < n; i++)
            dog->workers[i].still = 0;
        return OK;
    }
    add_waits(&text, workers, n);
    return fail(ERR_COMM, "all ranks wait for %.1f s: %s", dog->workers[0].still, text.data);
}

/* After a failure. */
static enum status find_stragglers(struct watchdog *dog, struct watched *workers, int n,
                                   double seconds)
{
    struct text text = {.length = 0};

    dog->since_failure += seconds;
    for (int i = 0; i < n; i++) {
        const bool is_saving = current_phase(&workers[i]) == PHASE_SAVE;
        if (workers[i].is_over || workers[i].is_lost || dog->since_failure <= GRACE ||
            (is_saving && dog->workers[i].still <= deadline(dog, PHASE_SAVE)))
            continue;
        add_rank(dog, &text, i);
        lose(dog, &workers[i]);
    }
    if (text.length == 0)
        return OK;
    return fail(ERR_DEVICE, "%s had not ended %.0f s later", text.data, dog->since_failure);
}

static enum status look(void *context, struct watched *workers, int n, double seconds, bool failed)
{
    struct watchdog *dog = context;

    /* The process was stopped, or the machine slept. */
    if (seconds > 4 * dog->watch.interval)
        seconds = dog->watch.interval;
    note_progress(dog, workers, n, seconds);
    measure(dog, &workers[0], seconds);
    if (failed)
        return find_stragglers(dog, workers, n, seconds);
    TRY(find_hangs(dog, workers, n));
    return find_deadlock(dog, workers, n);
}

enum status watchdog_create(struct watchdog *dog, double least, const struct plan_devices *devices,
                            struct cuda_group *gpus)
{
    const double interval = least / LOOKS;

    *dog = (struct watchdog){
        .watch = {.interval = interval < LONGEST_INTERVAL ? interval : LONGEST_INTERVAL,
                  .context = dog, .look = look},
        .workers = calloc((size_t)devices->n_workers, sizeof *dog->workers),
        .devices = devices,
        .gpus = gpus,
        .least = least,
    };
    return dog->workers ? OK : fail(ERR_NOMEM, "no memory to watch %d workers", devices->n_workers);
}

void watchdog_free(struct watchdog *dog)
{
    free(dog->workers);
    dog->workers = NULL;
}

struct world_watch *watchdog_watch(struct watchdog *dog)
{
    for (int i = 0; i < dog->devices->n_workers; i++)
        dog->workers[i] = (struct watched_progress){0};
    dog->phases = PHASE_START;
    dog->in_phase = 0;
    dog->since_failure = 0;
    dog->watch.n_lost = 0;
    return dog->least > 0 ? &dog->watch : NULL;
}

static void *end_process(void *message)
{
    sleep(END_SECONDS);
    if (log_takes_text(STDERR_FILENO, LOG_PATIENCE))
        dprintf(STDERR_FILENO, "%s: %s\n", program_invocation_short_name, (const char *)message);
    _exit(1);
}

void watchdog_limit_end(void)
{
    static char message[1024];
    pthread_t thread;

    snprintf(message, sizeof message, "%s", status_message());
    if (thread_start(&thread, end_process, message))
        pthread_detach(thread);
}
