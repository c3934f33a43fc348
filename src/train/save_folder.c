#include "train/save_folder.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "train/checkpoint.h"

#define EPOCH_PREFIX "checkpoint_epoch_"

char *saves_path(const char *folder, const char *name)
{
    char *path;

    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

int64_t saves_epoch_of(const char *name)
{
    int64_t epoch = 0;

    if (strncmp(name, EPOCH_PREFIX, strlen(EPOCH_PREFIX)) != 0)
        return -1;
    name += strlen(EPOCH_PREFIX);
    if (*name < '0' || *name > '9')
        return -1;
    for (; *name >= '0' && *name <= '9' && epoch < INT64_MAX / 100; name++)
        epoch = 10 * epoch + (*name - '0');
    return strcmp(name, SAVE_SUFFIX) == 0 ? epoch : -1;
}

static bool is_save(const char *name)
{
    return strcmp(name, SAVE_BEST) == 0 || strcmp(name, SAVE_FINAL) == 0 ||
           strcmp(name, SAVE_LAST) == 0 || strcmp(name, SAVE_STOPPED) == 0 ||
           saves_epoch_of(name) >= 0;
}

void saves_epoch_name(char name[SAVE_NAME_SIZE], int64_t epoch)
{
    snprintf(name, SAVE_NAME_SIZE, EPOCH_PREFIX "%lld" SAVE_SUFFIX, (long long)epoch);
}

static enum status visit_save(const char *folder, const char *name, saves_visit visit,
                              void *context)
{
    char *path = saves_path(folder, name);

    if (!path)
        return fail(ERR_NOMEM, "no memory to look at %s/%s", folder, name);
    const enum status status = visit(context, path, name);
    free(path);
    return status;
}

enum status saves_each(const char *folder, saves_visit visit, void *context)
{
    DIR *dir = opendir(folder);
    struct dirent *entry = NULL;
    enum status status = OK;

    if (!dir && (errno == ENOENT || errno == ENOTDIR))
        return OK;
    if (!dir)
        return fail_errno(errno == EACCES ? ERR_INVALID : ERR_IO, "%s: cannot read the folder",
                          folder);
    while (status == OK && (errno = 0, entry = readdir(dir)))
        if (is_save(entry->d_name))
            status = visit_save(folder, entry->d_name, visit, context);
    if (!entry && errno != 0)
        status = fail_errno(ERR_IO, "%s: cannot read the folder", folder);
    closedir(dir);
    return status;
}

/* ---- what other runs left in the folder ---- */

struct aside {
    const char *from;           /* the folder that they are in */
    int64_t after_step;         /* saves of later steps are moved */
    char folder[PATH_MAX];      /* "" until the first of them */
};

static enum status create_aside(struct aside *aside)
{
    char stamp[32];
    struct tm local;
    const time_t now = time(NULL);

    strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", localtime_r(&now, &local));
    snprintf(aside->folder, sizeof aside->folder, "%s/earlier_%s", aside->from, stamp);
    TRY(folder_create_new(aside->folder, sizeof aside->folder));
    log_notice("%s holds files of an earlier run; they were moved to %s", aside->from,
               aside->folder);
    return OK;
}

/* A new run moves all saves aside; a resumed one those of the steps that it will make again, which
 * belong to a history that is no longer its own. */
static enum status move_aside(void *context, const char *path, const char *name)
{
    struct aside *aside = context;
    enum status status = OK;
    int64_t step;
    bool finished;

    if (aside->after_step >= 0) {
        status = checkpoint_peek(path, &step, &finished);
        if (status == ERR_NOMEM)        /* which says nothing about the file */
            return status;
        if (status != OK || step <= aside->after_step)
            return OK;
    }
    if (!aside->folder[0])
        TRY(create_aside(aside));
    char *to = saves_path(aside->folder, name);
    if (!to)
        return fail(ERR_NOMEM, "no memory to move %s", path);
    if (rename(path, to) != 0)
        status = fail_errno(ERR_IO, "%s: cannot move it to %s", path, to);
    free(to);
    return status;
}

/* What a killed run's save left behind: NAME.safetensors.tmp.PID. */
static void remove_torn_saves(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        if (!strstr(entry->d_name, SAVE_SUFFIX ".tmp."))
            continue;
        char *path = saves_path(folder, entry->d_name);
        if (path)
            (void)unlink(path);
        free(path);
    }
    if (dir)
        closedir(dir);
}

enum status saves_make_room(const char *folder, int64_t start_step)
{
    struct aside aside = {.from = folder, .after_step = start_step};

