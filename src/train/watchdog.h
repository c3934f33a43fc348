/* watchdog.h - ends a run whose workers no longer get on, and says which of them holds up the
 * others. */
#ifndef OCTET_WATCHDOG_H
#define OCTET_WATCHDOG_H

#include "comm/cuda_comm.h"
#include "train/plan.h"
#include "train/world.h"

/* What a worker is at, for pulse_phase(). */
enum phase { PHASE_START, PHASE_STEP, PHASE_EVALUATION, PHASE_SAMPLES, PHASE_SAVE, N_PHASES };

/* How far one worker has come, as last seen. */
struct watched_progress {
    unsigned beats;
    double still;               /* seconds since they changed */
};

/* A worker hangs when it neither waits for others nor gets on for `least` seconds, or FACTOR
 * times what rank 0 needed for such a phase at most, if that is longer. After a failure a worker
 * that does not end within 10 s is left behind; one that is writing a checkpoint may go on as
 * long as it gets on. Time is counted from look to look: a process that is stopped for a while
 * is none the worse for it. */
struct watchdog {
    struct world_watch watch;
    struct watched_progress *workers;
    const struct plan_devices *devices;
    struct cuda_group *gpus;    /* NULL: none sums */
    double least;               /* seconds */
    double slowest[N_PHASES];   /* seconds */
    unsigned phases;            /* of rank 0, as last seen, */
    double in_phase;            /* and for how long */
    double since_failure;
    bool has_given_up;          /* on what the GPUs sum */
    bool lost_in_save;          /* a worker that was left behind may still write a checkpoint */
};

/* With `least` = 0 nothing is watched. */
enum status watchdog_create(struct watchdog *dog, double least, const struct plan_devices *devices,
                            struct cuda_group *gpus);
void watchdog_free(struct watchdog *dog);
/* For world_run_watched(), each time anew; NULL if nothing is watched. */
struct world_watch *watchdog_watch(struct watchdog *dog);

/* To be called before a process with threads left behind ends in the usual way: should that take
 * more than 3 s (a lock that one of them holds), then it ends all the same, with this thread's
 * message. */
void watchdog_limit_end(void);

#endif
