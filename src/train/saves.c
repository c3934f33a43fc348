#include "train/saves.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/pulse.h"
#include "train/fault.h"
#include "train/saver.h"
#include "train/watchdog.h"

/* Before the first save into a folder; somebody may have removed or renamed the one before. */
static enum status make_room(struct saves *saves)
{
    bool changed = false;

    if (saves->lock)
        TRY(folder_lock_again(saves->folder, saves->lock, &changed));
    if (changed) {
        log_warning("%s: another folder than at the start of this run, which goes on in it",
                    saves->folder);
        saves->has_room = false;
    }
    if (saves->has_room)
        return OK;
    TRY(saves_make_room(saves->folder, saves->start_step));
    saves->has_room = true;
    return OK;
}

/* ---- writing, on the thread whose turn it is ---- */

static bool is_last(const char *name)
{
    return strcmp(name, SAVE_LAST) == 0;
}

static bool is_stopped(const char *name)
{
    return strcmp(name, SAVE_STOPPED) == 0;
}

static bool is_best(const char *name)
{
    return strcmp(name, SAVE_BEST) == 0;
}

static enum status write_file(struct saves *saves, const char *name,
                              struct checkpoint_content content)
{
    char *path = saves_path(saves->folder, name);
    if (!path)
        return fail(ERR_NOMEM, "no memory to save %s/%s", saves->folder, name);
    if (!saves->save_optimizer && !is_last(name) && !is_stopped(name))
        content.optimizer = NULL;
    enum status status = make_room(saves);
    if (status == OK)
        status = checkpoint_save(path, &content);
    if (status == ERR_INVALID)      /* a folder that has gone is no fault of the settings now */
        status = ERR_IO;
    /* The best model is announced by its evaluation. */
    if (status == OK && !is_best(name))
        log_info("saved %s (step %lld)", path, (long long)content.progress.step);
    free(path);
    return status;
}

struct oldest {
    int64_t count, epoch;
};

static enum status find_oldest(void *context, const char *path, const char *name)
{
    struct oldest *oldest = context;
    const int64_t epoch = saves_epoch_of(name);

    (void)path;
    if (epoch < 0)
        return OK;
    if (oldest->count++ == 0 || epoch < oldest->epoch)
        oldest->epoch = epoch;
    return OK;
}

static void warn_of_old(const char *path)
{
    log_warning("%s: an old checkpoint that cannot be removed", path);
}

/* Remove the oldest epoch checkpoint if there are too many; *removed says so. */
static enum status remove_oldest(const struct saves *saves, bool *removed)
{
    struct oldest oldest = {0};
    char name[SAVE_NAME_SIZE];

    *removed = false;
    TRY(saves_each(saves->folder, find_oldest, &oldest));
    if (oldest.count <= saves->keep_last)
        return OK;
    saves_epoch_name(name, oldest.epoch);
    char *path = saves_path(saves->folder, name);
    if (!path)
        return fail(ERR_NOMEM, "no memory to remove %s/%s", saves->folder, name);
    *removed = unlink(path) == 0;
    if (!*removed)
        warn_of_old(path);
    free(path);
    return OK;
}

/* Where an earlier try of this run was stopped, once there is a later state. */
static void remove_stopped(const struct saves *saves)
{
    char *path = saves_path(saves->folder, SAVE_STOPPED);

    if (path && unlink(path) != 0 && errno != ENOENT)
        warn_of_old(path);
    free(path);
}

static enum status write_save(struct saves *saves, const char *name,
                              struct checkpoint_content content)
{
    bool more = saves->keep_last > 0 && saves_epoch_of(name) >= 0;

    if (!is_best(name))
        content.progress.best_loss = saves->best_loss;
    enum status status = fault_here(0, "save", content.progress.step);
    if (status == OK)
        status = write_file(saves, name, content);
    if (status == OK && is_best(name))
        saves->best_loss = content.progress.best_loss;
    while (status == OK && more)
        status = remove_oldest(saves, &more);
    if (status == OK && (is_last(name) || content.progress.finished))
        remove_stopped(saves);
    saves->failed = status != OK;
    if (saves->failed || is_last(name))
        saves->waiting_since = seconds_now();
    return status;
}

static void report_failure(void)
{
    char text[1100];

    snprintf(text, sizeof text, "not saved: %s", status_message());
    log_error("trainer", text);
}

static void write_begun(void *context, const char *name, struct checkpoint_content content)
{
    if (write_save(context, name, content) != OK)
        report_failure();
}

/* ---- for the workers ---- */

enum status saves_open(struct saves *saves, size_t copy_size)
{
    return saver_create(&saves->saver, copy_size, write_begun, saves);
}

void saves_close(struct saves *saves)
{
    saver_destroy(saves->saver);
    saves->saver = NULL;
}

enum status saves_write(struct saves *saves, const char *name, struct checkpoint_content content)
{
    const int phase = pulse_phase(PHASE_SAVE);

    saver_take_turn(saves->saver);
    const enum status status = write_save(saves, name, content);
    saver_end_turn(saves->saver);
    (void)pulse_phase(phase);
    return status;
}

enum status saves_write_stopped(struct saves *saves, struct checkpoint_content content)
{
    return saves_write(saves, content.progress.health.bad_in_row > 0 ? SAVE_STOPPED : SAVE_LAST,
                       content);
}

static enum status leave_to_thread(struct saves *saves, const char *name,
                                   struct checkpoint_content content)
{
    const int phase = pulse_phase(PHASE_SAVE);

    saves->failed = false;      /* as long as this one has not */
    saves->best_is_begun |= is_best(name);
    const enum status status = saver_begin(saves->saver, name, content);
    if (status != OK)
        saves->failed = true;
    if (saves->failed || is_last(name))
        saves->waiting_since = seconds_now();
    (void)pulse_phase(phase);
    return status;
}

void saves_begin(struct saves *saves, const char *name, struct checkpoint_content content)
{
    const bool has_thread = saver_has_thread(saves->saver);

    if ((has_thread ? leave_to_thread : saves_write)(saves, name, content) != OK)
        report_failure();
}

void saves_begin_epoch(struct saves *saves, int64_t epoch, struct checkpoint_content content)
{
    char name[SAVE_NAME_SIZE];

    saves_epoch_name(name, epoch);
    saves_begin(saves, name, content);
}

void saves_state_changes(struct saves *saves)
{
    saver_state_changes(saves->saver);
}

void saves_wait(struct saves *saves)
{
    const int phase = pulse_phase(PHASE_SAVE);

    saver_take_turn(saves->saver);
    saver_end_turn(saves->saver);
    (void)pulse_phase(phase);
}

bool saves_are_idle(const struct saves *saves)
{
    return !saves->saver || saver_is_idle(saves->saver);
}

double saves_best_loss(struct saves *saves)
{
    if (saves->best_is_begun)
        saves_wait(saves);
    saves->best_is_begun = false;
    return saves->best_loss;
}

bool saves_are_due(const struct saves *saves, double interval)
{
    const double retry = 60;

    if (saves->failed && (interval == 0 || interval > retry))
        interval = retry;
    return interval > 0 && seconds_now() - saves->waiting_since > interval;
}
