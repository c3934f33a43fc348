/* child.h - test cases that run in a process of their own, because the emulator reads its settings
 * and counts its faults once in a process. The test program itself never touches the emulator. */
#ifndef OCTET_TEST_CHILD_H
#define OCTET_TEST_CHILD_H

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { CHILD_SECONDS = 120 };       /* then a case hangs */

struct child_case {
    const char *name;
    void (*run)(void);
    const char *stop;       /* what the emulator must say when it stops the child; or NULL */
    char *const *settings;  /* "NAME=VALUE" strings, ended by NULL */
};

static char **child_names;          /* of the cases to run; NULL: all */

/* Cases named on the command line are the only ones to run. */
static inline void child_arguments(int argc, char **argv)
{
    child_names = argc > 1 ? argv + 1 : NULL;
}

static inline bool child_is_wanted(const char *name)
{
    bool wanted = !child_names;

    for (char **names = child_names; names && *names; names++)
        wanted = wanted || strcmp(*names, name) == 0;
    return wanted;
}

/* The child's standard error, and its status, or -1. */
static inline int child_start(const struct child_case *c, char *said, size_t size)
{
    int ends[2], status;
    size_t length = 0;
    ssize_t n;

    if (pipe(ends) != 0)
        return -1;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        for (char *const *setting = c->settings; *setting; setting++)
            putenv(*setting);
        alarm(CHILD_SECONDS);
        c->run();
        exit(check_case_failed);
    }
    close(ends[1]);
    while (length < size - 1 && (n = read(ends[0], said + length, size - 1 - length)) > 0)
        length += (size_t)n;
    said[length] = '\0';
    close(ends[0]);
    return child > 0 && waitpid(child, &status, 0) == child ? status : -1;
}

static inline void child_run(struct child_case c)
{
    static char said[1 << 16];

    if (!child_is_wanted(c.name))
        return;
    check_case_failed = false;
    const int status = child_start(&c, said, sizeof said);
    const bool stopped = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
    if (c.stop && (!stopped || !strstr(said, c.stop)))
        check_report(__FILE__, __LINE__, "status %x, expected the emulator to say \"%s\": %s",
                     status, c.stop, said);
    else if (!c.stop && status != 0)
        check_report(__FILE__, __LINE__, "status %x: %s", status, said);
    if (check_case_failed)
        check_failed++;
    else
        check_passed++;
    printf("%s %s", check_case_failed ? "FAILED" : "ok    ", c.name);
    for (; *c.settings; c.settings++)
        printf(" %s", *c.settings);
    printf("\n");
}

/* CHILD_CASE(function, "NAME=VALUE", ...): no checks may fail in it. */
#define CHILD_CASE(name, ...) \
    child_run((struct child_case){#name, name, NULL, (char *const[]){__VA_ARGS__, NULL}})
/* CHILD_STOPS(function, "text", "NAME=VALUE", ...): the emulator stops it with this text. */
#define CHILD_STOPS(name, text, ...) \
    child_run((struct child_case){#name, name, text, (char *const[]){__VA_ARGS__, NULL}})

#endif
