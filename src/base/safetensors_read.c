/* The reading half of safetensors.h. The header comes from anywhere: nothing in it is believed
 * before it was checked. Messages get the file's name in front in safetensors_open(). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "base/safetensors_format.h"

/* Eight lower-case digits and no others, so that a flipped bit can't hide in the case. */
static bool parse_checksum(const char *text, uint32_t *checksum)
{
    if (strlen(text) != SAFETENSORS_CHECKSUM_DIGITS ||
        strspn(text, "0123456789abcdef") != SAFETENSORS_CHECKSUM_DIGITS)
        return false;
    *checksum = (uint32_t)strtoul(text, NULL, 16);
    return true;
}

/* Find and parse the header; sets st->data. */
static enum status parse_header(struct safetensors *st, json_t **header)
{
    const unsigned char *bytes = st->file.data;
    uint64_t length = 0;

    if (st->file.size < SAFETENSORS_LENGTH_SIZE)
        return fail(ERR_INVALID, "is not a safetensors file: it has only %zu bytes",
                    st->file.size);
    for (int i = SAFETENSORS_LENGTH_SIZE - 1; i >= 0; i--)
        length = length << 8 | bytes[i];
    if (length > SAFETENSORS_MAX_HEADER)
        return fail(ERR_INVALID, "is not a safetensors file: a header of %" PRIu64
                    " bytes, at most %d are accepted", length, SAFETENSORS_MAX_HEADER);
    if (length > st->file.size - SAFETENSORS_LENGTH_SIZE)
        return fail(ERR_INVALID, "is not a safetensors file, or cut off: a header of %" PRIu64
                    " bytes in a file of %zu", length, st->file.size);
    const unsigned char *text = bytes + SAFETENSORS_LENGTH_SIZE;
    if (length == 0 || text[0] != '{')
        return fail(ERR_INVALID, "is not a safetensors file: no '{' at byte %d",
                    SAFETENSORS_LENGTH_SIZE);
    st->data = text + length;
    return json_parse(header, (const char *)text, (size_t)length, SAFETENSORS_MAX_HEADER, "header");
}

static enum status check_metadata(json_t *metadata)
{
    const char *key;
    json_t *value;

    if (!metadata)
        return OK;
    if (!json_is_object(metadata))
        return fail(ERR_INVALID, "metadata: expected a JSON object");
    json_object_foreach(metadata, key, value) {
        if (!safetensors_name_is_valid(key))
            return fail(ERR_INVALID, "metadata: a key is empty or holds control characters");
        if (!json_is_string(value))
            return fail(ERR_INVALID, "metadata \"%.80s\": expected a text", key);
        if (!json_text(value))
            return fail(ERR_INVALID, "metadata \"%.80s\": holds a NUL character", key);
    }
    return OK;
}

static enum status check_header_checksum(const struct safetensors *st, const json_t *metadata)
{
    const char *digits = json_string_value(json_object_get(metadata, SAFETENSORS_HEADER_CHECKSUM));
    const char *text = (const char *)st->file.data + SAFETENSORS_LENGTH_SIZE;
    const size_t size = (size_t)((const char *)st->data - text);
    const size_t start = strlen(SAFETENSORS_CHECKED_START);
    uint32_t checksum;

    if (!digits) {
        if (json_object_get(metadata, SAFETENSORS_CHECKSUMS))
            return fail(ERR_INVALID, "the header is damaged: its checksum is missing");
        return OK;
    }
    if (!parse_checksum(digits, &checksum))
        return fail(ERR_INVALID, "the header is damaged: its checksum is no number of %d "
                    "lower-case hexadecimal digits", SAFETENSORS_CHECKSUM_DIGITS);
    if (size < start + SAFETENSORS_CHECKSUM_DIGITS ||
        memcmp(text, SAFETENSORS_CHECKED_START, start) != 0 ||
        memcmp(text + start, digits, SAFETENSORS_CHECKSUM_DIGITS) != 0)
        return fail(ERR_INVALID, "another program rewrote the header and kept Octet's checksums: "
                    "remove %s and %s there", SAFETENSORS_HEADER_CHECKSUM, SAFETENSORS_CHECKSUMS);
    if (safetensors_header_checksum(text, size) != checksum)
        return fail(ERR_INVALID, "the header is damaged: its checksum does not match");
    return OK;
}

static enum status copy_metadata(struct safetensors *st, json_t *metadata)
{
    const char *key;
    json_t *value;

