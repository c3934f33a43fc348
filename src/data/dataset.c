#include "data/dataset.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bus_error.h"
#include "base/checksum.h"
#include "data/byte_progress.h"

static const char *const split_names[] = {[SPLIT_TRAIN] = "train", [SPLIT_VAL] = "val"};

void dataset_digest(char digest[DIGEST_SIZE], uint32_t train, uint32_t val)
{
    snprintf(digest, DIGEST_SIZE, "%08" PRIx32 "%08" PRIx32, train, val);
}

static enum status find_stream(struct dataset *ds, enum split split)
{
    const char *name = split_names[split];
    const struct safetensors_entry *entry = safetensors_find(&ds->file, name);

    if (!entry)
        return split == SPLIT_VAL ? OK
                                  : fail(ERR_INVALID, "%s: no tensor \"train\"", ds->path);
    switch (entry->dtype) {
    case DTYPE_U8:
    case DTYPE_U16:
    case DTYPE_U32:
    case DTYPE_I32:
    case DTYPE_I64:
        break;
    default:
        return fail(ERR_INVALID, "%s: \"%s\" is %s: expected U8, U16, U32, I32 or I64", ds->path,
                    name, dtype_name(entry->dtype));
    }
    if (entry->n_dims != 1)
        return fail(ERR_INVALID, "%s: \"%s\" has %d dimensions: expected 1", ds->path, name,
                    entry->n_dims);
    if (split == SPLIT_TRAIN && entry->shape[0] == 0)
        return fail(ERR_INVALID, "%s: \"train\" has no tokens: there is nothing to learn from",
                    ds->path);
    ds->streams[split] = (struct token_stream){safetensors_data(&ds->file, entry), entry->dtype,
                                               entry->shape[0]};
    return OK;
}

/* What no int32_t holds becomes -1, as does what is negative, which came as unsigned. */
static int32_t narrow(uint64_t id)
{
    return id <= INT32_MAX ? (int32_t)id : -1;
}

/* `count` ids from number `first` on, narrowed; they may lie unaligned. */
static void unpack(const struct token_stream *stream, int64_t first, int64_t count, int32_t *out)
{
    const size_t size = dtype_size(stream->dtype);
    const unsigned char *bytes = (const unsigned char *)stream->ids + (size_t)first * size;

#define UNPACK(type)                                            \
    for (int64_t i = 0; i < count; i++) {                       \
        type id;                                                \
        memcpy(&id, bytes + (size_t)i * sizeof id, sizeof id);  \
        out[i] = narrow(id);                                    \
    }

    switch (size) {
    case 1:
        UNPACK(uint8_t)
        break;
    case 2:
        UNPACK(uint16_t)
        break;
    case 4:
        UNPACK(uint32_t)
        break;
    default:
        UNPACK(uint64_t)
    }
#undef UNPACK
}

/* The place of the first id that is not in the vocabulary; `count` if there is none. */
static int64_t find_foreign(const int32_t *ids, int64_t count, int vocab_size)
{
    uint32_t largest = 0;
    int64_t i = 0;

    for (int64_t k = 0; k < count; k++)
        largest = (uint32_t)ids[k] > largest ? (uint32_t)ids[k] : largest;
    if (largest < (uint32_t)vocab_size)
        return count;
    while ((uint32_t)ids[i] < (uint32_t)vocab_size)
        i++;
    return i;
}

/* Can a stored number be too large at all? */
static bool needs_scan(const struct dataset *ds, enum dtype dtype)
{
    return !(dtype == DTYPE_U8 && ds->tokenizer.vocab_size >= 256) &&
           !(dtype == DTYPE_U16 && ds->tokenizer.vocab_size >= 65536);
}

/* One pass over the tokens: ids and checksum. */
static enum status check_stream(const struct dataset *ds, enum split split,
                                struct byte_progress *progress, uint32_t *checksum)
{
    enum { CHUNK = 16384 };
    const struct token_stream *stream = &ds->streams[split];
    const struct safetensors_entry *entry = safetensors_find(&ds->file, split_names[split]);
    const size_t size = dtype_size(stream->dtype);
    bool scan = needs_scan(ds, stream->dtype);
    int64_t foreign = -1;
    int32_t ids[CHUNK];

