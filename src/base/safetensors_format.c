#include "base/safetensors_format.h"

#include <string.h>

#include "base/checksum.h"

uint32_t safetensors_header_checksum(const char *text, size_t size)
{
    const size_t start = strlen(SAFETENSORS_CHECKED_START);
    const size_t rest = start + SAFETENSORS_CHECKSUM_DIGITS;

    uint32_t crc = crc32c(0, text, start);
    crc = crc32c(crc, "00000000", SAFETENSORS_CHECKSUM_DIGITS);
    return crc32c(crc, text + rest, size - rest);
}

bool safetensors_tensor_size(enum dtype dtype, int n_dims, const int64_t *shape, uint64_t *size)
{
    int64_t bytes = (int64_t)dtype_size(dtype);
    bool empty = false;

    for (int i = 0; i < n_dims; i++) {
        if (shape[i] < 0)
            return false;
        if (shape[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(bytes, shape[i], &bytes))
            return false;
    }
    *size = empty ? 0 : (uint64_t)bytes;
    return true;
}

bool safetensors_name_is_valid(const char *name)
{
    for (const unsigned char *c = (const unsigned char *)name; *c; c++) {
        if (*c < ' ' || *c == 0x7f)
            return false;
        /* U+0080 to U+009F, which terminals obey as well. */
        if (c[0] == 0xc2 && c[1] < 0xa0)
            return false;
    }
    return name[0] != '\0';
}

bool safetensors_key_is_reserved(const char *key)
{
    return strcmp(key, SAFETENSORS_HEADER_CHECKSUM) == 0 ||
           strcmp(key, SAFETENSORS_CHECKSUMS) == 0;
}
