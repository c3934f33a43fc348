/* append_file.h - a file that grows by whole records, whose failures are warnings.
 *
 * A record that can't be written is dropped, also in part, so that those behind it stay readable.
 * The first such failure is a warning; later records are tried again, since there may be space
 * then. */
#ifndef OCTET_APPEND_FILE_H
#define OCTET_APPEND_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

struct append_file {
    int fd;                 /* -1: not open, and writing does nothing */
    char *path;
    bool has_warned;
};

/* What append_file_close() accepts and append_file_write() ignores. */
#define APPEND_FILE_CLOSED ((struct append_file){.fd = -1})

/* Open for appending; created where absent, as it must be with `is_new`. ERR_IO names the path. */
enum status append_file_open(struct append_file *file, const char *path, bool is_new);
void append_file_write(struct append_file *file, const void *data, size_t size);
void append_file_close(struct append_file *file);

#endif
