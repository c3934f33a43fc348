/* test_checksum.c - CRC-32C against published values and against itself in pieces. */
#include <sys/mman.h>

#include "base/checksum.h"
#include "check.h"

static void checksum_vectors(void)
{
    unsigned char bytes[32];

    CHECK(crc32c(0, "", 0) == 0);
    CHECK(crc32c(0, "123456789", 9) == 0xe3069283);
    /* RFC 3720, B.4 */
    memset(bytes, 0, 32);
    CHECK(crc32c(0, bytes, 32) == 0x8a9136aa);
    memset(bytes, 0xff, 32);
    CHECK(crc32c(0, bytes, 32) == 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        bytes[i] = (unsigned char)i;
    CHECK(crc32c(0, bytes, 32) == 0x46dd794e);
    for (size_t cut = 0; cut <= 32; cut++)
        CHECK(crc32c(crc32c(0, bytes, cut), bytes + cut, 32 - cut) == 0x46dd794e);
}

static void checksum_of_more_than_2_gib(void)
{
    const size_t size = (2ull << 30) + 4099, piece = 1 << 20;
    uint32_t expected = 0;

    /* Never written, so it takes no memory. */
    const unsigned char *zeros = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS |
                                      MAP_NORESERVE, -1, 0);
    CHECK(zeros != MAP_FAILED);
    if (zeros == MAP_FAILED)
        return;
    for (size_t done = 0; done < size; done += piece)
        expected = crc32c(expected, zeros, size - done < piece ? size - done : piece);
    CHECK(crc32c(0, zeros, size) == expected);
    munmap((void *)zeros, size);
}

int main(void)
{
    CASE(checksum_vectors);
    CASE(checksum_of_more_than_2_gib);
    return check_finish();
}
