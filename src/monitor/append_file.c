#include "monitor/append_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

enum status append_file_open(struct append_file *file, const char *path, bool is_new)
{
    const int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | (is_new ? O_EXCL : 0);
    char *copy = strdup(path);

    if (!copy)
        return fail(ERR_NOMEM, "%s: out of memory", path);
    const int fd = open(path, flags, 0666);
    if (fd < 0) {
        const enum status status = fail_errno(ERR_IO, "%s: cannot open it for writing", path);
        free(copy);
        return status;
    }
    *file = (struct append_file){.fd = fd, .path = copy};
    return OK;
}

static void warn_once(struct append_file *file)
{
    if (!file->has_warned)
        log_warning("%s: records are lost: %s", file->path, strerror(errno));
    file->has_warned = true;
}

/* Take away the part of a record that was written last. */
static void cut_torn_record(struct append_file *file, size_t size)
{
    const off_t end = lseek(file->fd, 0, SEEK_CUR);

    if (end >= (off_t)size && ftruncate(file->fd, end - (off_t)size) == 0)
        return;
    /* Nothing behind a torn record could be read. */
    close(file->fd);
    file->fd = -1;
}

void append_file_write(struct append_file *file, const void *data, size_t size)
{
    const char *bytes = data;
    size_t done = 0;

    if (file->fd < 0)
        return;
    while (done < size) {
        const ssize_t written = write(file->fd, bytes + done, size - done);
        if (written < 0 && errno != EINTR)
            break;
        if (written > 0)
            done += (size_t)written;
    }
    if (done == size)
        return;
    warn_once(file);
    if (done > 0)
        cut_torn_record(file, done);
}

void append_file_close(struct append_file *file)
{
    /* Some network file systems report a full disk only here. */
    if (file->fd >= 0 && close(file->fd) != 0)
        warn_once(file);
    free(file->path);
    *file = APPEND_FILE_CLOSED;
}
