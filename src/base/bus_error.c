#include "base/bus_error.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

enum { MAX_FILES = 16 };

/* `data` is written last and cleared first: whoever sees it sees the rest. */
static struct {
    _Atomic uintptr_t data;     /* 0: free */
    size_t size;
    char path[PATH_MAX];
} files[MAX_FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void bus_error_watch(const void *data, size_t size, const char *path)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAX_FILES; i++) {
        if (atomic_load(&files[i].data))
            continue;
        files[i].size = size;
        snprintf(files[i].path, sizeof files[i].path, "%s", path);
        atomic_store(&files[i].data, (uintptr_t)data);
        break;
    }
    pthread_mutex_unlock(&lock);
}

void bus_error_forget(const void *data)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAX_FILES; i++)
        if (atomic_load(&files[i].data) == (uintptr_t)data)
            atomic_store(&files[i].data, 0);
    pthread_mutex_unlock(&lock);
}

/* Where this thread goes on after a bus error; NULL: nowhere. */
static _Thread_local sigjmp_buf *way_out;

bool bus_error_survive(void (*read)(void *context), void *context)
{
    sigjmp_buf here;

    /* Without the mask, whose saving is a system call. */
    if (sigsetjmp(here, 0) != 0) {
        way_out = NULL;
        return false;
    }
    way_out = &here;
    atomic_signal_fence(memory_order_seq_cst);
    read(context);
    atomic_signal_fence(memory_order_seq_cst);
    way_out = NULL;
    return true;
}

static void say(const char *text)
{
    (void)!write(STDERR_FILENO, text, strlen(text));
}

/* Only calls that are safe in a handler. */
static void on_bus_error(int signal, siginfo_t *info, void *context)
{
    const uintptr_t address = (uintptr_t)info->si_addr;

    for (int i = 0; i < MAX_FILES; i++) {
        const uintptr_t data = atomic_load(&files[i].data);
        if (!data || address < data || address - data >= files[i].size)
            continue;
        if (way_out) {
            /* The mask from before the signal, which was not saved. */
            const ucontext_t *before = context;
            pthread_sigmask(SIG_SETMASK, &before->uc_sigmask, NULL);
            siglongjmp(*way_out, 1);
        }
        say(program_invocation_short_name);
        say(": ");
        say(files[i].path);
        say(": was cut short while it was in use, or its disk failed: bring it back as it was\n");
        _exit(1);
    }
    /* No file of ours: it happens again when the handler returns, and ends the process. */
    const struct sigaction by_default = {.sa_handler = SIG_DFL};
    sigaction(signal, &by_default, NULL);
}

void bus_error_handle(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};

    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}
