/* check_attention.c - rotary embedding and the three forms of attention. */
#include <inttypes.h>
#include <stdlib.h>

#include "ops/checks.h"
#include "ops/reference.h"

static struct trial begin_attention(enum op op, const struct attention_size *s, const char *more,
                                    double value)
{
    struct trial t;

    trial_begin(&t, op, "B %" PRId64 ", T %" PRId64 ", H %" PRId64 ", D %" PRId64 "%s%g",
                s->batch, s->length, s->heads, s->size, more, value);
    return t;
}

static struct attention_shape shape_of(const struct attention_size *s)
{
    return (struct attention_shape){s->batch, s->length, s->heads, s->size};
}

void try_rope(const struct attention_size *s, int64_t position, bool inverse)
{
    struct trial t = begin_attention(OP_ROPE, s, inverse ? ", inverse, at " : ", at ",
                                     (double)position);
    struct number *qkv = trial_update(&t, "qkv", heads_of(s->batch, s->length, 3 * s->heads,
                                                          s->size), 1);

    t.arguments.position = position;
    t.arguments.inverse = inverse;
    reference_rope(qkv, s->batch, s->length, s->heads, s->size, position, inverse);
    trial_run(&t);
}

void try_attention_forward(const struct attention_size *s)
{
    const struct attention_shape shape = shape_of(s);
    struct trial t = begin_attention(OP_ATTENTION_FORWARD, s, ", dropout ", s->rate);
    struct number *out = trial_output(&t, "out", heads_of(s->batch, s->length, s->heads, s->size));
    double *between = trial_between(&t);
    struct number *lse = trial_output(&t, "lse", tensor_3d(NULL, DTYPE_F32, s->batch, s->heads,
                                                           s->length));
    const double *qkv = trial_input(&t, "qkv", heads_of(s->batch, s->length, 3 * s->heads,
                                                        s->size), 2);

    t.arguments.dropout = trial_dropout(s->rate, 3 * s->length);
    reference_attention_forward(out, between, lse, qkv, &shape, &t.arguments.dropout);
    trial_run(&t);
}

void try_attention_backward(const struct attention_size *s)
{
    const struct attention_shape shape = shape_of(s);
    const int64_t rows = s->batch * s->length * s->heads;
    struct number *out = trial_numbers(rows * s->size), *lse = trial_numbers(rows);
    struct trial t = begin_attention(OP_ATTENTION_BACKWARD, s, ", dropout ", s->rate);
    const struct tensor heads = heads_of(s->batch, s->length, s->heads, s->size);
    struct number *dqkv = trial_output(&t, "dqkv", heads_of(s->batch, s->length, 3 * s->heads,
                                                            s->size));
    double *between = trial_between(&t);
    const double *dout = trial_input(&t, "dout", heads, 1);

    t.arguments.dropout = trial_dropout(s->rate, 3 * s->length);
    double *saved_out = trial_rounded(&t, "out", heads, NULL);
    double *saved_lse = trial_rounded(&t, "lse", tensor_3d(NULL, DTYPE_F32, s->batch, s->heads,
                                                           s->length), NULL);
    const double *qkv = trial_input(&t, "qkv", heads_of(s->batch, s->length, 3 * s->heads,
                                                        s->size), 2);
    reference_attention_forward(out, NULL, lse, qkv, &shape, &t.arguments.dropout);
    for (int64_t i = 0; i < rows * s->size; i++)
        saved_out[i] = (double)(float)out[i].value;
    for (int64_t i = 0; i < rows; i++)
        saved_lse[i] = (double)(float)lse[i].value;
    reference_attention_backward(dqkv, between, dout, saved_out, saved_lse, qkv, &shape,
                                 &t.arguments.dropout);
    free(out);
    free(lse);
    trial_run(&t);
}

void try_attention_cached(const struct attention_size *s, int64_t max_length, int64_t position)
{
    const struct attention_shape shape = shape_of(s);
    struct trial t = begin_attention(OP_ATTENTION_CACHED, s, ", at ", (double)position);
    struct number *out = trial_output(&t, "out", tensor_3d(NULL, DTYPE_F32, s->length, s->heads,
                                                           s->size));
    double *between = trial_between(&t);
    struct number *cache = trial_update(&t, "cache", heads_of(2, max_length, s->heads, s->size), 2);
    const double *qkv = trial_input(&t, "qkv", heads_of(1, s->length, 3 * s->heads, s->size), 2);

    t.arguments.position = position;
    reference_attention_cached(out, between, cache, qkv, &shape, max_length, position);
    trial_run(&t);
}

void check_attention(void)
{
    /* Tiles of 32 and 64 queries: below, at, one more, and several of them; odd head sizes. */
    static const struct attention_size sizes[] = {
        {1, 1, 1, 2, 0}, {2, 3, 2, 6, 0.5}, {1, 17, 3, 32, 0.1}, {3, 33, 1, 6, 0.2},
        {1, 64, 1, 128, 0.1}, {2, 65, 2, 32, 0.1}, {1, 100, 1, 64, 0.3}, {2, 129, 3, 2, 0.1},
        {1, 200, 1, 6, 0.1}, {1, 150, 1, 128, 0.1}, {1, 32, 1, 16, 0.1}, {1, 47, 2, 80, 0.1},
        {2, 71, 1, 48, 0.2}, {1, 35, 2, 5, 0.1},
    };
    static const struct {
        struct attention_size size;
        int64_t max_length, position;
    } caches[] = {
        {{1, 1, 1, 2, 0}, 1, 0}, {{1, 3, 2, 6, 0}, 17, 14}, {{1, 1, 3, 32, 0}, 200, 199},
        {{1, 130, 1, 6, 0}, 200, 67}, {{1, 65, 1, 128, 0}, 65, 0}, {{1, 1, 2, 64, 0}, 129, 64},
        {{1, 1, 2, 80, 0}, 300, 271}, {{1, 1, 1, 128, 0}, 16, 15}, {{1, 1, 3, 5, 0}, 40, 31},
    };

    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        struct attention_size plain = sizes[i];
        plain.rate = 0;
        if (plain.size % 2 == 0) {
            try_rope(&plain, 0, false);
            try_rope(&plain, 1000, false);
            try_rope(&plain, 0, true);
        }
        try_attention_forward(&plain);
        try_attention_backward(&plain);
        if (sizes[i].rate > 0) {
            try_attention_forward(&sizes[i]);
            try_attention_backward(&sizes[i]);
        }
    }
    for (size_t i = 0; i < COUNT_OF(caches); i++)
        try_attention_cached(&caches[i].size, caches[i].max_length, caches[i].position);
}
