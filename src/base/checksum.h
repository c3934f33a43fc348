/* checksum.h - CRC-32C (Castagnoli), as TensorBoard files, iSCSI and ext4 use it; by ISA-L. */
#ifndef OCTET_CHECKSUM_H
#define OCTET_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* Continue `crc` (0 at the start) over `size` bytes; any size, also over 2 GiB.
 * crc32c(0, "123456789", 9) == 0xe3069283. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

#endif
