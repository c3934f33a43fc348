#include "base/log.h"

#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static FILE *stream;            /* NULL stands for stdout, which is no constant */
static FILE *file;
static char live[1024];         /* the live line on the screen, "" if none */
static long long n_left_out;    /* lines that the stream has not taken */

static FILE *out(void)
{
    return stream ? stream : stdout;
}

void log_set_stream(FILE *new_stream)
{
    stream = new_stream;
}

enum status log_open_file(const char *path)
{
    FILE *opened = fopen(path, "ae");
    if (!opened)
        return fail_errno(ERR_IO, "%s: cannot open the log file", path);
    pthread_mutex_lock(&lock);
    if (file)
        fclose(file);
    file = opened;
    pthread_mutex_unlock(&lock);
    return OK;
}

void log_close_file(void)
{
    pthread_mutex_lock(&lock);
    if (file)
        fclose(file);
    file = NULL;
    pthread_mutex_unlock(&lock);
}

static void write_to_file(const char *text)
{
    char stamp[32];
    struct tm local;
    const time_t now = time(NULL);

    if (!file)
        return;
    strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", localtime_r(&now, &local));
    fprintf(file, "%s %s\n", stamp, text);
    fflush(file);
}

/* ---- the stream, whose reader may have stopped ---- */

bool log_takes_text(int fd, int milliseconds)
{
    struct pollfd polled = {.fd = fd, .events = POLLOUT};

    /* A stream in memory has no number. */
    return fd < 0 || poll(&polled, 1, milliseconds) != 0;
}

/* A terminal after Ctrl-S, or a pipe into a program that waits: once it has not taken a text in time,
 * what follows is left out until it takes one again. */
static bool takes_text(void)
{
    return log_takes_text(fileno(out()), n_left_out > 0 ? 0 : LOG_PATIENCE);
}

/* In parts that fit into a pipe that takes any at all; the last one with `end`, an escape or a line's
 * end, behind it. */
static bool put(const char *text, const char *end)
{
    enum { PART = 4000 };
    size_t left = strlen(text);

    do {
        const size_t size = left < PART ? left : PART;
        if (!takes_text())
            return false;
        fwrite(text, 1, size, out());
        text += size;
        left -= size;
        if (left == 0)
            fputs(end, out());
        fflush(out());
    } while (left > 0);
    return true;
}

static void put_message(const char *text)
{
    char note[160];

    if (n_left_out > 0 && takes_text()) {
        snprintf(note, sizeof note, "notice: nobody read here, so %lld lines were left out%s",
                 n_left_out, file ? "; the log file has them" : "");
        n_left_out = 0;
        put(note, "\n");
    }
    if (!put(text, "\n"))
        n_left_out++;
}

static void erase_live(void)
{
    if (live[0] && n_left_out == 0)
        put("\r\033[K", "");
}

static void draw_live(void)
{
    if (live[0] && n_left_out == 0)
        put(live, "");
}

static void emit(const char *prefix, const char *format, va_list args)
{
    char fixed[2048];
    char *text = fixed;
    va_list again;

    va_copy(again, args);
    const int offset = snprintf(fixed, sizeof fixed, "%s", prefix);
    const int length = vsnprintf(fixed + offset, sizeof fixed - (size_t)offset, format, args);
    if (length >= (int)sizeof fixed - offset) {
        /* A long message, such as a sampled paragraph; without memory it stays cut. */
        char *longer = malloc((size_t)(offset + length) + 1);
        if (longer) {
            memcpy(longer, fixed, (size_t)offset);
            vsnprintf(longer + offset, (size_t)length + 1, format, again);
            text = longer;
        }
    }
    va_end(again);

    pthread_mutex_lock(&lock);
    erase_live();
    put_message(text);
    draw_live();
    write_to_file(text);
    pthread_mutex_unlock(&lock);
    if (text != fixed)
        free(text);
}

void log_info(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    emit("", format, args);
    va_end(args);
}

void log_notice(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    emit("notice: ", format, args);
    va_end(args);
}

void log_warning(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    emit("warning: ", format, args);
    va_end(args);
}

void log_error(const char *program, const char *message)
{
    pthread_mutex_lock(&lock);
    erase_live();
    live[0] = '\0';
    if (log_takes_text(STDERR_FILENO, LOG_PATIENCE))
        fprintf(stderr, "%s: %s\n", program, message);
    if (file) {
        char line[1200];
        snprintf(line, sizeof line, "error: %s", message);
        write_to_file(line);
    }
    pthread_mutex_unlock(&lock);
}

void log_file_only(const char *text)
{
    pthread_mutex_lock(&lock);
    write_to_file(text);
    pthread_mutex_unlock(&lock);
}

bool log_is_terminal(void)
{
    const char *term = getenv("TERM");
    return isatty(fileno(out())) && !(term && strcmp(term, "dumb") == 0);
}

int log_columns(void)
{
    struct winsize size;

    if (ioctl(fileno(out()), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return 80;
}

void log_live(const char *line)
{
    if (!log_is_terminal())
        return;
    pthread_mutex_lock(&lock);
    erase_live();
    snprintf(live, sizeof live, "%s", line ? line : "");
    draw_live();
    pthread_mutex_unlock(&lock);
}
