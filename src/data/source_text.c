#include "data/source_text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

/* An open file without a name in `folder`. */
static enum status open_unnamed(int *fd, const char *folder)
{
    char *path = NULL;

    TRY(folder_create(folder));
    if (asprintf(&path, "%s/.prepare.XXXXXX", folder) < 0)
        return fail(ERR_NOMEM, "out of memory for a file name");
    *fd = mkostemp(path, O_CLOEXEC);
    if (*fd < 0)
        fail_errno(ERR_IO, "%s: cannot create a temporary file", path);
    else
        unlink(path);
    free(path);
    return *fd < 0 ? ERR_IO : OK;
}

static enum status check_stop(const struct source_text *text)
{
    return *text->stop ? fail(ERR_CANCELED, "stopped: no file was written") : OK;
}

/* Open what `path` names and tell a file from a stream. */
static enum status open_source(struct source_text *text, const char *path, const char *folder)
{
    if (strcmp(path, "-") == 0) {
        text->stream = dup(STDIN_FILENO);
        if (text->stream < 0)
            return fail_errno(ERR_INVALID, "standard input");
        return open_unnamed(&text->fd, folder);
    }
    /* The open of a named pipe waits for its writer. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    TRY(check_stop(text));
    if (fd < 0)
        return fail_errno(ERR_INVALID, "%s: cannot open the text", path);
    text->fd = fd;
    if (fstat(fd, &text->opened) != 0)
        return fail_errno(ERR_IO, "%s", path);
    if (S_ISDIR(text->opened.st_mode))
        return fail(ERR_INVALID, "%s is a folder: expected a text file", path);
    if (!S_ISREG(text->opened.st_mode)) {
        text->stream = fd;
        text->fd = -1;
        return open_unnamed(&text->fd, folder);
    }
    text->size = text->opened.st_size;
    return OK;
}

enum status source_text_open(struct source_text *text, const char *path, const char *folder,
                             const volatile sig_atomic_t *stop)
{
    *text = (struct source_text){.fd = -1, .stream = -1, .stop = stop};
    text->name = strdup(strcmp(path, "-") == 0 ? "standard input" : path);
    if (!text->name)
        return fail(ERR_NOMEM, "out of memory for a file name");
    const enum status status = open_source(text, path, folder);
    if (status != OK)
        source_text_close(text);
    return status;
}

void source_text_close(struct source_text *text)
{
    if (text->fd >= 0)
        close(text->fd);
    if (text->stream >= 0)
        close(text->stream);
    free(text->name);
    *text = (struct source_text){.fd = -1, .stream = -1};
}

static enum status append_copy(const struct source_text *text, const char *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        const ssize_t n = pwrite(text->fd, bytes + done, size - done,
                                 (off_t)(text->size + (int64_t)done));
        if (n < 0 && errno != EINTR)
            return fail_errno(ERR_IO, "%s: cannot keep a copy beside the output", text->name);
        done += n > 0 ? (size_t)n : 0;
    }
    return OK;
}

/* The next bytes of the stream, which are also added to the copy. */
static enum status read_stream(struct source_text *text, char *bytes, size_t size, size_t *count)
{
    *count = 0;
    while (*count < size) {
        const ssize_t n = read(text->stream, bytes + *count, size - *count);
        TRY(check_stop(text));
        if (n < 0 && errno != EINTR)
            return fail_errno(ERR_IO, "%s", text->name);
        if (n == 0) {
            close(text->stream);
            text->stream = -1;
            break;
        }
        *count += n > 0 ? (size_t)n : 0;
    }
    TRY(append_copy(text, bytes, *count));
    text->size += (int64_t)*count;
    return OK;
}

/* `size` bytes that must be there. */
static enum status read_file(const struct source_text *text, int64_t offset, char *bytes,
                             size_t size)
{
    for (size_t done = 0; done < size;) {
        const ssize_t n = pread(text->fd, bytes + done, size - done,
                                (off_t)(offset + (int64_t)done));
        TRY(check_stop(text));
        if (n < 0 && errno != EINTR)
            return fail_errno(ERR_IO, "%s", text->name);
        if (n == 0)
            return fail(ERR_IO, "%s became shorter while it was read: start again", text->name);
        done += n > 0 ? (size_t)n : 0;
    }
    return OK;
}

enum status source_text_read(struct source_text *text, int64_t offset, char *bytes, size_t size,
                             size_t *count)
{
    const int64_t left = text->size - offset;
    const size_t there = left < (int64_t)size ? (size_t)left : size;
    size_t more = 0;

    *count = 0;
    TRY(read_file(text, offset, bytes, there));
    if (there < size && text->stream >= 0)
        TRY(read_stream(text, bytes + there, size - there, &more));
    *count = there + more;
    return OK;
}

enum status source_text_check_unchanged(const struct source_text *text)
{
    struct stat now;

    if (!S_ISREG(text->opened.st_mode))
        return OK;
    if (fstat(text->fd, &now) != 0)
        return fail_errno(ERR_IO, "%s", text->name);
    if (now.st_size != text->opened.st_size ||
        now.st_mtim.tv_sec != text->opened.st_mtim.tv_sec ||
        now.st_mtim.tv_nsec != text->opened.st_mtim.tv_nsec)
        return fail(ERR_IO, "%s was changed while it was read: start again", text->name);
    return OK;
}

bool source_text_is_file(const struct source_text *text, const char *path)
{
    struct stat other;

    return S_ISREG(text->opened.st_mode) && stat(path, &other) == 0 &&
           other.st_dev == text->opened.st_dev && other.st_ino == text->opened.st_ino;
}
