/* pulse.h - what a thread is at, for another one that watches over it. The functions are for the
 * thread itself, and do nothing on one that nobody watches. */
#ifndef OCTET_PULSE_H
#define OCTET_PULSE_H

enum { PULSE_PHASES = 8 };      /* the watcher knows which; a thread begins in phase 0 */

struct pulse {
    _Atomic unsigned beats;     /* changes whenever the thread gets on */
    _Atomic unsigned phases;    /* PULSE_PHASES times the number begun, plus which this is */
    const char *_Atomic wait;   /* where it waits for other threads; NULL: it works */
};

/* The pulse of this thread from now on. */
void pulse_attach(struct pulse *pulse);
/* In the midst of long work. */
void pulse_beat(void);
/* A phase begins; returns the one it was. */
int pulse_phase(int phase);
/* A wait for other threads begins, or, with NULL, is over. `where` is a string constant. */
void pulse_wait(const char *where);

#endif
