/* attention_decode.cuh - attention of one new token over the keys and values of all before it, as
 * fast as these can be read: they are split among blocks, whose parts are put together in order.
 *
 * Rows are read W elements, 16 bytes, at a time. */
#ifndef OCTET_CUDA_ATTENTION_DECODE_CUH
#define OCTET_CUDA_ATTENTION_DECODE_CUH

#include "kernels/cuda/attention_call.cuh"

enum {
    DECODE_THREADS = 128,
    DECODE_BLOCKS = 8,          /* on a multiprocessor; with more, registers spill */
    DECODE_KEYS = 128,          /* of a block */
    DECODE_LANES = 8,           /* that read a key together */
    DECODE_SIZE = 256,          /* D at most */
};

/* Of the keys of one block. */
struct decode_sum {
    float largest;              /* score, for powers of 2 */
    float total;                /* of exponentials relative to it */
};

/* k and v of qkv (T, 3H, D) to rows of the cache, W elements at a time: `width` such packs are H D,
 * n are T H D. */
template <typename T, int W>
__global__ void attention_append_kernel(packed<T, W> *keys, packed<T, W> *values,
                                        const packed<T, W> *qkv, int width, int64_t n)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i >= n)
        return;
    const packed<T, W> *from = qkv + i / width * 3 * width + i % width;
    keys[i] = from[width];
    values[i] = from[2 * width];
}

/* scores[j] of keys first + j; `q` is in shared memory. */
template <int W, typename T>
DEVICE_FUNCTION void decode_scores(float *scores, const float *q, const T *keys, int stride,
                                   int size, int first, int n_keys, float log2_scale)
{
    const int lane = threadIdx.x % DECODE_LANES;

    for (int j = threadIdx.x / DECODE_LANES; j < DECODE_KEYS; j += DECODE_THREADS / DECODE_LANES) {
        const T *key = keys + (int64_t)min(first + j, n_keys - 1) * stride;
        float score = 0;
        for (int c = lane * W; c < size; c += DECODE_LANES * W) {
            float k[W];
            vector_load<W>(k, key + c);
#pragma unroll
            for (int i = 0; i < W; i++)
                score += q[c + i] * k[i];
        }
        score = lanes_sum<DECODE_LANES>(score);
        if (lane == 0)
            scores[j] = first + j < n_keys ? score * log2_scale : -INFINITY;
    }
}

/* Block (split, h). With one split its part is all, and goes to `out`; else to parts (splits, H, D)
 * and sums (splits, H). */
template <typename T>
__global__ void __launch_bounds__(DECODE_THREADS, DECODE_BLOCKS)
attention_decode_kernel(const attention_forward_call<T> call, float *parts, struct decode_sum *sums)
{
    constexpr int W = VECTOR<T>;
    static_assert(DECODE_KEYS == DECODE_THREADS, "a thread for each key's exponential");
    __shared__ float q[DECODE_SIZE], scores[DECODE_KEYS], groups[DECODE_THREADS * W];
    const int size = call.shape.size, n_keys = call.shape.n_keys;
    const int split = blockIdx.x, h = blockIdx.y, first = split * DECODE_KEYS;
    const int vectors = size / W, n_groups = DECODE_THREADS / vectors;
    const int vector = threadIdx.x % vectors, group = threadIdx.x / vectors;
    const T *query = call.q.head(0, h, size), *values = call.v.head(0, h, size);
    float sum[W] = {};

    for (int c = threadIdx.x; c < size; c += DECODE_THREADS)
        q[c] = to_float(query[c]);
    __syncthreads();
    decode_scores<W>(scores, q, call.k.head(0, h, size), call.k.token, size, first, n_keys,
                     call.log2_scale);
    __syncthreads();
    const float score = scores[threadIdx.x], largest = block_max(score);
    const float p = exp2_fast(score - largest);
    const float total = block_sum(p);
    scores[threadIdx.x] = p;
    __syncthreads();

    /* Each group of threads sums some of the values' rows. */
    for (int j = group; j < min(DECODE_KEYS, n_keys - first) && group < n_groups; j += n_groups) {
        float value[W];
        vector_load<W>(value, values + (int64_t)(first + j) * call.v.token + vector * W);
#pragma unroll
        for (int i = 0; i < W; i++)
            sum[i] += scores[j] * value[i];
    }
    if (group < n_groups)
        vector_store<W>(groups + group * size + vector * W, sum);
    __syncthreads();
    for (int c = threadIdx.x; c < size; c += DECODE_THREADS) {
        float all = 0;
        for (int g = 0; g < n_groups; g++)
            all += groups[g * size + c];
        if (gridDim.x == 1)
            call.out.head(0, h, size)[c] = from_float<T>(all / total);
        else
            parts[((int64_t)split * gridDim.y + h) * size + c] = all;
    }
    if (gridDim.x > 1 && threadIdx.x == 0)
        sums[split * gridDim.y + h] = {largest, total};
}

/* Block h: the splits, in order, relative to the largest score of all. */
template <typename T>
__global__ void __launch_bounds__(DECODE_THREADS)
attention_combine_kernel(const attention_forward_call<T> call, const float *parts,
                         const struct decode_sum *sums, int n_splits)
{
    const int size = call.shape.size, h = blockIdx.x, heads = gridDim.x;
    float largest = -INFINITY, total = 0;

    for (int split = 0; split < n_splits; split++)
        largest = fmaxf(largest, sums[split * heads + h].largest);
    for (int split = 0; split < n_splits; split++) {
        const struct decode_sum sum = sums[split * heads + h];
        total += sum.total * exp2_fast(sum.largest - largest);
    }
    for (int c = threadIdx.x; c < size; c += DECODE_THREADS) {
        float all = 0;
        for (int split = 0; split < n_splits; split++)
            all += parts[((int64_t)split * heads + h) * size + c] *
                   exp2_fast(sums[split * heads + h].largest - largest);
        call.out.head(0, h, size)[c] = from_float<T>(all / total);
    }
}

#endif
