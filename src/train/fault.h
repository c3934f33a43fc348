/* fault.h - faults on demand, for tests of what a run does then. OCTET_TEST_FAULT names one:
 *
 *     OCTET_TEST_FAULT=KIND:rank=R:phase=PHASE:step=S:times=N
 *
 * KIND is "fail" or "hang" (the thread is never heard of again); PHASE is thread, saver (the thread
 * that saves, rank 0), start, forward, collective, update, evaluation, samples or save. Or KIND is
 * "nan", a gradient's, and PHASE is gradient. S is the number of steps done before, 0 unless given; it
 * happens the first N times (1) from there on. */
#ifndef OCTET_FAULT_H
#define OCTET_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Where a fault can happen: ERR_NOMEM if one is to happen here, OK without the variable. */
enum status fault_here(int rank, const char *phase, int64_t step);
/* Whether a gradient is to be no number here. */
bool fault_in_gradient(int rank, int64_t step);

#endif
