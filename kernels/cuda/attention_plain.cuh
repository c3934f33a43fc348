/* attention_plain.cuh - attention without tensor cores, as in attention_forward.cuh and
 * attention_backward.cuh, for float32 and for head sizes that those do not have: any up to P, with
 * zeros behind it.
 *
 * All tiles have as many rows. Of 128 threads, thread (y, x) = (number / 8, number % 8) makes the
 * scores of rows y + 16 i with rows x + 8 j of another tile, and of results the columns 4 (x + 8 c)
 * .. 4 (x + 8 c) + 3; so the eight lanes that share a row sit side by side. */
#ifndef OCTET_CUDA_ATTENTION_PLAIN_CUH
#define OCTET_CUDA_ATTENTION_PLAIN_CUH

#include "kernels/cuda/attention_call.cuh"

enum { PLAIN_THREADS = 128 };

template <int P> struct plain_tile {
    static constexpr int ROWS = P > 128 ? 16 : 32;
    static constexpr int BLOCKS = P > 64 ? 2 : 3;   /* on a multiprocessor: limits registers */
    static constexpr int STRIDE = P + 4, SCORE_STRIDE = ROWS + 4;   /* 16 bytes on: other banks */
    static constexpr int R = ROWS / 16, K = ROWS / 8, C = P / 32;   /* of a thread */
    static constexpr int FLOATS = ROWS * STRIDE, SCORE_FLOATS = ROWS * SCORE_STRIDE;
    static constexpr size_t FORWARD_BYTES = (3 * FLOATS + SCORE_FLOATS) * sizeof(float) +
                                            DROPOUT_BLOCKS * ROWS;
    static constexpr size_t BACKWARD_BYTES = (4 * FLOATS + 2 * SCORE_FLOATS) * sizeof(float) +
                                             DROPOUT_BLOCKS * ROWS;
};

/* Rows first ... of a head; behind its end the last row again, whose results are not used. */
template <int P, typename T>
DEVICE_FUNCTION void plain_load(float *tile, const T *head, int stride, int size, int first,
                                int n_rows)
{
    for (int i = threadIdx.x; i < plain_tile<P>::ROWS * P; i += PLAIN_THREADS) {
        const int row = i / P, column = i % P;
        const T *from = head + (int64_t)min(first + row, n_rows - 1) * stride;
        tile[row * plain_tile<P>::STRIDE + column] = column < size ? to_float(from[column]) : 0;
    }
}

/* c = a b^T, the thread's part; a and b tiles. */
template <int P, int R, int K>
DEVICE_FUNCTION void plain_scores(float (&c)[R][K], const float *a, const float *b, int size)
{
    constexpr int STRIDE = plain_tile<P>::STRIDE;
    const int y = threadIdx.x / 8, x = threadIdx.x % 8;

#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < K; j++)
            c[i][j] = 0;
    for (int column = 0; column < size; column += 4) {
        float u[R][4], w[K][4];
#pragma unroll
        for (int i = 0; i < R; i++)
            vector_load<4>(u[i], a + (y + 16 * i) * STRIDE + column);
#pragma unroll
        for (int j = 0; j < K; j++)
            vector_load<4>(w[j], b + (x + 8 * j) * STRIDE + column);
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < K; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    c[i][j] += u[i][e] * w[j][e];
    }
}

/* The thread's scores to where the others of its rows can read them. */
template <int P, int R, int K>
DEVICE_FUNCTION void plain_share(float *shared, const float (&c)[R][K])
{
    const int y = threadIdx.x / 8, x = threadIdx.x % 8;

#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < K; j++)
            shared[(y + 16 * i) * plain_tile<P>::SCORE_STRIDE + x + 8 * j] = c[i][j];
    __syncwarp();
}

