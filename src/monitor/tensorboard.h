/* tensorboard.h - an event file that TensorBoard reads: scalar curves and texts.
 *
 * Records and messages as github.com/tensorflow/tensorboard has them: tensorboard/compat/proto/
 * event.proto, summary.proto, tensor.proto; a record is
 *
 *     length (8 bytes)   masked CRC-32C of these   Event (length bytes)   masked CRC-32C of it
 *
 * all little-endian. Every record goes to the file with one write, at once. */
#ifndef OCTET_TENSORBOARD_H
#define OCTET_TENSORBOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "monitor/append_file.h"

struct tensorboard {
    struct append_file file;
    struct {
        unsigned char *data;
        size_t size, capacity;
        bool is_broken;             /* memory ran out: the record is not written */
    } record;
};

/* What tensorboard_close() accepts and the writing functions ignore. */
#define TENSORBOARD_CLOSED ((struct tensorboard){.file = {.fd = -1}})

struct tensorboard_scalar {
    const char *tag;
    double value;
};

/* Create a new event file in `folder`, which is created too. TensorBoard forgets what other files
 * there have from `first_step` on, so that a run that is resumed or started again has one curve. */
enum status tensorboard_open(struct tensorboard *tb, const char *folder, int64_t first_step);
void tensorboard_scalars(struct tensorboard *tb, int64_t step,
                         const struct tensorboard_scalar *scalars, int n_scalars);
/* Bytes of the text that are no UTF-8 become U+FFFD. */
void tensorboard_text(struct tensorboard *tb, int64_t step, const char *tag, const char *text);
void tensorboard_close(struct tensorboard *tb);

#endif
