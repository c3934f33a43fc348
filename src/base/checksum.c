#include "base/checksum.h"

#include <isa-l/crc.h>

uint32_t crc32c(uint32_t crc, const void *data, size_t size)
{
    enum { PIECE = 1 << 30 };       /* the library counts in int */
    const unsigned char *bytes = data;

    /* The library keeps the register; the checksum is its complement. */
    uint32_t reg = ~crc;
    while (size > 0) {
        const int length = size < PIECE ? (int)size : PIECE;
        reg = crc32_iscsi((unsigned char *)bytes, length, reg);
        bytes += length;
        size -= (size_t)length;
    }
    return ~reg;
}
