/* fault.h - faults on demand, for tests of what a run does then. OCTET_TEST_FAULT names one:
 *
 *     OCTET_TEST_FAULT=KIND:rank=R:phase=PHASE:step=S
 *
 * KIND is "fail" or "hang" (the thread is never heard of again); PHASE is thread, start, forward,
 * collective, update, evaluation, samples or save; S is the number of steps done before, 0 unless given. It
 * happens once. */
#ifndef OCTET_FAULT_H
#define OCTET_FAULT_H

#include <stdint.h>

#include "base/status.h"

/* Where a fault can happen: ERR_NOMEM if one is to happen here, OK without the variable. */
enum status fault_here(int rank, const char *phase, int64_t step);

#endif
