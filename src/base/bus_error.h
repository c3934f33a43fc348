/* bus_error.h - a file that is mapped into memory and that another program cuts short, or whose disk fails,
 * ends the process with one line and exit code 1, not with a crash; or is an error of whoever reads it
 * with bus_error_survive(). */
#ifndef OCTET_BUS_ERROR_H
#define OCTET_BUS_ERROR_H

#include <stdbool.h>
#include <stddef.h>

/* From now on, in the whole process. */
void bus_error_handle(void);

/* What is mapped where, for the line; `path` is copied. Of more files than there is room for, the line
 * does not come. */
void bus_error_watch(const void *data, size_t size, const char *path);
void bus_error_forget(const void *data);

/* Call read(context), which reads watched files. False if it was left in the midst, because one of them
 * cannot be read: it must hold nothing that is to be released. No system calls. */
bool bus_error_survive(void (*read)(void *context), void *context);

#endif
