#include "ops/reference.h"

#include <stdlib.h>

static struct number *numbers(int64_t count)
{
    struct number *memory = calloc((size_t)count, sizeof *memory);

    if (!memory)
        abort();
    return memory;
}

double reference_dropout(const struct dropout *dropout, int64_t row, int64_t column, int64_t width)
{
    const double threshold = floor(dropout->rate * 65536);
    const int64_t tiles = (width + 127) / 128, tile = column / 128, number = column % 128 / 16;
    const int64_t position = ((dropout->first_row + row) * tiles + tile) * 16 + column % 16;
    const struct rng_block block = rng_philox(dropout->seed, RNG_DROPOUT, dropout->site,
                                              dropout->step, (uint64_t)position);
    const uint32_t word = block.word[number / 2];
    const uint32_t bits = number % 2 == 0 ? word & 0xffff : word >> 16;

    return bits < threshold ? 0 : 65536 / (65536 - threshold);
}

/* ---- rows ---- */

void reference_embedding_forward(struct number *out, const double *ids, const double *table,
                                 const double *positions, int64_t batch, int64_t length,
                                 int64_t width)
{
    for (int64_t b = 0; b < batch; b++)
        for (int64_t t = 0; t < length; t++)
            for (int64_t c = 0; c < width; c++) {
                const int64_t row = b * length + t, id = (int64_t)ids[row];
                out[row * width + c] = exact(table[id * width + c]);
                if (positions)
                    out[row * width + c] = add(out[row * width + c],
                                               exact(positions[t * width + c]));
            }
}

void reference_embedding_backward(struct number *dtable, struct number *dpositions,
                                  const double *dout, const double *ids, int64_t batch,
                                  int64_t length, int64_t width)
{
    for (int64_t b = 0; b < batch; b++)
        for (int64_t t = 0; t < length; t++)
            for (int64_t c = 0; c < width; c++) {
                const int64_t row = b * length + t, id = (int64_t)ids[row];
                accumulate(&dtable[id * width + c], exact(dout[row * width + c]));
                if (dpositions)
                    accumulate(&dpositions[t * width + c], exact(dout[row * width + c]));
            }
}

void reference_layernorm_forward(struct number *out, struct number *mean, struct number *rstd,
                                 const struct number *x, const double *weight, const double *bias,
                                 int64_t n, int64_t width)
{
    for (int64_t row = 0; row < n; row++, x += width, out += width) {
        struct number total = exact(0), variance = exact(0);
        for (int64_t c = 0; c < width; c++)
            accumulate(&total, x[c]);
        mean[row] = divide(total, exact((double)width));
        for (int64_t c = 0; c < width; c++) {
            const struct number distance = subtract(x[c], mean[row]);
            accumulate(&variance, multiply(distance, distance));
        }
        variance = divide(variance, exact((double)width));
        rstd[row] = divide(exact(1), square_root(add(variance, exact(1e-5))));
        for (int64_t c = 0; c < width; c++) {
            const struct number normal = multiply(subtract(x[c], mean[row]), rstd[row]);
            out[c] = add(scaled(normal, weight[c]), exact(bias[c]));
        }
    }
}

void reference_layernorm_backward(struct number *dx, struct number *dweight, struct number *dbias,
                                  const double *dout, const double *x, const double *weight,
                                  const double *mean, const double *rstd, int64_t n,
                                  int64_t width)
{
    struct number *normal = numbers(width), *dnormal = numbers(width);

    for (int64_t row = 0; row < n; row++, dx += width, dout += width, x += width) {
        struct number total = exact(0), along = exact(0);
        for (int64_t c = 0; c < width; c++) {
            normal[c] = scaled(subtract(exact(x[c]), exact(mean[row])), rstd[row]);
            dnormal[c] = multiply(exact(dout[c]), exact(weight[c]));
            accumulate(&dweight[c], scaled(normal[c], dout[c]));
            accumulate(&dbias[c], exact(dout[c]));
            accumulate(&total, dnormal[c]);
            accumulate(&along, multiply(dnormal[c], normal[c]));
        }
        total = divide(total, exact((double)width));
        along = divide(along, exact((double)width));
        for (int64_t c = 0; c < width; c++) {
            const struct number part = subtract(subtract(dnormal[c], total),
                                                multiply(normal[c], along));
            accumulate(&dx[c], scaled(part, rstd[row]));
        }
    }
    free(normal);
    free(dnormal);
}

