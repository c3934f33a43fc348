/* check_line.h - the lines of a report: what is right, and what is wrong. */
#ifndef OCTET_CHECK_LINE_H
#define OCTET_CHECK_LINE_H

#include <stdbool.h>

/* "✓ ...": this is right. */
void check_tick(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "✗ ..." with this thread's error message; *passed = false. */
void check_cross(bool *passed);

#endif
