/* attention_forward.cuh - causal attention on tensor cores, without a matrix of scores in memory:
 * Dao, "FlashAttention-2: Faster attention with better parallelism and work partitioning" (2023),
 * algorithm 1.
 *
 * A block owns a tile of queries and goes through the keys from the first to the diagonal. Of each
 * row's softmax it keeps the largest score so far and the sum of the exponentials relative to it;
 * when the largest grows, what was summed before is scaled down. The next keys are on their way
 * meanwhile: k and v have two buffers each. */
#ifndef OCTET_CUDA_ATTENTION_FORWARD_CUH
#define OCTET_CUDA_ATTENTION_FORWARD_CUH

#include "kernels/cuda/attention_tile.cuh"

/* 32 rows for each warp, so that what is read of k and v serves two products. */
template <int D> struct forward_tile {
    static constexpr int M = 2, WARPS = 4, THREADS = 32 * WARPS, ROWS = 16 * M * WARPS;
    static constexpr int KEYS = D < 128 ? 64 : 32;
    static constexpr int BLOCKS = D < 64 ? 3 : 2;   /* on a multiprocessor: limits registers */
    static constexpr bool HOLD = D == 64;           /* q in registers */
    static constexpr size_t SHARED_BYTES = (ROWS + 4 * KEYS) * D * 2;
};

/* Of rows g (second 0) and g + 8 (second 1) of every fragment. */
template <int M> struct row_softmax {
    float largest[M][2];
    float total[M][2];          /* of this lane's columns alone */

    __device__ __forceinline__ void begin()
    {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int second = 0; second < 2; second++) {
                largest[m][second] = -INFINITY;
                total[m][second] = 0;
            }
    }

    /* Scores become exponentials, and `out` is scaled to the new largest score. */
    template <int N, int C>
    __device__ __forceinline__ void add(float (&s)[M][N][4], float (&out)[M][C][4],
                                        float log2_scale)
    {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int second = 0; second < 2; second++) {
                const float before = largest[m][second];
                float now = before, sum = 0;
#pragma unroll
                for (int n = 0; n < N; n++)
                    now = fmaxf(now, fmaxf(s[m][n][2 * second], s[m][n][2 * second + 1]));
                now = lanes_max<4>(now);
                const float base = now * log2_scale, shrink = exp2_fast(before * log2_scale - base);
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int i = 2 * second; i < 2 * second + 2; i++) {
                        s[m][n][i] = exp2_fast(s[m][n][i] * log2_scale - base);
                        sum += s[m][n][i];
                    }
                largest[m][second] = now;
                total[m][second] = total[m][second] * shrink + sum;
#pragma unroll
                for (int n = 0; n < C; n++)
#pragma unroll
                    for (int i = 2 * second; i < 2 * second + 2; i++)
                        out[m][n][i] *= shrink;
            }
    }
};

/* Divide `out` by the totals and write lse. */
template <typename T, int M, int C>
DEVICE_FUNCTION void finish_rows(float (&out)[M][C][4], const row_softmax<M> &softmax,
                                 const attention_forward_call<T> &call, int b, int h, int query)
{
    float *lse = call.lse ? call.lse + (int64_t)(b * call.shape.heads + h) * call.shape.n_queries
                          : nullptr;

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int second = 0; second < 2; second++) {
            const int row = query + 16 * m + 8 * second;
            const float total = lanes_sum<4>(softmax.total[m][second]);
            const float factor = call.dropout.mask.scale / total;
#pragma unroll
            for (int n = 0; n < C; n++)
#pragma unroll
                for (int i = 2 * second; i < 2 * second + 2; i++)
                    out[m][n][i] *= factor;
            if (lse && threadIdx.x % 4 == 0 && row < call.shape.n_queries)
                lse[row] = LN2 * (softmax.largest[m][second] * call.log2_scale + log2f(total));
        }
}

template <typename T, int D, bool DROPS>
__global__ void __launch_bounds__(forward_tile<D>::THREADS, forward_tile<D>::BLOCKS)
attention_forward_kernel(const attention_forward_call<T> call)
{
    using tile = forward_tile<D>;
    constexpr int M = tile::M, ROWS = tile::ROWS, KEYS = tile::KEYS, THREADS = tile::THREADS;
    DYN_SHARED(T, shared);
    const shared_tile<T, D> q_tile = {shared, 0}, k_tiles = q_tile.after(ROWS),
                            v_tiles = k_tiles.after(2 * KEYS);
    const struct attention_sizes shape = call.shape;
    const struct tile_place place = place_of_block(call.order, shape.heads);
    const int b = place.b, h = place.h, position = shape.n_keys - shape.n_queries;
    const int first = (call.order.n_tiles - 1 - place.rank) * ROWS;
    const int row = threadIdx.x / 32 * (16 * M);    /* the warp's first in the tile */
    const int query = first + row + lane_index() / 4, column = lane_index() % 4 * 2;
    const int end = min(position + first + ROWS, shape.n_keys);
    const int warp_end = first + row < shape.n_queries
                             ? min(position + first + row + 16 * M, shape.n_keys) : 0;
    row_operand<T, D, M, tile::HOLD> q = {q_tile, row, {}};
    row_softmax<M> softmax;
    row_dropout<M> dropout;
    float out[M][D / 8][4] = {};

    const auto load_keys = [&](int key, int buffer) {
        load_rows<KEYS, THREADS>(k_tiles.after(buffer), call.k.head(b, h, D), call.k.token, key,
                                 shape.n_keys);
        load_rows<KEYS, THREADS>(v_tiles.after(buffer), call.v.head(b, h, D), call.v.token, key,
                                 shape.n_keys);
        cp_async_commit();
    };

    load_rows<ROWS, THREADS>(q_tile, call.q.head(b, h, D), call.q.token, first, shape.n_queries);
    load_keys(0, 0);
    cp_async_wait<0>();
    __syncthreads();
    q.begin();
    softmax.begin();
    for (int key = 0; key < end; key += KEYS) {
        const int buffer = key / KEYS % 2 * KEYS;
        if (key + KEYS < end)
            load_keys(key + KEYS, KEYS - buffer);
        if (key < warp_end) {
            float s[M][KEYS / 8][4];
            if (DROPS && key % DROPOUT_TILE == 0)
                dropout.draw(call.dropout, b, h, query, key);
            multiply_transposed(s, q, k_tiles.after(buffer));
            if (key + KEYS > position + first + row)
                hide_future(s, key + column, position + query, -INFINITY);
            softmax.add(s, out, call.log2_scale);
            if (DROPS)
                dropout.apply(s, key);
            multiply_add(out, s, v_tiles.after(buffer));
        }
        cp_async_wait<0>();
        __syncthreads();
    }
    finish_rows(out, softmax, call, b, h, query);
    store_rows(call.out.head(b, h, D), call.out.token, out, q_tile, row, first, shape.n_queries);
}

#endif