/* c += p b; p shared scores, b a tile. */
template <int P, int R, int C>
DEVICE_FUNCTION void plain_multiply_add(float (&c)[R][C][4], const float *p, const float *b)
{
    using tile = plain_tile<P>;
    const int y = threadIdx.x / 8, x = threadIdx.x % 8;

    for (int k = 0; k < tile::ROWS; k += 4) {
        float u[R][4];
#pragma unroll
        for (int i = 0; i < R; i++)
            vector_load<4>(u[i], p + (y + 16 * i) * tile::SCORE_STRIDE + k);
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int column = 0; column < C; column++) {
                float w[4];
                vector_load<4>(w, b + (k + e) * tile::STRIDE + 4 * (x + 8 * column));
#pragma unroll
                for (int i = 0; i < R; i++)
#pragma unroll
                    for (int f = 0; f < 4; f++)
                        c[i][column][f] += u[i][e] * w[f];
            }
    }
}

template <typename T, int R, int C>
DEVICE_FUNCTION void plain_store(T *head, int stride, int size, const float (&c)[R][C][4],
                                 float factor, int first, int n_rows)
{
    const int y = threadIdx.x / 8, x = threadIdx.x % 8;

#pragma unroll
    for (int i = 0; i < R; i++) {
        const int row = first + y + 16 * i;
#pragma unroll
        for (int column = 0; column < C; column++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int at = 4 * (x + 8 * column) + e;
                if (row < n_rows && at < size)
                    head[(int64_t)row * stride + at] = from_float<T>(c[i][column][e] * factor);
            }
    }
}

/* Whether a query of the tile that was drawn keeps the key. */
template <int P>
DEVICE_FUNCTION bool plain_keeps(const uint8_t *kept, int query, int key)
{
    const int within = key % DROPOUT_TILE;

    return kept[within % DROPOUT_BLOCKS * plain_tile<P>::ROWS + query] >>
           within / DROPOUT_BLOCKS & 1;
}

/* ---- forward ---- */

/* One step of the online softmax: the thread's scores become probabilities relative to the largest
 * score so far, and `out` and `total`, this thread's part of the sum, are scaled to it. */
