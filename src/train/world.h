/* world.h - the worker threads of one run, one per device, and how they wait for each other. */
#ifndef OCTET_WORLD_H
#define OCTET_WORLD_H

#include <stdbool.h>

#include "base/barrier.h"
#include "base/status.h"

struct world;

struct worker {
    int rank, size;
    struct world *world;
    unsigned n_agreed;          /* calls of world_agree() */
};

typedef enum status (*worker_main)(struct worker *worker, void *context);

/* Run `main` once per rank, each on its own thread, and join them all. When one fails, the others'
 * waits return ERR_CANCELED. Returns OK, or the status of the worker that failed first, with its
 * message (and its rank, if there are several) as this thread's. `barrier` has n_workers threads. */
enum status world_run(int n_workers, struct barrier *barrier, worker_main main, void *context);

/* Wait for every worker. */
enum status world_barrier(struct worker *worker);

/* True once any worker has failed. Every polling wait must test it. */
bool world_failed(const struct worker *worker);

/* A barrier after which every rank has rank 0's number in *value. */
enum status world_agree(struct worker *worker, double *value);

#endif
