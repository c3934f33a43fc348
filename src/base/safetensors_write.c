/* The writing half of safetensors.h. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "base/safetensors.h"
#include "base/safetensors_format.h"

/* Far from the overflow of any sum of it and the header, and beyond any disk. */
#define MAX_DATA_SIZE (INT64_MAX / 2)

struct safetensors_writer {
    json_t *metadata;                   /* of the caller: key to text */
    struct safetensors_entry *entries;  /* in the order declared, checksums so far */
    int n_entries, capacity;
    uint64_t data_size;

    struct atomic_file file;            /* open from begin to commit */
    uint64_t header_size;               /* length and JSON text */
    int current;                        /* the entry that takes the next byte, */
    uint64_t done;                      /* and how many it has */
};

enum status safetensors_writer_create(struct safetensors_writer **out)
{
    struct safetensors_writer *w = calloc(1, sizeof *w);

    *out = NULL;
    if (!w)
        return fail(ERR_NOMEM, "not enough memory to write tensors");
    w->file.fd = -1;
    w->metadata = json_object();
    if (!w->metadata) {
        safetensors_writer_destroy(w);
        return fail(ERR_NOMEM, "not enough memory to write tensors");
    }
    *out = w;
    return OK;
}

static enum status check_not_begun(const struct safetensors_writer *w)
{
    if (w->header_size > 0)
        return fail(ERR_INVALID, "%s: nothing can be declared after the writing began",
                    w->file.path ? w->file.path : "safetensors writer");
    return OK;
}

/* The header's size is fixed by begin. */
static enum status check_replacement(const struct safetensors_writer *w, const char *key,
                                     size_t length)
{
    const json_t *old = json_object_get(w->metadata, key);

    if (w->header_size > 0 && old && json_string_length(old) == length)
        return OK;
    return check_not_begun(w);
}

/* The library says NULL for both a lack of memory and bytes that are no UTF-8. */
static enum status make_text(json_t **out, const char *text, size_t length)
{
    *out = json_stringn(text, length);
    if (*out)
        return OK;
    json_t *unchecked = json_stringn_nocheck(text, length);
    if (!unchecked)
        return fail(ERR_NOMEM, "not enough memory for a text of %zu bytes", length);
    json_decref(unchecked);
    return fail(ERR_INVALID, "expected UTF-8");
}

static enum status check_name(const char *name)
{
    json_t *text;

    if (!safetensors_name_is_valid(name))
        return fail(ERR_INVALID, "a name is empty or holds control characters");
    TRY(make_text(&text, name, strlen(name)));
    json_decref(text);
    return OK;
}

enum status safetensors_writer_metadata(struct safetensors_writer *w, const char *key,
                                        const char *text, size_t length)
{
    enum status status;
    json_t *value;

    TRY(check_replacement(w, key, length));
    status = check_name(key);
    if (status != OK)
        return fail_prefix(status, "metadata key: ");
    if (safetensors_key_is_reserved(key))
        return fail(ERR_INVALID, "metadata \"%s\": is filled in by the writer", key);
    if (memchr(text, '\0', length))
        return fail(ERR_INVALID, "metadata \"%.80s\": holds a NUL character", key);
    status = make_text(&value, text, length);
    if (status != OK)
        return fail_prefix(status, "metadata \"%.80s\": ", key);
    if (json_object_set_new(w->metadata, key, value) != 0)
        return fail(ERR_NOMEM, "metadata \"%.80s\": not enough memory", key);
    return OK;
}

static enum status grow(struct safetensors_writer *w)
{
    if (w->n_entries < w->capacity)
        return OK;
    const int capacity = w->capacity > 0 ? 2 * w->capacity : 64;
    struct safetensors_entry *entries = realloc(w->entries, (size_t)capacity * sizeof *entries);
    if (!entries)
        return fail(ERR_NOMEM, "not enough memory for %d tensors", capacity);
    w->entries = entries;
    w->capacity = capacity;
    return OK;
}

static enum status add_entry(struct safetensors_writer *w, const char *name, enum dtype dtype,
                             int n_dims, const int64_t *shape)
{
    struct safetensors_entry entry = {.dtype = dtype, .n_dims = n_dims, .has_checksum = true};

    if ((unsigned)dtype >= N_DTYPES)
        return fail(ERR_INVALID, "unknown dtype %d", (int)dtype);
    if (n_dims < 0 || n_dims > SAFETENSORS_MAX_DIMS)
        return fail(ERR_INVALID, "%d dimensions, at most %d are supported", n_dims,
                    SAFETENSORS_MAX_DIMS);
    for (int i = 0; i < SAFETENSORS_MAX_DIMS; i++)
        entry.shape[i] = i < n_dims ? shape[i] : 1;
    if (!safetensors_tensor_size(dtype, n_dims, shape, &entry.size) ||
        entry.size > MAX_DATA_SIZE - w->data_size)
        return fail(ERR_INVALID, "its dimensions are negative or too large");
    for (int i = 0; i < w->n_entries; i++)
        if (strcmp(w->entries[i].name, name) == 0)
            return fail(ERR_INVALID, "is declared twice");

    TRY(grow(w));
    entry.name = strdup(name);
    if (!entry.name)
        return fail(ERR_NOMEM, "not enough memory for its name");
    w->entries[w->n_entries++] = entry;
    w->data_size += entry.size;
    return OK;
}

