/* sort.cuh - a stable sort of token ids, least significant eight bits first.
 *
 * Each pass counts the digits of tiles of items, then moves every item behind those of smaller
 * digits, of earlier tiles, and of earlier places in its tile; so the result does not depend on
 * which thread comes first. */
#ifndef OCTET_CUDA_SORT_CUH
#define OCTET_CUDA_SORT_CUH

#include "kernels/cuda/reduce.cuh"

enum {
    SORT_BITS = 8,
    SORT_DIGITS = 1 << SORT_BITS,
    SORT_THREADS = SORT_DIGITS,             /* one for each digit */
    SORT_WARPS = SORT_THREADS / LANES,
    SORT_ROUNDS = 8,                        /* items of a thread */
    SORT_TILE = SORT_THREADS * SORT_ROUNDS,
};

/* An id and where it stood. */
struct sort_item {
    int32_t id, row;
};

DEVICE_FUNCTION struct sort_item sort_read(const int32_t *ids, const struct sort_item *items, int i)
{
    return ids ? sort_item{ids[i], i} : items[i];
}

DEVICE_FUNCTION int sort_digit(struct sort_item item, int shift)
{
    return (int)((uint32_t)item.id >> shift) & (SORT_DIGITS - 1);
}

/* counts (tiles, SORT_DIGITS). Items are read from `items`, or are those of `ids` where that is not
 * NULL. */
static __global__ void __launch_bounds__(SORT_THREADS)
sort_count_kernel(int *counts, const int32_t *ids, const struct sort_item *items, int n, int shift)
{
    __shared__ int tile[SORT_DIGITS];
    const int first = (int)blockIdx.x * SORT_TILE;

    tile[threadIdx.x] = 0;
    __syncthreads();
    for (int i = first + (int)threadIdx.x; i < first + SORT_TILE && i < n; i += SORT_THREADS)
        atomicAdd(&tile[sort_digit(sort_read(ids, items, i), shift)], 1);
    __syncthreads();
    counts[blockIdx.x * SORT_DIGITS + threadIdx.x] = tile[threadIdx.x];
}

/* The sum of the values of threads with smaller numbers. */
DEVICE_FUNCTION int sort_scan(int value)
{
    __shared__ int totals[SORT_WARPS];
    const int lane = lane_index();
    int sum = value, before = 0;

    for (int distance = 1; distance < LANES; distance *= 2) {
        const int other = __shfl_up_sync(ALL_LANES, sum, distance);
        sum += lane >= distance ? other : 0;
    }
    if (lane == LANES - 1)
        totals[warp_index()] = sum;
    __syncthreads();
    for (int warp = 0; warp < warp_index(); warp++)
        before += totals[warp];
    return before + sum - value;
}

/* The lanes of this lane's `valid` kind whose digit is the same. */
DEVICE_FUNCTION unsigned sort_peers(int digit, bool valid)
{
    unsigned peers = __ballot_sync(ALL_LANES, valid);

    peers = valid ? peers : ~peers;
#pragma unroll
    for (int bit = 0; bit < SORT_BITS; bit++) {
        const unsigned vote = __ballot_sync(ALL_LANES, digit >> bit & 1);
        peers &= digit >> bit & 1 ? vote : ~vote;
    }
    return peers;
}

static __global__ void __launch_bounds__(SORT_THREADS)
sort_move_kernel(struct sort_item *out, const int *counts, const int32_t *ids,
                 const struct sort_item *items, int n, int shift)
{
    __shared__ int places[SORT_WARPS][SORT_DIGITS];     /* items so far; then where they go */
    const int thread = (int)threadIdx.x, warp = warp_index(), lane = lane_index();
    const int first = (int)blockIdx.x * SORT_TILE + warp * LANES * SORT_ROUNDS + lane;
    struct sort_item mine[SORT_ROUNDS];
    int ranks[SORT_ROUNDS];

    for (int w = 0; w < SORT_WARPS; w++)
        places[w][thread] = 0;
    __syncthreads();
    /* A warp's items lie side by side, so that rounds follow the order of the items. */
#pragma unroll
    for (int round = 0; round < SORT_ROUNDS; round++) {
        const int i = first + round * LANES;
        mine[round] = i < n ? sort_read(ids, items, i) : sort_item{0, 0};
        const int digit = sort_digit(mine[round], shift);
        const unsigned peers = sort_peers(digit, i < n);
        ranks[round] = places[warp][digit] + __popc(peers & ((1u << lane) - 1));
        __syncwarp();
        if (i < n && peers >> lane == 1)
            places[warp][digit] = ranks[round] + 1;
        __syncwarp();
    }
    __syncthreads();

    int total = 0, before = 0;
#pragma unroll 8
    for (int tile = 0; tile < (int)gridDim.x; tile++) {
        const int count = counts[tile * SORT_DIGITS + thread];
        total += count;
        before += tile < (int)blockIdx.x ? count : 0;
    }
    before += sort_scan(total);
    for (int w = 0; w < SORT_WARPS; w++) {
        const int count = places[w][thread];
        places[w][thread] = before;
        before += count;
    }
    __syncthreads();
#pragma unroll
    for (int round = 0; round < SORT_ROUNDS; round++)
        if (first + round * LANES < n)
            out[places[warp][sort_digit(mine[round], shift)] + ranks[round]] = mine[round];
}

/* Scratch memory of sort_ids(). */
struct sort_buffers {
    struct sort_item *items[2];     /* (n) */
    int *counts;                    /* (tiles of n, SORT_DIGITS) */
};

/* The n ids, each between 0 and limit-1, in ascending order with their places; returns which of the
 * two buffers they are in. */
static const struct sort_item *sort_ids(struct device *dev, const struct sort_buffers *buffers,
                                        const int32_t *ids, int n, int64_t limit)
{
    const unsigned tiles = (unsigned)blocks_for(n, SORT_TILE);
    const struct sort_item *from = NULL;
    int target = 0;

    for (int shift = 0; shift == 0 || (limit - 1) >> shift > 0; shift += SORT_BITS) {
        struct sort_item *to = buffers->items[target];
        const int32_t *unsorted = shift == 0 ? ids : NULL;
        LAUNCH(sort_count_kernel, tiles, SORT_THREADS, 0, cuda_stream(dev), buffers->counts,
               unsorted, from, n, shift);
        LAUNCH(sort_move_kernel, tiles, SORT_THREADS, 0, cuda_stream(dev), to, buffers->counts,
               unsorted, from, n, shift);
        from = to;
        target = 1 - target;
    }
    return from;
}

#endif
