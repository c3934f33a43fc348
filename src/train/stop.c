#include "train/stop.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>

/* Written by the handler on any thread and read by all workers: lock-free, as handlers need it. */
static _Atomic int received;

static void on_signal(int signal)
{
    atomic_store(&received, signal);
}

void stop_on_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND | SA_RESTART};

    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

int stop_signal(void)
{
    return atomic_load(&received);
}
