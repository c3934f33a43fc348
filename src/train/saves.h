/* saves.h - the files in save_dir: which are written when, and which are kept. */
#ifndef OCTET_SAVES_H
#define OCTET_SAVES_H

#include "train/checkpoint.h"
#include "train/save_folder.h"

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

/* Save under one of the names in save_folder.h. A save that fails leaves the older files whole. */
enum status saves_write(struct saves *saves, const char *name, struct checkpoint_content content);
/* Save checkpoint_epoch_N and remove the oldest beyond keep_last. */
enum status saves_write_epoch(struct saves *saves, int64_t epoch,
                              struct checkpoint_content content);
/* Say that a save failed, where the run goes on without it. */
void saves_report_failure(void);
/* Is it time for last_checkpoint? Every so many seconds (0: never), and after a save that failed
 * within a minute. */
bool saves_are_due(const struct saves *saves, double interval);

#endif
