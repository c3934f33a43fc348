/* attention.c - causal attention by tiles of queries; no (T, T) matrix is kept.
 *
 * A task is one head of one sequence. It goes through its queries in tiles of CPU_QUERY_BLOCK rows;
 * a tile's scores against all keys it may see, at most (block, T), live in the thread's scratch. The
 * backward pass makes the same probabilities again from the saved lse; because one task owns the
 * whole head, dK and dV are sums in a fixed order. */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/dot.h"

/* A row of numbers, one for each key, is filled up to a multiple of this: loops over it then end
 * with a whole vector. */
enum { WHOLE = 32 };

static int64_t padded(int64_t keys)
{
    return (keys + WHOLE - 1) / WHOLE * WHOLE;
}

/* The thread's scratch, for as many keys as the call has; thread_scratch() in cpu.c knows its size.
 * p and ds go into further products and so are real; where that is calc as well, they take the
 * place of scores and dp. */
struct scratch {
    calc *scores, *dp;          /* (block, padded keys) */
    real *p, *ds;               /* (block, padded keys) */
    calc *out;                  /* (block, D) */
    calc *dk, *dv;              /* (keys, D) */
    calc *factors;              /* (padded keys), of the dropout */
};

static void *take(char **rest, int64_t count, size_t size)
{
    void *taken = *rest;

    *rest += ((size_t)count * size + 63) / 64 * 64;
    return taken;
}

static struct scratch scratch_of(struct device *dev, int thread, int64_t keys, int64_t size)
{
    const bool in_place = sizeof(real) == sizeof(calc);
    const int64_t tile = CPU_QUERY_BLOCK * padded(keys);
    char *rest = cpu_thread_scratch(dev, thread);
    struct scratch s;

    s.scores = take(&rest, tile, sizeof(calc));
    s.dp = take(&rest, tile, sizeof(calc));
    s.p = in_place ? (void *)s.scores : take(&rest, tile, sizeof(real));
    s.ds = in_place ? (void *)s.dp : take(&rest, tile, sizeof(real));
    s.out = take(&rest, CPU_QUERY_BLOCK * size, sizeof(calc));
    s.dk = take(&rest, keys * size, sizeof(calc));
    s.dv = take(&rest, keys * size, sizeof(calc));
    s.factors = take(&rest, padded(keys), sizeof(calc));
    return s;
}

/* p = exp(scale (scores - the largest)) times the dropout's factors (NULL: none) where
 * key <= query, 0 behind; `inverse` = 1 / the sum of the exponentials, by which p is still to be
 * multiplied. Returns lse. */
static calc softmax_row(real *p, calc *inverse, calc *scores, const calc *factors, int64_t visible,
                        int64_t keys, calc scale)
{
    const int64_t end = padded(visible);
    calc largest = scores[0], total = 0;

    for (int64_t j = visible; j < end; j++)
        scores[j] = -INFINITY;
    VECTOR_MAX(largest)
    for (int64_t j = 0; j < end; j++)
        largest = scores[j] > largest ? scores[j] : largest;
    if (factors) {
        VECTOR_SUM(total)
        for (int64_t j = 0; j < end; j++) {
            const calc power = real_exp((scores[j] - largest) * scale);
            total += power;
            p[j] = narrow(power * factors[j]);
        }
    } else {
        VECTOR_SUM(total)
        for (int64_t j = 0; j < end; j++) {
            const calc power = real_exp((scores[j] - largest) * scale);
            total += power;
            p[j] = narrow(power);
        }
    }
    memset(p + visible, 0, (size_t)(keys - visible) * sizeof *p);
    *inverse = 1 / total;
    return largest * scale + (calc)log((double)total);
}

/* out (rows, D), a row every `stride` = sums (rows, D) times each row's factor. */
static void scale_rows(real *out, int64_t stride, const calc *sums, const calc *factors,
                       int64_t rows, int64_t size)
{
    for (int64_t i = 0; i < rows; i++) {
        VECTOR
        for (int64_t c = 0; c < size; c++)
            out[i * stride + c] = narrow(sums[i * size + c] * factors[i]);
    }
}

