/* top_logits.cu - the largest logits of a row: what a token is drawn from.
 *
 * A logit and its index make a key, a whole number. No two keys are equal, so the k largest are the
 * same whichever thread finds them. A block keeps the k largest of a tile of keys; what all blocks
 * kept is a shorter list, which is cut in tiles again, until there is only one, whose k largest are
 * ranked. For 50304 logits and k up to 315 that makes two kernels, of 13 blocks and of one: each
 * waits for memory, barriers and launches rather than for bandwidth. */
#include <math.h>

#include <utility>

#include "kernels/cuda/vector.cuh"

namespace {

enum {
    THREADS = 512,
    ITEMS = 8,                  /* keys of a thread */
    TILE = THREADS * ITEMS,
    WARPS = THREADS / LANES,
};
static_assert(2 * OPS_TOP_MAX <= TILE, "lists must become shorter");

/* ---- keys ---- */

constexpr uint32_t ZERO = 1u << 31;

/* The bits that are set in rank_of() any number of type T. */
template <typename T> constexpr uint32_t RANK_BITS = 0xffffffffu;
template <> constexpr uint32_t RANK_BITS<__nv_bfloat16> = 0xffff0000u;
template <> constexpr uint32_t RANK_BITS<__half> = 0xffffe000u;

/* Ranks are ordered as the numbers are, with both zeros equal; NaN and infinity are a NaN that is
 * above all numbers. No rank is 0. */
DEVICE_FUNCTION uint32_t rank_of(float x)
{
    const uint32_t bits = __float_as_uint(x < INFINITY ? x : __uint_as_float(0x7fc00000u));
    const uint32_t size = bits & ~ZERO;

    return bits == size ? ZERO + size : ZERO - size;
}

DEVICE_FUNCTION float rank_value(uint32_t rank)
{
    return rank >= ZERO ? __uint_as_float(rank - ZERO) : -__uint_as_float(ZERO - rank);
}

/* A rank, and below it how many logits follow: of equals the first has the largest key. 0 is no
 * logit's. */
DEVICE_FUNCTION uint64_t key_of(float x, int index, int n)
{
    return (uint64_t)rank_of(x) << 32 | (uint32_t)(n - 1 - index);
}

/* The bits that are set in any key of n logits of type T. */
template <typename T> uint64_t key_bits(int64_t n)
{
    uint64_t index_bits = 0;

    while ((int64_t)index_bits < n - 1)
        index_bits = 2 * index_bits + 1;
    return (uint64_t)RANK_BITS<T> << 32 | index_bits;
}

/* ---- a block's tile ---- */

/* Of n logits. Vectors begin where memory is aligned for them, which may be before the first. */
template <typename T>
DEVICE_FUNCTION void read_logits(uint64_t (&keys)[ITEMS], const T *logits, int n)
{
    const int before = (int)((uintptr_t)logits % 16 / sizeof(T));

#pragma unroll
    for (int i = 0; i < ITEMS; i += VECTOR<T>) {
        const int first = (int)blockIdx.x * TILE + i * THREADS + (int)threadIdx.x * VECTOR<T> -
                          before;
        float x[VECTOR<T>];
        if (first >= 0 && first + VECTOR<T> <= n) {
            vector_load<VECTOR<T>>(x, logits + first);
        } else {
#pragma unroll
            for (int j = 0; j < VECTOR<T>; j++)
                x[j] = first + j >= 0 && first + j < n ? to_float(logits[first + j]) : 0;
        }
#pragma unroll
        for (int j = 0; j < VECTOR<T>; j++) {
            const int index = first + j;
            keys[i + j] = index >= 0 && index < n ? key_of(x[j], index, n) : 0;
        }
    }
}

/* Of a list of n keys. */
DEVICE_FUNCTION void read_keys(uint64_t (&keys)[ITEMS], const uint64_t *list, int n)
{
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        const int at = (int)blockIdx.x * TILE + i * THREADS + (int)threadIdx.x;
        keys[i] = at < n ? list[at] : 0;
    }
}

/* How many of the block's keys reach `limit`. `turn` is 0 and 1 by turns, so that one barrier is
 * enough. */
DEVICE_FUNCTION int count_from(uint64_t limit, const uint64_t (&keys)[ITEMS], int turn)
{
    __shared__ int counts[2][WARPS];
    const int lane = lane_index();
    int count = 0;

#pragma unroll
    for (int i = 0; i < ITEMS; i++)
        count += keys[i] >= limit;
    count = __reduce_add_sync(0xffffffffu, count);
    if (lane == 0)
        counts[turn][threadIdx.x / LANES] = count;
    __syncthreads();
    return __reduce_add_sync(0xffffffffu, lane < WARPS ? counts[turn][lane] : 0);
}

/* A limit that k of the block's keys reach, found bit by bit from the highest; 0 if there are no k
 * keys. */
