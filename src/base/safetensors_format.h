/* safetensors_format.h - what the reader and the writer of safetensors files share; private to
 * them. */
#ifndef OCTET_SAFETENSORS_FORMAT_H
#define OCTET_SAFETENSORS_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/tensor.h"

enum {
    SAFETENSORS_LENGTH_SIZE = 8,                /* bytes of the header's length */
    SAFETENSORS_MAX_HEADER = 100 * 1000 * 1000, /* set by the format */
    SAFETENSORS_ALIGNMENT = 64,
    SAFETENSORS_CHECKSUM_DIGITS = 8,
};

#define SAFETENSORS_METADATA "__metadata__"
#define SAFETENSORS_HEADER_CHECKSUM "octet.header_checksum"
#define SAFETENSORS_CHECKSUMS "octet.checksums"

/* How the JSON text begins where it has a header checksum: so its digits have a fixed place. */
#define SAFETENSORS_CHECKED_START \
    "{\"" SAFETENSORS_METADATA "\":{\"" SAFETENSORS_HEADER_CHECKSUM "\":\""

/* CRC-32C of a JSON text that begins with SAFETENSORS_CHECKED_START and eight digits, which count
 * as zeros. */
uint32_t safetensors_header_checksum(const char *text, size_t size);

/* Bytes of a tensor. False where a dimension is negative or the size goes beyond int64_t; sizes of
 * 0 don't hide the excess of the other dimensions, so that any product of some is safe. */
bool safetensors_tensor_size(enum dtype dtype, int n_dims, const int64_t *shape, uint64_t *size);

/* Names and keys appear in messages: not empty, no control characters. */
bool safetensors_name_is_valid(const char *name);

/* True for the metadata keys of the two checksums. */
bool safetensors_key_is_reserved(const char *key);

#endif
