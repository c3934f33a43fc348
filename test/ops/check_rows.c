/* check_rows.c - the operations that work on rows one by one. */
#include <inttypes.h>
#include <stdlib.h>

#include "ops/checks.h"
#include "ops/reference.h"

/* Behind 2^32 blocks of random bits, so that the high half of their counter counts. */
static const int64_t FAR_ROW = (INT64_C(1) << 35) + 5;

void try_embedding_forward(const struct embedding_size *s)
{
    struct trial t;

    trial_begin(&t, OP_EMBEDDING_FORWARD, "B %" PRId64 ", T %" PRId64 ", C %" PRId64 ", V %" PRId64
                "%s", s->batch, s->length, s->width, s->vocab, s->positions ? ", positions" : "");
    struct number *out = trial_output(&t, "out", tensor_3d(NULL, DTYPE_F32, s->batch, s->length,
                                                           s->width));
    const double *ids = trial_ids(&t, "ids", tensor_2d(NULL, DTYPE_I32, s->batch, s->length),
                                  s->vocab);
    const double *table = trial_input(&t, "table", reals(s->vocab, s->width), 1);
    const double *positions = NULL;
    if (s->positions)
        positions = trial_input(&t, "positions", reals(s->length + 2, s->width), 1);
    else
        trial_absent(&t);
    reference_embedding_forward(out, ids, table, positions, s->batch, s->length, s->width);
    trial_run(&t);
}

void try_embedding_backward(const struct embedding_size *s)
{
    struct trial t;

    trial_begin(&t, OP_EMBEDDING_BACKWARD, "B %" PRId64 ", T %" PRId64 ", C %" PRId64 ", V %"
                PRId64 "%s", s->batch, s->length, s->width, s->vocab,
                s->positions ? ", positions" : "");
    struct number *dtable = trial_update(&t, "dtable", masters(s->vocab, s->width), 1);
    struct number *dpositions = NULL;
    if (s->positions)
        dpositions = trial_update(&t, "dpositions", masters(s->length + 2, s->width), 1);
    else
        trial_absent(&t);
    const double *dout = trial_input(&t, "dout", tensor_3d(NULL, DTYPE_F32, s->batch, s->length,
                                                           s->width), 1);
    const double *ids = trial_ids(&t, "ids", tensor_2d(NULL, DTYPE_I32, s->batch, s->length),
                                  s->vocab);
    reference_embedding_backward(dtable, dpositions, dout, ids, s->batch, s->length, s->width);
    trial_run(&t);
}

/* Rows of numbers between -1 and 1 around a mean of their own, as exact numbers. */
static struct number *shifted_rows(double *x, int64_t n, int64_t width)
{
    struct number *numbers = trial_numbers(n * width);

    for (int64_t i = 0; i < n * width; i++) {
        x[i] = (double)(float)(x[i] + 0.25 * (double)(i / width % 5));
        numbers[i] = exact(x[i]);
    }
    return numbers;
}

void try_layernorm_forward(int64_t n, int64_t width)
{
    struct trial t;

    trial_begin(&t, OP_LAYERNORM_FORWARD, "N %" PRId64 ", C %" PRId64, n, width);
    struct number *out = trial_output(&t, "out", reals(n, width));
    struct number *mean = trial_output(&t, "mean", masters(n, 1));
    struct number *rstd = trial_output(&t, "rstd", masters(n, 1));
    double *x = trial_input(&t, "x", reals(n, width), 1);
    const double *weight = trial_input(&t, "weight", reals(width, 1), 2);
    const double *bias = trial_input(&t, "bias", reals(width, 1), 1);
    struct number *numbers = shifted_rows(x, n, width);
    reference_layernorm_forward(out, mean, rstd, numbers, weight, bias, n, width);
    free(numbers);
    trial_run(&t);
}

void try_layernorm_backward(int64_t n, int64_t width)
{
    struct number *mean = trial_numbers(n), *rstd = trial_numbers(n);
    struct number *out = trial_numbers(n * width);
    struct trial t;

    trial_begin(&t, OP_LAYERNORM_BACKWARD, "N %" PRId64 ", C %" PRId64, n, width);
    struct number *dx = trial_update(&t, "dx", reals(n, width), 1);
    struct number *dweight = trial_update(&t, "dweight", masters(width, 1), 1);
    struct number *dbias = trial_update(&t, "dbias", masters(width, 1), 1);
    const double *dout = trial_input(&t, "dout", reals(n, width), 1);
    double *x = trial_input(&t, "x", reals(n, width), 1);
    const double *weight = trial_input(&t, "weight", reals(width, 1), 2);
    struct number *numbers = shifted_rows(x, n, width);
    reference_layernorm_forward(out, mean, rstd, numbers, weight, weight, n, width);
    const double *saved_mean = trial_rounded(&t, "mean", masters(n, 1), mean);
    const double *saved_rstd = trial_rounded(&t, "rstd", masters(n, 1), rstd);
    reference_layernorm_backward(dx, dweight, dbias, dout, x, weight, saved_mean, saved_rstd,
                                 n, width);
    free(numbers);
    free(mean);
    free(rstd);
    free(out);
    trial_run(&t);
}

