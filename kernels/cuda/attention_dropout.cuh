/* attention_dropout.cuh - dropout.cuh for threads that hold pieces of a matrix of probabilities.
 *
 * One Philox block decides about eight of 128 keys, block i about i, 16 + i, 32 + i ...; what it
 * decides is kept as a byte, whose bit k is set if key 16 k + i stays. */
#ifndef OCTET_CUDA_ATTENTION_DROPOUT_CUH
#define OCTET_CUDA_ATTENTION_DROPOUT_CUH

#include "kernels/cuda/dropout.cuh"

struct attention_dropout {
    struct dropout_mask mask;   /* with a row for each head of each token */
    int heads, length;
    int row_tiles;              /* of 128 keys */
};

static inline struct attention_dropout attention_dropout_of(const struct dropout *dropout,
                                                            int heads, int length)
{
    struct attention_dropout a = {dropout_mask_of(dropout), heads, length,
                                  (length + DROPOUT_TILE - 1) / DROPOUT_TILE};

    a.mask.row_factor = heads;
    return a;
}

/* Of the first block for the query and the 128 keys that `key` is one of. */
DEVICE_FUNCTION uint64_t attention_dropout_position(const struct attention_dropout &dropout, int b,
                                                    int h, int query, int key)
{
    const int64_t row = ((int64_t)b * dropout.length + query) * dropout.heads + h;

    return dropout_position(dropout.mask, row, key / DROPOUT_TILE, dropout.row_tiles);
}

DEVICE_FUNCTION uint32_t dropout_byte(const struct dropout_mask &mask, uint64_t position)
{
    const struct rng_block random = dropout_random(mask, position);
    uint32_t byte = 0;

#pragma unroll
    for (int k = 0; k < 8; k++)
        byte |= (uint32_t)dropout_keeps(mask, random, k) << k;
    return byte;
}

/* For a thread that holds rows g and g + 8 of M fragments (ptx.h) with keys as columns: of 128 keys
 * it has those of four blocks, whose bytes make a word for each row. */
template <int M> struct row_dropout {
    uint32_t kept[M][2];

    /* `query` is the thread's first row. */
    __device__ __forceinline__ void draw(const struct attention_dropout &dropout, int b, int h,
                                         int query, int key)
    {
        const uint64_t next_query = (uint64_t)(dropout.heads * dropout.row_tiles * DROPOUT_BLOCKS);
        const uint64_t first = attention_dropout_position(dropout, b, h, query, key) +
                               threadIdx.x % 4 * 2;

        /* Not unrolled: two draws at a time keep the multiprocessor busy, and more of them would
         * take registers that there are not. */
#pragma unroll
        for (int m = 0; m < M; m++) {
            kept[m][0] = kept[m][1] = 0;
#pragma unroll 1
            for (int i = 0; i < 4; i++) {
                const uint64_t position = first + 16 * m * next_query + i / 2 * 8 + i % 2;
                kept[m][0] |= dropout_byte(dropout.mask, position) << 8 * i;
                kept[m][1] |= dropout_byte(dropout.mask, position + 8 * next_query) << 8 * i;
            }
        }
    }

    /* Element c[m][n][i] of scores whose first key is `key`. */
    __device__ __forceinline__ bool keeps(int m, int n, int i, int key) const
    {
        const uint32_t from_key = kept[m][i / 2] >> key % DROPOUT_TILE / 16;

        return from_key >> (8 * (n % 2 * 2 + i % 2) + n / 2) & 1;
    }

    /* What is dropped becomes 0. */
    template <int N> __device__ __forceinline__ void apply(float (&p)[M][N][4], int key) const
    {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    p[m][n][i] = keeps(m, n, i, key) ? p[m][n][i] : 0;
    }
};

/* For threads that hold pieces in other ways: the bytes for ROWS queries and 128 keys, those of
 * block i from i * STRIDE on. */
template <int ROWS, int STRIDE, int THREADS>
DEVICE_FUNCTION void draw_dropout(uint8_t *bytes, const struct attention_dropout &dropout, int b,
                                  int h, int query, int key)
{
    static_assert(ROWS * DROPOUT_BLOCKS % THREADS == 0, "every thread draws as many");

#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * DROPOUT_BLOCKS; i += THREADS) {
        const int row = i / DROPOUT_BLOCKS, block = i % DROPOUT_BLOCKS;
        const uint64_t position = attention_dropout_position(dropout, b, h, query + row, key);
        bytes[block * STRIDE + row] = (uint8_t)dropout_byte(dropout.mask, position + block);
    }
}

#endif
