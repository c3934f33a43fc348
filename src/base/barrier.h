/* barrier.h - a barrier between threads that can be cancelled: no thread ever waits for one that is
 * gone, which pthread_barrier_t cannot promise. */
#ifndef OCTET_BARRIER_H
#define OCTET_BARRIER_H

#include <stdbool.h>

#include "base/status.h"

struct barrier;

enum status barrier_create(struct barrier **out, int n_threads);
/* No thread may be waiting. NULL is fine. */
void barrier_destroy(struct barrier *barrier);

/* Wait until all n threads have come, for what `where` (a string constant) names in the pulse of the
 * thread. ERR_CANCELED, at once, if it was cancelled before that. */
enum status barrier_wait(struct barrier *barrier, const char *where);
/* Wake everybody; every wait from now on fails. */
void barrier_cancel(struct barrier *barrier);
bool barrier_cancelled(const struct barrier *barrier);

#endif
