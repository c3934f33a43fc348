/* attention_backward.cuh - the gradients of causal attention on tensor cores: Dao,
 * "FlashAttention-2" (2023), algorithm 2, in two kernels. The blocks of one own tiles of keys and
 * sum dk and dv over the queries, those of the other own tiles of queries and sum dq over the keys:
 * so every sum has a fixed order, and no memory is added to by several blocks. The price is that
 * both make the probabilities again.
 *
 * With p the probabilities, f what dropout multiplies them by, and ds the scores' gradients, which
 * score_gradient() makes: dv = (f p)^T dout, dk = ds^T q / sqrt(D), dq = ds k / sqrt(D). */
#ifndef OCTET_CUDA_ATTENTION_BACKWARD_CUH
#define OCTET_CUDA_ATTENTION_BACKWARD_CUH

#include "kernels/cuda/attention_tile.cuh"

/* ---- dk and dv ---- */

/* Scores are made with keys as rows: p^T and ds^T then are where the next products want them. */
template <int D> struct keys_tile {
    static constexpr int M = D < 128 ? 2 : 1, WARPS = 8 / M, THREADS = 32 * WARPS;
    static constexpr int ROWS = 16 * M * WARPS, QUERIES = 32;
    static constexpr int BLOCKS = D < 128 ? 2 : 1;
    static constexpr bool HOLD = D == 32;           /* k and v in registers */
    static constexpr int KEPT_STRIDE = QUERIES + 4; /* eight rows of bytes in different banks */
    static constexpr int TILES_BYTES = (2 * ROWS + 4 * QUERIES) * D * 2;
    static constexpr int ROWS_BYTES = 2 * QUERIES * (int)sizeof(struct attention_row);
    static constexpr int KEPT_BYTES = 2 * DROPOUT_BLOCKS * KEPT_STRIDE;
    static constexpr size_t shared_bytes(bool drops)
    {
        return TILES_BYTES + ROWS_BYTES + (drops ? KEPT_BYTES : 0);
    }
};

/* Scores and products dout v^T, transposed, become f p, but for the scale, and ds. `kept` holds the
 * bytes that draw_dropout() drew; `bit` of them is about the warp's first 16 keys. */
template <bool DROPS, int STRIDE, int M, int N>
DEVICE_FUNCTION void key_gradients(float (&s)[M][N][4], float (&dp)[M][N][4],
                                   const struct attention_row *rows, const uint8_t *kept, int bit,
                                   float log2_scale, float keep_scale)
{
    const int g = lane_index() / 4, q = lane_index() % 4;

#pragma unroll
    for (int n = 0; n < N; n++) {
        const int query = 8 * n + 2 * q;
        float pair[4];          /* of struct attention_row */
        uint32_t bytes[2] = {}; /* of keys g and g + 8, for both queries */
        vector_load<4>(pair, (const float *)(rows + query));
#pragma unroll
        for (int second = 0; DROPS && second < 2; second++)
            bytes[second] = *(const uint16_t *)&kept[(g + 8 * second) * STRIDE + query] >> bit;
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const bool keep = !DROPS || (bytes[i / 2] >> (8 * (i % 2) + m) & 1);
                const struct attention_row row = {pair[i % 2 * 2], pair[i % 2 * 2 + 1]};
                score_gradient(s[m][n][i], dp[m][n][i], row, keep, log2_scale, keep_scale);
            }
    }
}

/* Nothing comes from queries before the key, nor from those behind the last. */
template <int M, int N>
DEVICE_FUNCTION void hide_past(float (&p)[M][N][4], float (&ds)[M][N][4], int key, int query,
                               int n_queries)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int at = query + 8 * n + i % 2;
                if (at < key + 16 * m + i / 2 * 8 || at >= n_queries)
                    p[m][n][i] = ds[m][n][i] = 0;
            }
}

template <int M, int N> DEVICE_FUNCTION void multiply_all(float (&c)[M][N][4], float factor)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                c[m][n][i] *= factor;
}

