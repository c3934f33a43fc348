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
    bool is_new_run;            /* files of an earlier run are moved aside before the first save */
};

/* Save under one of the names above. */
enum status saves_write(struct saves *saves, const char *name, struct checkpoint_content content);
/* Save checkpoint_epoch_N and remove the oldest beyond keep_last. */
enum status saves_write_epoch(struct saves *saves, int64_t epoch,
                              struct checkpoint_content content);

/* The newest complete checkpoint with optimizer state in this folder, by its step; *path is NULL if
 * there is none. Damaged files are passed over with a warning. The caller frees *path. */
enum status saves_find_newest(const char *folder, char **path);

/* What `sample` takes unless told: the best, else the final, else the newest. The caller frees *path,
 * NULL if there is none. */
enum status saves_find_for_sampling(const char *folder, char **path);

#endif