void reference_linear_forward(struct number *out, const double *a, const double *weight,
                              const double *bias, int64_t n, int64_t k, int64_t m)
{
    for (int64_t row = 0; row < n; row++)
        for (int64_t j = 0; j < m; j++) {
            struct number total = exact(0);
            for (int64_t i = 0; i < k; i++)
                accumulate(&total, multiply(exact(a[row * k + i]), exact(weight[j * k + i])));
            if (bias)
                accumulate(&total, exact(bias[j]));
            out[row * m + j] = total;
        }
}

void reference_linear_backward_input(struct number *da, const double *dout, const double *weight,
                                     int64_t n, int64_t k, int64_t m)
{
    for (int64_t row = 0; row < n; row++)
        for (int64_t i = 0; i < k; i++) {
            struct number total = exact(0);
            for (int64_t j = 0; j < m; j++)
                accumulate(&total, multiply(exact(dout[row * m + j]), exact(weight[j * k + i])));
            da[row * k + i] = total;
        }
}

void reference_linear_backward_weight(struct number *dweight, struct number *dbias,
                                      const double *dout, const double *a, int64_t n, int64_t k,
                                      int64_t m)
{
    for (int64_t row = 0; row < n; row++)
        for (int64_t j = 0; j < m; j++) {
            const struct number d = exact(dout[row * m + j]);
            for (int64_t i = 0; i < k; i++)
                accumulate(&dweight[j * k + i], multiply(d, exact(a[row * k + i])));
            if (dbias)
                accumulate(&dbias[j], d);
        }
}

void reference_gelu_forward(struct number *out, const struct number *x, int64_t n, int64_t width,
                            const struct dropout *dropout)
{
    for (int64_t row = 0; row < n; row++)
        for (int64_t c = 0; c < width; c++) {
            const int64_t i = row * width + c;
            out[i] = multiply(x[i], normal_cumulative(x[i]));
            if (dropout->rate > 0)
                out[i] = multiply(out[i], rounded(reference_dropout(dropout, row, c, width)));
        }
}

void reference_gelu_backward(struct number *dx, const double *dout, const double *x, int64_t n,
                             int64_t width, const struct dropout *dropout)
{
    for (int64_t row = 0; row < n; row++)
        for (int64_t c = 0; c < width; c++) {
            const int64_t i = row * width + c;
            const struct number at = exact(x[i]);
            dx[i] = scaled(add(normal_cumulative(at), multiply(at, normal_density(at))), dout[i]);
            if (dropout->rate > 0)
                dx[i] = multiply(dx[i], rounded(reference_dropout(dropout, row, c, width)));
        }
}

void reference_add_dropout(struct number *out, const double *a, const double *b, int64_t n,
                           int64_t width, const struct dropout *dropout)
{
    for (int64_t row = 0; row < n; row++)
        for (int64_t c = 0; c < width; c++) {
            const int64_t i = row * width + c;
            out[i] = exact(b[i]);
            if (dropout->rate > 0)
                out[i] = multiply(out[i], rounded(reference_dropout(dropout, row, c, width)));
            if (a)
                out[i] = add(out[i], exact(a[i]));
        }
}

/* ---- attention ---- */

