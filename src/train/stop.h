/* stop.h - SIGINT, SIGTERM and SIGHUP as a flag that the step loop polls. */
#ifndef OCTET_STOP_H
#define OCTET_STOP_H

/* From now on the first of each only sets the flag; a second one ends the process. */
void stop_on_signals(void);

/* The signal that asked to stop, 0 if none did. */
int stop_signal(void);

#endif
