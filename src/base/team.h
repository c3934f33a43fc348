/* team.h - the threads of one CPU worker: they share out the tasks of one kernel at a time.
 *
 * A task is run exactly once, by whichever thread takes it; so that results do not depend on the
 * number of threads, callers choose tasks by the shape of the work alone and let no two tasks write
 * the same place. */
#ifndef OCTET_TEAM_H
#define OCTET_TEAM_H

#include "base/status.h"

struct team;

/* `thread` is 0 .. team_size-1, for scratch memory. */
typedef void (*team_task)(void *context, int task, int thread);

/* The caller counts as one of the threads. `prepare`, if not NULL, is run once on each of them (its
 * context is NULL). ERR_NOMEM if a thread can't be started. */
enum status team_create(struct team **out, int n_threads, team_task prepare);
/* NULL is fine. */
void team_destroy(struct team *team);
int team_size(const struct team *team);

/* Run task(context, 0 .. n_tasks-1, thread) and return when all are done. Not to be nested, and only
 * from the thread that created the team. Waiting threads spin for some microseconds and then sleep;
 * a thread that the system has put aside holds nobody up unless it has a task in hand. */
void team_run(struct team *team, int n_tasks, team_task task, void *context);

/* Cores that this process may use (its affinity mask), at least 1. */
int team_cores(void);

#endif
