#include "generate/text_output.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum { STOP_PATIENCE = 1000 };      /* milliseconds */

enum status text_output_open(struct text_output *output, const char *path,
                             const volatile sig_atomic_t *stop)
{
    memset(output, 0, sizeof *output);
    output->fd = STDOUT_FILENO;
    output->stop = stop;
    output->is_file = path != NULL;
    return path ? atomic_file_open(&output->file, path, 0) : OK;
}

/* Until standard output takes more; once asked to stop, only as long as a slow reader may need. */
static enum status wait_for_reader(const struct text_output *output)
{
    struct pollfd stream = {.fd = output->fd, .events = POLLOUT};
    int ready;

    do {
        ready = poll(&stream, 1, *output->stop ? STOP_PATIENCE : -1);
    } while (ready < 0 && errno == EINTR);
    return ready == 0 ? fail(ERR_CANCELED, "stopped while standard output was blocked") : OK;
}

static enum status write_stream(struct text_output *output, const char *text, size_t size)
{
    while (size > 0) {
        const ssize_t written = write(output->fd, text, size);
        if (written >= 0) {
            text += written;
            size -= (size_t)written;
        } else if (errno == EINTR || errno == EAGAIN) {
            TRY(wait_for_reader(output));
        } else {
            output->reader_is_gone = errno == EPIPE;
            return fail_errno(ERR_IO, "standard output: cannot write");
        }
    }
    return OK;
}

enum status text_output_flush(struct text_output *output)
{
    const size_t size = output->n_buffered;

    output->n_buffered = 0;
    if (output->is_file)
        return atomic_file_write(&output->file, output->buffer, size);
    return write_stream(output, output->buffer, size);
}

enum status text_output_write(struct text_output *output, const char *text, size_t size)
{
    while (size > 0) {
        const size_t room = sizeof output->buffer - output->n_buffered;
        const size_t taken = size < room ? size : room;

        memcpy(output->buffer + output->n_buffered, text, taken);
        output->n_buffered += taken;
        text += taken;
        size -= taken;
        if (output->n_buffered == sizeof output->buffer)
            TRY(text_output_flush(output));
    }
    return OK;
}

enum status text_output_commit(struct text_output *output)
{
    TRY(text_output_flush(output));
    return output->is_file ? atomic_file_commit(&output->file) : OK;
}

void text_output_close(struct text_output *output)
{
    if (output->is_file)
        atomic_file_discard(&output->file);
    memset(output, 0, sizeof *output);
}

bool text_output_is_terminal(const struct text_output *output)
{
    return !output->is_file && isatty(output->fd);
}
