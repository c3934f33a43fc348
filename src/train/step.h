/* step.h - pieces of a step, for whoever looks into one afterwards. */
#ifndef OCTET_STEP_H
#define OCTET_STEP_H

#include "train/run.h"

/* The place in the global batch of the first window of this rank's micro-batch. */
int64_t step_first_window(const struct rank *rank, int micro);
/* Which window of the training text is at this place of the step's global batch. */
int64_t step_window(const struct rank *rank, int64_t in_batch);
/* Copy this rank's micro-batch to its device. */
enum status step_load(struct rank *rank, int micro);
/* What model_train() takes: the loss scale by the tokens of the global batch. */
double step_loss_scale(const struct rank *rank);
/* For tests: behind the backward pass of a micro-batch, a gradient that is no number. */
enum status step_fault(struct rank *rank);

#endif
