/* attention.c - causal attention by tiles of queries; no (T, T) matrix is kept.
 *
 * A task is one head of one sequence. It goes through its queries in tiles of CPU_QUERY_BLOCK rows;
 * a tile's scores against all keys it may see, at most (block, T), live in the thread's scratch. The
 * backward pass makes the same probabilities again from the saved lse; because one task owns the
 * whole head, dK and dV are sums in a fixed order. */
#include "kernels/cpu/vector_math.h"

#include <string.h>

struct attention {
    real *out, *lse, *dqkv;
    const real *qkv, *dout, *saved_out, *saved_lse;
    int64_t batch, length, heads, size;     /* B, T, H, D */
    const struct dropout *dropout;
    struct device *dev;
};

static struct attention attention_of(struct device *dev, const struct tensor *qkv)
{
    return (struct attention){.qkv = qkv->data, .batch = qkv->shape[0], .length = qkv->shape[1],
                              .heads = qkv->shape[2] / 3, .size = qkv->shape[3], .dev = dev};
}

/* scores (rows, keys) -> exp(scores - log sum exp) where key <= query, 0 behind; returns lse. */
static real softmax_row(real *scores, int64_t visible, int64_t keys)
{
    real largest = scores[0], total = 0;

    VECTOR_MAX(largest)
    for (int64_t j = 0; j < visible; j++)
        largest = scores[j] > largest ? scores[j] : largest;
    VECTOR_SUM(total)
    for (int64_t j = 0; j < visible; j++) {
        scores[j] = real_exp(scores[j] - largest);
        total += scores[j];
    }
    const real inverse = 1 / total;
    VECTOR
    for (int64_t j = 0; j < visible; j++)
        scores[j] *= inverse;
    memset(scores + visible, 0, (size_t)(keys - visible) * sizeof *scores);
    return largest + (real)log((double)total);
}

/* Factors of one query's dropped probabilities; `row` as in struct dropout. */
static void dropout_factors(real *factors, const struct attention *a, int64_t row, int64_t head,
                            int64_t visible)
{
    struct dropout one_head = *a->dropout;
    struct dropout_place place = {0};

    if (one_head.place)
        place = *one_head.place;
    one_head.first_row = (one_head.first_row + place.first_row + row) * a->heads + head;
    one_head.step += (uint32_t)place.step;
    one_head.place = NULL;
    CPU_NAME(dropout_row)(factors, visible, a->length, &one_head, 0);
}

static void forward_task(void *context, int task, int thread)
{
    const struct attention *a = context;
    const int64_t T = a->length, H = a->heads, D = a->size, stride = 3 * H * D;
    const int64_t b = task / H, h = task % H;
    const real *q = a->qkv + b * T * stride + h * D, *k = q + H * D, *v = k + H * D;
    const real scale = 1 / (real)sqrt((double)D);
    real *scores = cpu_thread_scratch(a->dev, thread);
    real *factors = scores + CPU_QUERY_BLOCK * T;

    for (int64_t first = 0; first < T; first += CPU_QUERY_BLOCK) {
        const int64_t keys = slice_end(first, CPU_QUERY_BLOCK, T), rows = keys - first;

        CPU_NAME(gemm)(false, true, rows, keys, D, scale, q + first * stride, stride, k, stride, 0,
                       scores, keys);
        for (int64_t i = 0; i < rows; i++) {
            const int64_t visible = first + i + 1;
            real *row = scores + i * keys;
            a->lse[(b * H + h) * T + first + i] = softmax_row(row, visible, keys);
            if (a->dropout->rate > 0) {
                dropout_factors(factors, a, b * T + first + i, h, visible);
                VECTOR
                for (int64_t j = 0; j < visible; j++)
                    row[j] *= factors[j];
            }
        }
        CPU_NAME(gemm)(false, false, rows, D, keys, 1, scores, keys, v, stride, 0,
                       a->out + ((b * T + first) * H + h) * D, H * D);
    }
}

static enum status attention_forward(struct device *dev, const struct tensor *out,
                                     const struct tensor *lse, const struct tensor *qkv,
                                     const struct dropout *dropout)
{
    struct attention a = attention_of(dev, qkv);

    a.out = out->data;
    a.lse = lse->data;
    a.dropout = dropout;
    cpu_run(dev, (int)(a.batch * a.heads), forward_task, &a);
    return OK;
}

/* One query of the backward pass. With p its probabilities, f its dropout factors, dp = dout v^T:
 * p <- p f (for dV), dp <- p (dp f - sum_j p f dp) scale (dS, for dQ and dK). */
static void backward_row(real *p, real *dp, const real *factors, int64_t visible, int64_t keys,
                         real lse, real delta, real scale)
{
    if (factors) {
        VECTOR
        for (int64_t j = 0; j < visible; j++) {
            const real probability = real_exp(p[j] - lse);
            dp[j] = probability * (dp[j] * factors[j] - delta) * scale;
            p[j] = probability * factors[j];
        }
    } else {
        VECTOR
        for (int64_t j = 0; j < visible; j++) {
            p[j] = real_exp(p[j] - lse);
            dp[j] = p[j] * (dp[j] - delta) * scale;
        }
    }
    memset(p + visible, 0, (size_t)(keys - visible) * sizeof *p);
    memset(dp + visible, 0, (size_t)(keys - visible) * sizeof *dp);
}

