/* check_loss.c - the loss, sums, and the optimizer. */
#include <inttypes.h>

#include "ops/checks.h"
#include "ops/reference.h"

void try_cross_entropy(int64_t n, int64_t vocab, double grad_scale, double spread)
{
    struct trial t;

    trial_begin(&t, OP_CROSS_ENTROPY, "N %" PRId64 ", V %" PRId64 ", grad_scale %g, logits to %g",
                n, vocab, grad_scale, spread);
    t.arguments.grad_scale = grad_scale;
    struct number *losses = trial_output(&t, "losses", masters(n, 1));
    struct number *hits = trial_output(&t, "hits", masters(n, 1));
    struct number *logits = trial_update(&t, "logits", reals(n, vocab), spread);
    const double *targets = trial_ids(&t, "targets", tensor_1d(NULL, DTYPE_I32, n), vocab);
    reference_cross_entropy(losses, hits, logits, targets, n, vocab, grad_scale);
    trial_run(&t);
}

void try_top_logits(const struct top_size *s, double step)
{
    struct trial t;

    trial_begin(&t, OP_TOP_LOGITS, "V %" PRId64 ", n %" PRId64 ", k %" PRId64 ", step %g", s->vocab,
                s->n, s->k, step);
    t.arguments.count = s->n;
    struct number *values = trial_output(&t, "values", masters(s->k, 1));
    struct number *ids = trial_output(&t, "ids", tensor_1d(NULL, DTYPE_I32, s->k));
    double *logits = trial_input(&t, "logits", reals(s->vocab, 1), 10);
    for (int64_t i = 0; step > 0 && i < s->vocab; i++)
        logits[i] = step * round(logits[i] / step);
    reference_top_logits(values, ids, logits, s->n, s->k);
    trial_run(&t);
}

void try_cast(int64_t n)
{
    struct trial t;

    trial_begin(&t, OP_CAST, "N %" PRId64, n);
    struct number *out = trial_output(&t, "out", reals(n, 1));
    double *x = trial_input(&t, "x", masters(n, 1), 1);
    /* Of each three one is halfway between neighbours in bfloat16, and one in float16. */
    for (int64_t i = 0; i < n; i++)
        if (i % 3 < 2 && !isnan(x[i]))
            x[i] = i % 3 == 0 ? 1 + (double)(2 * (i % 128) + 1) * 0x1p-11
                              : 1 + (double)(2 * (i % 64) + 1) * 0x1p-8;
    for (int64_t i = 0; i < n; i++)
        out[i] = exact(x[i]);
    trial_run(&t);
}

void try_sum(int64_t n)
{
    struct trial t;

    trial_begin(&t, OP_SUM, "N %" PRId64, n);
    struct number *out = trial_update(&t, "out", tensor_1d(NULL, DTYPE_F64, 1), 10);
    const double *x = trial_input(&t, "x", masters(n, 1), 10);
    reference_sum(out, x, n);
    trial_run(&t);
}

void try_sum_of_squares(int64_t n)
{
    struct trial t;

    trial_begin(&t, OP_SUM_OF_SQUARES, "N %" PRId64, n);
    struct number *out = trial_output(&t, "out", tensor_1d(NULL, DTYPE_F64, 1));
    const double *x = trial_input(&t, "x", masters(n, 1), 10);
    reference_sum_of_squares(out, x, n);
    trial_run(&t);
}

void try_adamw(int64_t n, int64_t decay_count, int64_t step, double squares)
{
    struct trial t;

    trial_begin(&t, OP_ADAMW, "N %" PRId64 ", %" PRId64 " decayed, step %" PRId64 ", squares %g", n,
                decay_count, step, squares);
    t.arguments.step = (struct adamw_step){.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999,
                                           .epsilon = 1e-8, .weight_decay = 0.1, .step = step,
                                           .decay_count = decay_count, .loss_scale = 4,
                                           .max_norm = 0.5};
    struct number *weights = trial_update(&t, "weights", masters(n, 1), 1);
    struct number *m = trial_update(&t, "m", masters(n, 1), 0.1);
    struct number *v = trial_update(&t, "v", masters(n, 1), 0.1);
    const double *grads = trial_input(&t, "grads", masters(n, 1), 1);
    trial_absent(&t);               /* the copy: where real is not the master type */
    trial_input(&t, "squares", tensor_1d(NULL, DTYPE_F64, 1), 1)[0] = squares;
    double *v_before = t.operands[2].before;
    for (int64_t i = 0; i < n; i++) {
        v_before[i] = fabs(v_before[i]);    /* a mean of squares */
        v[i] = exact(v_before[i]);
    }
    reference_adamw(weights, m, v, grads, squares, n, &t.arguments.step);
    trial_run(&t);
}

static void check_top_logits(void)
{
    static const struct top_size sizes[] = {
        {1, 1, 1}, {2, 1, 1}, {3, 3, 3}, {7, 5, 4}, {256, 256, 40}, {300, 257, 257}, {1000, 999, 1},
        {4096, 4096, 1024}, {4099, 4097, 50}, {8200, 8195, 1024}, {50304, 50257, 40},
    };

    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        try_top_logits(&sizes[i], 0);
        try_top_logits(&sizes[i], 0.25);
        try_top_logits(&sizes[i], 40);      /* all are equal, but for the sign of zero */
    }
}

void check_loss(void)
{
    static const int64_t sizes[][2] = {
        {1, 1}, {3, 2}, {17, 17}, {16, 64}, {33, 65}, {65, 100}, {7, 1000}, {100, 257}, {257, 3},
    };
    static const int64_t counts[] = {1, 3, 17, 1000, 65536, 65537, 140000};

    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        try_cross_entropy(sizes[i][0], sizes[i][1], 0, 5);
        try_cross_entropy(sizes[i][0], sizes[i][1], 0.013, 5);
        try_cross_entropy(sizes[i][0], sizes[i][1], 1, 200);
    }
    check_top_logits();
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        try_sum(counts[i]);
        try_sum_of_squares(counts[i]);
        try_cast(counts[i]);
        try_adamw(counts[i], counts[i] / 3, 1, 7);      /* clipped: the norm is 0.66 */
        try_adamw(counts[i], counts[i] - counts[i] / 3, 1000, 1);
        try_adamw(counts[i], i % 2 == 0 ? counts[i] : 0, 10, INFINITY);
    }
}
