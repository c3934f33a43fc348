/* bad_step.c - a step that may not change the weights: which rank has it from which windows. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "train/run.h"
#include "train/step.h"

static bool is_finite(const struct suspect *suspect)
{
    return isfinite(suspect->loss) && isfinite(suspect->grad_norm);
}

static bool is_worse(const struct suspect *a, const struct suspect *b)
{
    if (is_finite(a) != is_finite(b))
        return is_finite(b);
    return is_finite(a) && a->loss > b->loss;
}

/* This rank's micro-batches once more, each by itself; the worst of them. */
static enum status search(struct rank *rank)
{
    const struct run *run = rank->run;
    const struct tensor sums = model_sums(rank->model);
    const double tokens = (double)run->batch.micro_batch * run->model.max_seq_len;

    for (int micro = 0; micro < run->batch.accumulation; micro++) {
        struct suspect suspect = {.micro = micro};
        double totals[2];
        TRY(model_begin(rank->model));
        TRY(step_load(rank, micro));
        TRY(model_train(rank->model, step_loss_scale(rank), NULL));
        TRY(step_fault(rank));
        TRY(optimizer_norm(&rank->optimizer, rank->progress.loss_scale, &suspect.grad_norm));
        TRY(device_download(rank->dev, totals, sums.data, sizeof totals));
        suspect.loss = totals[0] / tokens;
        if (micro == 0 || is_worse(&suspect, &rank->suspect))
            rank->suspect = suspect;
    }
    return OK;
}

static const struct rank *worst_rank(const struct run *run)
{
    const struct rank *worst = &run->ranks[0];

    for (int i = 1; i < run->devices.n_workers; i++)
        if (is_worse(&run->ranks[i].suspect, &worst->suspect))
            worst = &run->ranks[i];
    return worst;
}

/* The windows of the worst rank's worst micro-batch, "5, 88, 12 and 5 more". That rank may be in its
 * next step already; only `rank` is known to be still in this one. */
static void list_windows(const struct rank *rank, const struct rank *worst, char *text, size_t size)
{
    enum { MOST = 8 };
    const int n_windows = rank->run->batch.micro_batch;
    const int64_t first = step_first_window(worst, worst->suspect.micro);
    size_t length = 0;

    for (int i = 0; i < n_windows && i < MOST; i++)
        length += (size_t)snprintf(text + length, size - length, "%s%lld", i ? ", " : "",
                                   (long long)step_window(rank, first + i));
    if (n_windows > MOST)
        snprintf(text + length, size - length, " and %d more", n_windows - MOST);
}

static void describe_source(const struct rank *rank, enum step_verdict verdict, char *text,
                            size_t size)
{
    const struct rank *worst = worst_rank(rank->run);
    char windows[300];

    list_windows(rank, worst, windows, sizeof windows);
    if (verdict == STEP_SPIKE)
        snprintf(text, size, "the highest loss is %.4g, of rank %d in windows %s of the training "
                 "text", worst->suspect.loss, worst->worker->rank, windows);
    else if (is_finite(&worst->suspect))
        snprintf(text, size, "no rank finds it again in its own windows: a fault that passed, or one "
                 "of the sum over the ranks");
    else
        snprintf(text, size, "rank %d finds it again in windows %s of the training text",
                 worst->worker->rank, windows);
}

enum status rank_report_bad_step(struct rank *rank, enum step_verdict verdict, double loss,
                                 double grad_norm)
{
    const struct health *health = &rank->progress.health;
    char source[400], spike[100] = "";

    TRY(search(rank));
    TRY(world_barrier(rank->worker));
    if (rank->worker->rank != 0)
        return OK;
    describe_source(rank, verdict, source, sizeof source);
    if (verdict == STEP_SPIKE)
        snprintf(spike, sizeof spike, " (%.1f standard deviations above the mean of %.4g)",
                 (loss - health->loss_mean) / sqrt(health->loss_variance), health->loss_mean);
    log_warning("step %lld leaves the weights as they are: loss %.4g%s, gradient norm %.4g; %s; bad "
                "step %lld in a row, after %lld the run goes back",
                (long long)rank->progress.step + 1, loss, spike, grad_norm, source,
                (long long)health->bad_in_row + 1,
                (long long)rank->run->config.training.max_bad_steps);
    return OK;
}
