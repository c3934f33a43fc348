/* probe.h - the step that is recorded in a checkpoint, and made again when it is verified. */
#ifndef OCTET_PROBE_H
#define OCTET_PROBE_H

#include "train/checkpoint.h"

/* Forward and backward of the window probe->tokens with the model's weights, with dropout and loss
 * scale as they are in the step that follows `progress`; sets the rest of `probe`. Afterwards the
 * model's gradients and sums are anything, until model_begin(). */
enum status probe_take(struct probe *probe, struct device *dev, struct model *model, uint64_t seed,
                       const struct progress_state *progress);

/* float32, bfloat16 or float16. */
const char *probe_type_name(enum dtype real);
/* N_DTYPES when the name is none of these. */
enum dtype probe_type_from_name(const char *name);

#endif