enum status safetensors_writer_tensor(struct safetensors_writer *w, const char *name,
                                      enum dtype dtype, int n_dims, const int64_t *shape)
{
    enum status status;

    TRY(check_not_begun(w));
    status = check_name(name);
    if (status != OK)
        return fail_prefix(status, "tensor name: ");
    if (strcmp(name, SAFETENSORS_METADATA) == 0)
        return fail(ERR_INVALID, "tensor \"%s\": the format keeps this name for itself", name);
    status = add_entry(w, name, dtype, n_dims, shape);
    return status == OK ? OK : fail_prefix(status, "tensor \"%.80s\": ", name);
}

/* Wider elements first: without padding, which the format lacks, this aligns each tensor to its
 * elements. */
static void place_entries(struct safetensors_writer *w)
{
    uint64_t offset = 0;

    for (size_t width = 8; width >= 1; width /= 2) {
        for (int i = 0; i < w->n_entries; i++) {
            if (dtype_size(w->entries[i].dtype) != width)
                continue;
            w->entries[i].offset = offset;
            offset += w->entries[i].size;
        }
    }
}

static void format_checksum(char digits[SAFETENSORS_CHECKSUM_DIGITS + 1], uint32_t checksum)
{
    snprintf(digits, SAFETENSORS_CHECKSUM_DIGITS + 1, "%08" PRIx32, checksum);
}

/* The JSON text and a NUL; NULL without memory. json_dumps() can lose a piece of it then, and not
 * say so. */
static char *dump(const json_t *value)
{
    const size_t size = json_dumpb(value, NULL, 0, JSON_COMPACT);

    char *text = size > 0 ? malloc(size + 1) : NULL;
    if (text && json_dumpb(value, text, size, JSON_COMPACT) != size) {
        free(text);
        return NULL;
    }
    if (text)
        text[size] = '\0';
    return text;
}

/* The JSON text {"NAME": "DIGITS", ...}; NULL without memory. */
static char *render_checksums(const struct safetensors_writer *w)
{
    char digits[SAFETENSORS_CHECKSUM_DIGITS + 1];
    char *text = NULL;

    json_t *checksums = json_object();
    if (!checksums)
        return NULL;
    for (int i = 0; i < w->n_entries; i++) {
        format_checksum(digits, w->entries[i].checksum);
        if (json_object_set_new(checksums, w->entries[i].name, json_string(digits)) != 0)
            goto done;
    }
    text = dump(checksums);

done:
    json_decref(checksums);
    return text;
}

/* The header's metadata: the two checksums, then the caller's; NULL without memory. */
static json_t *build_metadata(const struct safetensors_writer *w)
{
    char *checksums = render_checksums(w);

    if (!checksums)
        return NULL;
    json_t *metadata = json_pack("{s:s, s:s}", SAFETENSORS_HEADER_CHECKSUM, "00000000",
                                 SAFETENSORS_CHECKSUMS, checksums);
    free(checksums);
    if (metadata && json_object_update(metadata, w->metadata) != 0) {
        json_decref(metadata);
        return NULL;
    }
    return metadata;
}

static json_t *build_entry(const struct safetensors_entry *entry)
{
    json_t *shape = json_array();

    for (int i = 0; shape && i < entry->n_dims; i++) {
        if (json_array_append_new(shape, json_integer(entry->shape[i])) != 0) {
            json_decref(shape);
            return NULL;
        }
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(entry->dtype), "shape", shape,
                     "data_offsets", (json_int_t)entry->offset,
                     (json_int_t)(entry->offset + entry->size));
}

/* The JSON text of the whole header, not padded yet; NULL without memory. */
static char *render_json(const struct safetensors_writer *w)
{
    char *text = NULL;

    json_t *header = json_object();
    if (!header || json_object_set_new(header, SAFETENSORS_METADATA, build_metadata(w)) != 0)
        goto done;
    for (int i = 0; i < w->n_entries; i++)
        if (json_object_set_new(header, w->entries[i].name, build_entry(&w->entries[i])) != 0)
            goto done;
    text = dump(header);

done:
    json_decref(header);
    return text;
}

/* The bytes in front of the data: length, JSON text with the checksums known now, blanks. Every
 * checksum has eight digits, so the size is the same at begin and at commit. The caller frees. */
