/* saver.h - a thread that writes checkpoints from a copy in host memory while the run goes on; and,
 * for whoever writes without it, the turn to do so: one checkpoint is written at a time. */
#ifndef OCTET_SAVER_H
#define OCTET_SAVER_H

#include "train/checkpoint.h"

struct saver;

typedef void (*saver_write)(void *context, const char *name, struct checkpoint_content content);

/* Memory for the copy (checkpoint_copy_size()) and the thread, which calls `write` for each
 * checkpoint; with copy_size = 0 neither. */
enum status saver_create(struct saver **out, size_t copy_size, saver_write write, void *context);
/* Waits for the thread's last checkpoint. NULL is fine. */
void saver_destroy(struct saver *saver);

/* Is there a thread? */
bool saver_has_thread(const struct saver *saver);
/* Copy this state and leave it to the thread, which must be there, to write it under this name.
 * Waits for what it has still to write from the copy before; unless that copy is of this very state
 * already: then it only gets another name. */
enum status saver_begin(struct saver *saver, const char *name, struct checkpoint_content content);
/* The state changes: from now on the copy is of an older one. */
void saver_state_changes(struct saver *saver);

/* From here to saver_end_turn() the caller writes and nobody else does. Waits for the thread and
 * for others; while the thread gets on, so does the waiting one (base/pulse.h). */
void saver_take_turn(struct saver *saver);
void saver_end_turn(struct saver *saver);
bool saver_is_idle(struct saver *saver);

#endif
