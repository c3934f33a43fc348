#include "fuzz.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

const char *fuzz_file(const uint8_t *data, size_t size)
{
    static char path[32];
    static int fd = -1;

    if (fd < 0) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        FUZZ_CHECK(fd >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    FUZZ_CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
    return path;
}

void fuzz_check_status(enum status status)
{
    const unsigned char *message = (const unsigned char *)status_message();

    if (status == OK)
        return;
    FUZZ_CHECK(status == ERR_INVALID && *message);
    for (const unsigned char *c = message; *c; c++) {
        FUZZ_CHECK(*c >= ' ' && *c != 0x7f);
        FUZZ_CHECK(!(c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0));
    }
}

enum status fuzz_run(const uint8_t *data, size_t size)
{
    static FILE *nowhere;

    if (!nowhere) {
        nowhere = fopen("/dev/null", "we");
        FUZZ_CHECK(nowhere);
        log_set_stream(nowhere);
    }
    const enum status status = fuzz_read(data, size);
    fuzz_check_status(status);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_run(data, size);
    return 0;
}
