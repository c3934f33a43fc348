#include "train/saves.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/pulse.h"
#include "train/fault.h"
#include "train/watchdog.h"

/* Before the first save. */
static enum status make_room(struct saves *saves)
{
    if (saves->has_room)
        return OK;
    TRY(saves_make_room(saves->folder, saves->start_step));
    saves->has_room = true;
    return OK;
}

static enum status write_save(struct saves *saves, const char *name,
                              struct checkpoint_content content)
{
    TRY(make_room(saves));
    char *path = saves_path(saves->folder, name);
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
    const int64_t epoch = saves_epoch_of(name);

    (void)folder;
    if (epoch < 0)
        return OK;
    if (oldest->count++ == 0 || epoch < oldest->epoch)
        oldest->epoch = epoch;
    return OK;
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
        log_warning("%s: an old checkpoint that cannot be removed", path);
    free(path);
    return OK;
}

enum status saves_write_epoch(struct saves *saves, int64_t epoch, struct checkpoint_content content)
{
    char name[SAVE_NAME_SIZE];
    bool more = saves->keep_last > 0;

    saves_epoch_name(name, epoch);
    TRY(saves_write(saves, name, content));
    while (more)
        TRY(remove_oldest(saves, &more));
    return OK;
}
