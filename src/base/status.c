#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[1024];

/* Messages quote what users and files say, and terminals obey control characters: U+0080 to U+009F
 * as well. */
static void make_printable(void)
{
    for (unsigned char *c = (unsigned char *)message; *c; c++) {
        if (*c < ' ' || *c == 0x7f)
            *c = '?';
        else if (c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0)
            c[0] = c[1] = '?';
    }
}

enum status fail(enum status code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    make_printable();
    return code;
}

enum status fail_errno(enum status code, const char *format, ...)
{
    const int error = errno;
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    const size_t length = strlen(message);
    snprintf(message + length, sizeof message - length, ": %s", strerror(error));
    make_printable();
    return code;
}

enum status fail_prefix(enum status code, const char *format, ...)
{
    char tail[sizeof message];
    va_list args;

    memcpy(tail, message, sizeof tail);
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    const size_t length = strlen(message);
    snprintf(message + length, sizeof message - length, "%s", tail);
    make_printable();
    return code;
}

const char *status_message(void)
{
    return message;
}

int status_exit_code(enum status code)
{
    switch (code) {
    case OK:
        return 0;
    case ERR_INVALID:
        return 2;
    default:
        return 1;
    }
}