    /* One more, because calloc() may return NULL for nothing. */
    st->metadata = calloc(2 * json_object_size(metadata) + 1, sizeof *st->metadata);
    if (!st->metadata)
        goto out_of_memory;
    json_object_foreach(metadata, key, value) {
        if (safetensors_key_is_reserved(key))
            continue;
        char **pair = st->metadata + 2 * st->n_metadata++;
        pair[0] = strdup(key);
        pair[1] = strdup(json_string_value(value));
        if (!pair[0] || !pair[1])
            goto out_of_memory;
    }
    return OK;

out_of_memory:
    return fail(ERR_NOMEM, "not enough memory for the metadata");
}

/* A non-negative JSON integer; those beyond int64_t don't get through the parser. */
static bool read_count(const json_t *value, int64_t *count)
{
    *count = json_integer_value(value);
    return json_is_integer(value) && *count >= 0;
}

static enum status read_dtype(struct safetensors_entry *entry, const json_t *value)
{
    const char *name = json_text(value);

    if (!name)
        return fail(ERR_INVALID, "no \"dtype\", expected a text such as \"F32\"");
    entry->dtype = dtype_from_name(name);
    if (entry->dtype == N_DTYPES)
        return fail(ERR_INVALID, "dtype \"%.20s\" is not supported",
                    safetensors_name_is_valid(name) ? name : "?");
    return OK;
}

static enum status read_shape(struct safetensors_entry *entry, const json_t *value)
{
    const size_t n_dims = json_array_size(value);

    if (!json_is_array(value))
        return fail(ERR_INVALID, "no \"shape\", expected a list of dimensions");
    if (n_dims > SAFETENSORS_MAX_DIMS)
        return fail(ERR_INVALID, "%zu dimensions, at most %d are supported", n_dims,
                    SAFETENSORS_MAX_DIMS);
    entry->n_dims = (int)n_dims;
    for (size_t i = 0; i < SAFETENSORS_MAX_DIMS; i++) {
        entry->shape[i] = 1;
        if (i < n_dims && !read_count(json_array_get(value, i), &entry->shape[i]))
            return fail(ERR_INVALID, "dimension %zu is no integer from 0", i);
    }
    return OK;
}

static enum status read_range(struct safetensors_entry *entry, const json_t *value,
                              uint64_t data_size)
{
    int64_t begin, end;

    if (json_array_size(value) != 2 || !read_count(json_array_get(value, 0), &begin) ||
        !read_count(json_array_get(value, 1), &end) || begin > end)
        return fail(ERR_INVALID, "no \"data_offsets\", expected [BEGIN, END] in ascending order");
    if ((uint64_t)end > data_size)
        return fail(ERR_INVALID, "ends at byte %" PRId64 " of the data, which has %" PRIu64
                    ": the file is cut off", end, data_size);
    entry->offset = (uint64_t)begin;
    entry->size = (uint64_t)(end - begin);
    return OK;
}

static enum status read_entry(struct safetensors_entry *entry, const json_t *value,
                              uint64_t data_size)
{
    uint64_t size;

    if (!json_is_object(value))
        return fail(ERR_INVALID, "expected a JSON object");
    TRY(read_dtype(entry, json_object_get(value, "dtype")));
    TRY(read_shape(entry, json_object_get(value, "shape")));
    TRY(read_range(entry, json_object_get(value, "data_offsets"), data_size));
    if (!safetensors_tensor_size(entry->dtype, entry->n_dims, entry->shape, &size))
        return fail(ERR_INVALID, "its dimensions are too large");
    if (size != entry->size)
        return fail(ERR_INVALID, "its shape needs %" PRIu64 " bytes, but it has %" PRIu64, size,
                    entry->size);
    return OK;
}