void try_gelu_forward(int64_t n, int64_t width, double rate, bool in_place)
{
    struct number *numbers = trial_numbers(n * width);
    struct trial t;

    trial_begin(&t, OP_GELU_FORWARD, "N %" PRId64 ", M %" PRId64 ", dropout %g%s", n, width, rate,
                in_place ? ", in place" : "");
    t.arguments.dropout = trial_dropout(rate, FAR_ROW);
    struct number *out = in_place ? trial_output_over(&t, "out", reals(n, width), 1)
                                  : trial_output(&t, "out", reals(n, width));
    const double *x = trial_input(&t, "x", reals(n, width), 6);
    for (int64_t i = 0; i < n * width; i++)
        numbers[i] = exact(x[i]);
    reference_gelu_forward(out, numbers, n, width, &t.arguments.dropout);
    free(numbers);
    trial_run(&t);
}

void try_gelu_backward(int64_t n, int64_t width, double rate, bool in_place)
{
    struct trial t;

    trial_begin(&t, OP_GELU_BACKWARD, "N %" PRId64 ", M %" PRId64 ", dropout %g%s", n, width, rate,
                in_place ? ", in place" : "");
    t.arguments.dropout = trial_dropout(rate, FAR_ROW);
    struct number *dx = in_place ? trial_output_over(&t, "dx", reals(n, width), 1)
                                 : trial_output(&t, "dx", reals(n, width));
    const double *dout = trial_input(&t, "dout", reals(n, width), 1);
    const double *x = trial_input(&t, "x", reals(n, width), 6);
    reference_gelu_backward(dx, dout, x, n, width, &t.arguments.dropout);
    trial_run(&t);
}

void try_add_dropout_forward(int64_t n, int64_t width, double rate, bool in_place)
{
    struct trial t;

    trial_begin(&t, OP_ADD_DROPOUT_FORWARD, "N %" PRId64 ", C %" PRId64 ", dropout %g%s", n, width,
                rate, in_place ? ", in place" : "");
    t.arguments.dropout = trial_dropout(rate, FAR_ROW);
    struct number *out = in_place ? trial_output_over(&t, "out", reals(n, width), 1)
                                  : trial_output(&t, "out", reals(n, width));
    const double *a = trial_input(&t, "a", reals(n, width), 1);
    const double *b = trial_input(&t, "b", reals(n, width), 1);
    reference_add_dropout(out, a, b, n, width, &t.arguments.dropout);
    trial_run(&t);
}

void try_add_dropout_backward(int64_t n, int64_t width, double rate)
{
    struct trial t;

    trial_begin(&t, OP_ADD_DROPOUT_BACKWARD, "N %" PRId64 ", C %" PRId64 ", dropout %g", n, width,
                rate);
    t.arguments.dropout = trial_dropout(rate, FAR_ROW);
    struct number *db = trial_output(&t, "db", reals(n, width));
    const double *dout = trial_input(&t, "dout", reals(n, width), 1);
    reference_add_dropout(db, NULL, dout, n, width, &t.arguments.dropout);
    trial_run(&t);
}

void try_add_layernorm(int64_t n, int64_t width, double rate, bool in_place)
{
    struct trial t;

    trial_begin(&t, OP_ADD_LAYERNORM_FORWARD, "N %" PRId64 ", C %" PRId64 ", dropout %g%s", n,
                width, rate, in_place ? ", in place" : "");
    t.arguments.dropout = trial_dropout(rate, FAR_ROW);
    struct number *sum = in_place ? trial_output_over(&t, "sum", reals(n, width), 4)
                                  : trial_output(&t, "sum", reals(n, width));
    struct number *out = trial_output(&t, "out", reals(n, width));
    struct number *mean = trial_output(&t, "mean", masters(n, 1));
    struct number *rstd = trial_output(&t, "rstd", masters(n, 1));
    const double *a = trial_input(&t, "a", reals(n, width), 1);
    const double *b = trial_input(&t, "b", reals(n, width), 1);
    const double *weight = trial_input(&t, "weight", reals(width, 1), 2);
    const double *bias = trial_input(&t, "bias", reals(width, 1), 1);
    reference_add_dropout(sum, a, b, n, width, &t.arguments.dropout);
    reference_layernorm_forward(out, mean, rstd, sum, weight, bias, n, width);
    trial_run(&t);
}

void check_rows(void)
{
    static const struct embedding_size tables[] = {
        {1, 1, 1, 1, true}, {2, 3, 17, 2, true}, {3, 11, 33, 65, false}, {1, 129, 100, 1000, true},
        {2, 200, 65, 257, true}, {257, 1, 8, 3, false},
    };
    static const int64_t sizes[][2] = {
        {1, 1}, {1, 257}, {3, 17}, {17, 33}, {65, 100}, {100, 65}, {129, 129}, {257, 3}, {33, 300},
        {33, 512},
    };
    static const double rates[] = {0, 0.1, 0.5};

    for (size_t i = 0; i < COUNT_OF(tables); i++) {
        try_embedding_forward(&tables[i]);
        try_embedding_backward(&tables[i]);
    }
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        const int64_t n = sizes[i][0], width = sizes[i][1];
        try_layernorm_forward(n, width);
        try_layernorm_backward(n, width);
        for (size_t k = 0; k < COUNT_OF(rates); k++) {
            const double rate = rates[k];
            const bool in_place = (i + k) % 2 == 1;
            try_gelu_forward(n, width, rate, in_place);
            try_gelu_backward(n, width, rate, in_place);
            try_add_dropout_forward(n, width, rate, in_place);
            try_add_dropout_backward(n, width, rate);
            try_add_layernorm(n, width, rate, in_place);
        }
    }
}
