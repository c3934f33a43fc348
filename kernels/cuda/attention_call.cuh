/* attention_call.cuh - what all attention kernels are told, and which block takes which work. */
#ifndef OCTET_CUDA_ATTENTION_CALL_CUH
#define OCTET_CUDA_ATTENTION_CALL_CUH

#include "kernels/cuda/attention_dropout.cuh"
#include "kernels/cuda/ptx.h"

constexpr float LN2 = 0.69314718f, LOG2E = 1.44269504f;

/* One kind of rows (q, k, dout, ...) of all sequences and heads, as they lie in a tensor. Distances
 * are in elements. */
template <typename T> struct head_rows {
    T *data;
    int64_t sequence;           /* from one sequence to the next */
    int token;                  /* from one token to the next */

    __device__ __forceinline__ T *head(int b, int h, int size) const
    {
        return data + b * sequence + (int64_t)h * size;
    }
};

struct attention_sizes {
    int heads, size;            /* H, D */
    int n_queries, n_keys;      /* of each sequence; the queries are the last of the keys */
};

/* Every block makes one tile of one head. Blocks start in the order of their numbers: heads go in
 * sections whose k and v fit in the L2 cache together, and within a section the longest work comes
 * first, so that short work fills the end. */
struct tile_order {
    int n_heads;                /* of all sequences */
    int n_tiles;                /* of a head */
    int section;                /* heads */
};

struct tile_place {
    int b, h;
    int rank;                   /* among the head's tiles, 0 the longest */
};

DEVICE_FUNCTION struct tile_place place_of_block(const struct tile_order &order, int heads)
{
    const int number = blockIdx.x, per_section = order.section * order.n_tiles;
    const int first_head = number / per_section * order.section;
    const int n_heads = min(order.section, order.n_heads - first_head);
    const int within = number % per_section, head = first_head + within % n_heads;

    return {head / heads, head % heads, within / n_heads};
}

template <typename T> struct attention_forward_call {
    head_rows<const T> q, k, v;
    head_rows<T> out;
    float *lse;                 /* (B, H, queries), or NULL */
    struct attention_sizes shape;
    struct tile_order order;
    float log2_scale;           /* of scores, for powers of 2: log2(e) / sqrt(D) */
    struct attention_dropout dropout;
};

/* Of a query and head: what its probabilities and their gradients need. */
struct alignas(8) attention_row {
    float log2_sum;             /* lse, for powers of 2 */
    float delta;                /* dout . out */
};

template <typename T> struct attention_backward_call {
    head_rows<const T> q, k, v, dout;
    head_rows<T> dq, dk, dv;
    const struct attention_row *rows;   /* (B, H, T) */
    struct attention_sizes shape;
    struct tile_order order;
    float scale, log2_scale;            /* of scores: 1 / sqrt(D), and that times log2(e) */
    struct attention_dropout dropout;
};

/* Of one query and key: the score becomes the probability p, or 0 if it is dropped, and dout v^T
 * becomes the score's gradient ds. With f what dropout multiplies by,
 *     dp = f dout v^T    ds = p (dp - sum over keys p dp) = p (dp - dout . out). */
DEVICE_FUNCTION void score_gradient(float &s, float &dp, const struct attention_row &row, bool keep,
                                    float log2_scale, float keep_scale)
{
    const float p = exp2_fast(s * log2_scale - row.log2_sum);

    s = keep ? p : 0;
    dp = p * ((keep ? dp * keep_scale : 0) - row.delta);
}

/* Over each L lanes side by side. */
template <int L> DEVICE_FUNCTION float lanes_sum(float x)
{
#pragma unroll
    for (int distance = 1; distance < L; distance *= 2)
        x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}
template <int L> DEVICE_FUNCTION float lanes_max(float x)
{
#pragma unroll
    for (int distance = 1; distance < L; distance *= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, distance));
    return x;
}

/* Four lanes for each row of (B, T, H), W elements at a time. */
template <typename T, int W>
__global__ void attention_rows_kernel(struct attention_row *rows, const T *dout, const T *out,
                                      const float *lse, struct attention_sizes shape, int64_t n)
{
    const int64_t number = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 4;
    const int64_t row = number < n ? number : n - 1;    /* every lane takes part in the sum */
    const int64_t sequence = row / shape.heads / shape.n_queries;
    const int t = (int)(row / shape.heads % shape.n_queries), h = (int)(row % shape.heads);
    const int64_t to = (sequence * shape.heads + h) * shape.n_queries + t;
    float delta = 0;

    for (int c = threadIdx.x % 4 * W; c < shape.size; c += 4 * W) {
        float x[W], y[W];
        vector_load<W>(x, dout + row * shape.size + c);
        vector_load<W>(y, out + row * shape.size + c);
#pragma unroll
        for (int i = 0; i < W; i++)
            delta += x[i] * y[i];
    }
    delta = lanes_sum<4>(delta);
    if (threadIdx.x % 4 == 0 && number < n)
        rows[to] = {lse[to] * LOG2E, delta};
}

#endif
