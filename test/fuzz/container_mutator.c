/* container_mutator.c - mutations of safetensors files that get past the length and the checksums:
 * header and tensors change on their own, then what depends on them is put right. */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "base/safetensors_format.h"

/* libFuzzer's. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

/* Header and data of the file being changed, one behind the other in one buffer. */
struct container {
    uint8_t *file;
    size_t max_size;
    size_t header_size, data_size;
};

static char *header_of(const struct container *c)
{
    return (char *)c->file + SAFETENSORS_LENGTH_SIZE;
}

static uint8_t *data_of(const struct container *c)
{
    return c->file + SAFETENSORS_LENGTH_SIZE + c->header_size;
}

static bool split(struct container *c, uint8_t *file, size_t size, size_t max_size)
{
    uint64_t length;

    if (size < SAFETENSORS_LENGTH_SIZE)
        return false;
    memcpy(&length, file, sizeof length);
    if (length > size - SAFETENSORS_LENGTH_SIZE)
        return false;
    *c = (struct container){file, max_size, (size_t)length,
                            size - SAFETENSORS_LENGTH_SIZE - (size_t)length};
    return true;
}

static void mutate_header(struct container *c)
{
    const size_t room = c->max_size - SAFETENSORS_LENGTH_SIZE - c->data_size;
    uint8_t *kept = malloc(c->data_size + 1);

    if (!kept)
        return;
    memcpy(kept, data_of(c), c->data_size);
    c->header_size = LLVMFuzzerMutate((uint8_t *)header_of(c), c->header_size, room);
    memcpy(data_of(c), kept, c->data_size);
    free(kept);
}

/* Where the entry lies; false unless that is inside the data. */
static bool find_range(const json_t *entry, size_t data_size, size_t *begin, size_t *end)
{
    const json_t *range = json_object_get(entry, "data_offsets");

    *begin = (size_t)json_integer_value(json_array_get(range, 0));
    *end = (size_t)json_integer_value(json_array_get(range, 1));
    return *begin <= *end && *end <= data_size;
}

/* As much data as the entries speak of, if it can be. */
static void fit_data(struct container *c, json_t *header)
{
    const size_t room = c->max_size - SAFETENSORS_LENGTH_SIZE - c->header_size;
    size_t begin, end, most = 0;
    const char *name;
    json_t *entry;

    json_object_foreach(header, name, entry)
        if (find_range(entry, room, &begin, &end) && end > most)
            most = end;
    if (most > c->data_size)
        memset(data_of(c) + c->data_size, 0, most - c->data_size);
    c->data_size = most;
}

/* Write eight digits behind the first `text` in the header, if it has room for them. */
static void put_digits(struct container *c, const char *text, size_t behind, uint32_t checksum)
{
    char digits[SAFETENSORS_CHECKSUM_DIGITS + 1];
    const char *end = header_of(c) + c->header_size;
    char *found = memmem(header_of(c), c->header_size, text, strlen(text));

    if (!found || (size_t)(end - found) < strlen(text) + behind + SAFETENSORS_CHECKSUM_DIGITS)
        return;
    snprintf(digits, sizeof digits, "%08x", checksum);
    memcpy(found + strlen(text) + behind, digits, SAFETENSORS_CHECKSUM_DIGITS);
}

/* The tensors' checksums, and the digest of a token file, which is made of two. */
static void repair_checksums(struct container *c, json_t *header)
{
    const char *name;
    char text[256];
    size_t begin, end;
    json_t *entry;

    json_object_foreach(header, name, entry) {
        if (!find_range(entry, c->data_size, &begin, &end))
            continue;
        const uint32_t checksum = crc32c(0, data_of(c) + begin, end - begin);
        snprintf(text, sizeof text, "\\\"%s\\\":\\\"", name);
        put_digits(c, text, 0, checksum);
        if (strcmp(name, "train") == 0)
            put_digits(c, "\"digest\":\"", 0, checksum);
        if (strcmp(name, "val") == 0)
            put_digits(c, "\"digest\":\"", SAFETENSORS_CHECKSUM_DIGITS, checksum);
    }
}

static void repair(struct container *c)
{
    const size_t start = strlen(SAFETENSORS_CHECKED_START);
    json_t *header = json_loadb(header_of(c), c->header_size, JSON_ALLOW_NUL, NULL);

    if (header) {
        fit_data(c, header);
        repair_checksums(c, header);
        json_decref(header);
    }
    if (c->header_size >= start + SAFETENSORS_CHECKSUM_DIGITS)
        put_digits(c, SAFETENSORS_CHECKED_START, 0,
                   safetensors_header_checksum(header_of(c), c->header_size));
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    const bool as_it_is = seed % 8 == 0, in_header = seed / 8 % 4 != 0, broken = seed / 32 % 8 == 0;
    struct container c;

    if (as_it_is || !split(&c, data, size, max_size))
        return LLVMFuzzerMutate(data, size, max_size);
    if (in_header || c.data_size == 0)
        mutate_header(&c);
    else
        LLVMFuzzerMutate(data_of(&c), c.data_size, c.data_size);
    if (!broken)
        repair(&c);
    const uint64_t length = c.header_size;
    memcpy(c.file, &length, sizeof length);
    return SAFETENSORS_LENGTH_SIZE + c.header_size + c.data_size;
}