template <int P, int R, int K, int C>
DEVICE_FUNCTION void plain_softmax(float (&s)[R][K], float (&out)[R][C][4], float (&largest)[R],
                                   float (&total)[R], float log2_scale)
{
#pragma unroll
    for (int i = 0; i < R; i++) {
        float now = largest[i];
#pragma unroll
        for (int j = 0; j < K; j++)
            now = fmaxf(now, s[i][j]);
        now = lanes_max<8>(now);
        const float shrink = exp2_fast((largest[i] - now) * log2_scale);
        largest[i] = now;
        total[i] *= shrink;
#pragma unroll
        for (int j = 0; j < K; j++) {
            s[i][j] = exp2_fast((s[i][j] - now) * log2_scale);
            total[i] += s[i][j];
        }
#pragma unroll
        for (int column = 0; column < C; column++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                out[i][column][e] *= shrink;
    }
}

template <int P, int R, int K>
DEVICE_FUNCTION void plain_drop(float (&p)[R][K], const uint8_t *kept, int key)
{
    const int y = threadIdx.x / 8, x = threadIdx.x % 8;

#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < K; j++)
            if (!plain_keeps<P>(kept, y + 16 * i, key + x + 8 * j))
                p[i][j] = 0;
}

template <typename T, int P>
__global__ void __launch_bounds__(PLAIN_THREADS, plain_tile<P>::BLOCKS)
attention_plain_forward_kernel(const attention_forward_call<T> call)
{
    using tile = plain_tile<P>;
    constexpr int ROWS = tile::ROWS, R = tile::R, K = tile::K, C = tile::C;
    DYN_SHARED(float, q_tile);
    float *k_tile = q_tile + tile::FLOATS, *v_tile = k_tile + tile::FLOATS;
    float *p_tile = v_tile + tile::FLOATS;
    uint8_t *kept = (uint8_t *)(p_tile + tile::SCORE_FLOATS);
    const struct attention_sizes shape = call.shape;
    const struct tile_place place = place_of_block(call.order, shape.heads);
    const int b = place.b, h = place.h, size = shape.size, y = threadIdx.x / 8, x = threadIdx.x % 8;
    const int first = (call.order.n_tiles - 1 - place.rank) * ROWS;
    const int position = shape.n_keys - shape.n_queries;
    const int end = min(position + first + ROWS, shape.n_keys);
    const bool drops = call.dropout.mask.threshold > 0;
    float out[R][C][4] = {}, largest[R], total[R] = {};

#pragma unroll
    for (int i = 0; i < R; i++)
        largest[i] = -INFINITY;
    plain_load<P>(q_tile, call.q.head(b, h, size), call.q.token, size, first, shape.n_queries);
    for (int key = 0; key < end; key += ROWS) {
        float s[R][K];
        __syncthreads();        /* all are done with the tiles before */
        plain_load<P>(k_tile, call.k.head(b, h, size), call.k.token, size, key, shape.n_keys);
        plain_load<P>(v_tile, call.v.head(b, h, size), call.v.token, size, key, shape.n_keys);
        if (drops && key % DROPOUT_TILE == 0)
            draw_dropout<ROWS, ROWS, PLAIN_THREADS>(kept, call.dropout, b, h, first, key);
        __syncthreads();
        plain_scores<P>(s, q_tile, k_tile, size);
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < K; j++)
                if (key + x + 8 * j > position + first + y + 16 * i)
                    s[i][j] = -INFINITY;
        plain_softmax<P>(s, out, largest, total, call.log2_scale);
        if (drops)
            plain_drop<P>(s, kept, key);
        plain_share<P>(p_tile, s);
        plain_multiply_add<P>(out, p_tile, v_tile);
    }
#pragma unroll
    for (int i = 0; i < R; i++) {
        const int query = first + y + 16 * i;
        total[i] = lanes_sum<8>(total[i]);
#pragma unroll
        for (int column = 0; column < C; column++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                out[i][column][e] /= total[i];
        if (call.lse && x == 0 && query < shape.n_queries)
            call.lse[(int64_t)(b * shape.heads + h) * shape.n_queries + query] =
                LN2 * (largest[i] * call.log2_scale + log2f(total[i]));
    }
    plain_store(call.out.head(b, h, size), call.out.token, size, out, call.dropout.mask.scale,
                first, shape.n_queries);
}

/* ---- backward ---- */

/* The gradients of the thread's scores; rows are keys where KEYS_FIRST, else queries. */
template <int P, bool KEYS_FIRST, int R, int K>
DEVICE_FUNCTION void plain_gradients(float (&s)[R][K], float (&dp)[R][K],
                                     const struct attention_row *rows, const uint8_t *kept,
                                     int first_query, int first_key, int length, float log2_scale,
                                     const struct dropout_mask &mask)
{
    const int y = threadIdx.x / 8, x = threadIdx.x % 8;

#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < K; j++) {
            const int query = KEYS_FIRST ? x + 8 * j : y + 16 * i, at = first_query + query;
            const int key = first_key + (KEYS_FIRST ? y + 16 * i : x + 8 * j);
            const bool keep = mask.threshold == 0 || plain_keeps<P>(kept, query, key);
            score_gradient(s[i][j], dp[i][j], rows[min(at, length - 1)], keep, log2_scale,
                           mask.scale);
            if (key > at || at >= length)
                s[i][j] = dp[i][j] = 0;
        }
}