template <typename T, int D, bool DROPS>
__global__ void __launch_bounds__(keys_tile<D>::THREADS, keys_tile<D>::BLOCKS)
attention_backward_keys_kernel(const attention_backward_call<T> call)
{
    using tile = keys_tile<D>;
    constexpr int M = tile::M, ROWS = tile::ROWS, QUERIES = tile::QUERIES, THREADS = tile::THREADS;
    constexpr int STRIDE = tile::KEPT_STRIDE, KEPT = DROPOUT_BLOCKS * STRIDE;
    DYN_SHARED(T, shared);
    const shared_tile<T, D> k_tile = {shared, 0}, v_tile = k_tile.after(ROWS),
                            q_tiles = v_tile.after(ROWS), dout_tiles = q_tiles.after(2 * QUERIES);
    struct attention_row *rows = (struct attention_row *)((char *)shared + tile::TILES_BYTES);
    uint8_t *kept = (uint8_t *)(rows + 2 * QUERIES);
    const struct tile_place place = place_of_block(call.order, call.shape.heads);
    const int b = place.b, h = place.h, length = call.shape.n_keys;
    const int first = place.rank * ROWS;
    const int row = threadIdx.x / 32 * (16 * M), key = first + row;     /* the warp's first */
    row_operand<T, D, M, tile::HOLD> k = {k_tile, row, {}}, v = {v_tile, row, {}};
    float dk[M][D / 8][4] = {}, dv[M][D / 8][4] = {};

    /* Begin to fetch QUERIES queries and their rows; draw what dropout keeps of them. */
    const auto load_queries = [&](int query, int buffer) {
        const struct attention_row *from = call.rows + (int64_t)(b * call.shape.heads + h) * length;
        const int thread = threadIdx.x;
        load_rows<QUERIES, THREADS>(q_tiles.after(buffer), call.q.head(b, h, D), call.q.token,
                                    query, length);
        load_rows<QUERIES, THREADS>(dout_tiles.after(buffer), call.dout.head(b, h, D),
                                    call.dout.token, query, length);
        if (thread < QUERIES)
            cp_async_8(&rows[buffer + thread], from + min(query + thread, length - 1));
        cp_async_commit();
        if (DROPS)
            draw_dropout<QUERIES, STRIDE, THREADS>(kept + buffer / QUERIES * KEPT, call.dropout, b,
                                                   h, query, first);
    };

    load_rows<ROWS, THREADS>(k_tile, call.k.head(b, h, D), call.k.token, first, length);
    load_rows<ROWS, THREADS>(v_tile, call.v.head(b, h, D), call.v.token, first, length);
    load_queries(first, 0);
    cp_async_wait<0>();
    __syncthreads();
    k.begin();
    v.begin();
    for (int query = first; query < length; query += QUERIES) {
        const int buffer = (query - first) / QUERIES % 2 * QUERIES;
        if (query + QUERIES < length)
            load_queries(query + QUERIES, QUERIES - buffer);
        if (key < query + QUERIES && key < length) {
            float s[M][QUERIES / 8][4], dp[M][QUERIES / 8][4];
            multiply_transposed(s, k, q_tiles.after(buffer));
            multiply_transposed(dp, v, dout_tiles.after(buffer));
            key_gradients<DROPS, STRIDE>(s, dp, rows + buffer, kept + buffer / QUERIES * KEPT,
                                         row / 16, call.log2_scale, call.dropout.mask.scale);
            if (query < key + 16 * M || query + QUERIES > length)
                hide_past(s, dp, key + lane_index() / 4, query + lane_index() % 4 * 2, length);
            multiply_add(dv, s, dout_tiles.after(buffer));
            multiply_add(dk, dp, q_tiles.after(buffer));
        }
        cp_async_wait<0>();
        __syncthreads();
    }
    multiply_all(dk, call.scale);
    multiply_all(dv, call.dropout.mask.scale);
    store_rows(call.dk.head(b, h, D), call.dk.token, dk, k_tile, row, first, length);
    store_rows(call.dv.head(b, h, D), call.dv.token, dv, v_tile, row, first, length);
}

/* ---- dq ---- */

template <int D> struct queries_tile {
    static constexpr int M = D < 128 ? 2 : 1, WARPS = 8 / M, THREADS = 32 * WARPS;
    static constexpr int ROWS = 16 * M * WARPS, KEYS = 32;
    static constexpr int BLOCKS = D < 128 ? 2 : 1;
    static constexpr bool HOLD = D == 32;           /* q and dout in registers */
    static constexpr size_t SHARED_BYTES = (2 * ROWS + 4 * KEYS) * D * 2;
};

