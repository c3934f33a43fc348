#include "data/token_writer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"

enum { BLOCK_SIZE = 1 << 20 };

static enum status declare(struct token_writer *w, const struct tokenizer *tokenizer)
{
    char digest[DIGEST_SIZE], *text = NULL;

    TRY(safetensors_writer_create(&w->file));
    TRY(tokenizer_to_json(tokenizer, &text));
    const enum status status = safetensors_writer_metadata(w->file, "tokenizer", text,
                                                           strlen(text));
    free(text);
    TRY(status);
    /* Stands in until the tokens are known. */
    dataset_digest(digest, 0, 0);
    TRY(safetensors_writer_metadata(w->file, "digest", digest, strlen(digest)));
    TRY(safetensors_writer_tensor(w->file, "train", w->dtype, 1, &w->counts[SPLIT_TRAIN]));
    return safetensors_writer_tensor(w->file, "val", w->dtype, 1, &w->counts[SPLIT_VAL]);
}

enum status token_writer_create(struct token_writer *w, const struct tokenizer *tokenizer,
                                int64_t n_train, int64_t n_val)
{
    const int vocab_size = tokenizer->vocab_size;
    const enum dtype dtype = vocab_size <= 256 ? DTYPE_U8
                             : vocab_size <= 65536 ? DTYPE_U16 : DTYPE_U32;

    *w = (struct token_writer){.dtype = dtype, .counts = {n_train, n_val}};
    w->block = malloc(BLOCK_SIZE);
    if (!w->block)
        return fail(ERR_NOMEM, "out of memory for a block of tokens");
    return declare(w, tokenizer);
}

enum status token_writer_begin(struct token_writer *w, const char *path)
{
    return safetensors_writer_begin(w->file, path);
}

/* The block holds tokens of one split only. */
static enum status flush(struct token_writer *w, enum split split)
{
    w->checksums[split] = crc32c(w->checksums[split], w->block, w->block_bytes);
    TRY(safetensors_writer_data(w->file, w->block, w->block_bytes));
    w->block_bytes = 0;
    return OK;
}

static void append(struct token_writer *w, const int32_t *ids, size_t count)
{
    void *end = w->block + w->block_bytes;

    if (w->dtype == DTYPE_U8) {
        uint8_t *out = end;
        for (size_t i = 0; i < count; i++)
            out[i] = (uint8_t)ids[i];
    } else if (w->dtype == DTYPE_U16) {
        uint16_t *out = end;
        for (size_t i = 0; i < count; i++)
            out[i] = (uint16_t)ids[i];
    } else {
        memcpy(end, ids, count * sizeof *ids);
    }
    w->block_bytes += count * dtype_size(w->dtype);
}

enum status token_writer_add(struct token_writer *w, const int32_t *ids, int64_t count)
{
    const int64_t n_train = w->counts[SPLIT_TRAIN], total = n_train + w->counts[SPLIT_VAL];

    if (count > total - w->added)
        return fail(ERR_INVALID, "more tokens than were announced for the token file");
    while (count > 0) {
        const enum split split = w->added < n_train ? SPLIT_TRAIN : SPLIT_VAL;
        const int64_t end = split == SPLIT_TRAIN ? n_train : total;
        int64_t run = (int64_t)((BLOCK_SIZE - w->block_bytes) / dtype_size(w->dtype));

        if (run > count)
            run = count;
        if (run > end - w->added)
            run = end - w->added;
        append(w, ids, (size_t)run);
        w->added += run;
        ids += run;
        count -= run;
        if (w->block_bytes == BLOCK_SIZE || w->added == end)
            TRY(flush(w, split));
    }
    return OK;
}

enum status token_writer_commit(struct token_writer *w)
{
    char digest[DIGEST_SIZE];

    dataset_digest(digest, w->checksums[SPLIT_TRAIN], w->checksums[SPLIT_VAL]);
    TRY(safetensors_writer_metadata(w->file, "digest", digest, strlen(digest)));
    return safetensors_writer_commit(w->file);
}

void token_writer_close(struct token_writer *w)
{
    safetensors_writer_destroy(w->file);
    free(w->block);
    *w = (struct token_writer){0};
}
