/* attention_expected.h - what attention should make of its operands (ops/reference.h), and how far
 * off kernels may be that store their results in a real type, and round to it in between:
 * probabilities and the gradients of scores become operands of tensor cores. */
#ifndef OCTET_TEST_ATTENTION_EXPECTED_H
#define OCTET_TEST_ATTENTION_EXPECTED_H

#include <vector>

extern "C" {
#include "ops/reference.h"
}

using doubles = std::vector<double>;
using numbers = std::vector<struct number>;

/* A real type, and a device that computes in it. */
struct real {
    const char *name;
    enum dtype dtype;
    double unit;                /* half the distance of neighbours, relative to a number ... */
    double least;               /* ... and where numbers are subnormal */
    struct device *dev;
};

struct task {
    struct attention_shape shape;
    struct dropout dropout;
};

enum { LARGEST = 2 };           /* of all operands */

static struct task task_of(int64_t batch, int64_t length, int64_t heads, int64_t size, double rate)
{
    struct task task = {{batch, length, heads, size}, {}};

    task.dropout.rate = rate;
    task.dropout.seed = 0x9876543210abcdef;
    task.dropout.step = 70000;
    task.dropout.site = 321;
    task.dropout.first_row = 3 * length;
    return task;
}

/* What dropout multiplies a probability by. */
static double dropout_factor(const struct task &task, int64_t b, int64_t h, int64_t query,
                             int64_t key)
{
    const int64_t length = task.shape.length;
    struct dropout dropout = task.dropout;

    if (dropout.rate == 0)
        return 1;
    dropout.first_row = (dropout.first_row + b * length + query) * task.shape.heads + h;
    return reference_dropout(&dropout, 0, key, length);
}

/* The error, as struct number counts it, of a value that is rounded to the real type. */
static double rounding(const struct real &real, double value)
{
    return (real.unit * fabs(value) + real.least) * 0x1p24;
}

static void add_rounding(numbers &stored, const struct real &real)
{
    for (struct number &x : stored)
        x.error += rounding(real, x.value);
}

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static doubles values_of(const numbers &of)
{
    doubles values;

    for (const struct number &x : of)
        values.push_back(x.value);
    return values;
}

/* ---- forward ---- */

/* qkv with the sizes of v in place of v, which make `out` the sum of the sizes of its terms. */
static doubles with_absolute_v(doubles qkv, const struct attention_shape &shape)
{
    const size_t row = shape.heads * shape.size;

    for (size_t i = 0; i < qkv.size(); i++)
        if (i / row % 3 == 2)
            qkv[i] = fabs(qkv[i]);
    return qkv;
}

/* Of the n_keys probabilities of each sum, and of the sum. */
static void add_out_roundings(numbers &out, const numbers &sizes, int64_t n_keys,
                              const struct real &real)
{
    for (size_t i = 0; i < out.size(); i++)
        out[i].error += rounding(real, sizes[i].value) +
                        (double)(n_keys * LARGEST) * rounding(real, 0);
    add_rounding(out, real);
}

static void expect_forward(numbers &out, numbers &lse, const doubles &qkv, const struct task &task,
                           const struct real &real)
{
    numbers sizes = out;

    reference_attention_forward(sizes.data(), NULL, lse.data(),
                                with_absolute_v(qkv, task.shape).data(), &task.shape,
                                &task.dropout);
    reference_attention_forward(out.data(), NULL, lse.data(), qkv.data(), &task.shape,
                                &task.dropout);
    add_out_roundings(out, sizes, task.shape.length, real);
}

/* `cache` (2, room, H, D) holds exact numbers. */
static void expect_cached(numbers &out, numbers &cache, const doubles &qkv,
                          const struct attention_shape &shape, int64_t room, int64_t position,
                          const struct real &real)
{
    numbers sizes = out, cached_sizes = cache;

    for (size_t i = cache.size() / 2; i < cache.size(); i++)
        cached_sizes[i].value = fabs(cache[i].value);
    reference_attention_cached(sizes.data(), NULL, cached_sizes.data(),
                               with_absolute_v(qkv, shape).data(), &shape, room, position);
    reference_attention_cached(out.data(), NULL, cache.data(), qkv.data(), &shape, room,
                               position);
    add_out_roundings(out, sizes, position + shape.length, real);
}

/* ---- backward ---- */

/* What the roundings of query (b, t, h) add to the errors of dqkv: of f p for dv, of ds for dq and
 * dk, and of `out`, with which ds = p (f dout . v - dout . out) is made. */
static void add_query_roundings(numbers &dqkv, const double *dout, const struct number *out,
                                double lse, const doubles &qkv, const struct task &task,
                                const struct real &real, int64_t b, int64_t t, int64_t h)
{
    const int64_t H = task.shape.heads, D = task.shape.size, token = 3 * H * D;
    const int64_t sequence = b * task.shape.length * token, q = sequence + t * token + h * D;
    const double scale = 1 / sqrt((double)D);
    double delta = 0, delta_error = 0;

    for (int64_t c = 0; c < D; c++) {
        delta += dout[c] * out[c].value;
        delta_error += fabs(dout[c]) * rounding(real, out[c].value);
    }
    for (int64_t j = 0; j <= t; j++) {
        const int64_t k = sequence + j * token + (H + h) * D, v = k + H * D;
        const double p = exp(dot(&qkv[q], &qkv[k], D) * scale - lse);
        const double f = dropout_factor(task, b, h, t, j);
        const double ds = p * (f * dot(dout, &qkv[v], D) - delta);
        const double p_error = rounding(real, f * p);
        const double ds_error = (rounding(real, ds) + p * delta_error) * scale;
        for (int64_t c = 0; c < D; c++) {
            dqkv[v + c].error += p_error * fabs(dout[c]);
            dqkv[q + c].error += ds_error * fabs(qkv[k + c]);
            dqkv[k + c].error += ds_error * fabs(qkv[q + c]);
        }
    }
}

/* `out` and `lse` are what expect_forward() gave. */
static void expect_backward(numbers &dqkv, const doubles &dout, const numbers &out,
                            const numbers &lse, const doubles &qkv, const struct task &task,
                            const struct real &real)
{
    const int64_t length = task.shape.length, H = task.shape.heads, D = task.shape.size;

    reference_attention_backward(dqkv.data(), NULL, dout.data(), values_of(out).data(),
                                 values_of(lse).data(), qkv.data(), &task.shape, &task.dropout);
    for (int64_t b = 0; b < task.shape.batch; b++)
        for (int64_t t = 0; t < length; t++)
            for (int64_t h = 0; h < H; h++) {
                const int64_t row = ((b * length + t) * H + h) * D;
                add_query_roundings(dqkv, &dout[row], &out[row],
                                    lse[(b * H + h) * length + t].value, qkv, task, real, b, t, h);
            }
    add_rounding(dqkv, real);
}

#endif
