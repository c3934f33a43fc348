/* child.h - runs a case in a child process with settings of its own, and shows how it ended. */
#ifndef OCTET_EMULATOR_CHILD_H
#define OCTET_EMULATOR_CHILD_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <initializer_list>
#include <string>

#include "check.h"

enum ending { RIGHT, WRONG, STOPPED };

struct outcome {
    ending how;
    std::string said;       /* on standard error */
};

/* Settings are "NAME=VALUE"; the emulator reads them once, so only children may use it. The case
 * returns whether its result was right; STOPPED means that the emulator ended the process, or that
 * it ended in any other way. */
inline outcome run_case(std::initializer_list<const char *> settings,
                        const std::function<bool()> &is_right)
{
    outcome result = {STOPPED, ""};
    char text[4096];
    int ends[2], status;
    ssize_t n;

    fflush(stdout);
    if (pipe(ends) != 0)
        return result;
    const pid_t child = fork();
    if (child == 0) {
        for (const char *setting : settings)
            putenv(const_cast<char *>(setting));
        dup2(ends[1], STDERR_FILENO);
        _exit(is_right() ? RIGHT : WRONG);
    }
    close(ends[1]);
    while ((n = read(ends[0], text, sizeof text)) > 0)
        result.said.append(text, static_cast<size_t>(n));
    close(ends[0]);
    if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
        WEXITSTATUS(status) <= WRONG)
        result.how = static_cast<ending>(WEXITSTATUS(status));
    return result;
}

inline bool says(const outcome &outcome, std::initializer_list<const char *> words)
{
    for (const char *word : words)
        if (outcome.said.find(word) == std::string::npos)
            return false;
    return true;
}

#define CHECK_RIGHT(outcome)                                                                    \
    do {                                                                                        \
        const auto &check_outcome = (outcome);                                                  \
        if (check_outcome.how != RIGHT)                                                      \
            check_report(__FILE__, __LINE__, "ended %s: %s",                                    \
                         check_outcome.how == WRONG ? "wrong" : "stopped",                   \
                         check_outcome.said.c_str());                                           \
    } while (0)

/* The emulator stopped it with a message that holds all these words. */
#define CHECK_STOPPED(outcome, ...)                                                             \
    do {                                                                                        \
        const auto &check_outcome = (outcome);                                                  \
        if (check_outcome.how != STOPPED || !says(check_outcome, {__VA_ARGS__}))             \
            check_report(__FILE__, __LINE__, "expected a stop saying %s, but it ended %d: %s",  \
                         #__VA_ARGS__, check_outcome.how, check_outcome.said.c_str());       \
    } while (0)

#define FORWARD "OCTET_EMULATOR_ORDER=forward"
#define REVERSED "OCTET_EMULATOR_ORDER=reversed"
#define RANDOM "OCTET_EMULATOR_ORDER=random"

#endif