void reference_rope(struct number *qkv, int64_t batch, int64_t length, int64_t heads, int64_t size,
                    int64_t position, bool inverse)
{
    for (int64_t b = 0; b < batch; b++)
        for (int64_t t = 0; t < length; t++)
            for (int64_t h = 0; h < 2 * heads; h++)
                for (int64_t i = 0; i < size / 2; i++) {
                    const double frequency = pow(10000, -2 * (double)i / (double)size);
                    const double angle = (double)(position + t) * frequency * (inverse ? -1 : 1);
                    const struct number cosine = rounded(cos(angle)), sine = rounded(sin(angle));
                    struct number *x = qkv + ((b * length + t) * 3 * heads + h) * size;
                    const struct number low = x[i], high = x[i + size / 2];
                    x[i] = subtract(multiply(low, cosine), multiply(high, sine));
                    x[i + size / 2] = add(multiply(high, cosine), multiply(low, sine));
                }
}

/* q . k / sqrt(size). */
static struct number score(const double *q, const double *k, int64_t size)
{
    struct number total = exact(0);

    for (int64_t c = 0; c < size; c++)
        accumulate(&total, multiply(exact(q[c]), exact(k[c])));
    return multiply(total, rounded(1 / sqrt((double)size)));
}

/* Scores to probabilities, in place; returns the logarithm of the sum of their exponentials. */
static struct number softmax(struct number *p, int64_t n)
{
    struct number largest = p[0], total = exact(0);

    for (int64_t i = 1; i < n; i++)
        largest = p[i].value > largest.value ? p[i] : largest;
    for (int64_t i = 0; i < n; i++) {
        p[i] = exponential(subtract(p[i], largest));
        accumulate(&total, p[i]);
    }
    for (int64_t i = 0; i < n; i++)
        p[i] = divide(p[i], total);
    return add(largest, logarithm(total));
}

static double attention_dropout(const struct dropout *dropout, const struct attention_shape *s,
                                int64_t b, int64_t h, int64_t query, int64_t key)
{
    struct dropout one = *dropout;

    if (dropout->rate <= 0)
        return 1;
    one.first_row = (dropout->first_row + b * s->length + query) * s->heads + h;
    return reference_dropout(&one, 0, key, s->length);
}

/* total += a b, where `a`, of this size, is rounded first; for *between see reference.h. */
static void accumulate_rounded(struct number *total, double *between, struct number a, double size,
                               double b)
{
    accumulate(total, scaled(a, b));
    if (between)
        *between += size * fabs(b);
}

static double *at(double *array, int64_t i)
{
    return array ? array + i : NULL;
}

void reference_attention_forward(struct number *out, double *between, struct number *lse,
                                 const double *qkv, const struct attention_shape *s,
                                 const struct dropout *dropout)
{
    const int64_t T = s->length, H = s->heads, D = s->size;
    struct number *p = numbers(T);

    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t t = 0; t < T; t++) {
                const double *sequence = qkv + b * T * 3 * H * D;
                const double *q = sequence + (t * 3 * H + h) * D;
                const int64_t first = ((b * T + t) * H + h) * D;
                for (int64_t j = 0; j <= t; j++)
                    p[j] = score(q, sequence + (j * 3 * H + H + h) * D, D);
                lse[(b * H + h) * T + t] = softmax(p, t + 1);
                for (int64_t c = 0; c < D; c++)
                    out[first + c] = exact(0);
                for (int64_t j = 0; j <= t; j++) {
                    const double *v = sequence + (j * 3 * H + 2 * H + h) * D;
                    const struct number kept = multiply(
                        p[j], rounded(attention_dropout(dropout, s, b, h, t, j)));
                    for (int64_t c = 0; c < D; c++)
                        accumulate_rounded(&out[first + c], at(between, first + c), kept,
                                           kept.value, v[c]);
                }
            }
    free(p);
}

/* One query's part of dqkv. With p = softmax(s), out = sum f p v: dp = f dout . v,
 * ds = p (dp - sum p dp). `p`, `dp` are scratch. */
