#include "train/check_line.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"

void check_tick(const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_info("✓ %s", text);
}

void check_cross(bool *passed)
{
    *passed = false;
    log_info("✗ %s", status_message());
}
