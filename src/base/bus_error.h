/* bus_error.h - a file that is mapped into memory and that another program cuts short, or whose disk fails,
 * ends the process with one line and exit code 1, not with a crash. */
#ifndef OCTET_BUS_ERROR_H
#define OCTET_BUS_ERROR_H

#include <stddef.h>

/* From now on, in the whole process. */
void bus_error_handle(void);

/* What is mapped where, for the line; `path` is copied. Of more files than there is room for, the line
 * does not come. */
void bus_error_watch(const void *data, size_t size, const char *path);
void bus_error_forget(const void *data);

#endif