template <typename T, int P>
__global__ void __launch_bounds__(PLAIN_THREADS, plain_tile<P>::BLOCKS)
attention_plain_keys_kernel(const attention_backward_call<T> call)
{
    using tile = plain_tile<P>;
    constexpr int ROWS = tile::ROWS, R = tile::R, K = tile::K, C = tile::C;
    DYN_SHARED(float, k_tile);
    float *v_tile = k_tile + tile::FLOATS, *q_tile = v_tile + tile::FLOATS;
    float *dout_tile = q_tile + tile::FLOATS, *p_tile = dout_tile + tile::FLOATS;
    float *ds_tile = p_tile + tile::SCORE_FLOATS;
    uint8_t *kept = (uint8_t *)(ds_tile + tile::SCORE_FLOATS);
    const struct attention_sizes shape = call.shape;
    const struct tile_place place = place_of_block(call.order, shape.heads);
    const int b = place.b, h = place.h, size = shape.size, length = shape.n_keys;
    const int first = place.rank * ROWS;
    const struct attention_row *rows = call.rows + (int64_t)(b * shape.heads + h) * length;
    float dk[R][C][4] = {}, dv[R][C][4] = {};

    plain_load<P>(k_tile, call.k.head(b, h, size), call.k.token, size, first, length);
    plain_load<P>(v_tile, call.v.head(b, h, size), call.v.token, size, first, length);
    for (int query = first; query < length; query += ROWS) {
        float s[R][K], dp[R][K];
        __syncthreads();
        plain_load<P>(q_tile, call.q.head(b, h, size), call.q.token, size, query, length);
        plain_load<P>(dout_tile, call.dout.head(b, h, size), call.dout.token, size, query, length);
        if (call.dropout.mask.threshold > 0)
            draw_dropout<ROWS, ROWS, PLAIN_THREADS>(kept, call.dropout, b, h, query, first);
        __syncthreads();
        plain_scores<P>(s, k_tile, q_tile, size);
        plain_scores<P>(dp, v_tile, dout_tile, size);
        plain_gradients<P, true>(s, dp, rows, kept, query, first, length, call.log2_scale,
                                 call.dropout.mask);
        plain_share<P>(p_tile, s);
        plain_share<P>(ds_tile, dp);
        plain_multiply_add<P>(dv, p_tile, dout_tile);
        plain_multiply_add<P>(dk, ds_tile, q_tile);
    }
    plain_store(call.dk.head(b, h, size), call.dk.token, size, dk, call.scale, first, length);
    plain_store(call.dv.head(b, h, size), call.dv.token, size, dv, call.dropout.mask.scale, first,
                length);
}

template <typename T, int P>
__global__ void __launch_bounds__(PLAIN_THREADS, plain_tile<P>::BLOCKS)
attention_plain_queries_kernel(const attention_backward_call<T> call)
{
    using tile = plain_tile<P>;
    constexpr int ROWS = tile::ROWS, R = tile::R, K = tile::K, C = tile::C;
    DYN_SHARED(float, q_tile);
    float *dout_tile = q_tile + tile::FLOATS, *k_tile = dout_tile + tile::FLOATS;
    float *v_tile = k_tile + tile::FLOATS, *ds_tile = v_tile + tile::FLOATS;
    uint8_t *kept = (uint8_t *)(ds_tile + tile::SCORE_FLOATS);
    const struct attention_sizes shape = call.shape;
    const struct tile_place place = place_of_block(call.order, shape.heads);
    const int b = place.b, h = place.h, size = shape.size, length = shape.n_keys;
    const int first = (call.order.n_tiles - 1 - place.rank) * ROWS;
    const int end = min(first + ROWS, length);
    const struct attention_row *rows = call.rows + (int64_t)(b * shape.heads + h) * length;
    float dq[R][C][4] = {};

    plain_load<P>(q_tile, call.q.head(b, h, size), call.q.token, size, first, length);
    plain_load<P>(dout_tile, call.dout.head(b, h, size), call.dout.token, size, first, length);
    for (int key = 0; key < end; key += ROWS) {
        float s[R][K], dp[R][K];
        __syncthreads();
        plain_load<P>(k_tile, call.k.head(b, h, size), call.k.token, size, key, length);
        plain_load<P>(v_tile, call.v.head(b, h, size), call.v.token, size, key, length);
        if (call.dropout.mask.threshold > 0 && key % DROPOUT_TILE == 0)
            draw_dropout<ROWS, ROWS, PLAIN_THREADS>(kept, call.dropout, b, h, first, key);
        __syncthreads();
        plain_scores<P>(s, q_tile, k_tile, size);
        plain_scores<P>(dp, dout_tile, v_tile, size);
        plain_gradients<P, false>(s, dp, rows, kept, first, key, length, call.log2_scale,
                                  call.dropout.mask);
        plain_share<P>(ds_tile, dp);
        plain_multiply_add<P>(dq, ds_tile, k_tile);
    }
    plain_store(call.dq.head(b, h, size), call.dq.token, size, dq, call.scale, first, length);
}

#endif