static enum status render_header(struct safetensors_writer *w, unsigned char **header,
                                 uint64_t *header_size)
{
    char digits[SAFETENSORS_CHECKSUM_DIGITS + 1];

    place_entries(w);
    char *json = render_json(w);
    if (!json)
        return fail(ERR_NOMEM, "not enough memory for the header of %d tensors", w->n_entries);
    const size_t length = strlen(json);
    const size_t unpadded = SAFETENSORS_LENGTH_SIZE + length;
    const size_t size = (unpadded + SAFETENSORS_ALIGNMENT - 1) / SAFETENSORS_ALIGNMENT *
                        SAFETENSORS_ALIGNMENT;
    const size_t text_size = size - SAFETENSORS_LENGTH_SIZE;
    if (text_size > SAFETENSORS_MAX_HEADER) {
        free(json);
        return fail(ERR_INVALID, "a header of %zu bytes, the format allows %d: fewer tensors or "
                    "less metadata", text_size, SAFETENSORS_MAX_HEADER);
    }
    unsigned char *bytes = malloc(size);
    if (!bytes) {
        free(json);
        return fail(ERR_NOMEM, "not enough memory for a header of %zu bytes", size);
    }
    for (int i = 0; i < SAFETENSORS_LENGTH_SIZE; i++)
        bytes[i] = (unsigned char)(text_size >> 8 * i);
    char *text = (char *)bytes + SAFETENSORS_LENGTH_SIZE;
    memcpy(text, json, length);
    memset(text + length, ' ', text_size - length);
    free(json);

    format_checksum(digits, safetensors_header_checksum(text, text_size));
    memcpy(text + strlen(SAFETENSORS_CHECKED_START), digits, SAFETENSORS_CHECKSUM_DIGITS);
    *header = bytes;
    *header_size = size;
    return OK;
}

uint64_t safetensors_writer_size(struct safetensors_writer *w)
{
    unsigned char *header;
    uint64_t header_size;

    if (render_header(w, &header, &header_size) != OK)
        return 0;
    free(header);
    return header_size + w->data_size;
}

enum status safetensors_writer_begin(struct safetensors_writer *w, const char *path)
{
    enum status status;
    unsigned char *header;
    uint64_t header_size;

    TRY(check_not_begun(w));
    status = render_header(w, &header, &header_size);
    if (status != OK)
        return fail_prefix(status, "%s: ", path);
    free(header);
    TRY(atomic_file_open(&w->file, path, header_size + w->data_size));
    w->header_size = header_size;
    return OK;
}

enum status safetensors_writer_data(struct safetensors_writer *w, const void *data, size_t size)
{
    const char *bytes = data;

    if (w->file.fd < 0)
        return fail(ERR_INVALID, "safetensors writer: data before the writing began");
    while (size > 0) {
        while (w->current < w->n_entries && w->done == w->entries[w->current].size) {
            w->current++;
            w->done = 0;
        }
        if (w->current == w->n_entries)
            return fail(ERR_INVALID, "%s: %zu bytes more than the declared tensors hold",
                        w->file.path, size);
        struct safetensors_entry *entry = &w->entries[w->current];
        const uint64_t room = entry->size - w->done;
        const size_t piece = size < room ? size : (size_t)room;
        TRY(atomic_file_write_at(&w->file, bytes, piece,
                                 w->header_size + entry->offset + w->done));
        entry->checksum = crc32c(entry->checksum, bytes, piece);
        w->done += piece;
        bytes += piece;
        size -= piece;
    }
    return OK;
}

static enum status check_complete(const struct safetensors_writer *w)
{
    uint64_t done = w->done;

    for (int i = w->current; i < w->n_entries; i++) {
        const struct safetensors_entry *entry = &w->entries[i];
        if (done < entry->size)
            return fail(ERR_INVALID, "%s: tensor \"%.80s\" lacks %" PRIu64 " of its %" PRIu64
                        " bytes", w->file.path, entry->name, entry->size - done, entry->size);
        done = 0;
    }
    return OK;
}

enum status safetensors_writer_commit(struct safetensors_writer *w)
{
    enum status status;
    unsigned char *header;
    uint64_t header_size;

    if (w->file.fd < 0)
        return fail(ERR_INVALID, "safetensors writer: commit before the writing began");
    TRY(check_complete(w));
    status = render_header(w, &header, &header_size);
    if (status != OK)
        return fail_prefix(status, "%s: ", w->file.path);
    if (header_size == w->header_size)
        status = atomic_file_write_at(&w->file, header, header_size, 0);
    else
        status = fail(ERR_INVALID, "%s: a replaced metadata text needs more room than the old one",
                      w->file.path);
    free(header);
    return status == OK ? atomic_file_commit(&w->file) : status;
}

void safetensors_writer_destroy(struct safetensors_writer *w)
{
    if (!w)
        return;
    atomic_file_discard(&w->file);
    for (int i = 0; i < w->n_entries; i++)
        free(w->entries[i].name);
    free(w->entries);
    json_decref(w->metadata);
    free(w);
}
