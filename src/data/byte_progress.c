#include "data/byte_progress.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"

static const double LIVE_SECONDS = 0.25, MESSAGE_SECONDS = 10.0;

const char *bytes_text(char text[BYTES_TEXT_SIZE], uint64_t bytes)
{
    static const char *const units[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)bytes / 1000.0;
    int unit = 0;

    if (bytes < 1000) {
        snprintf(text, BYTES_TEXT_SIZE, "%d byte%s", (int)bytes, bytes == 1 ? "" : "s");
        return text;
    }
    /* What would round up to 1000 belongs to the next unit. */
    for (; value >= 999.95; unit++)
        value /= 1000.0;
    snprintf(text, BYTES_TEXT_SIZE, "%.1f %s", value, units[unit]);
    return text;
}

void byte_progress_begin(struct byte_progress *progress, const char *what, uint64_t total)
{
    const double now = seconds_now();

    *progress = (struct byte_progress){.what = what, .total = total, .started = now, .shown = now};
}

static void show(const struct byte_progress *progress, double seconds)
{
    char done[BYTES_TEXT_SIZE], total[BYTES_TEXT_SIZE], speed[BYTES_TEXT_SIZE], line[256];
    const double per_second = (double)progress->done / seconds;

    bytes_text(done, progress->done);
    bytes_text(speed, (uint64_t)per_second);
    if (progress->total == 0)
        snprintf(line, sizeof line, "%s: %s, %s/s", progress->what, done, speed);
    else
        snprintf(line, sizeof line, "%s: %s of %s (%.0f%%), %s/s, %.0f s left", progress->what,
                 done, bytes_text(total, progress->total),
                 100.0 * (double)progress->done / (double)progress->total, speed,
                 (double)(progress->total - progress->done) / per_second);
    if (!log_is_terminal()) {
        log_info("%s", line);
        return;
    }
    /* A live line that wraps could not be erased. */
    const int columns = log_columns();
    if (columns < (int)sizeof line)
        line[columns > 1 ? columns - 1 : 0] = '\0';
    log_live(line);
}

void byte_progress_add(struct byte_progress *progress, uint64_t bytes)
{
    const double now = seconds_now();

    progress->done += bytes;
    if (now - progress->shown < (log_is_terminal() ? LIVE_SECONDS : MESSAGE_SECONDS))
        return;
    progress->shown = now;
    show(progress, now - progress->started);
}

void byte_progress_end(void)
{
    log_live(NULL);
}