/* Scores and products dout v^T become p, which is not needed any more, and ds. */
template <bool DROPS, int M, int N>
DEVICE_FUNCTION void query_gradients(float (&s)[M][N][4], float (&dp)[M][N][4],
                                     const struct attention_row (&rows)[M][2],
                                     const row_dropout<M> &dropout, int key, float log2_scale,
                                     float keep_scale)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const bool keep = !DROPS || dropout.keeps(m, n, i, key);
                score_gradient(s[m][n][i], dp[m][n][i], rows[m][i / 2], keep, log2_scale,
                               keep_scale);
            }
}

template <typename T, int D, bool DROPS>
__global__ void __launch_bounds__(queries_tile<D>::THREADS, queries_tile<D>::BLOCKS)
attention_backward_queries_kernel(const attention_backward_call<T> call)
{
    using tile = queries_tile<D>;
    constexpr int M = tile::M, ROWS = tile::ROWS, KEYS = tile::KEYS, THREADS = tile::THREADS;
    DYN_SHARED(T, shared);
    const shared_tile<T, D> q_tile = {shared, 0}, dout_tile = q_tile.after(ROWS),
                            k_tiles = dout_tile.after(ROWS), v_tiles = k_tiles.after(2 * KEYS);
    const struct tile_place place = place_of_block(call.order, call.shape.heads);
    const int b = place.b, h = place.h, length = call.shape.n_keys;
    const int first = (call.order.n_tiles - 1 - place.rank) * ROWS;
    const int row = threadIdx.x / 32 * (16 * M);    /* the warp's first in the tile */
    const int query = first + row + lane_index() / 4, column = lane_index() % 4 * 2;
    const int end = min(first + ROWS, length);
    const int warp_end = first + row < length ? min(first + row + 16 * M, length) : 0;
    row_operand<T, D, M, tile::HOLD> q = {q_tile, row, {}}, dout = {dout_tile, row, {}};
    struct attention_row rows[M][2];
    row_dropout<M> dropout;
    float dq[M][D / 8][4] = {};

    const auto load_keys = [&](int key, int buffer) {
        load_rows<KEYS, THREADS>(k_tiles.after(buffer), call.k.head(b, h, D), call.k.token, key,
                                 length);
        load_rows<KEYS, THREADS>(v_tiles.after(buffer), call.v.head(b, h, D), call.v.token, key,
                                 length);
        cp_async_commit();
    };

    load_rows<ROWS, THREADS>(q_tile, call.q.head(b, h, D), call.q.token, first, length);
    load_rows<ROWS, THREADS>(dout_tile, call.dout.head(b, h, D), call.dout.token, first, length);
    load_keys(0, 0);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int second = 0; second < 2; second++)
            rows[m][second] = call.rows[(int64_t)(b * call.shape.heads + h) * length +
                                        min(query + 16 * m + 8 * second, length - 1)];
    cp_async_wait<0>();
    __syncthreads();
    q.begin();
    dout.begin();
    for (int key = 0; key < end; key += KEYS) {
        const int buffer = key / KEYS % 2 * KEYS;
        if (key + KEYS < end)
            load_keys(key + KEYS, KEYS - buffer);
        if (key < warp_end) {
            float s[M][KEYS / 8][4], dp[M][KEYS / 8][4];
            if (DROPS && key % DROPOUT_TILE == 0)
                dropout.draw(call.dropout, b, h, query, key);
            multiply_transposed(s, q, k_tiles.after(buffer));
            multiply_transposed(dp, dout, v_tiles.after(buffer));
            query_gradients<DROPS>(s, dp, rows, dropout, key, call.log2_scale,
                                   call.dropout.mask.scale);
            if (key + KEYS > first + row)
                hide_future(dp, key + column, query, 0.0f);
            multiply_add(dq, dp, k_tiles.after(buffer));
        }
        cp_async_wait<0>();
        __syncthreads();
    }
    multiply_all(dq, call.scale);
    store_rows(call.dq.head(b, h, D), call.dq.token, dq, q_tile, row, first, length);
}

#endif
