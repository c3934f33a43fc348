#include "train/saves.h"

#include <dirent.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/pulse.h"
#include "train/fault.h"
#include "train/watchdog.h"

#define EPOCH_PREFIX "checkpoint_epoch_"
#define SUFFIX ".safetensors"

static char *join(const char *folder, const char *name)
{
    char *path;

    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

/* The N of checkpoint_epoch_N.safetensors, -1 for any other name. */
static int64_t epoch_of(const char *name)
{
    int64_t epoch = 0;

    if (strncmp(name, EPOCH_PREFIX, strlen(EPOCH_PREFIX)) != 0)
        return -1;
    name += strlen(EPOCH_PREFIX);
    if (*name < '0' || *name > '9')
        return -1;
    for (; *name >= '0' && *name <= '9' && epoch < INT64_MAX / 100; name++)
        epoch = 10 * epoch + (*name - '0');
    return strcmp(name, SUFFIX) == 0 ? epoch : -1;
}

static bool is_save(const char *name)
{
    return strcmp(name, SAVE_BEST) == 0 || strcmp(name, SAVE_FINAL) == 0 ||
           strcmp(name, SAVE_LAST) == 0 || epoch_of(name) >= 0;
}

/* Call visit for each save in the folder; a folder that is not there has none. */
static enum status each_save(const char *folder,
                             enum status (*visit)(void *context, const char *folder,
                                                  const char *name),
                             void *context)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    enum status status = OK;

    while (dir && status == OK && (entry = readdir(dir)))
        if (is_save(entry->d_name))
            status = visit(context, folder, entry->d_name);
    if (dir)
        closedir(dir);
    return status;
}

/* ---- what other runs left in the folder ---- */

struct aside {
    int64_t after_step;         /* saves of later steps are moved */
    char folder[PATH_MAX];      /* "" until the first of them */
};

static enum status create_aside(struct aside *aside, const char *folder)
{
    char stamp[32];
    struct tm local;
    const time_t now = time(NULL);

    strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", localtime_r(&now, &local));
    snprintf(aside->folder, sizeof aside->folder, "%s/earlier_%s", folder, stamp);
    TRY(folder_create_new(aside->folder, sizeof aside->folder));
    log_notice("%s holds files of an earlier run; they were moved to %s", folder, aside->folder);
    return OK;
}

/* A new run moves all saves aside; a resumed one those of the steps that it will make again, which
 * belong to a history that is no longer its own. */
static enum status move_aside(void *context, const char *folder, const char *name)
{
    struct aside *aside = context;
    enum status status = OK;
    int64_t step;
    bool finished;

    char *from = join(folder, name), *to = NULL;
    if (!from) {
        status = fail(ERR_NOMEM, "no memory to move %s/%s", folder, name);
    } else if (aside->after_step < 0 ||
               (checkpoint_peek(from, &step, &finished) && step > aside->after_step)) {
        if (!aside->folder[0])
            TRY_GOTO(status, create_aside(aside, folder), done);
        to = join(aside->folder, name);
        if (!to)
            status = fail(ERR_NOMEM, "no memory to move %s", from);
        else if (rename(from, to) != 0)
            status = fail_errno(ERR_IO, "%s: cannot move it to %s", from, to);
    }
done:
    free(from);
    free(to);
    return status;
}

/* What a killed run's save left behind: NAME.safetensors.tmp.PID. */
static void remove_torn_saves(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        if (!strstr(entry->d_name, SUFFIX ".tmp."))
            continue;
        char *path = join(folder, entry->d_name);
        if (path)
            (void)unlink(path);
        free(path);
    }
    if (dir)
        closedir(dir);
}

/* Before the first save. */
static enum status make_room(struct saves *saves)
{
    struct aside aside = {.after_step = saves->start_step};

    if (saves->has_room)
        return OK;
    TRY(folder_create(saves->folder));
    remove_torn_saves(saves->folder);
    TRY(each_save(saves->folder, move_aside, &aside));
    saves->has_room = true;
    return OK;
}

struct search {
    int64_t start_step;
    struct saves_present *present;
};

static enum status note_present(void *context, const char *folder, const char *name)
{
    struct search *search = context;
    int64_t step;
    bool finished;

    char *path = join(folder, name);
    if (!path)
        return fail(ERR_NOMEM, "no memory to look at %s/%s", folder, name);
    if (checkpoint_peek(path, &step, &finished) && step <= search->start_step) {
        search->present->epochs += epoch_of(name) >= 0;
        search->present->best |= strcmp(name, SAVE_BEST) == 0;
        search->present->last |= strcmp(name, SAVE_LAST) == 0;
    }
    free(path);
    return OK;
}

enum status saves_find_present(const char *folder, int64_t start_step,
                               struct saves_present *present)
{
    struct search search = {start_step, present};

    *present = (struct saves_present){0};
    return start_step < 0 ? OK : each_save(folder, note_present, &search);
}

/* ---- writing ---- */

static enum status write_save(struct saves *saves, const char *name,
                              struct checkpoint_content content)
{
    TRY(make_room(saves));
    char *path = join(saves->folder, name);
    if (!path)
        return fail(ERR_NOMEM, "no memory to save %s/%s", saves->folder, name);
    if (!saves->save_optimizer && strcmp(name, SAVE_LAST) != 0)
        content.optimizer = NULL;
    enum status status = checkpoint_save(path, &content);
    if (status == ERR_INVALID)      /* a folder that has gone is no fault of the settings now */
        status = ERR_IO;
    /* The best model is announced by its evaluation. */
    if (status == OK && strcmp(name, SAVE_BEST) != 0)
        log_info("saved %s (step %lld)", path, (long long)content.progress.step);
    free(path);
    return status;
}

