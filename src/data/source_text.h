/* source_text.h - a text that can be read at any place, as often as wanted, without holding it in
 * memory. A pipe's text is copied to an unlinked temporary file while it is read the first time. */
#ifndef OCTET_SOURCE_TEXT_H
#define OCTET_SOURCE_TEXT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/status.h"

struct source_text {
    char *name;                 /* the path, or "standard input" */
    int fd;                     /* the file, or the temporary copy */
    int stream;                 /* what the copy is made of; -1 once that ended, and for a file */
    int64_t size;               /* bytes; of the copy so far while stream >= 0 */
    struct stat opened;         /* the file's as it was opened */
    const volatile sig_atomic_t *stop;  /* not 0: the user asked to stop */
};

/* Open `path`; "-" is standard input. What is no regular file (a pipe) is copied into `folder`,
 * which is created if missing. ERR_INVALID if there is no such file or it is a folder. */
enum status source_text_open(struct source_text *text, const char *path, const char *folder,
                             const volatile sig_atomic_t *stop);
/* Safe after a failed open. */
void source_text_close(struct source_text *text);

/* Up to `size` bytes from `offset` on into `bytes`; *count says how many: less than `size` only
 * where the text ends. A copy in the making is read in order: 0 <= offset <= text->size.
 * ERR_CANCELED once *stop is set; ERR_IO also if a file has become shorter. */
enum status source_text_read(struct source_text *text, int64_t offset, char *bytes, size_t size,
                             size_t *count);

/* ERR_IO if the file was written to since it was opened. */
enum status source_text_check_unchanged(const struct source_text *text);
/* Is the file at `path` the one that is read here? */
bool source_text_is_file(const struct source_text *text, const char *path);

#endif
