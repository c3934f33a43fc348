/* check.h - what the parts of trainer --check share.
 *
 * Only src/train/check*.c include it. */
#ifndef OCTET_CHECK_H
#define OCTET_CHECK_H

#include "train/check_line.h"
#include "train/run.h"

/* Once the devices are planned: versions, each GPU, and who reaches whose memory. */
void check_gpus(const struct run *run, bool *passed);
/* Of several workers on GPUs: is their sum right, and how fast? An error means that GPUs hang, and
 * nothing more can be done with them. */
enum status check_collective(const struct run *run, bool *passed);
/* Once data and steps are planned: a training step on each GPU, or on one CPU worker, against the
 * CPU's in float32. */
void check_device_steps(const struct run *run, bool *passed);

#endif