static void forward_task(void *context, int task, int thread)
{
    const struct attention *a = context;
    const int64_t T = a->length, H = a->heads, D = a->size, stride = 3 * H * D;
    const int64_t b = task / H, h = task % H;
    const real *q = a->qkv + b * T * stride + h * D, *k = q + H * D, *v = k + H * D;
    const bool drops = a->dropout->rate > 0;
    const struct scratch s = scratch_of(a->dev, thread, T, D);
    calc inverse[CPU_QUERY_BLOCK];

    for (int64_t first = 0; first < T; first += CPU_QUERY_BLOCK) {
        const int64_t keys = slice_end(first, CPU_QUERY_BLOCK, T), rows = keys - first;

        CPU_NAME(gemm_sum)(false, true, rows, keys, D, q + first * stride, stride, k, stride, false,
                           s.scores, padded(keys));
        for (int64_t i = 0; i < rows; i++) {
            const int64_t visible = first + i + 1;
            if (drops)
                dropout_factors(s.factors, a, b * T + first + i, h, visible);
            a->lse[(b * H + h) * T + first + i] =
                softmax_row(s.p + i * padded(keys), &inverse[i], s.scores + i * padded(keys),
                            drops ? s.factors : NULL, visible, keys, scale_of(D));
        }
        CPU_NAME(gemm_sum)(false, false, rows, D, keys, s.p, padded(keys), v, stride, false,
                           s.out, D);
        scale_rows(a->out + ((b * T + first) * H + h) * D, H * D, s.out, inverse, rows, D);
    }
}

static enum status attention_forward(struct device *dev, const struct tensor *out,
                                     const struct tensor *lse, const struct tensor *qkv,
                                     const struct dropout *dropout)
{
    struct attention a = attention_forward_of(dev, out, lse, qkv, dropout);

    cpu_run(dev, (int)(a.batch * a.heads), forward_task, &a);
    return OK;
}

/* One query of the backward pass. With w its probabilities, f its dropout's factors (NULL: none),
 * dp = dout v^T: p = w f (for dV), ds = w (dp f - sum_j w f dp) scale (for dQ and dK). */
static void backward_row(real *p, real *ds, const calc *scores, const calc *dp, const calc *factors,
                         int64_t visible, int64_t keys, calc lse, calc delta, calc scale)
{
    const int64_t end = padded(visible);

    if (factors) {
        VECTOR
        for (int64_t j = 0; j < end; j++) {
            const calc probability = real_exp(scores[j] * scale - lse);
            ds[j] = narrow(probability * (dp[j] * factors[j] - delta) * scale);
            p[j] = narrow(probability * factors[j]);
        }
    } else {
        VECTOR
        for (int64_t j = 0; j < end; j++) {
            const calc probability = real_exp(scores[j] * scale - lse);
            ds[j] = narrow(probability * (dp[j] - delta) * scale);
            p[j] = narrow(probability);
        }
    }
    memset(p + visible, 0, (size_t)(keys - visible) * sizeof *p);
    memset(ds + visible, 0, (size_t)(keys - visible) * sizeof *ds);
}

/* dout . out of one query and head. */
static calc delta_of(const struct attention *a, int64_t b, int64_t h, int64_t query)
{
    const int64_t place = ((b * a->length + query) * a->heads + h) * a->size;

    return dot(a->dout + place, a->saved_out + place, a->size);
}

/* p and ds of the queries first .. keys - 1 of one head, from their scores and dp. */
static void backward_rows(const struct attention *a, const struct scratch *s, int64_t b, int64_t h,
                          int64_t first, int64_t keys)
{
    const int64_t T = a->length, H = a->heads;
    const bool drops = a->dropout->rate > 0;

    for (int64_t query = first; query < keys; query++) {
        const int64_t row = (query - first) * padded(keys);
        if (drops)
            dropout_factors(s->factors, a, b * T + query, h, query + 1);
        backward_row(s->p + row, s->ds + row, s->scores + row, s->dp + row,
                     drops ? s->factors : NULL, query + 1, keys,
                     a->saved_lse[(b * H + h) * T + query], delta_of(a, b, h, query),
                     scale_of(a->size));
    }
}

