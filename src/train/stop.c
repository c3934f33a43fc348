#include "train/stop.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Written by handlers and read by all workers: lock-free, as handlers need it. */
static _Atomic int64_t first;           /* its number, and in the upper bits its time; 0: none yet */
static _Atomic bool at_steps, save_wanted;

enum { SIGNAL_BITS = 8, ECHO_MILLISECONDS = 1000 };

static int64_t milliseconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void say(const char *text)
{
    (void)!write(STDOUT_FILENO, text, strlen(text));
}

static void end_before_steps(int signal)
{
    say("stopped by signal ");
    say(signal == SIGHUP ? "1" : signal == SIGINT ? "2" : "15");
    say(" before the first step: there was nothing to save\n");
    _exit(128 + signal);
}

static void on_stop(int signal)
{
    const int error = errno;
    const int64_t now = milliseconds_now();
    int64_t before = 0;

    if (!atomic_load(&at_steps))
        end_before_steps(signal);
    if (!atomic_compare_exchange_strong(&first, &before, now << SIGNAL_BITS | signal) &&
        !(signal == SIGHUP && now - (before >> SIGNAL_BITS) < ECHO_MILLISECONDS)) {
        /* Delivered as soon as the handler returns. */
        const struct sigaction by_default = {.sa_handler = SIG_DFL};
        sigaction(signal, &by_default, NULL);
        raise(signal);
    }
    errno = error;
}

static void on_save(int signal)
{
    (void)signal;
    atomic_store(&save_wanted, true);
}

void stop_on_signals(void)
{
    struct sigaction inherited, stop = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
    struct sigaction save = {.sa_handler = on_save, .sa_flags = SA_RESTART};

    sigemptyset(&stop.sa_mask);
    sigemptyset(&save.sa_mask);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    /* nohup */
    if (sigaction(SIGHUP, NULL, &inherited) != 0 || inherited.sa_handler != SIG_IGN)
        sigaction(SIGHUP, &stop, NULL);
    sigaction(SIGUSR1, &save, NULL);
}

void stop_at_steps(void)
{
    atomic_store(&at_steps, true);
}

int stop_signal(void)
{
    return (int)(atomic_load(&first) & ((1 << SIGNAL_BITS) - 1));
}

bool stop_take_save_request(void)
{
    return atomic_exchange(&save_wanted, false);
}
