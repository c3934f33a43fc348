/* test_health.c - which steps are bad, the mean and variance that spikes are measured by, and what
 * remains of the counts after going back. */
#include <math.h>

#include "test/check.h"
#include "train/health.h"

static const struct spike_limits no_spikes = {0, 100};

static void what_is_not_finite(void)
{
    const struct health health = {.barred_to = -1};
    const struct {
        double loss, grad_norm;
        bool may_overflow;
        enum step_verdict verdict;
    } rows[] = {
        {3, 1, false, STEP_GOOD},
        {3, 1e30, false, STEP_GOOD},
        {3, INFINITY, false, STEP_NOT_FINITE},
        {3, NAN, false, STEP_NOT_FINITE},
        {INFINITY, 1, false, STEP_NOT_FINITE},
        {NAN, NAN, false, STEP_NOT_FINITE},
        {3, INFINITY, true, STEP_OVERFLOW},
        {3, NAN, true, STEP_OVERFLOW},
        /* No loss scale helps a loss that is no number. */
        {NAN, NAN, true, STEP_NOT_FINITE},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        CHECK(health_judge(&health, &no_spikes, rows[i].loss, rows[i].grad_norm,
                           rows[i].may_overflow) == rows[i].verdict);
}

static void counts(void)
{
    struct health health = {.barred_to = -1};

    health_note(&health, &no_spikes, STEP_GOOD, 3);
    health_note(&health, &no_spikes, STEP_NOT_FINITE, NAN);
    health_note(&health, &no_spikes, STEP_SPIKE, 9);
    CHECK(health.bad_in_row == 2);
    health_note(&health, &no_spikes, STEP_OVERFLOW, 3);
    CHECK(health.bad_in_row == 2);
    health_note(&health, &no_spikes, STEP_GOOD, 3);
    CHECK(health.bad_in_row == 0);
    CHECK(health.skipped == 2);
    CHECK(health.updates == 2);
    CHECK(health.n_losses == 2);
}

/* The first `window` losses have the plain mean and variance. */
static void plain_statistics(void)
{
    const struct spike_limits limits = {3, 5};
    const double losses[] = {4, 2, 7, 1, 6};
    struct health health = {0};

    for (int i = 0; i < 5; i++)
        health_note(&health, &limits, STEP_GOOD, losses[i]);
    CHECK_NEAR(health.loss_mean, 4, 1e-12);
    CHECK_NEAR(health.loss_variance, (0 + 4 + 9 + 9 + 4) / 5.0, 1e-12);
}

/* From then on, each weight is (1 - 1/window) of the next one's. */
static void weighted_statistics(void)
{
    enum { WINDOW = 4, N = 40 };
    const struct spike_limits limits = {3, WINDOW};
    struct health health = {0};
    double losses[N], weights[N], mean = 0, variance = 0;

    for (int i = 0; i < N; i++) {
        losses[i] = 2 + sin(3 * i);
        health_note(&health, &limits, STEP_GOOD, losses[i]);
        for (int j = 0; j < i; j++)
            weights[j] *= i < WINDOW ? (double)i / (i + 1) : 1 - 1.0 / WINDOW;
        weights[i] = i < WINDOW ? 1.0 / (i + 1) : 1.0 / WINDOW;
    }
    for (int i = 0; i < N; i++)
        mean += weights[i] * losses[i];
    for (int i = 0; i < N; i++)
        variance += weights[i] * (losses[i] - mean) * (losses[i] - mean);
    CHECK_NEAR(health.loss_mean, mean, 1e-12);
    CHECK_NEAR(health.loss_variance, variance, 1e-12);
}

static void spikes(void)
{
    const struct spike_limits limits = {3, 4};
    struct health health = {0};

    /* Mean 2, deviation 1; but before there are four losses nothing is a spike. */
    for (int i = 0; i < 4; i++) {
        CHECK(health_judge(&health, &limits, 1e6, 1, false) == STEP_GOOD);
        health_note(&health, &limits, STEP_GOOD, i % 2 ? 3 : 1);
    }
    CHECK(health_judge(&health, &limits, 4.99, 1, false) == STEP_GOOD);
    CHECK(health_judge(&health, &limits, 5.01, 1, false) == STEP_SPIKE);
    CHECK(health_judge(&health, &limits, -100, 1, false) == STEP_GOOD);
    CHECK(health_judge(&health, &limits, 5.01, NAN, false) == STEP_NOT_FINITE);
    CHECK(health_judge(&health, &no_spikes, 1e6, 1, false) == STEP_GOOD);
    /* A spike is no part of the mean. */
    health_note(&health, &limits, STEP_SPIKE, 1e6);
    CHECK_NEAR(health.loss_mean, 2, 1e-12);
}

static void going_back(void)
{
    const struct health then = {.updates = 40, .skipped = 1, .n_losses = 10, .loss_mean = 2,
                                .loss_variance = 0.25, .barred_to = -1};
    struct health health = {.updates = 70, .skipped = 9, .bad_in_row = 5, .rollbacks = 1,
                            .n_losses = 10, .loss_mean = 7, .loss_variance = 3};

    health_go_back(&health, &then, 41, 79);
    CHECK(health.updates == 40);
    CHECK(health.skipped == 9);
    CHECK(health.bad_in_row == 0);
    CHECK(health.rollbacks == 2);
    CHECK(health.barred_from == 41);
    CHECK(health.barred_to == 79);
    CHECK_NEAR(health.loss_mean, 2, 0);
    CHECK_NEAR(health.loss_variance, 0.25, 0);
}

int main(void)
{
    CASE(what_is_not_finite);
    CASE(counts);
    CASE(plain_statistics);
    CASE(weighted_statistics);
    CASE(spikes);
    CASE(going_back);
    return check_finish();
}