static void backward_task(void *context, int task, int thread)
{
    const struct attention *a = context;
    const int64_t T = a->length, H = a->heads, D = a->size, stride = 3 * H * D;
    const int64_t b = task / H, h = task % H;
    const real *q = a->qkv + b * T * stride + h * D, *k = q + H * D, *v = k + H * D;
    real *dq = a->dqkv + b * T * stride + h * D, *dk = dq + H * D, *dv = dk + H * D;
    const struct scratch s = scratch_of(a->dev, thread, T, D);

    memset(s.dk, 0, (size_t)(T * D) * sizeof *s.dk);
    memset(s.dv, 0, (size_t)(T * D) * sizeof *s.dv);
    for (int64_t first = 0; first < T; first += CPU_QUERY_BLOCK) {
        const int64_t keys = slice_end(first, CPU_QUERY_BLOCK, T), rows = keys - first;
        const int64_t width = padded(keys);
        const real *q_tile = q + first * stride;
        const real *dout = a->dout + ((b * T + first) * H + h) * D;

        CPU_NAME(gemm_sum)(false, true, rows, keys, D, q_tile, stride, k, stride, false, s.scores,
                           width);
        CPU_NAME(gemm_sum)(false, true, rows, keys, D, dout, H * D, v, stride, false, s.dp, width);
        backward_rows(a, &s, b, h, first, keys);
        CPU_NAME(gemm)(false, false, rows, D, keys, s.ds, width, k, stride, NULL,
                       dq + first * stride, stride);
        CPU_NAME(gemm_sum)(true, false, keys, D, rows, s.ds, width, q_tile, stride, true, s.dk, D);
        CPU_NAME(gemm_sum)(true, false, keys, D, rows, s.p, width, dout, H * D, true, s.dv, D);
    }
    for (int64_t t = 0; t < T; t++) {
        VECTOR
        for (int64_t c = 0; c < D; c++) {
            dk[t * stride + c] = narrow(s.dk[t * D + c]);
            dv[t * stride + c] = narrow(s.dv[t * D + c]);
        }
    }
}

static enum status attention_backward(struct device *dev, const struct tensor *dqkv,
                                      const struct tensor *dout, const struct tensor *out,
                                      const struct tensor *lse, const struct tensor *qkv,
                                      const struct dropout *dropout)
{
    struct attention a = attention_backward_of(dev, dqkv, dout, out, lse, qkv, dropout);

    cpu_run(dev, (int)(a.batch * a.heads), backward_task, &a);
    return OK;
}

static void cached_task(void *context, int task, int thread)
{
    const struct cached_attention *a = context;
    const int64_t H = a->heads, D = a->size, width = H * D, stride = 3 * width, h = task;
    const struct scratch s = scratch_of(a->dev, thread, a->position + a->length, D);
    calc inverse[CPU_QUERY_BLOCK];

    append_to_cache(a, h);
    for (int64_t first = 0; first < a->length; first += CPU_QUERY_BLOCK) {
        const int64_t end = slice_end(first, CPU_QUERY_BLOCK, a->length), rows = end - first;
        const int64_t keys = a->position + end, row = padded(keys);

        CPU_NAME(gemm_sum)(false, true, rows, keys, D, a->qkv + first * stride + h * D, stride,
                           a->keys + h * D, width, false, s.scores, row);
        for (int64_t i = 0; i < rows; i++)
            softmax_row(s.p + i * row, &inverse[i], s.scores + i * row, NULL,
                        a->position + first + i + 1, keys, scale_of(D));
        CPU_NAME(gemm_sum)(false, false, rows, D, keys, s.p, row, a->values + h * D, width, false,
                           s.out, D);
        scale_rows(a->out + first * width + h * D, width, s.out, inverse, rows, D);
    }
}

static enum status attention_cached(struct device *dev, const struct tensor *out,
                                    const struct tensor *cache, const struct tensor *qkv,
                                    int64_t position)
{
    struct cached_attention a = cached_attention_of(dev, out, cache, qkv, position);

    cpu_run(dev, (int)a.heads, cached_task, &a);
    return OK;
}

void CPU_NAME(cpu_attention_ops)(struct op_table *table)
{
    table->attention_forward = attention_forward;
    table->attention_backward = attention_backward;
    table->attention_cached = attention_cached;
#ifdef __AVX512F__
    CPU_NAME(cpu_attention_avx512_ops)(table);
#endif
}
