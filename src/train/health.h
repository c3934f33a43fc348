/* health.h - which steps may change the weights: not those whose loss or gradient is not finite, nor,
 * if the settings say so, those whose loss leaps. */
#ifndef OCTET_HEALTH_H
#define OCTET_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

/* In order of severity: of the ranks' verdicts on a step, the gravest holds for all. */
enum step_verdict {
    STEP_GOOD,
    STEP_OVERFLOW,          /* float16 only: the loss scale was too large */
    STEP_SPIKE,
    STEP_NOT_FINITE,
};

/* What the steps so far were like; it is part of a checkpoint. */
struct health {
    int64_t updates;        /* steps that changed the weights */
    int64_t skipped;        /* bad steps: spikes and those not finite */
    int64_t bad_in_row;     /* the latest of them */
    int64_t rollbacks;      /* how often the run went back to an earlier state, */
    int64_t barred_from, barred_to;     /* and of which steps no state is to be gone back to again */
    int64_t n_losses;       /* of good steps; their weighted mean and variance */
    double loss_mean, loss_variance;
};

/* What a spike is. */
struct spike_limits {
    double sigma;           /* above mean + sigma standard deviations; 0: nothing is */
    int64_t window;         /* losses that count, and that are needed first */
};

/* Of a step with this mean loss and this norm of the gradients. With `may_overflow` a gradient that is
 * not finite is taken for an overflow. */
enum step_verdict health_judge(const struct health *health, const struct spike_limits *limits,
                               double loss, double grad_norm, bool may_overflow);

/* Count a step. The mean and the variance of the losses forget exponentially, with a weight of
 * 1/window for the newest (Finch 2009, Incremental calculation of weighted mean and variance,
 * section 9); the first losses count alike. */
void health_note(struct health *health, const struct spike_limits *limits, enum step_verdict verdict,
                 double loss);

/* What remains after going back to the state of `step`, which had the health `then`. `now` is the step
 * that the run had reached. */
void health_go_back(struct health *health, const struct health *then, int64_t step, int64_t now);

#endif