DEVICE_FUNCTION uint64_t limit_of(const uint64_t (&keys)[ITEMS], int k, uint64_t bits)
{
    uint64_t limit = 0;
    int turn = 0;

    for (uint64_t bit = (uint64_t)1 << 63; bit > 0; bit >>= 1) {
        if (!(bits & bit))
            continue;
        const int count = count_from(limit | bit, keys, turn);
        turn = 1 - turn;
        if (count >= k)
            limit |= bit;
        if (count == k)
            break;
    }
    return limit;
}

/* best (k): the block's largest keys in any order; 0 behind them where there are no k. */
DEVICE_FUNCTION void keep_largest(uint64_t *best, const uint64_t (&keys)[ITEMS], int k,
                                  uint64_t bits)
{
    __shared__ int n_kept;
    const uint64_t limit = limit_of(keys, k, bits);

    if (threadIdx.x == 0)
        n_kept = 0;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ITEMS; i++)
        if (keys[i] > 0 && keys[i] >= limit)
            best[atomicAdd(&n_kept, 1)] = keys[i];
    __syncthreads();
    for (int i = n_kept + (int)threadIdx.x; i < k; i += THREADS)
        best[i] = 0;
}

/* ---- kernels ---- */

/* best (blocks, k). */
template <typename T> __global__ void __launch_bounds__(THREADS)
top_tiles_kernel(uint64_t *best, const T *logits, int n, int k, uint64_t bits)
{
    uint64_t keys[ITEMS];

    read_logits(keys, logits, n);
    keep_largest(best + (int64_t)blockIdx.x * k, keys, k, bits);
}

/* The same of a list of n keys. */
__global__ void __launch_bounds__(THREADS)
top_merge_kernel(uint64_t *best, const uint64_t *list, int n, int k, uint64_t bits)
{
    uint64_t keys[ITEMS];

    read_keys(keys, list, n);
    keep_largest(best + (int64_t)blockIdx.x * k, keys, k, bits);
}

/* The k largest of a list of n keys, which one block can hold; `n_logits` made them. For each key
 * the larger ones are counted: for the usual k that takes less time than the barriers of a sort. */
__global__ void __launch_bounds__(THREADS)
top_rank_kernel(float *values, int32_t *ids, const uint64_t *list, int n, int k, uint64_t bits,
                int n_logits)
{
    __shared__ uint64_t best[OPS_TOP_MAX];
    uint64_t keys[ITEMS];

    read_keys(keys, list, n);
    keep_largest(best, keys, k, bits);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < k; i += THREADS) {
        const uint64_t key = best[i];
        int place = 0;
#pragma unroll 8
        for (int j = 0; j < k; j++)
            place += best[j] > key;
        values[place] = rank_value((uint32_t)(key >> 32));
        ids[place] = n_logits - 1 - (int)(uint32_t)key;
    }
}

/* Lists of keys: the first, and the second, which is not longer. */
size_t list_size(int64_t n_logits, int64_t k)
{
    /* A tile more, because the first one may begin before the logits. */
    return (size_t)((blocks_for(n_logits, TILE) + 1) * k) * sizeof(uint64_t);
}

template <typename T>
enum status top_logits_of(struct device *dev, const struct tensor *values,
                          const struct tensor *ids, const struct tensor *logits, int64_t n)
{
    const int k = (int)values->shape[0];
    const int64_t before = (int64_t)((uintptr_t)logits->data % 16 / sizeof(T));
    const uint64_t bits = key_bits<T>(n);
    uint64_t *list = (uint64_t *)cuda_device(dev)->scratch;
    uint64_t *other = list + list_size(n, k) / sizeof *list;
    unsigned blocks = (unsigned)blocks_for(before + n, TILE);

    LAUNCH((top_tiles_kernel<T>), blocks, THREADS, 0, cuda_stream(dev), list,
           tensor_data<T>(logits), (int)n, k, bits);
    int n_keys = (int)blocks * k;
    while (n_keys > TILE) {
        blocks = (unsigned)blocks_for(n_keys, TILE);
        LAUNCH(top_merge_kernel, blocks, THREADS, 0, cuda_stream(dev), other, list, n_keys, k,
               bits);
        n_keys = (int)blocks * k;
        std::swap(list, other);
    }
    LAUNCH(top_rank_kernel, 1, THREADS, 0, cuda_stream(dev), tensor_data<float>(values),
           tensor_data<int32_t>(ids), list, n_keys, k, bits, (int)n);
    return cuda_launched(dev, "top_logits");
}

enum status top_logits(struct device *dev, const struct tensor *values, const struct tensor *ids,
                       const struct tensor *logits, int64_t n)
{
    return FOR_REAL_TYPE(dev->real, top_logits_of, dev, values, ids, logits, n);
}

}

size_t cuda_top_logits_scratch(const struct op_limits *limits, enum dtype)
{
    return 2 * list_size(limits->vocab_size, OPS_TOP_MAX);
}

void cuda_top_logits_ops(struct op_table *table)
{
    table->top_logits = top_logits;
}
