/* dropout.cuh - the dropout mask that kernels/ops.h defines. */
#ifndef OCTET_CUDA_DROPOUT_CUH
#define OCTET_CUDA_DROPOUT_CUH

#include "kernels/cuda/reduce.cuh"

enum {
    DROPOUT_TILE = 128,         /* columns that share ... */
    DROPOUT_BLOCKS = 16,        /* ... this many blocks of random bits */
};

/* struct dropout as kernels want it. */
struct dropout_mask {
    uint64_t seed;
    const struct dropout_place *place;
    int64_t first_row;
    int row_factor;             /* rows of the mask for each row of first_row */
    uint32_t step, site;
    uint32_t threshold;         /* of 16 random bits, below which an element is dropped */
    float scale;                /* of what is kept */
};

static inline struct dropout_mask dropout_mask_of(const struct dropout *dropout)
{
    const uint32_t threshold = (uint32_t)(dropout->rate * 65536.0);
    const float scale = (float)(65536.0 / (65536.0 - (double)threshold));

    return {dropout->seed, dropout->place, dropout->first_row, 1,
            dropout->step, dropout->site,  threshold,          scale};
}

/* The position of a tile's block 0. */
DEVICE_FUNCTION uint64_t dropout_position(const struct dropout_mask &mask, int64_t row, int tile,
                                          int row_tiles)
{
    const int64_t first_row = mask.first_row + (mask.place ? __ldg(&mask.place->first_row) : 0);

    return (uint64_t)((first_row * mask.row_factor + row) * row_tiles + tile) * DROPOUT_BLOCKS;
}

DEVICE_FUNCTION struct rng_block dropout_random(const struct dropout_mask &mask, uint64_t position)
{
    const uint32_t step = mask.step + (mask.place ? (uint32_t)__ldg(&mask.place->step) : 0);

    return rng_philox(mask.seed, RNG_DROPOUT, mask.site, step, position);
}

/* Whether element `k` of the eight that a block decides is kept: column 16 k + position % 16 of its
 * tile. */
DEVICE_FUNCTION bool dropout_keeps(const struct dropout_mask &mask, const struct rng_block &random,
                                   int k)
{
    const uint32_t word = random.word[k / 2];

    return (k % 2 == 0 ? word & 0xffff : word >> 16) >= mask.threshold;
}

/* Bit i: whether element i of this lane's part of the chunk at column `first` is kept. The warp's
 * 256 columns are two tiles of 16 blocks: every lane works out one block, and the votes on its
 * eight numbers tell the lanes that hold those columns. */
template <int W>
DEVICE_FUNCTION uint32_t dropout_chunk_bits(const struct dropout_mask &mask, int64_t row, int first,
                                            int width)
{
    const int lane = lane_index(), row_tiles = (width + DROPOUT_TILE - 1) / DROPOUT_TILE;
    const int tile = first / DROPOUT_TILE + lane / DROPOUT_BLOCKS;
    const uint64_t position = dropout_position(mask, row, tile, row_tiles) + lane % DROPOUT_BLOCKS;
    const struct rng_block random = dropout_random(mask, position);
    uint32_t bits = 0;

#pragma unroll
    for (int k = 0; k < 8; k++) {
        /* Bit b of the vote: column 16 k + b % 16 of the tile b / 16. */
        const uint32_t vote = __ballot_sync(ALL_LANES, dropout_keeps(mask, random, k));
        if (W == 8 && lane % 16 / 2 == k)
            bits = vote >> (lane / 16 * 16 + lane % 2 * 8) & 0xff;
        if (W == 4 && lane / 4 == k)
            bits = (vote >> lane % 4 * 4 & 0xf) | (vote >> (16 + lane % 4 * 4) & 0xf) << 4;
        if (W == 1 && lane / 16 == k % 2)
            bits |= (vote >> lane % 16 & 1) << k / 2 |
                    (vote >> (16 + lane % 16) & 1) << (4 + k / 2);
    }
    return bits;
}

/* What dropout multiplies this lane's part of a chunk by. */
template <int W>
DEVICE_FUNCTION void dropout_chunk(float (&factors)[LANE_COLUMNS], const struct dropout_mask &mask,
                                   int64_t row, int first, int width)
{
    static_assert(W == 8 || W == 4 || W == 1, "how lanes hold a chunk");
    const uint32_t bits = dropout_chunk_bits<W>(mask, row, first, width);

#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; i++)
        factors[i] = bits >> i & 1 ? mask.scale : 0;
}

#endif