    TRY(folder_create(folder));
    remove_torn_saves(folder);
    TRY(saves_each(folder, move_aside, &aside));
    return aside.folder[0] ? folder_make_durable(aside.folder) : OK;
}

/* ---- finding ---- */

struct search {
    int64_t start_step;
    struct saves_present *present;
};

static enum status note_present(void *context, const char *path, const char *name)
{
    struct search *search = context;
    int64_t step;
    bool finished;

    if (checkpoint_peek(path, &step, &finished) != OK || step > search->start_step)
        return OK;
    search->present->epochs += saves_epoch_of(name) >= 0;
    search->present->best |= strcmp(name, SAVE_BEST) == 0;
    search->present->last |= strcmp(name, SAVE_LAST) == 0;
    return OK;
}

enum status saves_find_present(const char *folder, int64_t start_step,
                               struct saves_present *present)
{
    struct search search = {start_step, present};

    *present = (struct saves_present){0};
    return start_step < 0 ? OK : saves_each(folder, note_present, &search);
}

/* Of the file that is the best so far. */
static enum status keep_path(char **kept, const char *path)
{
    free(*kept);
    *kept = strdup(path);
    return *kept ? OK : fail(ERR_NOMEM, "no memory to look at %s", path);
}

struct newest {
    const struct saves_range *range;    /* NULL: of any step */
    char *path;                 /* of the newest that a run can go on from, or that is complete */
    int64_t step, epoch;
    bool finished, is_last;
    int64_t n_seen;
};

/* Of the same step, the one that has more of its epoch's end behind it; else where a run stopped. */
static bool is_newer(const struct newest *a, const struct newest *b)
{
    if (!b->path || a->step != b->step)
        return !b->path || a->step > b->step;
    if (a->finished != b->finished)
        return a->finished;
    return a->epoch != b->epoch ? a->epoch > b->epoch : a->is_last;
}

static bool is_in_range(const struct saves_range *range, const struct progress_state *progress)
{
    return progress->step <= range->latest && progress->health.bad_in_row == 0 &&
           (progress->step < range->barred_from || progress->step > range->barred_to);
}

static enum status find_newest(void *context, const char *path, const char *name)
{
    struct newest *newest = context;
    struct checkpoint checkpoint;

    newest->n_seen++;
    const enum status status = checkpoint_open(&checkpoint, path);
    if (status == ERR_NOMEM)        /* which says nothing about the file */
        return status;
    if (status != OK) {
        log_warning("passed over: %s", status_message());
        return OK;
    }
    const struct progress_state progress = checkpoint.progress;
    const bool fits = (checkpoint.has_optimizer || progress.finished) &&
                      (!newest->range || is_in_range(newest->range, &progress));
    const struct newest found = {newest->range, newest->path, progress.step, progress.epoch,
                                 progress.finished, strcmp(name, SAVE_LAST) == 0 ||
                                 strcmp(name, SAVE_STOPPED) == 0, newest->n_seen};
    checkpoint_close(&checkpoint);
    if (!fits || !is_newer(&found, newest))
        return OK;
    *newest = found;
    return keep_path(&newest->path, path);
}

enum status saves_find_good(const char *folder, const struct saves_range *range, char **path)
{
    struct newest newest = {.range = range};
    const enum status status = saves_each(folder, find_newest, &newest);

    *path = newest.path;
    return status;
}

enum status saves_find_newest(const char *folder, char **path)
{
    struct newest newest = {0};
    const enum status status = saves_each(folder, find_newest, &newest);

    if (status != OK) {
        free(newest.path);
        newest.path = NULL;
    }
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

static enum status find_latest(void *context, const char *path, const char *name)
{
    struct latest *latest = context;
    int64_t step;
    bool finished;

    (void)name;
    if (checkpoint_peek(path, &step, &finished) != OK || (latest->path && step <= latest->step))
        return OK;
    latest->step = step;
    return keep_path(&latest->path, path);
}

enum status saves_find_for_sampling(const char *folder, char **path)
{
    static const char *const preferred[] = {SAVE_BEST, SAVE_FINAL};
    struct latest latest = {0};

    for (size_t i = 0; i < sizeof preferred / sizeof *preferred; i++) {
        *path = saves_path(folder, preferred[i]);
        if (!*path)
            return fail(ERR_NOMEM, "no memory to look into %s", folder);
        if (file_exists(*path))
            return OK;
        free(*path);
    }
    const enum status status = saves_each(folder, find_latest, &latest);
    *path = latest.path;
    return status;
}
