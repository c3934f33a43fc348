/* real_types.h - the trials in other types of activations than float32.
 *
 * Kernels of such a type must give what float32 makes of the same, rounded operands, rounded once
 * more; float32 is the first device of the first of trials.subjects. Fused operations round in
 * between, so they are compared with their compositions in the same type. */
#ifndef OCTET_TEST_REAL_TYPES_H
#define OCTET_TEST_REAL_TYPES_H

#include "ops/trial.h"

struct real_type {
    const char *name;
    enum dtype dtype;
    double rounding;            /* what storing a number in it costs, relative to the number ... */
    double smallest;            /* ... and where numbers are subnormal */
};
extern const struct real_type real_float32, real_bfloat16, real_float16;

/* Kernels of one type. */
struct typed_kernels {
    const char *name;
    const struct real_type *real;
    struct device *devices[MAX_THREADS];    /* must agree in every bit; NULL behind the last */
    struct device *composed;                /* fused rows are compositions; NULL in float32 */
};

/* Make the trial on each of them: with operands that are aligned, and one element off that. */
void trial_types(struct trial *t, const struct typed_kernels *kernels, int n_kernels);

#endif
