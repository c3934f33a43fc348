/* text_output.h - where a text goes: standard output, piece by piece as it comes, or a file that
 * appears when it is complete. */
#ifndef OCTET_TEXT_OUTPUT_H
#define OCTET_TEXT_OUTPUT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/file.h"
#include "base/status.h"

struct text_output {
    bool is_file;
    int fd;                             /* standard output */
    struct atomic_file file;            /* instead of it */
    const volatile sig_atomic_t *stop;  /* once it is set, a write no longer waits for a reader */
    bool reader_is_gone;                /* a write failed because nobody reads any more (EPIPE) */
    char buffer[4096];
    size_t n_buffered;
};

/* `path` NULL: standard output. SIGPIPE must be ignored, so that a reader's end is an error. */
enum status text_output_open(struct text_output *output, const char *path,
                             const volatile sig_atomic_t *stop);
/* Buffers; ERR_IO if the text can't be written, ERR_CANCELED if `stop` was set during a wait. */
enum status text_output_write(struct text_output *output, const char *text, size_t size);
/* What was written so far becomes visible on standard output. */
enum status text_output_flush(struct text_output *output);
/* The end: a file takes its name. */
enum status text_output_commit(struct text_output *output);
/* Without a commit before it, a file is discarded and an older one stays. Safe on a zeroed
 * struct. */
void text_output_close(struct text_output *output);

/* Standard output, and it is a terminal. */
bool text_output_is_terminal(const struct text_output *output);

#endif
