/* save_folder.h - the checkpoints in a folder: what they are called, and which is the newest. */
#ifndef OCTET_SAVE_FOLDER_H
#define OCTET_SAVE_FOLDER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define SAVE_SUFFIX ".safetensors"
#define SAVE_BEST "best_model" SAVE_SUFFIX
#define SAVE_FINAL "final_model" SAVE_SUFFIX
#define SAVE_LAST "last_checkpoint" SAVE_SUFFIX
#define SAVE_STOPPED "stopped_in_bad_steps" SAVE_SUFFIX

enum { SAVE_NAME_SIZE = 64 };

/* checkpoint_epoch_N.safetensors */
void saves_epoch_name(char name[SAVE_NAME_SIZE], int64_t epoch);
/* Its N, -1 for any other name. */
int64_t saves_epoch_of(const char *name);
/* FOLDER/NAME, which the caller frees; NULL without memory. */
char *saves_path(const char *folder, const char *name);

typedef enum status (*saves_visit)(void *context, const char *path, const char *name);
/* Call visit for each file of these names; a folder that is not there has none. */
enum status saves_each(const char *folder, saves_visit visit, void *context);

/* Before the first save of a run that starts at this step (-1: a new one): create the folder, remove
 * what killed runs left half-written, and move aside what belongs to other histories: all saves, or
 * those of the steps that a resumed run will make again. */
enum status saves_make_room(const char *folder, int64_t start_step);

/* How many of a run's files are in its folder already, to stay there or be replaced. */
struct saves_present {
    int64_t epochs;
    bool best, last;
};

/* Of a run that starts at this step. A new one (-1) finds none: what is there is moved aside. */
enum status saves_find_present(const char *folder, int64_t start_step,
                               struct saves_present *present);

/* The newest complete checkpoint in this folder, by its step, that has optimizer state or is a finished
 * run's; *path is NULL if the folder has no checkpoints. Damaged files are passed over with a warning;
 * ERR_INVALID if that leaves none. The caller frees *path. */
enum status saves_find_newest(const char *folder, char **path);

/* The newest of these steps that was not saved behind a bad step (health.h); to find none is no
 * error. */
struct saves_range {
    int64_t latest;
    int64_t barred_from, barred_to;
};
enum status saves_find_good(const char *folder, const struct saves_range *range, char **path);

/* What `sample` takes unless told: the best, else the final, else the newest. The caller frees *path,
 * NULL if there is none. */
enum status saves_find_for_sampling(const char *folder, char **path);

#endif
