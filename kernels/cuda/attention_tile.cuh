/* attention_tile.cuh - what the attention kernels on tensor cores share: tiles of rows in shared
 * memory, and products of a warp's rows with a tile.
 *
 * A tile is some rows of one head, D 16-bit numbers each, in chunks of 16 bytes; T is their type. A
 * warp's part of a product is 16 M rows, held as ptx.h says: element c[m][n][i] is c[i] of the
 * product's rows 16 m and columns 8 n. */
#ifndef OCTET_CUDA_ATTENTION_TILE_CUH
#define OCTET_CUDA_ATTENTION_TILE_CUH

#include "kernels/cuda/attention_call.cuh"

/* Rows of D numbers in shared memory. ldmatrix reads one chunk of eight rows at once, which are to
 * be in different banks, 128 bytes in all: so every row permutes its chunks in its own way. */
template <typename T, int D> struct shared_tile {
    static constexpr int CHUNKS = D / 8, CYCLE = CHUNKS < 8 ? CHUNKS : 8;
    T *shared;
    int start;                  /* of the tile; a multiple of 128 bytes */

    __device__ __forceinline__ shared_tile after(int rows) const
    {
        return {shared, start + rows * D};
    }
    __device__ __forceinline__ int place(int row, int chunk) const
    {
        return start + row * D + (chunk ^ row * CYCLE / 8 % CYCLE) * 8;
    }
    /* `rows` rows, a multiple of 8, and `chunks` chunks from the place of a row's chunk 0, or an
     * even number from its chunk 1. With constants most of it is part of the address. */
    __device__ __forceinline__ T *from(int place, int rows, int chunks) const
    {
        return shared + (place ^ chunks % CYCLE * 8) + (chunks / CYCLE * CYCLE * 8 + rows * D);
    }
};

/* Begin to copy rows first .. first+ROWS-1 of a head. Behind the head's end its last row is taken
 * again: what is computed from it is never used, but has to be the numbers of this head. */
template <int ROWS, int THREADS, typename T, int D>
DEVICE_FUNCTION void load_rows(shared_tile<T, D> tile, const T *head, int stride, int first,
                               int n_rows)
{
    constexpr int CHUNKS = D / 8, STEP = THREADS / CHUNKS;
    const int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    const int to = opaque(tile.place(row, chunk)), stride_bytes = stride * (int)sizeof(T);
    const char *from = (const char *)(head + chunk * 8);
    static_assert(ROWS % STEP == 0 && STEP % 8 == 0, "every thread copies as many chunks");

#pragma unroll
    for (int i = 0; i < ROWS; i += STEP)
        cp_async_16(tile.from(to, i, 0),
                    from + (int64_t)min(first + row + i, n_rows - 1) * stride_bytes);
}

/* The warp's rows of a tile, from `row` on, as the a of products: held in registers if HOLD, else
 * read again for every product. */
template <typename T, int D, int M, bool HOLD> struct row_operand {
    shared_tile<T, D> tile;
    int row;
    uint32_t held[HOLD ? D / 16 : 1][M][4];

    __device__ __forceinline__ void read(uint32_t (&a)[M][4], int k) const
    {
        const int lane = lane_index(), from = opaque(tile.place(row + lane % 16, lane / 16));

#pragma unroll
        for (int m = 0; m < M; m++)
            ldmatrix_x4(a[m], tile.from(from, 16 * m, 2 * k));
    }
    /* To be called when the tile has arrived. */
    __device__ __forceinline__ void begin()
    {
#pragma unroll
        for (int k = 0; HOLD && k < D / 16; k++)
            read(held[k], k);
    }
    /* Columns 16 k .. 16 k + 15. */
    __device__ __forceinline__ void part(uint32_t (&a)[M][4], int k) const
    {
        if (HOLD)
            memcpy(a, held[k], sizeof a);
        else
            read(a, k);
    }
};

/* c (16 M, 8 N) = rows (16 M, D) tile^T, tile (8 N, D). */
template <typename T, int D, int M, int N, bool HOLD>
DEVICE_FUNCTION void multiply_transposed(float (&c)[M][N][4],
                                         const row_operand<T, D, M, HOLD> &rows,
                                         shared_tile<T, D> tile)
{
    const int lane = lane_index();
    const int from = opaque(tile.place(lane / 16 * 8 + lane % 8, lane / 8 % 2));

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                c[m][n][i] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t a[M][4];
        rows.part(a, k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, tile.from(from, 8 * n, 2 * k));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_m16n8k16(c[m][n], a[m], b, T());
                mma_m16n8k16(c[m][n + 1], a[m], b + 2, T());
            }
        }
    }
}

/* c (16 M, D) += p (16 M, 8 N) tile, tile (8 N, D); p is the result of another product. */
template <typename T, int D, int M, int N>
DEVICE_FUNCTION void multiply_add(float (&c)[M][D / 8][4], const float (&p)[M][N][4],
                                  shared_tile<T, D> tile)
{
    const int lane = lane_index(), from = opaque(tile.place(lane % 16, lane / 16));

#pragma unroll
    for (int k = 0; k < N / 2; k++) {
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                packed<T, 2> pair;
                vector_pack(pair, &p[m][2 * k + i / 2][i % 2 * 2]);
                a[m][i] = pair.word[0];
            }
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, tile.from(from, 16 * k, n));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_m16n8k16(c[m][n], a[m], b, T());
                mma_m16n8k16(c[m][n + 1], a[m], b + 2, T());
            }
        }
    }
}

/* Write the warp's rows of a result to rows first + row ... of a head, as far as there are such.
 * They go through the warp's own rows of a tile, to be written as whole rows, 16 bytes a lane; a
 * barrier lies behind the last read of these. */
template <typename T, int D, int M>
DEVICE_FUNCTION void store_rows(T *head, int stride, const float (&c)[M][D / 8][4],
                                shared_tile<T, D> tile, int row, int first, int n_rows)
{
    constexpr int CHUNKS = D / 8;
    const int lane = lane_index(), to = opaque(tile.place(row + lane / 4, 0) + lane % 4 * 2);

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < CHUNKS; n++)
#pragma unroll
            for (int second = 0; second < 2; second++)
                vector_store<2>(tile.from(to, 16 * m + 8 * second, n), &c[m][n][2 * second]);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < M * CHUNKS / 2; i++) {
        const int number = 32 * i + lane, r = row + number / CHUNKS, chunk = number % CHUNKS;
        if (first + r < n_rows)
            *(packed<T, 8> *)(head + (int64_t)(first + r) * stride + chunk * 8) =
                *(const packed<T, 8> *)tile.from(tile.place(r, chunk), 0, 0);
    }
}

/* What belongs to keys behind the query becomes `hidden`; `key` and `query` are s[0][0][0]'s. */
template <int M, int N>
DEVICE_FUNCTION void hide_future(float (&s)[M][N][4], int key, int query, float hidden)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (key + 8 * n + i % 2 > query + 16 * m + i / 2 * 8)
                    s[m][n][i] = hidden;
}

#endif
