/* planted.h - small kernels, right ones and ones with a planted mistake, for the emulator's own
 * tests. All pointers are device memory. */
#ifndef OCTET_EMULATOR_PLANTED_H
#define OCTET_EMULATOR_PLANTED_H

#include <cuda_runtime_api.h>
#include <stddef.h>

/* sums[b] = sum of the 256 numbers of row b, half a row after the other. */
enum row_sums {
    SUMS_RIGHT,
    SUMS_NO_BARRIER,            /* between writing and reading shared memory */
    SUMS_NO_SECOND_BARRIER,     /* between reading and writing it again */
    SUMS_SHUFFLE_AS_BARRIER,
    SUMS_ALL_LANES_WRITE,       /* the same number to the same place: right, but a race */
    SUMS_UNWRITTEN,             /* one of the numbers that are read */
};
void launch_row_sums(row_sums variant, float *sums, const float *x, int n_rows,
                     cudaStream_t stream);

/* y = x reversed within tiles of 64, through shared memory; n is a multiple of 64. */
enum reverse { REVERSE_RIGHT, REVERSE_NO_WAIT, REVERSE_NO_BARRIER, REVERSE_NO_SECOND_BARRIER };
void launch_reverse(reverse variant, float *y, const float *x, int n, cudaStream_t stream);

/* y = x rotated by one lane within warps, through shared memory. */
void launch_rotate(bool with_syncwarp, float *y, const float *x, int n, cudaStream_t stream);

/* d (16, 8) = a (16, 16) b (16, 8), in bfloat16 or half bits; b as it lies or stored transposed. */
void launch_product(bool f16, bool b_transposed, float *d, const unsigned short *a,
                    const unsigned short *b, cudaStream_t stream);

/* counts[c] += how often c, 0..7, occurs in x. */
void launch_count(int *counts, const int *x, int n, cudaStream_t stream);

/* out[i] = 1 where a warp-wide function of warp i gave what it must. */
void launch_warp_functions(int *out, int n_warps, cudaStream_t stream);

/* out[i] = n - 1 - (i ^ 1) for i below n, an even number up to 64, by a block of 64 threads. */
void launch_early_return(int *out, int n, cudaStream_t stream);

/* Barriers that not all threads reach, in several ways. */
enum divergence { TWO_BARRIERS, BARRIER_AGAINST_WARP, OUTSIDE_MASK, TWO_SHUFFLES };
void launch_divergent(divergence variant, cudaStream_t stream);

/* Store to element `index` of `n` floats of dynamic shared memory. */
void launch_shared_store(int n, int index, cudaStream_t stream);

/* out[i] = value for i below n. */
void launch_fill(float *out, float value, int n, cudaStream_t stream);
/* out[i] += in[i]; the pointers travel in a struct. */
void launch_add(float *out, const float *in, int n, cudaStream_t stream);
void launch_too_large_block(cudaStream_t stream);
cudaError_t allow_shared_store(int bytes);

#endif
