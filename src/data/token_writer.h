/* token_writer.h - a token file in the making: the tokens of `train`, then those of `val`, in
 * pieces of any size. */
#ifndef OCTET_TOKEN_WRITER_H
#define OCTET_TOKEN_WRITER_H

#include <stdint.h>

#include "base/safetensors.h"
#include "base/status.h"
#include "data/dataset.h"
#include "data/tokenizer.h"

struct token_writer {
    struct safetensors_writer *file;    /* takes more metadata until begin */
    enum dtype dtype;                   /* the smallest of U8, U16 and U32 that holds all ids */
    int64_t counts[2];                  /* tokens by enum split */
    int64_t added;                      /* so far, of both */
    unsigned char *block;               /* tokens not yet handed over */
    size_t block_bytes;
    uint32_t checksums[2];              /* CRC-32C by enum split */
};

/* A file of this many tokens; safe to close after a failure. ERR_INVALID if that is too many. */
enum status token_writer_create(struct token_writer *w, const struct tokenizer *tokenizer,
                                int64_t n_train, int64_t n_val);
/* Create the temporary file and reserve its space. */
enum status token_writer_begin(struct token_writer *w, const char *path);
/* ids are below the tokenizer's vocab_size. */
enum status token_writer_add(struct token_writer *w, const int32_t *ids, int64_t count);
/* Add the digest and put the file in its place. ERR_INVALID if tokens are missing. */
enum status token_writer_commit(struct token_writer *w);
/* Discards the file if there was no commit. */
void token_writer_close(struct token_writer *w);

#endif
