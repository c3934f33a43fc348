/* check_special.c - what random operands between -1 and 1 do not reach: the whole range of exp and
 * of GELU inside the kernels, and NaN, which must come out wherever it went in. */
#include <float.h>
#include <stdlib.h>

#include "ops/checks.h"
#include "ops/reference.h"

enum { N_POINTS = 20000 };

/* The probability of the second of two classes, of which the first has logit 0, is e^x / (1 + e^x);
 * and for x below 0 as exact as e^x is. */
static void check_exp(void)
{
    struct trial t;

    trial_begin(&t, OP_CROSS_ENTROPY, "e^x from -100 to 0");
    t.arguments.grad_scale = 1;
    struct number *losses = trial_output(&t, "losses", masters(N_POINTS, 1));
    struct number *hits = trial_output(&t, "hits", masters(N_POINTS, 1));
    struct number *gradient = trial_update(&t, "logits", reals(N_POINTS, 2), 1);
    double *logits = t.operands[2].before;
    double *targets = trial_ids(&t, "targets", tensor_1d(NULL, DTYPE_I32, N_POINTS), 2);
    for (int i = 0; i < N_POINTS; i++) {
        const double x = (double)(float)(-100.0 * i / N_POINTS), p = exp(x) / (1 + exp(x));
        logits[2 * i] = 0;
        logits[2 * i + 1] = x;
        targets[i] = 0;
        losses[i] = (struct number){log1p(exp(x)), 8};
        hits[i] = exact(1);
        gradient[2 * i] = (struct number){-p, 8};
        gradient[2 * i + 1] = (struct number){p, 6 * p + 0x1p-126 / 0x1p-24};
    }
    trial_run(&t);
}

/* x from -20 to 20, and very large ones. */
static void check_gelu(void)
{
    static const double far[] = {-FLT_MAX, -1e30, -1e4, -90, -14, 14, 90, 1e4, 1e30};
    static const struct dropout none;
    struct trial forward, backward;

    trial_begin(&forward, OP_GELU_FORWARD, "-20 to 20");
    struct number *out = trial_output(&forward, "out", reals(1, N_POINTS));
    double *x = trial_input(&forward, "x", reals(1, N_POINTS), 1);
    trial_begin(&backward, OP_GELU_BACKWARD, "-20 to 20");
    struct number *dx = trial_output(&backward, "dx", reals(1, N_POINTS));
    double *dout = trial_input(&backward, "dout", reals(1, N_POINTS), 1);
    double *same_x = trial_input(&backward, "x", reals(1, N_POINTS), 1);
    for (size_t i = 0; i < N_POINTS; i++) {
        x[i] = i < COUNT_OF(far) ? (double)(float)far[i]
                                 : (double)(float)(-20 + 40.0 * (double)i / N_POINTS);
        same_x[i] = x[i];
        dout[i] = 1;
    }
    struct number *numbers = trial_numbers(N_POINTS);
    for (int i = 0; i < N_POINTS; i++)
        numbers[i] = exact(x[i]);
    reference_gelu_forward(out, numbers, 1, N_POINTS, &none);
    reference_gelu_backward(dx, dout, same_x, 1, N_POINTS, &none);
    free(numbers);
    trial_run(&forward);
    trial_run(&backward);
}

/* Infinities among the logits: likeliest of all, or impossible. Some others, from the very last one
 * on, make up the list of the largest. */
void check_special_logits(void)
{
    enum { N = 8192, STEP = 80, K = N / STEP + 8 };
    static const double special[] = {-INFINITY, INFINITY, NAN, -NAN, FLT_MAX, -FLT_MAX};

    for (size_t n_special = 1; n_special <= COUNT_OF(special); n_special++) {
        struct trial t;
        trial_begin(&t, OP_TOP_LOGITS, "%zu kinds of special logits", n_special);
        t.arguments.count = N;
        struct number *values = trial_output(&t, "values", masters(K, 1));
        struct number *ids = trial_output(&t, "ids", tensor_1d(NULL, DTYPE_I32, K));
        double *logits = trial_input(&t, "logits", reals(N, 1), 10);
        for (size_t i = 0; i < N; i++)
            if (i % STEP != (N - 1) % STEP)
                logits[i] = special[i % n_special];
        reference_top_logits(values, ids, logits, N, K);
        trial_run(&t);
    }
}

/* The reference says which elements become NaN. */
static void check_nan(void)
{
    static const struct embedding_size table = {2, 3, 17, 5, true};
    static const struct top_size top = {50, 45, 10};
    static const struct attention_size attention = {1, 70, 2, 6, 0.1}, plain = {1, 70, 2, 6, 0};

    trials.nan_at = 40;
    try_embedding_forward(&table);
    try_embedding_backward(&table);
    try_layernorm_forward(5, 33);
    try_layernorm_backward(5, 33);
    try_linear_forward(20, 17, 33, true);
    try_linear_backward_input(20, 17, 33);
    try_linear_backward_weight(20, 17, 33, true);
    try_linear_gelu(20, 17, 33, 0.5);
    try_gelu_forward(5, 33, 0.5, false);
    try_gelu_backward(5, 33, 0.5, false);
    try_add_dropout_forward(5, 33, 0.5, false);
    try_add_dropout_backward(5, 33, 0.5);
    try_add_layernorm(5, 33, 0.5, false);
    try_cross_entropy(5, 33, 0, 5);
    try_cross_entropy(5, 33, 1, 5);
    try_top_logits(&top, 0);
    try_cast(50);
    try_sum(50);
    try_sum_of_squares(50);
    try_adamw(200, 100, 1, 1);
    try_rope(&plain, 3, false);
    /* A NaN in a query's q; its k or v may reach earlier queries of the same tile too. */
    trials.nan_at = 66 * 3 * attention.heads * attention.size + 2;
    try_attention_forward(&plain);
    try_attention_forward(&attention);
    try_attention_cached(&plain, 200, 17);
    /* In the last row of dout. */
    trials.nan_at = 69 * attention.heads * attention.size + 2;
    try_attention_backward(&plain);
    try_attention_backward(&attention);
    trials.nan_at = -1;
}

void check_special(void)
{
    check_exp();
    check_gelu();
    check_special_logits();
    check_nan();
}
