#include "base/thread.h"

#include <signal.h>

bool thread_start(pthread_t *thread, void *(*main)(void *), void *argument)
{
    /* What a thread brings on itself: blocked, these would end the process without the handler. */
    static const int own_faults[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    sigset_t blocked, before;

    sigfillset(&blocked);
    for (unsigned i = 0; i < sizeof own_faults / sizeof *own_faults; i++)
        sigdelset(&blocked, own_faults[i]);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    const bool is_started = pthread_create(thread, NULL, main, argument) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return is_started;
}