static void query_backward(struct number *dqkv, double *between, struct number *p,
                           struct number *dp, const double *dout, const double *out, double lse,
                           const double *qkv, const struct attention_shape *s,
                           const struct dropout *dropout, int64_t b, int64_t h, int64_t t)
{
    const int64_t T = s->length, H = s->heads, D = s->size, sequence = b * T * 3 * H * D;
    const int64_t q = sequence + (t * 3 * H + h) * D;
    struct number delta = exact(0);
    double terms = 0;

    for (int64_t j = 0; j <= t; j++) {
        const int64_t k = sequence + (j * 3 * H + H + h) * D, v = k + H * D;
        const struct number factor = rounded(attention_dropout(dropout, s, b, h, t, j));
        p[j] = exponential(subtract(score(qkv + q, qkv + k, D), rounded(lse)));
        dp[j] = exact(0);
        for (int64_t c = 0; c < D; c++)
            accumulate(&dp[j], multiply(exact(dout[c]), exact(qkv[v + c])));
        dp[j] = multiply(dp[j], factor);
        accumulate(&delta, multiply(p[j], dp[j]));
        const struct number kept = multiply(p[j], factor);
        for (int64_t c = 0; c < D; c++)
            accumulate_rounded(&dqkv[v + c], at(between, v + c), kept, kept.value, dout[c]);
    }
    /* The sum is also dout . out, where `out` came through memory. */
    for (int64_t c = 0; c < D; c++)
        terms += fabs(dout[c] * out[c]);
    delta.error += terms;
    for (int64_t j = 0; j <= t; j++) {
        const int64_t k = sequence + (j * 3 * H + H + h) * D;
        const struct number ds = multiply(multiply(p[j], subtract(dp[j], delta)),
                                          rounded(1 / sqrt((double)D)));
        /* What is a difference of equals here may be the rounding of a bfloat16 `out`. */
        const double size = fabs(ds.value) + p[j].value * terms / sqrt((double)D) * 0x1p-8;
        for (int64_t c = 0; c < D; c++) {
            accumulate_rounded(&dqkv[q + c], at(between, q + c), ds, size, qkv[k + c]);
            accumulate_rounded(&dqkv[k + c], at(between, k + c), ds, size, qkv[q + c]);
        }
    }
}

void reference_attention_backward(struct number *dqkv, double *between, const double *dout,
                                  const double *out, const double *lse, const double *qkv,
                                  const struct attention_shape *s, const struct dropout *dropout)
{
    const int64_t T = s->length, H = s->heads, D = s->size;
    struct number *p = numbers(T), *dp = numbers(T);

    for (int64_t i = 0; i < s->batch * T * 3 * H * D; i++)
        dqkv[i] = exact(0);
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t t = 0; t < T; t++) {
                const int64_t row = ((b * T + t) * H + h) * D;
                query_backward(dqkv, between, p, dp, dout + row, out + row,
                               lse[(b * H + h) * T + t], qkv, s, dropout, b, h, t);
            }
    free(p);
    free(dp);
}

void reference_attention_cached(struct number *out, double *between, struct number *cache,
                                const double *qkv, const struct attention_shape *s,
                                int64_t max_length, int64_t position)
{
    const int64_t H = s->heads, D = s->size, row = H * D;
    struct number *keys = cache, *values = cache + max_length * row, *p = numbers(max_length);
    double *k = calloc((size_t)D, sizeof *k);

    if (!k)
        abort();
    for (int64_t t = 0; t < s->length; t++)
        for (int64_t i = 0; i < row; i++) {
            keys[(position + t) * row + i] = exact(qkv[t * 3 * row + row + i]);
            values[(position + t) * row + i] = exact(qkv[t * 3 * row + 2 * row + i]);
        }
    for (int64_t t = 0; t < s->length; t++)
        for (int64_t h = 0; h < H; h++) {
            const int64_t visible = position + t + 1;
            for (int64_t j = 0; j < visible; j++) {
                for (int64_t c = 0; c < D; c++)
                    k[c] = keys[j * row + h * D + c].value;
                p[j] = score(qkv + t * 3 * row + h * D, k, D);
            }
            softmax(p, visible);
            for (int64_t c = 0; c < D; c++) {
                const int64_t i = t * row + h * D + c;
                out[i] = exact(0);
                for (int64_t j = 0; j < visible; j++)
                    accumulate_rounded(&out[i], at(between, i), p[j], p[j].value,
                                       values[j * row + h * D + c].value);
            }
        }
    free(p);
    free(k);
}

