#include "monitor/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"

enum { MAX_ROW = 1024 };        /* a longer line is none of ours */

struct number {
    char text[32];
};

static struct number number(double value)
{
    struct number n = {"null"};

    if (isfinite(value))
        snprintf(n.text, sizeof n.text, "%.9g", value);
    return n;
}

/* Whether a line is a row of ours that the resumed run writes again. */
static enum status is_repeated_row(bool *is_repeated, const char *line, size_t length,
                                const struct monitor_config *config, const char *path)
{
    json_t *row;
    const enum status status = json_parse(&row, line, length, MAX_ROW, path);

    *is_repeated = false;
    if (status != OK)
        return status == ERR_INVALID ? OK : status;
    /* What is no integer has the value 0. */
    const json_int_t step = json_integer_value(json_object_get(row, "step"));
    if (json_object_get(row, "val_loss"))
        *is_repeated = step > config->resume_step - config->resume_evaluates;
    else if (json_object_get(row, "loss"))
        *is_repeated = step > config->resume_step;
    json_decref(row);
    return OK;
}

static enum status copy_rows(struct atomic_file *to, const struct mapped_file *from,
                             const struct monitor_config *config, const char *path)
{
    const char *line = (const char *)from->data;
    const char *end = line + from->size;
    const char *kept = line;        /* lines from here on stay, and are not written yet */

    while (line < end) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        const char *next = newline ? newline + 1 : end;
        bool is_dropped = true;

        if (newline)
            TRY(is_repeated_row(&is_dropped, line, (size_t)(newline - line), config, path));
        if (is_dropped) {
            TRY(atomic_file_write(to, kept, (size_t)(line - kept)));
            kept = next;
        }
        line = next;
    }
    return atomic_file_write(to, kept, (size_t)(end - kept));
}

static enum status cut_repeated_rows(const char *path, const struct monitor_config *config)
{
    struct mapped_file from = {0};
    struct atomic_file to = {.fd = -1};
    enum status status;

    TRY_GOTO(status, mapped_file_open(&from, path), done);
    TRY_GOTO(status, atomic_file_open(&to, path, 0), done);
    TRY_GOTO(status, copy_rows(&to, &from, config, path), done);
    status = atomic_file_commit(&to);
done:
    atomic_file_discard(&to);
    mapped_file_close(&from);
    return status;
}

/* Create an empty file under the first free name, for a rename to replace it without a race. */
static enum status reserve_name(char **out, const char *log_dir, const char *stamp)
{
    for (int n = 1;; n++) {
        char count[16] = "";
        char *name;

        if (n > 1)
            snprintf(count, sizeof count, "-%d", n);
        if (asprintf(&name, "%s/metrics_%s%s.jsonl", log_dir, stamp, count) < 0)
            return fail(ERR_NOMEM, "%s: out of memory", log_dir);
        const int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            close(fd);
            *out = name;
            return OK;
        }
        const bool is_taken = errno == EEXIST;
        const enum status status = fail_errno(ERR_IO, "%s: cannot create it", name);
        free(name);
        if (!is_taken)
            return status;
    }
}

static enum status move_aside(const char *path, const char *log_dir, time_t modified)
{
    char stamp[32];
    char *name = NULL;
    struct tm local;
    enum status status = OK;

    if (!localtime_r(&modified, &local) ||
        strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &local) == 0)
        return fail(ERR_IO, "%s: its modification time is out of range", path);
    TRY(reserve_name(&name, log_dir, stamp));
    if (rename(path, name) != 0) {
        status = fail_errno(ERR_IO, "%s: cannot rename it to %s", path, name);
        unlink(name);
    }
    free(name);
    return status;
}

/* Make way for this run's rows in what an earlier one left. */
static enum status prepare(const char *path, const struct monitor_config *config)
{
    struct stat info;

    if (stat(path, &info) != 0)
        return errno == ENOENT ? OK : fail_errno(ERR_IO, "%s: cannot look at it", path);
    if (S_ISCHR(info.st_mode))      /* a link to /dev/null */
        return OK;
    if (!S_ISREG(info.st_mode))
        return fail(ERR_IO, "%s: expected a regular file, move away what is there", path);
    if (info.st_size == 0)
        return OK;
    if (config->resume_step > 0) {
        if (cut_repeated_rows(path, config) == OK)
            return OK;
        log_warning("%s: the rows after step %" PRId64 " cannot be cut, it is renamed (%s)", path,
                    config->resume_step, status_message());
    }
    return move_aside(path, config->log_dir, info.st_mtime);
}

enum status metrics_open(struct append_file *file, const struct monitor_config *config)
{
    char *path;

    if (asprintf(&path, "%s/metrics.jsonl", config->log_dir) < 0)
        return fail(ERR_NOMEM, "%s: out of memory", config->log_dir);
    enum status status = prepare(path, config);
    if (status == OK)
        status = append_file_open(file, path, false);
    free(path);
    return status;
}

void metrics_step(struct append_file *file, const struct monitor_step *step, double tokens_per_s)
{
    char row[MAX_ROW];
    const int length = snprintf(
        row, sizeof row,
        "{\"step\":%" PRId64 ",\"epoch\":%" PRId64 ",\"loss\":%s,\"grad_norm\":%s,\"lr\":%s,"
        "\"tokens\":%" PRId64 ",\"tokens_per_s\":%s%s}\n",
        step->step, step->epoch, number(step->loss).text, number(step->grad_norm).text,
        number(step->lr).text, step->tokens_total, number(tokens_per_s).text,
        step->is_skipped ? ",\"skipped\":true" : "");

    append_file_write(file, row, (size_t)length);
}

void metrics_evaluation(struct append_file *file, const struct monitor_evaluation *evaluation)
{
    char row[MAX_ROW];
    const int length = snprintf(
        row, sizeof row,
        "{\"step\":%" PRId64 ",\"val_loss\":%s,\"val_perplexity\":%s,\"val_accuracy\":%s}\n",
        evaluation->step, number(evaluation->loss).text, number(evaluation->perplexity).text,
        number(evaluation->accuracy).text);

    append_file_write(file, row, (size_t)length);
}
