/* attention_avx512.c - causal attention in registers and the nearest caches, for AVX-512.
 *
 * A task is one head of one sequence. Its matrices are packed once into panels, in the order in which
 * products read them; then blocks of QUERIES rows meet all keys that they may see, so that a block's
 * scores and probabilities never leave the second cache. The backward pass makes the probabilities
 * again from the saved lse. One task owns a whole head: dK and dV are sums in a fixed order. */
#include "kernels/cpu/attention.h"

#include <math.h>

#include "kernels/cpu/dot.h"
#include "kernels/cpu/matmul_bf16.h"
#include "kernels/cpu/vector_avx512.h"

enum { QUERIES = CPU_PANEL_QUERIES };

/* The right operand of a product: `steps` rows of `width` units, a multiple of LANES. */
struct panel {
    unit *at;
    int64_t width;
};

/* The left operand: the unit of (row, step) is at[row * row_stride + step * step_stride]. */
struct left {
    const unit *at;
    int64_t row_stride, step_stride;
};

/* A part of the result, `rows` x `vectors` * LANES numbers, is summed up in registers; both are
 * constants where this is called. */
static inline __attribute__((always_inline)) void
multiply_block(float *c, int64_t ldc, const struct left *a, const unit *b, int64_t ldb,
               int64_t steps, bool add, const int rows, const int vectors)
{
    vec sums[8][4];

    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sums[r][v] = add ? _mm512_loadu_ps(c + r * ldc + v * LANES) : _mm512_setzero_ps();
    for (int64_t step = 0; step < steps; step++) {
        const unit *left = a->at + step * a->step_stride;
        __m512i right[4];
        for (int v = 0; v < vectors; v++)
            right[v] = _mm512_loadu_si512(b + step * ldb + v * LANES);
        for (int r = 0; r < rows; r++) {
            const __m512i factor = _mm512_set1_epi32((int)left[r * a->row_stride]);
            for (int v = 0; v < vectors; v++)
                sums[r][v] = vec_multiply_add(sums[r][v], factor, right[v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            _mm512_storeu_ps(c + r * ldc + v * LANES, sums[r][v]);
}

/* Up to four vectors of columns; as many rows at a time as there are registers for. */
static void multiply_columns(float *c, int64_t ldc, struct left a, const unit *b, int64_t ldb,
                             int64_t steps, bool add, int64_t rows, int vectors)
{
    const int height = vectors > 2 ? 4 : 8;
    int64_t done = 0;

    for (; done + height <= rows;
         done += height, c += height * ldc, a.at += height * a.row_stride)
        switch (vectors) {
        case 4: multiply_block(c, ldc, &a, b, ldb, steps, add, 4, 4); break;
        case 3: multiply_block(c, ldc, &a, b, ldb, steps, add, 4, 3); break;
        case 2: multiply_block(c, ldc, &a, b, ldb, steps, add, 8, 2); break;
        default: multiply_block(c, ldc, &a, b, ldb, steps, add, 8, 1); break;
        }
    for (; done < rows; done++, c += ldc, a.at += a.row_stride)
        for (int v = 0; v < vectors; v++)
            multiply_block(c + v * LANES, ldc, &a, b + v * LANES, ldb, steps, add, 1, 1);
}

/* c (rows, columns) = or += a (rows, steps) b (steps, columns); columns is a multiple of LANES. */
static void multiply(float *c, int64_t ldc, struct left a, struct panel b, int64_t steps, bool add,
                     int64_t rows, int64_t columns)
{
    for (int64_t first = 0; first < columns; first += 4 * LANES) {
        const int64_t left = (columns - first) / LANES;
        multiply_columns(c + first, ldc, a, b.at + first, b.width, steps, add, rows,
                         left < 4 ? (int)left : 4);
    }
}

/* ---- panels ---- */

/* x (T, D), a row every `stride`, as the right operand of a product whose sums go over D. */
static void pack_transposed(struct panel to, const real *x, int64_t stride, int64_t T, int64_t D)
{
    const int64_t steps = D / STEP;

    for (int64_t t = 0; t < to.width; t += LANES)
        for (int64_t step = 0; step < steps; step += LANES) {
            __m512i units[LANES];
            for (int i = 0; i < LANES; i++)
                units[i] = _mm512_maskz_loadu_epi32(
                    t + i < T ? vec_mask(steps - step) : 0, x + (t + i) * stride + step * STEP);
            vec_transpose(units);
            for (int i = 0; i < LANES && step + i < steps; i++)
                _mm512_storeu_si512(to.at + (step + i) * to.width + t, units[i]);
        }
}

/* The same for sums over T; an odd row has zeros beside it. */
static void pack_rows(struct panel to, const real *x, int64_t stride, int64_t T, int64_t D)
{
    for (int64_t t = 0; t < T; t += STEP) {
        unit *row = to.at + t / STEP * to.width;
        for (int64_t d = 0; d < D; d += LANES) {
            const __mmask16 mask = vec_mask(D - d);
            const __m512i first = vec_load_bits(x + t * stride + d, mask);
#ifdef CPU_REAL_BF16
            const __m512i second = t + 1 < T ? vec_load_bits(x + (t + 1) * stride + d, mask)
                                             : _mm512_setzero_si512();
            _mm512_storeu_si512(row + d, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
#else
            _mm512_storeu_si512(row + d, first);
#endif
        }
    }
}

/* ---- a head ---- */

struct head {
    int64_t b, h;
    int64_t T, D, stride;       /* of a row of qkv */
    int64_t padded;             /* keys, to whole vectors and a bit: rows must not share cache sets */
    int64_t columns;            /* D, to whole vectors */
    const real *q, *k, *v;
    char *scratch;              /* what the thread has left */
};

static int64_t whole_vectors(int64_t n)
{
    return (n + LANES - 1) / LANES * LANES;
}

static struct head head_of(const struct attention *a, int task, int thread)
{
    const int64_t T = a->length, H = a->heads, D = a->size, stride = 3 * H * D;
    const int64_t b = task / H, h = task % H;
    const real *q = a->qkv + b * T * stride + h * D;

    return (struct head){b, h, T, D, stride, whole_vectors(T) + LANES, whole_vectors(D),
                         q, q + H * D, q + 2 * H * D, cpu_thread_scratch(a->dev, thread)};
}

/* A (rows, columns) matrix of 4-byte numbers or units. */
static void *take(struct head *head, int64_t rows, int64_t columns)
{
    void *taken = head->scratch;

    head->scratch += whole_vectors(rows * columns) * 4;
    return taken;
}

static struct panel take_transposed(struct head *head, const real *x, int64_t stride)
{
    const struct panel panel = {take(head, head->D / STEP, head->padded), head->padded};

    pack_transposed(panel, x, stride, head->T, head->D);
    return panel;
}

static struct panel take_rows(struct head *head, const real *x, int64_t stride)
{
    const int64_t steps = (head->T + STEP - 1) / STEP;
    const struct panel panel = {take(head, steps, head->columns), head->columns};

    pack_rows(panel, x, stride, head->T, head->D);
    return panel;
}

/* Rows of x as a left operand. */
static struct left rows_of(const real *x, int64_t stride)
{
    return (struct left){(const unit *)x, stride / STEP, 1};
}

/* to (rows, D), a row every `stride`, = from (rows, columns), each row times its factor. */
static void narrow_rows(const struct head *head, real *to, int64_t stride, const float *from,
                        const float *factors, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) {
        const vec factor = _mm512_set1_ps(factors ? factors[i] : 1);
        for (int64_t d = 0; d < head->D; d += LANES)
            vec_store_some(to + i * stride + d,
                           _mm512_mul_ps(_mm512_loadu_ps(from + i * head->columns + d), factor),
                           vec_mask(head->D - d));
    }
}

/* The rows of attention.c: for prompts, and head sizes that are not whole units. */
static struct op_table others;

/* ---- forward ---- */

/* p = exp(scale (scores - the largest)) times the dropout's factors (NULL: none), 0 behind what is
 * visible. Returns lse; *inverse = 1 / the sum of the exponentials. */
static float softmax_row(real *p, float *inverse, const float *scores, const float *factors,
                         int64_t visible, int64_t keys, float scale)
{
    const int64_t whole = visible / LANES * LANES;
    vec largest = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();

    for (int64_t j = 0; j < whole; j += LANES)
        largest = _mm512_max_ps(largest, _mm512_loadu_ps(scores + j));
    largest = _mm512_mask_max_ps(largest, vec_mask(visible - whole), largest,
                                 _mm512_loadu_ps(scores + whole));
    const float shift = _mm512_reduce_max_ps(largest) * scale;
    for (int64_t j = 0; j < visible; j += LANES) {
        const vec x = _mm512_fmsub_ps(_mm512_loadu_ps(scores + j), _mm512_set1_ps(scale),
                                      _mm512_set1_ps(shift));
        vec power = vec_exp(x);
        if (j == whole)
            power = _mm512_maskz_mov_ps(vec_mask(visible - j), power);
        total = _mm512_add_ps(total, power);
        if (factors) {      /* behind a row's last one lies anything, NaN even */
            const __mmask16 mask = vec_mask(visible - j);
            power = _mm512_mul_ps(power, _mm512_maskz_loadu_ps(mask, factors + j));
        }
        vec_store(p + j, power);
    }
    memset(p + whole_vectors(visible), 0,
           (size_t)(keys - whole_vectors(visible)) * sizeof *p);
    const float sum = _mm512_reduce_add_ps(total);
    *inverse = 1 / sum;
    return shift + logf(sum);
}

static void forward_task(void *context, int task, int thread)
{
    const struct attention *a = context;
    struct head head = head_of(a, task, thread);
    const int64_t T = head.T, padded = head.padded, width = a->heads * a->size;
    const bool drops = a->dropout->rate > 0;
    const float scale = scale_of(head.D);
    const struct panel keys = take_transposed(&head, head.k, head.stride);
    const struct panel values = take_rows(&head, head.v, head.stride);
    float *scores = take(&head, QUERIES, padded), *factors = take(&head, 1, padded);
    real *p = take(&head, QUERIES, padded);
    float *sums = take(&head, QUERIES, head.columns), inverse[QUERIES];

    for (int64_t first = 0; first < T; first += QUERIES) {
        const int64_t end = slice_end(first, QUERIES, T), rows = end - first;
        const int64_t seen = whole_vectors(end);

        multiply(scores, padded, rows_of(head.q + first * head.stride, head.stride), keys,
                 head.D / STEP, false, rows, seen);
        for (int64_t i = 0; i < rows; i++) {
            if (drops)
                dropout_factors(factors, a, head.b * T + first + i, head.h, first + i + 1);
            a->lse[(head.b * a->heads + head.h) * T + first + i] =
                softmax_row(p + i * padded, &inverse[i], scores + i * padded,
                            drops ? factors : NULL, first + i + 1, seen, scale);
        }
        multiply(sums, head.columns, rows_of(p, padded), values, (end + STEP - 1) / STEP, false,
                 rows, head.columns);
        narrow_rows(&head, a->out + (head.b * T + first) * width + head.h * head.D, width, sums,
                    inverse, rows);
    }
}

static enum status attention_forward(struct device *dev, const struct tensor *out,
                                     const struct tensor *lse, const struct tensor *qkv,
                                     const struct dropout *dropout)
{
    struct attention a = attention_forward_of(dev, out, lse, qkv, dropout);

    if (a.size % STEP)
        return others.attention_forward(dev, out, lse, qkv, dropout);
    cpu_run(dev, (int)(a.batch * a.heads), forward_task, &a);
    return OK;
}

/* ---- backward ---- */

/* What a block of queries needs of the scratch memory, all of `padded` columns. */
struct block {
    float *scores, *dp;         /* (QUERIES) */
    float *factors;             /* (STEP), of the dropout */
    float *deltas;              /* (1), of all queries */
    real *ds;                   /* (QUERIES) */
    unit *p_units, *ds_units;   /* (QUERIES / STEP): STEP queries, one beside the other, in a unit */
};

/* 16 keys and STEP queries, with their places in rows and in units; `masks`: which of the keys each
 * query sees, NULL: all. With w the probabilities, f the dropout's factors (NULL: none), dp = dout v^T:
 * p = w f (for dV), ds = w (dp f - delta) scale (for dQ and dK), delta = sum_j w f dp = dout . out. */
static inline __attribute__((always_inline)) void
backward_vectors(const struct block *block, int64_t place, int64_t unit_place, int64_t padded,
                 const vec *lse, const vec *delta, vec scale, const float *factors,
                 const __mmask16 *masks)
{
    vec p[STEP], ds[STEP];

    for (int i = 0; i < STEP; i++, place += padded) {
        /* Where a query does not see lies anything, NaN even. */
        const __mmask16 mask = masks ? masks[i] : 0xffff;
        const vec x = _mm512_fmsub_ps(_mm512_loadu_ps(block->scores + place), scale, lse[i]);
        const vec weight = _mm512_maskz_mov_ps(mask, vec_exp(x));
        vec dp = _mm512_maskz_loadu_ps(mask, block->dp + place);
        p[i] = weight;
        if (factors) {
            const vec factor = _mm512_maskz_loadu_ps(mask, factors + i * padded);
            p[i] = _mm512_mul_ps(weight, factor);
            dp = _mm512_mul_ps(dp, factor);
        }
        ds[i] = _mm512_mul_ps(_mm512_mul_ps(weight, scale), _mm512_sub_ps(dp, delta[i]));
        vec_store(block->ds + place, ds[i]);
    }
    _mm512_storeu_si512(block->p_units + unit_place, vec_units(p));
    _mm512_storeu_si512(block->ds_units + unit_place, vec_units(ds));
}

/* dout . out of all queries, one loop for all: so that the waits for memory overlap. */
static float *take_deltas(struct head *head, const struct attention *a)
{
    float *deltas = take(head, 1, head->padded);

    for (int64_t query = 0; query < head->T; query++) {
        const int64_t place = ((head->b * head->T + query) * a->heads + head->h) * head->D;
        deltas[query] = dot(a->dout + place, a->saved_out + place, head->D);
    }
    return deltas;
}

/* STEP queries from query `first` on, row `row` of the block; the last of them may not exist. */
static void backward_step(const struct attention *a, const struct head *head,
                          const struct block *block, int64_t row, int64_t first, int64_t seen)
{
    const int64_t T = head->T, padded = head->padded;
    const bool drops = a->dropout->rate > 0;
    const vec scale = _mm512_set1_ps(scale_of(head->D));
    vec lse[STEP], delta[STEP];

    for (int i = 0; i < STEP; i++) {
        const int64_t query = first + i < T ? first + i : T - 1;
        lse[i] = _mm512_set1_ps(a->saved_lse[(head->b * a->heads + head->h) * T + query]);
        delta[i] = _mm512_set1_ps(block->deltas[query]);
        if (drops)
            dropout_factors(block->factors + i * padded, a, head->b * T + query, head->h,
                            query + 1);
    }
    int64_t j = 0;
    for (; j + LANES <= first + 1 && first + STEP <= T; j += LANES)
        backward_vectors(block, row * padded + j, row / STEP * padded + j, padded, lse, delta,
                         scale, drops ? block->factors + j : NULL, NULL);
    for (; j < seen; j += LANES) {
        __mmask16 masks[STEP];
        for (int i = 0; i < STEP; i++)
            masks[i] = first + i < T ? vec_mask(first + i + 1 - j) : 0;
        backward_vectors(block, row * padded + j, row / STEP * padded + j, padded, lse, delta,
                         scale, drops ? block->factors + j : NULL, masks);
    }
}

static void backward_task(void *context, int task, int thread)
{
    const struct attention *a = context;
    struct head head = head_of(a, task, thread);
    const int64_t T = head.T, D = head.D, padded = head.padded, columns = head.columns;
    const int64_t width = a->heads * D, steps = D / STEP;
    const real *dout = a->dout + head.b * T * width + head.h * D;
    real *dq = a->dqkv + head.b * T * head.stride + head.h * D, *dk = dq + width, *dv = dk + width;
    const struct panel k_transposed = take_transposed(&head, head.k, head.stride);
    const struct panel v_transposed = take_transposed(&head, head.v, head.stride);
    const struct panel q_rows = take_rows(&head, head.q, head.stride);
    const struct panel k_rows = take_rows(&head, head.k, head.stride);
    const struct panel dout_rows = take_rows(&head, dout, width);
    float *dk_sums = take(&head, padded, columns), *dv_sums = take(&head, padded, columns);
    float *dq_sums = take(&head, QUERIES, columns);
    struct block block = {take(&head, QUERIES, padded), take(&head, QUERIES, padded),
                          take(&head, STEP, padded), take_deltas(&head, a),
                          take(&head, QUERIES, padded), take(&head, QUERIES / STEP, padded),
                          take(&head, QUERIES / STEP, padded)};

    memset(dk_sums, 0, (size_t)(padded * columns) * sizeof *dk_sums);
    memset(dv_sums, 0, (size_t)(padded * columns) * sizeof *dv_sums);
    for (int64_t first = 0; first < T; first += QUERIES) {
        const int64_t end = slice_end(first, QUERIES, T), rows = end - first;
        const int64_t seen = whole_vectors(end), row_steps = (rows + STEP - 1) / STEP;
        const struct left p = {block.p_units, 1, padded}, ds = {block.ds_units, 1, padded};
        const struct panel q_block = {q_rows.at + first / STEP * columns, columns};
        const struct panel dout_block = {dout_rows.at + first / STEP * columns, columns};

        multiply(block.scores, padded, rows_of(head.q + first * head.stride, head.stride),
                 k_transposed, steps, false, rows, seen);
        multiply(block.dp, padded, rows_of(dout + first * width, width), v_transposed, steps,
                 false, rows, seen);
        for (int64_t i = 0; i < rows; i += STEP)
            backward_step(a, &head, &block, i, first + i, seen);
        multiply(dq_sums, columns, rows_of(block.ds, padded), k_rows, (end + STEP - 1) / STEP,
                 false, rows, columns);
        narrow_rows(&head, dq + first * head.stride, head.stride, dq_sums, NULL, rows);
        multiply(dk_sums, columns, ds, q_block, row_steps, true, seen, columns);
        multiply(dv_sums, columns, p, dout_block, row_steps, true, seen, columns);
    }
    narrow_rows(&head, dk, head.stride, dk_sums, NULL, T);
    narrow_rows(&head, dv, head.stride, dv_sums, NULL, T);
}

static enum status attention_backward(struct device *dev, const struct tensor *dqkv,
                                      const struct tensor *dout, const struct tensor *out,
                                      const struct tensor *lse, const struct tensor *qkv,
                                      const struct dropout *dropout)
{
    struct attention a = attention_backward_of(dev, dqkv, dout, out, lse, qkv, dropout);

    if (a.size % STEP)
        return others.attention_backward(dev, dqkv, dout, out, lse, qkv, dropout);
    cpu_run(dev, (int)(a.batch * a.heads), backward_task, &a);
    return OK;
}

/* ---- one new token ---- */

/* A head's rows of the cache lie too far from each other for the processor to foresee the next one. */
enum { AHEAD = 16 };

static inline void prefetch(const real *row, int64_t n)
{
    for (int64_t i = 0; i < n; i += 64 / (int64_t)sizeof *row)
        _mm_prefetch((const char *)(row + i), _MM_HINT_T0);
}

/* out = p (keys) values (keys, D). */
static void weigh_values(real *out, const real *p, float inverse, const real *values,
                         int64_t stride, int64_t keys, int64_t D)
{
    enum { VECTORS = 4 };

    for (int64_t d = 0; d < D; d += VECTORS * LANES) {
        vec sums[VECTORS] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                             _mm512_setzero_ps()};
        __mmask16 masks[VECTORS];
        for (int v = 0; v < VECTORS; v++)
            masks[v] = vec_mask(D - d - v * LANES);
        for (int64_t j = 0; j < keys; j++) {
            const vec weight = _mm512_set1_ps(widen(p[j]));
            prefetch(values + (j + AHEAD) * stride + d, VECTORS * LANES);
            for (int v = 0; v < VECTORS; v++)
                sums[v] = _mm512_fmadd_ps(
                    weight, vec_load(values + j * stride + d + v * LANES, masks[v]), sums[v]);
        }
        for (int v = 0; v < VECTORS; v++)
            vec_store_some(out + d + v * LANES, _mm512_mul_ps(sums[v], _mm512_set1_ps(inverse)),
                           masks[v]);
    }
}

static void token_task(void *context, int task, int thread)
{
    const struct cached_attention *a = context;
    const int64_t D = a->size, width = a->heads * D, keys = a->position + 1;
    const real *q = a->qkv + task * D;
    float *scores = cpu_thread_scratch(a->dev, thread), inverse;
    real *p = (real *)(scores + whole_vectors(keys));

    append_to_cache(a, task);
    for (int64_t j = 0; j < keys; j++) {
        const real *key = a->keys + j * width + task * D;
        prefetch(key + AHEAD * width, D);
        scores[j] = dot(q, key, D);
    }
    softmax_row(p, &inverse, scores, NULL, keys, whole_vectors(keys), scale_of(D));
    weigh_values(a->out + task * D, p, inverse, a->values + task * D, width, keys, D);
}

static enum status attention_cached(struct device *dev, const struct tensor *out,
                                    const struct tensor *cache, const struct tensor *qkv,
                                    int64_t position)
{
    struct cached_attention a = cached_attention_of(dev, out, cache, qkv, position);

    if (a.length > 1)
        return others.attention_cached(dev, out, cache, qkv, position);
    cpu_run(dev, (int)a.heads, token_task, &a);
    return OK;
}

void CPU_NAME(cpu_attention_avx512_ops)(struct op_table *table)
{
    others = *table;
    table->attention_cached = attention_cached;
    /* With tile registers under its products attention.c is the faster one. */
    if (sizeof(real) == 2 && matmul_bf16_has_tiles())
        return;
    table->attention_forward = attention_forward;
    table->attention_backward = attention_backward;
}
