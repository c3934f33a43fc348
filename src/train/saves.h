/* saves.h - the files in save_dir: which are written when, and which are kept. */
#ifndef OCTET_SAVES_H
#define OCTET_SAVES_H

#include "train/checkpoint.h"
#include "train/save_folder.h"

struct saver;

struct saves {
    const char *folder;
    int64_t keep_last;          /* epoch checkpoints; 0: all */
    bool save_optimizer;        /* in all files but those of a run that is not over,
                                 * which always have it */
    int64_t start_step;         /* of a resumed run; -1: a new one */
    double best_loss;           /* of the best_model that is on the disk, or was at the start */
    bool best_is_begun;         /* one that may not be there yet */
    int *lock;                  /* of the folder (base/file.h); NULL: it has none */
    bool has_room;              /* files of other runs were moved aside, before the first save */
    _Atomic bool failed;        /* the latest save */
    _Atomic double waiting_since;   /* seconds_now() at the start, and when last_checkpoint or
                                     * what failed was tried */
    struct saver *saver;        /* writes, or says whose turn it is; NULL before saves_open() */
};

/* Before the first save: with copy_size = checkpoint_copy_size() saves_begin() leaves the writing to
 * a thread, with 0 it writes itself. */
enum status saves_open(struct saves *saves, size_t copy_size);
/* Waits for the last save. Safe on what was never opened. */
void saves_close(struct saves *saves);

/* Save under one of the names in save_folder.h while the run goes on. A save that fails leaves the
 * older files whole, and says so in the log. */
void saves_begin(struct saves *saves, const char *name, struct checkpoint_content content);
/* Save checkpoint_epoch_N, and remove the oldest beyond keep_last. */
void saves_begin_epoch(struct saves *saves, int64_t epoch, struct checkpoint_content content);
/* To be called before weights or moments change. */
void saves_state_changes(struct saves *saves);
/* Save and wait for it, and before it for what was begun. */
enum status saves_write(struct saves *saves, const char *name, struct checkpoint_content content);
/* The same where a run ends before its time: as last_checkpoint, or, behind bad steps, as a file of its
 * own, so that the run which goes on has the good last_checkpoint to go back to. */
enum status saves_write_stopped(struct saves *saves, struct checkpoint_content content);
/* Wait for what was begun. */
void saves_wait(struct saves *saves);
bool saves_are_idle(const struct saves *saves);

/* The lowest validation loss whose model is on the disk; waits for one that is being written. Those
 * that could not be saved stand in no other's way. */
double saves_best_loss(struct saves *saves);
/* Is it time for last_checkpoint? Every so many seconds (0: never), and after a save that failed
 * within a minute. */
bool saves_are_due(const struct saves *saves, double interval);

#endif
