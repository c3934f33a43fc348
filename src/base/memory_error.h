/* memory_error.h - a C++ library that finds no memory, and could only end the process with a crash,
 * ends it with one line and exit code 1. */
#ifndef OCTET_MEMORY_ERROR_H
#define OCTET_MEMORY_ERROR_H

/* From now on, in the whole process. */
void memory_error_handle(void);
/* At once, where the library says so itself. */
_Noreturn void memory_error_end(void);

#endif