static void backward_task(void *context, int task, int thread)
{
    const struct attention *a = context;
    const int64_t T = a->length, H = a->heads, D = a->size, stride = 3 * H * D;
    const int64_t b = task / H, h = task % H;
    const real *q = a->qkv + b * T * stride + h * D, *k = q + H * D, *v = k + H * D;
    real *dq = a->dqkv + b * T * stride + h * D, *dk = dq + H * D, *dv = dk + H * D;
    const real scale = 1 / (real)sqrt((double)D);
    real *p = cpu_thread_scratch(a->dev, thread);
    real *dp = p + CPU_QUERY_BLOCK * T, *factors = dp + CPU_QUERY_BLOCK * T;

    for (int64_t t = 0; t < T; t++) {
        memset(dk + t * stride, 0, (size_t)D * sizeof(real));
        memset(dv + t * stride, 0, (size_t)D * sizeof(real));
    }
    for (int64_t first = 0; first < T; first += CPU_QUERY_BLOCK) {
        const int64_t keys = slice_end(first, CPU_QUERY_BLOCK, T), rows = keys - first;
        const real *dout = a->dout + ((b * T + first) * H + h) * D;
        const real *out = a->saved_out + ((b * T + first) * H + h) * D;

        CPU_NAME(gemm)(false, true, rows, keys, D, scale, q + first * stride, stride, k, stride, 0,
                       p, keys);
        CPU_NAME(gemm)(false, true, rows, keys, D, 1, dout, H * D, v, stride, 0, dp, keys);
        for (int64_t i = 0; i < rows; i++) {
            const int64_t visible = first + i + 1;
            real delta = 0;     /* sum_j p f dp = dout . out */
            VECTOR_SUM(delta)
            for (int64_t c = 0; c < D; c++)
                delta += dout[i * H * D + c] * out[i * H * D + c];
            const bool drops = a->dropout->rate > 0;
            if (drops)
                dropout_factors(factors, a, b * T + first + i, h, visible);
            backward_row(p + i * keys, dp + i * keys, drops ? factors : NULL, visible, keys,
                         a->saved_lse[(b * H + h) * T + first + i], delta, scale);
        }
        CPU_NAME(gemm)(false, false, rows, D, keys, 1, dp, keys, k, stride, 0, dq + first * stride,
                       stride);
        CPU_NAME(gemm)(true, false, keys, D, rows, 1, dp, keys, q + first * stride, stride, 1, dk,
                       stride);
        CPU_NAME(gemm)(true, false, keys, D, rows, 1, p, keys, dout, H * D, 1, dv, stride);
    }
}

static enum status attention_backward(struct device *dev, const struct tensor *dqkv,
                                      const struct tensor *dout, const struct tensor *out,
                                      const struct tensor *lse, const struct tensor *qkv,
                                      const struct dropout *dropout)
{
    struct attention a = attention_of(dev, qkv);

    a.dqkv = dqkv->data;
    a.dout = dout->data;
    a.saved_out = out->data;
    a.saved_lse = lse->data;
    a.dropout = dropout;
    cpu_run(dev, (int)(a.batch * a.heads), backward_task, &a);
    return OK;
}

struct cached_attention {
    real *out, *keys, *values;  /* keys, values (max T, H, D) */
    const real *qkv;
    int64_t length, heads, size, position;
    struct device *dev;
};

static void cached_task(void *context, int task, int thread)
{
    const struct cached_attention *a = context;
    const int64_t H = a->heads, D = a->size, width = H * D, stride = 3 * width, h = task;
    const real scale = 1 / (real)sqrt((double)D);
    real *scores = cpu_thread_scratch(a->dev, thread);

    for (int64_t t = 0; t < a->length; t++) {
        const real *new_key = a->qkv + t * stride + width + h * D;
        memcpy(a->keys + (a->position + t) * width + h * D, new_key, (size_t)D * sizeof(real));
        memcpy(a->values + (a->position + t) * width + h * D, new_key + width,
               (size_t)D * sizeof(real));
    }
    for (int64_t first = 0; first < a->length; first += CPU_QUERY_BLOCK) {
        const int64_t end = slice_end(first, CPU_QUERY_BLOCK, a->length), rows = end - first;
        const int64_t keys = a->position + end;

        CPU_NAME(gemm)(false, true, rows, keys, D, scale, a->qkv + first * stride + h * D, stride,
                       a->keys + h * D, width, 0, scores, keys);
        for (int64_t i = 0; i < rows; i++)
            softmax_row(scores + i * keys, a->position + first + i + 1, keys);
        CPU_NAME(gemm)(false, false, rows, D, keys, 1, scores, keys, a->values + h * D, width, 0,
                       a->out + first * width + h * D, width);
    }
}

static enum status attention_cached(struct device *dev, const struct tensor *out,
                                    const struct tensor *cache, const struct tensor *qkv,
                                    int64_t position)
{
    const struct tensor values = tensor_rows(cache, 1, 1);
    struct cached_attention a = {out->data, cache->data, values.data, qkv->data, qkv->shape[1],
                                 cache->shape[2], cache->shape[3], position, dev};

    cpu_run(dev, (int)a.heads, cached_task, &a);
    return OK;
}

void CPU_NAME(cpu_attention_ops)(struct op_table *table)
{
    table->attention_forward = attention_forward;
    table->attention_backward = attention_backward;
    table->attention_cached = attention_cached;
}
