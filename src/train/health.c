#include "train/health.h"

#include <math.h>

static bool is_spike(const struct health *health, const struct spike_limits *limits, double loss)
{
    return limits->sigma > 0 && health->n_losses >= limits->window &&
           loss > health->loss_mean + limits->sigma * sqrt(health->loss_variance);
}

enum step_verdict health_judge(const struct health *health, const struct spike_limits *limits,
                               double loss, double grad_norm, bool may_overflow)
{
    if (!isfinite(loss))
        return STEP_NOT_FINITE;
    if (!isfinite(grad_norm))
        return may_overflow ? STEP_OVERFLOW : STEP_NOT_FINITE;
    return is_spike(health, limits, loss) ? STEP_SPIKE : STEP_GOOD;
}

static void note_loss(struct health *health, int64_t window, double loss)
{
    if (health->n_losses < window)
        health->n_losses++;
    const double weight = 1 / (double)health->n_losses;
    const double difference = loss - health->loss_mean;

    health->loss_mean += weight * difference;
    health->loss_variance = (1 - weight) *
                            (health->loss_variance + weight * difference * difference);
}

void health_note(struct health *health, const struct spike_limits *limits, enum step_verdict verdict,
                 double loss)
{
    if (verdict == STEP_OVERFLOW)
        return;
    if (verdict != STEP_GOOD) {
        health->skipped++;
        health->bad_in_row++;
        return;
    }
    health->updates++;
    health->bad_in_row = 0;
    note_loss(health, limits->window, loss);
}

void health_go_back(struct health *health, const struct health *then, int64_t step, int64_t now)
{
    const struct health before = *health;

    *health = *then;
    health->skipped = before.skipped;
    health->rollbacks = before.rollbacks + 1;
    health->bad_in_row = 0;
    health->barred_from = step;
    health->barred_to = now;
}
