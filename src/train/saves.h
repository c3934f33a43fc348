/* saves.h - the files in save_dir: which are written when, and which are kept. */
#ifndef OCTET_SAVES_H
#define OCTET_SAVES_H

#include "train/checkpoint.h"

#define SAVE_BEST "best_model.safetensors"
#define SAVE_FINAL "final_model.safetensors"
#define SAVE_LAST "last_checkpoint.safetensors"

struct saves {
    const char *folder;
    int64_t keep_last;          /* epoch checkpoints; 0: all */
    bool save_optimizer;        /* in all files but last_checkpoint, which always has it */
    int64_t start_step;         /* of a resumed run; -1: a new one */
    bool has_room;              /* files of other runs were moved aside, before the first save */
    bool failed;                /* the latest save */
    double waiting_since;       /* seconds_now() at the start, and when last_checkpoint or what failed
                                 * was tried */
};

/* How many of a run's files are in its folder already, to stay there or be replaced. */
struct saves_present {
    int64_t epochs;
    bool best, last;
};

/* Of a run that starts at this step. A new one (-1) finds none: what is there is moved aside. */
enum status saves_find_present(const char *folder, int64_t start_step,
                               struct saves_present *present);

/* Save under one of the names above. A save that fails leaves the older files whole. */
enum status saves_write(struct saves *saves, const char *name, struct checkpoint_content content);
/* Save checkpoint_epoch_N and remove the oldest beyond keep_last. */
enum status saves_write_epoch(struct saves *saves, int64_t epoch,
                              struct checkpoint_content content);
/* Say that a save failed, where the run goes on without it. */
void saves_report_failure(void);
/* Is it time for last_checkpoint? Every so many seconds (0: never), and after a save that failed
 * within a minute. */
bool saves_are_due(const struct saves *saves, double interval);

/* The newest complete checkpoint in this folder, by its step, that has optimizer state or is a finished
 * run's; *path is NULL if the folder has no checkpoints. Damaged files are passed over with a warning;
 * ERR_INVALID if that leaves none. The caller frees *path. */
enum status saves_find_newest(const char *folder, char **path);

/* What `sample` takes unless told: the best, else the final, else the newest. The caller frees *path,
 * NULL if there is none. */
enum status saves_find_for_sampling(const char *folder, char **path);

#endif
