/* plan_disk.c - the room that a run's checkpoints take, found out before the first step. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/file.h"
#include "base/log.h"
#include "train/run.h"

/* The folder, or the nearest one above it that is there already. */
static enum status free_bytes(const char *folder, uint64_t *bytes)
{
    char *path = strdup(folder);

    if (!path)
        return fail(ERR_NOMEM, "no memory to look at %s", folder);
    while (!file_exists(path)) {
        char *slash = strrchr(path, '/');
        if (slash && slash > path)
            *slash = '\0';
        else
            strcpy(path, slash ? "/" : ".");
    }
    const enum status status = folder_free_bytes(path, bytes);
    free(path);
    return status;
}

/* Epoch checkpoints that will be kept and are not there yet. */
static int64_t new_epoch_files(const struct run *run, int64_t present)
{
    const int64_t every = run->config.checkpoint.save_every;
    const int64_t keep = run->config.checkpoint.keep_last;

    if (every == 0)
        return 0;
    const int64_t made = run->steps.epochs / every - run->start.epoch / every;
    if (keep == 0)
        return made;
    const int64_t room = keep > present ? keep - present : 0;
    return made < room ? made : room;
}

/* What stands in the folder when it is fullest: the epoch checkpoints that are kept, best_model, and the
 * file that is being written beside those it will replace, final_model at the end; so keep_last + 2, if
 * the run is long enough. Where time passes between saves, last_checkpoint comes on top. A resumed
 * run's own files count as there. Sizes without optimizer state are those of all but last_checkpoint,
 * if save_optimizer is false. */
enum status run_plan_disk(const struct run *run, struct plan_disk *disk)
{
    const char *folder = run->config.checkpoint.save_dir;
    const bool by_time = run->config.checkpoint.save_minutes > 0;
    struct saves_present present;
    struct param_table table;

    TRY(saves_find_present(folder, run->resume.path ? run->start.step : -1, &present));
    TRY(param_table_create(&table, &run->model));
    const uint64_t large = checkpoint_size(&table, run->model.max_seq_len, true);
    const uint64_t small = checkpoint_size(&table, run->model.max_seq_len,
                                           run->config.checkpoint.save_optimizer);
    param_table_free(&table);

    const int64_t n_small = new_epoch_files(run, present.epochs) + !present.best;
    const int64_t n_large = 1 + (by_time && !present.last);
    *disk = (struct plan_disk){.folder = folder, .n_files = n_small + n_large, .largest = large};
    if (__builtin_mul_overflow((uint64_t)n_small, small, &disk->needed) ||
        __builtin_add_overflow((uint64_t)n_large * large, disk->needed, &disk->needed))
        disk->needed = UINT64_MAX;
    if (free_bytes(folder, &disk->available) != OK)
        return fail_prefix(ERR_INVALID, "checkpoint.save_dir: ");
    return OK;
}

enum status plan_disk_check(const struct plan_disk *disk, bool force)
{
    const bool large = disk->needed >= 1 << 30;
    const double unit = large ? 1 << 30 : 1 << 20;
    const char *name = large ? "GiB" : "MiB";
    struct rlimit limit;
    char text[400];

    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < disk->largest)
        return fail(ERR_INVALID, "a checkpoint of this run has %.1f MiB, and this process may write files of "
                    "%.1f MiB: raise the limit (ulimit -f)", (double)disk->largest / (1 << 20),
                    (double)limit.rlim_cur / (1 << 20));
    if (disk->needed <= disk->available)
        return OK;
    snprintf(text, sizeof text, "%s: %lld checkpoint%s of this run need%s %.1f %s, %.1f %s are free on "
             "its file system", disk->folder, (long long)disk->n_files, disk->n_files == 1 ? "" : "s",
             disk->n_files == 1 ? "s" : "", (double)disk->needed / unit, name,
             (double)disk->available / unit, name);
    if (!force)
        return fail(ERR_INVALID, "%s: free some, choose another checkpoint.save_dir, lower "
                    "checkpoint.keep_last, or go on with --force", text);
    log_warning("%s: going on, with --force", text);
    return OK;
}
