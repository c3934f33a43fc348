/* check.h - what every test program uses: named cases, checks that go on after a failure, a count.
 *
 *     int main(void)
 *     {
 *         CASE(round_trip);            // runs static void round_trip(void)
 *         return check_finish();       // prints "N passed, N failed"
 *     }
 */
#ifndef OCTET_CHECK_H
#define OCTET_CHECK_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"

static int check_passed, check_failed;
static bool check_case_failed;

static void check_report(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4), unused));
static void check_report(const char *file, int line, const char *format, ...)
{
    va_list args;

    check_case_failed = true;
    printf("  %s:%d: ", file, line);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

static inline void check_run(const char *name, void (*run)(void))
{
    check_case_failed = false;
    run();
    if (check_case_failed)
        check_failed++;
    else
        check_passed++;
    printf("%s %s\n", check_case_failed ? "FAILED" : "ok    ", name);
    fflush(stdout);
}

static inline int check_finish(void)
{
    printf("%d passed, %d failed\n", check_passed, check_failed);
    return check_failed != 0;
}

#define CASE(name) check_run(#name, name)

#define CHECK(condition)                                            \
    do {                                                            \
        if (!(condition))                                           \
            check_report(__FILE__, __LINE__, "%s", #condition);     \
    } while (0)

/* The call must succeed; prints its message otherwise. */
#define CHECK_OK(call)                                                                  \
    do {                                                                                \
        if ((call) != OK)                                                               \
            check_report(__FILE__, __LINE__, "%s: %s", #call, status_message());        \
    } while (0)

/* The call must fail with this status and a message that contains `text`. */
#define CHECK_FAILS(call, expected, text)                                               \
    do {                                                                                \
        const enum status check_status = (call);                                        \
        if (check_status != (expected))                                                 \
            check_report(__FILE__, __LINE__, "%s: status %d, expected %s (%s)", #call,  \
                         check_status, #expected,                                       \
                         check_status == OK ? "it succeeded" : status_message());       \
        else if (!strstr(status_message(), (text)))                                     \
            check_report(__FILE__, __LINE__, "%s: \"%s\" does not say \"%s\"", #call,   \
                         status_message(), (text));                                     \
    } while (0)

/* NaN fails, as every comparison here must. */
#define CHECK_NEAR(value, expected, tolerance)                                              \
    do {                                                                                    \
        const double check_a = (value), check_b = (expected), check_t = (tolerance);        \
        if (!(check_a - check_b <= check_t && check_b - check_a <= check_t))                \
            check_report(__FILE__, __LINE__, "%s is %.9g, expected %.9g within %g", #value, \
                         check_a, check_b, check_t);                                        \
    } while (0)

#define CHECK_TEXT(value, expected)                                                         \
    do {                                                                                    \
        const char *check_a = (value), *check_b = (expected);                               \
        if (strcmp(check_a, check_b) != 0)                                                  \
            check_report(__FILE__, __LINE__, "%s is \"%s\", expected \"%s\"", #value,       \
                         check_a, check_b);                                                 \
    } while (0)

#endif