/* By offset; empty tensors before the one that begins at the same place. */
static int compare_entries(const void *left, const void *right)
{
    const struct safetensors_entry *a = left, *b = right;

    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    if (a->size != b->size)
        return a->size < b->size ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* The tensors must cover the data section without overlaps and holes. */
static enum status check_coverage(const struct safetensors *st, uint64_t data_size)
{
    uint64_t end = 0;

    for (int i = 0; i < st->n_entries; i++) {
        const struct safetensors_entry *entry = &st->entries[i];
        if (entry->offset != end)
            return fail(ERR_INVALID, "tensor \"%.80s\" begins at byte %" PRIu64 " of the data, "
                        "expected %" PRIu64 ": tensors overlap or leave a hole", entry->name,
                        entry->offset, end);
        end += entry->size;
    }
    if (end != data_size)
        return fail(ERR_INVALID, "%" PRIu64 " bytes of data, but the tensors take %" PRIu64,
                    data_size, end);
    return OK;
}

static enum status read_entries(struct safetensors *st, json_t *header)
{
    const uint64_t data_size = st->file.size - (uint64_t)(st->data - st->file.data);
    const char *name;
    json_t *value;

    st->entries = calloc(json_object_size(header) + 1, sizeof *st->entries);
    if (!st->entries)
        return fail(ERR_NOMEM, "not enough memory for %zu tensors", json_object_size(header));
    json_object_foreach(header, name, value) {
        if (strcmp(name, SAFETENSORS_METADATA) == 0)
            continue;
        if (!safetensors_name_is_valid(name))
            return fail(ERR_INVALID, "a tensor's name is empty or holds control characters");
        struct safetensors_entry *entry = &st->entries[st->n_entries++];
        entry->name = strdup(name);
        if (!entry->name)
            return fail(ERR_NOMEM, "not enough memory for the names of tensors");
        const enum status status = read_entry(entry, value, data_size);
        if (status != OK)
            return fail_prefix(status, "tensor \"%.80s\": ", name);
    }
    qsort(st->entries, (size_t)st->n_entries, sizeof *st->entries, compare_entries);
    return check_coverage(st, data_size);
}

/* Where there are checksums, every tensor has one. */
static enum status read_checksums(struct safetensors *st, const json_t *metadata)
{
    const json_t *text = json_object_get(metadata, SAFETENSORS_CHECKSUMS);
    enum status status = OK;
    json_t *checksums;

    if (!text)
        return OK;
    TRY(json_parse(&checksums, json_string_value(text), json_string_length(text),
                   SAFETENSORS_MAX_HEADER, "tensor checksums"));
    for (int i = 0; i < st->n_entries && status == OK; i++) {
        struct safetensors_entry *entry = &st->entries[i];
        const char *digits = json_string_value(json_object_get(checksums, entry->name));
        entry->has_checksum = digits && parse_checksum(digits, &entry->checksum);
        if (!entry->has_checksum)
            status = fail(ERR_INVALID, "tensor \"%.80s\": no checksum of %d lower-case "
                          "hexadecimal digits", entry->name, SAFETENSORS_CHECKSUM_DIGITS);
    }
    json_decref(checksums);
    return status;
}

enum status safetensors_open(struct safetensors *st, const char *path)
{
    enum status status;
    json_t *header = NULL;

    *st = (struct safetensors){0};
    TRY(mapped_file_open(&st->file, path));

    TRY_GOTO(status, parse_header(st, &header), done);
    json_t *metadata = json_object_get(header, SAFETENSORS_METADATA);
    TRY_GOTO(status, check_metadata(metadata), done);
    TRY_GOTO(status, check_header_checksum(st, metadata), done);
    TRY_GOTO(status, read_entries(st, header), done);
    TRY_GOTO(status, read_checksums(st, metadata), done);
    status = copy_metadata(st, metadata);

done:
    json_decref(header);
    if (status != OK) {
        safetensors_close(st);
        fail_prefix(status, "%s: ", path);
    }
    return status;
}

void safetensors_close(struct safetensors *st)
{
    for (int i = 0; i < st->n_entries; i++)
        free(st->entries[i].name);
    free(st->entries);
    for (int i = 0; i < 2 * st->n_metadata; i++)
        free(st->metadata[i]);
    free(st->metadata);
    mapped_file_close(&st->file);
    *st = (struct safetensors){0};
}

const struct safetensors_entry *safetensors_find(const struct safetensors *st, const char *name)
{
    for (int i = 0; i < st->n_entries; i++)
        if (strcmp(st->entries[i].name, name) == 0)
            return &st->entries[i];
    return NULL;
}

const void *safetensors_data(const struct safetensors *st, const struct safetensors_entry *entry)
{
    return st->data + entry->offset;
}

const char *safetensors_metadata(const struct safetensors *st, const char *key)
{
    for (int i = 0; i < st->n_metadata; i++)
        if (strcmp(st->metadata[2 * i], key) == 0)
            return st->metadata[2 * i + 1];
    return NULL;
}

enum status safetensors_verify(const struct safetensors *st, const char *path,
                               const struct safetensors_entry *entry)
{
    if (!entry->has_checksum)
        return OK;
    const uint32_t checksum = crc32c(0, safetensors_data(st, entry), entry->size);
    if (checksum != entry->checksum)
        return fail(ERR_INVALID, "%s: tensor \"%.80s\" is damaged: its checksum is %08" PRIx32
                    ", expected %08" PRIx32, path, entry->name, checksum, entry->checksum);
    return OK;
}
