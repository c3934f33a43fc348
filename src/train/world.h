/* world.h - the worker threads of one run, one per device, and how they wait for each other. */
#ifndef OCTET_WORLD_H
#define OCTET_WORLD_H

#include <stdbool.h>

#include "base/barrier.h"
#include "base/pulse.h"
#include "base/status.h"

struct world;

struct worker {
    int rank, size;
    struct world *world;
    unsigned n_agreed;          /* calls of world_agree() */
};

typedef enum status (*worker_main)(struct worker *worker, void *context);

/* Run `main` once per rank, each on its own thread, and join them all. When one fails, the
 * others' waits return ERR_CANCELED. Returns OK, or the status of the worker that failed first,
 * with its message (and its rank, if there are several) as this thread's. `barrier` has
 * n_workers threads. */
enum status world_run(int n_workers, struct barrier *barrier, worker_main main, void *context);

/* A worker as a watch sees it. */
struct watched {
    struct pulse pulse;
    bool is_over;               /* its main has returned, or was never called */
    bool is_lost;               /* set by look(): nobody waits for it any longer */
};

/* Watches over the workers, on the thread that waits for them. */
struct world_watch {
    double interval;            /* seconds between two looks */
    void *context;
    /* `seconds` since the last look. If it fails, the world fails as if a worker had; or, when
     * one has failed before (`failed`), its message is put behind that of the first failure. */
    enum status (*look)(void *context, struct watched *workers, int n_workers, double seconds,
                        bool failed);
    int n_lost;                 /* what world_run_watched() found: threads that it left behind */
};

/* The same under a watch, NULL for none. What the threads left behind may touch (the context, the
 * barrier) must stay until the process ends. */
enum status world_run_watched(int n_workers, struct barrier *barrier, worker_main main,
                              void *context, struct world_watch *watch);

/* Wait for every worker. */
enum status world_barrier(struct worker *worker);

/* True once any worker has failed. Every polling wait must test it. */
bool world_failed(const struct worker *worker);

/* A barrier after which every rank has the largest of the ranks' numbers in *value. */
enum status world_agree(struct worker *worker, double *value);

#endif
