/* stop.h - signals as flags that are read between two steps: SIGINT, SIGTERM and SIGHUP end the run,
 * SIGUSR1 asks for a checkpoint. */
#ifndef OCTET_STOP_H
#define OCTET_STOP_H

#include <stdbool.h>

/* From now on none of them ends the process by itself, except: before the first step, when there is
 * nothing to save, those that end the run do it at once, with a line and exit code 128 + n; and a
 * second one always does, as if nobody handled it. A SIGHUP within a second of the first signal
 * counts as its echo: a terminal that closes often sends two. Where SIGHUP was ignored (nohup), it
 * stays so. */
void stop_on_signals(void);
/* The first step begins: there is something to save. */
void stop_at_steps(void);

/* The signal that asked to stop, 0 if none did; it stays the first one. */
int stop_signal(void);

/* Did SIGUSR1 ask for a checkpoint? To ask again takes another one. */
bool stop_take_save_request(void);

#endif