/* ---- loss and optimizer ---- */

void reference_cross_entropy(struct number *losses, struct number *hits, struct number *logits,
                             const double *targets, int64_t n, int64_t vocab, double grad_scale)
{
    struct number *p = numbers(vocab);

    for (int64_t row = 0; row < n; row++, logits += vocab) {
        const int64_t target = (int64_t)targets[row];
        hits[row] = exact(1);
        for (int64_t v = 0; v < vocab; v++) {
            p[v] = logits[v];
            if (logits[v].value > logits[target].value)
                hits[row] = exact(0);
        }
        losses[row] = subtract(softmax(p, vocab), logits[target]);
        if (isnan(losses[row].value))
            hits[row].error = INFINITY;     /* ops.h says nothing of it */
        for (int64_t v = 0; v < vocab && grad_scale != 0; v++)
            logits[v] = multiply(subtract(p[v], exact(v == target ? 1 : 0)), rounded(grad_scale));
    }
    free(p);
}

/* Whether logit i comes before logit j. */
static bool ranks_before(const double *logits, int64_t i, int64_t j)
{
    const double a = logits[i] < INFINITY ? logits[i] : INFINITY;
    const double b = logits[j] < INFINITY ? logits[j] : INFINITY;

    return a > b || (a == b && i < j);
}

void reference_top_logits(struct number *values, struct number *ids, const double *logits,
                          int64_t n, int64_t k)
{
    int64_t last = -1;

    for (int64_t rank = 0; rank < k; rank++) {
        int64_t next = -1;
        for (int64_t i = 0; i < n; i++)
            if ((last < 0 || ranks_before(logits, last, i)) &&
                (next < 0 || ranks_before(logits, i, next)))
                next = i;
        values[rank] = exact(logits[next] < INFINITY ? logits[next] : (double)NAN);
        ids[rank] = exact((double)next);
        last = next;
    }
}

/* Long sums are off by some square roots of their length, as random walks are; the reference itself
 * must not be. */
void reference_sum(struct number *out, const double *x, int64_t n)
{
    long double total = out->value, size = fabs(out->value);

    for (int64_t i = 0; i < n; i++) {
        total += x[i];
        size += fabs(x[i]);
    }
    *out = (struct number){(double)total, 4 * (double)size * sqrt((double)n)};
}

void reference_sum_of_squares(struct number *out, const double *x, int64_t n)
{
    long double total = 0;

    for (int64_t i = 0; i < n; i++)
        total += (long double)x[i] * x[i];
    *out = (struct number){(double)total, 4 * (double)total * sqrt((double)n)};
}

void reference_adamw(struct number *weights, struct number *m, struct number *v,
                     const double *grads, double squares, int64_t n,
                     const struct adamw_step *step)
{
    const double t = (double)step->step, norm = sqrt(squares) / step->loss_scale;
    const double clip = step->max_norm > 0 && norm > step->max_norm ? step->max_norm / norm : 1;

    if (!isfinite(squares))
        return;
    for (int64_t i = 0; i < n; i++) {
        const struct number g = multiply(rounded(clip / step->loss_scale), exact(grads[i]));
        m[i] = add(multiply(m[i], rounded(step->beta1)), multiply(g, rounded(1 - step->beta1)));
        v[i] = add(multiply(v[i], rounded(step->beta2)),
                   multiply(multiply(g, g), rounded(1 - step->beta2)));
        const struct number m_hat = multiply(m[i], rounded(1 / (1 - pow(step->beta1, t))));
        const struct number v_hat = multiply(v[i], rounded(1 / (1 - pow(step->beta2, t))));
        const struct number update = divide(m_hat, add(square_root(v_hat),
                                                       rounded(step->epsilon)));
        const double decay = i < step->decay_count ? step->lr * step->weight_decay : 0;
        weights[i] = subtract(multiply(weights[i], rounded(1 - decay)),
                              multiply(update, rounded(step->lr)));
    }
}
