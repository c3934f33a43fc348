/* bench.h - what the benches of GPUs share: the models they measure, their flags, medians.
 *
 * Every program takes --quick (fewer repetitions), --toy (sizes for emulated GPUs, where times mean
 * nothing), --models LIST (names, separated by commas) and --fastest (see steps.c), and passes over
 * what does not concern it. */
#ifndef OCTET_BENCH_GPU_BENCH_H
#define OCTET_BENCH_GPU_BENCH_H

#include <stdbool.h>

#include "base/clock.h"
#include "model/params.h"

struct shape {
    const char *name;
    struct model_config config;
    int step_windows;           /* of a training step, where they fit */
    int op_windows;             /* of the operations that are timed one by one */
};

enum { MAX_SHAPES = 3 };

struct bench_flags {
    bool quick, toy, fastest;
    struct shape shapes[MAX_SHAPES];
    int n_shapes;
};

/* ERR_INVALID, with the flags there are, where they make no sense. */
enum status bench_flags_read(struct bench_flags *out, int argc, char **argv);

/* Sorts them. */
double median_of(double *values, int n);

#endif