enum status saves_write(struct saves *saves, const char *name, struct checkpoint_content content)
{
    /* A worker that the watchdog has given up may come back in the midst of the rescue. */
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    const int phase = pulse_phase(PHASE_SAVE);

    pthread_mutex_lock(&one_at_a_time);
    enum status status = fault_here(0, "save", content.progress.step);
    if (status == OK)
        status = write_save(saves, name, content);
    pthread_mutex_unlock(&one_at_a_time);
    (void)pulse_phase(phase);
    saves->failed = status != OK;
    if (saves->failed || strcmp(name, SAVE_LAST) == 0)
        saves->waiting_since = seconds_now();
    return status;
}

void saves_report_failure(void)
{
    char text[1100];

    snprintf(text, sizeof text, "not saved: %s", status_message());
    log_error("trainer", text);
}

bool saves_are_due(const struct saves *saves, double interval)
{
    const double retry = 60;

    if (saves->failed && (interval == 0 || interval > retry))
        interval = retry;
    return interval > 0 && seconds_now() - saves->waiting_since > interval;
}

struct oldest {
    int64_t count, epoch;
};

static enum status find_oldest(void *context, const char *folder, const char *name)
{
    struct oldest *oldest = context;
    const int64_t epoch = epoch_of(name);

    (void)folder;
    if (epoch < 0)
        return OK;
    if (oldest->count++ == 0 || epoch < oldest->epoch)
        oldest->epoch = epoch;
    return OK;
}

static void epoch_name(char name[64], int64_t epoch)
{
    snprintf(name, 64, EPOCH_PREFIX "%lld" SUFFIX, (long long)epoch);
}

/* Remove the oldest epoch checkpoint if there are too many; *removed says so. */
static enum status remove_oldest(const struct saves *saves, bool *removed)
{
    struct oldest oldest = {0};
    char name[64];

    *removed = false;
    TRY(each_save(saves->folder, find_oldest, &oldest));
    if (oldest.count <= saves->keep_last)
        return OK;
    epoch_name(name, oldest.epoch);
    char *path = join(saves->folder, name);
    if (!path)
        return fail(ERR_NOMEM, "no memory to remove %s/%s", saves->folder, name);
    *removed = unlink(path) == 0;
    if (!*removed)
        log_warning("%s: an old checkpoint that cannot be removed", path);
    free(path);
    return OK;
}

enum status saves_write_epoch(struct saves *saves, int64_t epoch, struct checkpoint_content content)
{
    char name[64];
    bool more = saves->keep_last > 0;

    epoch_name(name, epoch);
    TRY(saves_write(saves, name, content));
    while (more)
        TRY(remove_oldest(saves, &more));
    return OK;
}

/* ---- finding ---- */

struct newest {
    char *path;                 /* of the newest that a run can go on from, or that is complete */
    int64_t step, epoch;
    bool finished, is_last;
    int64_t n_seen;
};

/* Of the same step, the one that has more of its epoch's end behind it; else last_checkpoint. */
static bool is_newer(const struct newest *a, const struct newest *b)
{
    if (!b->path || a->step != b->step)
        return !b->path || a->step > b->step;
    if (a->finished != b->finished)
        return a->finished;
    return a->epoch != b->epoch ? a->epoch > b->epoch : a->is_last;
}

static enum status find_newest(void *context, const char *folder, const char *name)
{
    struct newest *newest = context;
    struct checkpoint checkpoint;
    char *path = join(folder, name);

    newest->n_seen++;
    if (!path)
        return fail(ERR_NOMEM, "no memory to look at %s/%s", folder, name);
    if (checkpoint_open(&checkpoint, path) != OK) {
        log_warning("passed over: %s", status_message());
        free(path);
        return OK;
    }
    const struct progress_state progress = checkpoint.progress;
    const bool fits = checkpoint.has_optimizer || progress.finished;
    const struct newest found = {path, progress.step, progress.epoch, progress.finished,
                                 strcmp(name, SAVE_LAST) == 0, newest->n_seen};
    checkpoint_close(&checkpoint);
    if (!fits || !is_newer(&found, newest)) {
        free(path);
        return OK;
    }
    free(newest->path);
    *newest = found;
    return OK;
}

enum status saves_find_newest(const char *folder, char **path)
{
    struct newest newest = {0};
    const enum status status = each_save(folder, find_newest, &newest);

    *path = newest.path;
    if (status == OK && !newest.path && newest.n_seen > 0)
        return fail(ERR_INVALID, "%s: holds checkpoints, but none that a run can go on from (damaged, "
                    "or without optimizer state): choose another save_dir, or start a new run "
                    "without --resume, or from weights with --init", folder);
    return status;
}

struct latest {
    char *path;
    int64_t step;
};

static enum status find_latest(void *context, const char *folder, const char *name)
{
    struct latest *latest = context;
    int64_t step;
    bool finished;
    char *path = join(folder, name);

    if (!path)
        return fail(ERR_NOMEM, "no memory to look at %s/%s", folder, name);
    if (!checkpoint_peek(path, &step, &finished) || (latest->path && step <= latest->step)) {
        free(path);
        return OK;
    }
    free(latest->path);
    *latest = (struct latest){path, step};
    return OK;
}

enum status saves_find_for_sampling(const char *folder, char **path)
{
    static const char *const preferred[] = {SAVE_BEST, SAVE_FINAL};
    struct latest latest = {0};

    for (size_t i = 0; i < sizeof preferred / sizeof *preferred; i++) {
        *path = join(folder, preferred[i]);
        if (!*path)
            return fail(ERR_NOMEM, "no memory to look into %s", folder);
        if (file_exists(*path))
            return OK;
        free(*path);
    }
    const enum status status = each_save(folder, find_latest, &latest);
    *path = latest.path;
    return status;
}