    *checksum = 0;
    for (int64_t first = 0; first < stream->count; first += CHUNK) {
        const int64_t left = stream->count - first, count = left < CHUNK ? left : CHUNK;
        const unsigned char *bytes = (const unsigned char *)stream->ids + (size_t)first * size;

        *checksum = crc32c(*checksum, bytes, (size_t)count * size);
        if (scan) {
            unpack(stream, first, count, ids);
            const int64_t i = find_foreign(ids, count, ds->tokenizer.vocab_size);
            if (i < count) {
                foreign = first + i;
                scan = false;
            }
        }
        byte_progress_add(progress, (size_t)count * size);
    }
    /* Damage first: it explains wrong ids too. */
    if (entry && entry->has_checksum && entry->checksum != *checksum)
        return fail(ERR_INVALID, "%s: \"%s\" does not match its checksum: the file is damaged",
                    ds->path, split_names[split]);
    if (foreign >= 0)
        return fail(ERR_INVALID, "%s: token %" PRId64 " of \"%s\" is outside the vocabulary of %d "
                    "ids", ds->path, foreign, split_names[split], ds->tokenizer.vocab_size);
    return OK;
}

static enum status check_tokens(struct dataset *ds)
{
    const char *stored = safetensors_metadata(&ds->file, "digest");
    struct byte_progress progress;
    uint32_t checksums[2];
    char what[128];
    uint64_t total = 0;

    for (int split = SPLIT_TRAIN; split <= SPLIT_VAL; split++)
        total += (uint64_t)ds->streams[split].count * dtype_size(ds->streams[split].dtype);
    snprintf(what, sizeof what, "checking %s", ds->path);
    byte_progress_begin(&progress, what, total);
    enum status status = check_stream(ds, SPLIT_TRAIN, &progress, &checksums[SPLIT_TRAIN]);
    if (status == OK)
        status = check_stream(ds, SPLIT_VAL, &progress, &checksums[SPLIT_VAL]);
    byte_progress_end();
    TRY(status);

    dataset_digest(ds->digest, checksums[SPLIT_TRAIN], checksums[SPLIT_VAL]);
    if (stored && strcasecmp(stored, ds->digest) != 0)
        return fail(ERR_INVALID, "%s: its digest is %.40s, its tokens have %s: the file is damaged",
                    ds->path, stored, ds->digest);
    return OK;
}

static enum status open_tokens(struct dataset *ds)
{
    TRY(safetensors_open(&ds->file, ds->path));

    const char *tokenizer = safetensors_metadata(&ds->file, "tokenizer");
    if (!tokenizer)
        return fail(ERR_INVALID, "%s: no metadata \"tokenizer\": expected a JSON text such as "
                    "{\"type\":\"byte\",\"vocab_size\":256}", ds->path);
    TRY(tokenizer_from_json(&ds->tokenizer, tokenizer, ds->path));
    TRY(find_stream(ds, SPLIT_TRAIN));
    TRY(find_stream(ds, SPLIT_VAL));
    return check_tokens(ds);
}

enum status dataset_open(struct dataset *ds, const char *path)
{
    *ds = (struct dataset){0};
    if (!file_exists(path))
        return fail(ERR_INVALID, "%s: no such token file: make one with prepare --output %s", path,
                    path);
    ds->path = strdup(path);
    if (!ds->path)
        return fail(ERR_NOMEM, "%s: out of memory", path);

    enum status status = open_tokens(ds);
    if (status == ERR_INVALID) {
        /* Whatever the defect is, this is the way out. */
        char defect[768];
        snprintf(defect, sizeof defect, "%s", status_message());
        fail(status, "%s (make it anew with prepare, or see datasets/README.md)", defect);
    }
    if (status != OK)
        dataset_close(ds);
    return status;
}

void dataset_close(struct dataset *ds)
{
    tokenizer_free(&ds->tokenizer);
    safetensors_close(&ds->file);
    free(ds->path);
    *ds = (struct dataset){0};
}

int64_t dataset_windows(const struct dataset *ds, enum split split, int length)
{
    const int64_t count = ds->streams[split].count;

    return count > length ? (count - 1) / length : 0;
}

static enum status fail_cut_short(const struct dataset *ds)
{
    return fail(ERR_IO, "%s: was cut short while it was being read, or its disk failed: bring it back "
                "as it was", ds->path);
}

struct window {
    const struct token_stream *stream;
    int64_t first, length;
    int32_t *ids, *targets;
};

static void read_window(void *context)
{
    const struct window *w = context;

    unpack(w->stream, w->first, w->length, w->ids);
    unpack(w->stream, w->first + 1, w->length, w->targets);
}

enum status dataset_window(const struct dataset *ds, enum split split, int64_t window, int length,
                           int32_t *ids, int32_t *targets)
{
    struct window w = {&ds->streams[split], window * length, length, ids, targets};

    return bus_error_survive(read_window, &w) ? OK : fail_cut_short(ds);
}

enum status dataset_check_whole(const struct dataset *ds)
{
    return mapped_file_is_whole(&ds->file.file) ? OK : fail_cut_short(ds);
}
