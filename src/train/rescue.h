/* rescue.h - after a failure: the state that the ranks had after their last step is saved, as at a
 * signal (saves_write_stopped()). */
#ifndef OCTET_RESCUE_H
#define OCTET_RESCUE_H

#include "train/run.h"
#include "train/watchdog.h"

/* When the workers have ended, but for those that were left behind. All ranks hold the same
 * state, so one that still has it is enough; nothing is saved if none has it, or if no step was
 * made. The save is watched, too: returns 1 if its thread had to be left behind, else 0. This
 * thread's message stays what it is. */
int run_rescue(struct run *run, struct watchdog *dog);

#endif
