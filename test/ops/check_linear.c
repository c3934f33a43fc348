/* check_linear.c - the matrix products, with and without what is fused to them. */
#include <inttypes.h>

#include "ops/checks.h"
#include "ops/reference.h"

static struct trial begin_linear(enum op op, int64_t n, int64_t k, int64_t m, const char *more)
{
    struct trial t;

    trial_begin(&t, op, "N %" PRId64 ", C %" PRId64 ", M %" PRId64 "%s", n, k, m, more);
    return t;
}

void try_linear_forward(int64_t n, int64_t k, int64_t m, bool bias)
{
    struct trial t = begin_linear(OP_LINEAR_FORWARD, n, k, m, bias ? ", bias" : "");
    struct number *out = trial_output(&t, "out", reals(n, m));
    const double *a = trial_input(&t, "a", reals(n, k), 1);
    const double *weight = trial_input(&t, "weight", reals(m, k), 1);
    const double *b = NULL;

    if (bias)
        b = trial_input(&t, "bias", reals(m, 1), 1);
    else
        trial_absent(&t);
    reference_linear_forward(out, a, weight, b, n, k, m);
    trial_run(&t);
}

void try_linear_backward_input(int64_t n, int64_t k, int64_t m)
{
    struct trial t = begin_linear(OP_LINEAR_BACKWARD_INPUT, n, k, m, "");
    struct number *da = trial_output(&t, "da", reals(n, k));
    const double *dout = trial_input(&t, "dout", reals(n, m), 1);
    const double *weight = trial_input(&t, "weight", reals(m, k), 1);

    reference_linear_backward_input(da, dout, weight, n, k, m);
    trial_run(&t);
}

void try_linear_backward_weight(int64_t n, int64_t k, int64_t m, bool bias)
{
    struct trial t = begin_linear(OP_LINEAR_BACKWARD_WEIGHT, n, k, m, bias ? ", bias" : "");
    struct number *dweight = trial_update(&t, "dweight", masters(m, k), 1), *dbias = NULL;

    if (bias)
        dbias = trial_update(&t, "dbias", masters(m, 1), 1);
    else
        trial_absent(&t);
    const double *dout = trial_input(&t, "dout", reals(n, m), 1);
    const double *a = trial_input(&t, "a", reals(n, k), 1);
    reference_linear_backward_weight(dweight, dbias, dout, a, n, k, m);
    trial_run(&t);
}

void try_linear_gelu(int64_t n, int64_t k, int64_t m, double rate)
{
    struct trial t = begin_linear(OP_LINEAR_GELU_FORWARD, n, k, m, rate > 0 ? ", dropout" : "");
    struct number *pre = trial_output(&t, "pre", reals(n, m));
    struct number *out = trial_output(&t, "out", reals(n, m));
    const double *a = trial_input(&t, "a", reals(n, k), 1);
    const double *weight = trial_input(&t, "weight", reals(m, k), 1);
    const double *bias = trial_input(&t, "bias", reals(m, 1), 1);

    t.arguments.dropout = trial_dropout(rate, 12345);
    if (pre) {
        reference_linear_forward(pre, a, weight, bias, n, k, m);
        reference_gelu_forward(out, pre, n, m, &t.arguments.dropout);
    }
    trial_run(&t);
}

void check_linear(void)
{
    /* They cross the tiles of activations (256 rows, 128 columns and more) and of dweight (64 rows and
     * more), and its parts of 1024 rows. */
    static const int64_t sizes[][3] = {
        {1, 1, 1}, {1, 33, 257}, {3, 17, 5}, {17, 33, 65}, {33, 65, 17}, {65, 100, 129},
        {129, 8, 33}, {257, 33, 17}, {100, 129, 3}, {513, 5, 24}, {5, 1000, 7}, {3, 9, 600},
        {3, 7, 1000}, {1030, 70, 300}, {2100, 140, 20}, {1, 100, 1100},
    };

    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        const int64_t n = sizes[i][0], k = sizes[i][1], m = sizes[i][2];
        try_linear_forward(n, k, m, true);
        try_linear_forward(n, k, m, false);
        try_linear_backward_input(n, k, m);
        try_linear_backward_weight(n, k, m, true);
        try_linear_backward_weight(n, k, m, false);
        try_linear_gelu(n, k, m, 0);
        try_linear_gelu(n, k, m, 0.3);
    }
}
