/* planted.cpp - kernels for the emulator's own tests; see planted.h. */
#include "emulator/planted.h"

#include "kernels/cuda/launch.h"

template <row_sums variant> __global__ void row_sums_kernel(float *sums, const float *x)
{
    __shared__ float partial[4];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float total = 0;

    for (int turn = 0; turn < 2; turn++) {
        float sum = x[(blockIdx.x * 2 + turn) * blockDim.x + threadIdx.x];
        for (int offset = 16; offset > 0; offset /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, offset);
        const bool writes = variant == SUMS_UNWRITTEN ? lane == 0 && warp != 2 : lane == 0;
        if (writes || variant == SUMS_ALL_LANES_WRITE)
            partial[warp] = sum;
        if (variant == SUMS_SHUFFLE_AS_BARRIER)
            __shfl_sync(0xffffffffu, sum, 0);
        else if (variant != SUMS_NO_BARRIER)
            __syncthreads();
        total += partial[0] + partial[1] + partial[2] + partial[3];
        if (variant != SUMS_NO_SECOND_BARRIER)
            __syncthreads();
    }
    if (threadIdx.x == 127)
        sums[blockIdx.x] = total;
}

template <row_sums variant>
static void launch_row_sums_variant(float *sums, const float *x, int n_rows, cudaStream_t stream)
{
    LAUNCH(row_sums_kernel<variant>, n_rows, 128, 0, stream, sums, x);
}

void launch_row_sums(row_sums variant, float *sums, const float *x, int n_rows,
                     cudaStream_t stream)
{
    static void (*const launches[])(float *, const float *, int, cudaStream_t) = {
        launch_row_sums_variant<SUMS_RIGHT>,
        launch_row_sums_variant<SUMS_NO_BARRIER>,
        launch_row_sums_variant<SUMS_NO_SECOND_BARRIER>,
        launch_row_sums_variant<SUMS_SHUFFLE_AS_BARRIER>,
        launch_row_sums_variant<SUMS_ALL_LANES_WRITE>,
        launch_row_sums_variant<SUMS_UNWRITTEN>,
    };

    launches[variant](sums, x, n_rows, stream);
}

template <reverse variant> __global__ void reverse_kernel(float *y, const float *x, int n)
{
    DYN_SHARED(float, tile);

    for (int start = 0; start < n; start += 64) {
        emulator::cp_async(tile + threadIdx.x, x + start + threadIdx.x, 4, 4);
        emulator::cp_async_commit();
        if (variant != REVERSE_NO_WAIT)
            emulator::cp_async_wait(0);
        if (variant != REVERSE_NO_BARRIER)
            __syncthreads();
        y[start + threadIdx.x] = tile[63 - threadIdx.x];
        if (variant != REVERSE_NO_SECOND_BARRIER)
            __syncthreads();
    }
}

template <reverse variant>
static void launch_reverse_variant(float *y, const float *x, int n, cudaStream_t stream)
{
    LAUNCH(reverse_kernel<variant>, 1, 64, 64 * sizeof *x, stream, y, x, n);
}

void launch_reverse(reverse variant, float *y, const float *x, int n, cudaStream_t stream)
{
    static void (*const launches[])(float *, const float *, int, cudaStream_t) = {
        launch_reverse_variant<REVERSE_RIGHT>,
        launch_reverse_variant<REVERSE_NO_WAIT>,
        launch_reverse_variant<REVERSE_NO_BARRIER>,
        launch_reverse_variant<REVERSE_NO_SECOND_BARRIER>,
    };

    launches[variant](y, x, n, stream);
}

template <bool with_syncwarp> __global__ void rotate_kernel(float *y, const float *x)
{
    __shared__ float row[128];
    const int i = threadIdx.x, next = i / 32 * 32 + (i + 1) % 32;

    row[i] = x[blockIdx.x * blockDim.x + i];
    if (with_syncwarp)
        __syncwarp();
    y[blockIdx.x * blockDim.x + i] = row[next];
}

void launch_rotate(bool with_syncwarp, float *y, const float *x, int n, cudaStream_t stream)
{
    if (with_syncwarp)
        LAUNCH(rotate_kernel<true>, n / 128, 128, 0, stream, y, x);
    else
        LAUNCH(rotate_kernel<false>, n / 128, 128, 0, stream, y, x);
}

template <bool f16, bool b_transposed>
__global__ void product_kernel(float *d, const unsigned short *a, const unsigned short *b)
{
    __shared__ __align__(16) unsigned short a_tile[16][16], b_tile[16][8];
    unsigned short *const b_stored = &b_tile[0][0];
    const int lane = threadIdx.x, row = lane / 4, column = lane % 4 * 2;
    uint32_t a_part[4], b_part[2];
    float sums[4] = {};

    for (int i = lane; i < 256; i += 32)
        a_tile[i / 16][i % 16] = a[i];
    for (int i = lane; i < 128; i += 32)
        b_stored[i] = b[i];
    __syncwarp();
    emulator::ldmatrix_x4(a_part, &a_tile[lane % 16][lane / 16 * 8]);
    if (b_transposed)       /* stored as 8 rows of 16 */
        emulator::ldmatrix_x2(b_part, b_stored + lane % 8 * 16 + lane / 8 % 2 * 8);
    else
        emulator::ldmatrix_x2_trans(b_part, b_stored + lane % 16 * 8);
    if (f16)
        emulator::mma_m16n8k16_f16(sums, a_part, b_part);
    else
        emulator::mma_m16n8k16_bf16(sums, a_part, b_part);
    for (int i = 0; i < 4; i++)
        d[(row + i / 2 * 8) * 8 + column + i % 2] = sums[i];
}

template <bool f16, bool b_transposed>
static void launch_product_variant(float *d, const unsigned short *a, const unsigned short *b,
                                   cudaStream_t stream)
{
    LAUNCH((product_kernel<f16, b_transposed>), 1, 32, 0, stream, d, a, b);
}

void launch_product(bool f16, bool b_transposed, float *d, const unsigned short *a,
                    const unsigned short *b, cudaStream_t stream)
{
    static void (*const launches[2][2])(float *, const unsigned short *, const unsigned short *,
                                        cudaStream_t) = {
        {launch_product_variant<false, false>, launch_product_variant<false, true>},
        {launch_product_variant<true, false>, launch_product_variant<true, true>},
    };

    launches[f16][b_transposed](d, a, b, stream);
}

__global__ void count_kernel(int *counts, const int *x, int n)
{
    __shared__ int block_counts[8];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;

    if (threadIdx.x < 8)
        block_counts[threadIdx.x] = 0;
    __syncthreads();
    if (i < n)
        atomicAdd(&block_counts[x[i]], 1);
    __syncthreads();
    if (threadIdx.x < 8)
        atomicAdd(&counts[threadIdx.x], block_counts[threadIdx.x]);
}

void launch_count(int *counts, const int *x, int n, cudaStream_t stream)
{
    LAUNCH(count_kernel, (n + 95) / 96, 96, 0, stream, counts, x, n);
}

static __device__ bool shuffles_work(int lane)
{
    const unsigned all = 0xffffffffu;
    const bool even = lane % 2 == 0;
    bool right = __shfl_sync(all, lane, 5) == 5 && __shfl_sync(all, lane, 1, 8) == lane / 8 * 8 + 1;

    right = right && __shfl_xor_sync(all, lane, 3) == (lane ^ 3);
    right = right && __shfl_down_sync(all, lane, 4) == (lane < 28 ? lane + 4 : lane);
    right = right && __shfl_up_sync(all, lane, 4) == (lane >= 4 ? lane - 4 : lane);
    right = right && __shfl_down_sync(all, lane, 1, 4) == (lane % 4 < 3 ? lane + 1 : lane);
    if (even)       /* half a warp on its own, with a type of 16 bytes */
        right = right && __shfl_xor_sync(0x55555555u, make_int4(0, 0, 0, lane), 2).w == (lane ^ 2);
    return right;
}

static __device__ bool votes_work(int lane)
{
    const unsigned all = 0xffffffffu;
    bool right = __ballot_sync(all, lane % 3 == 0) == 0x49249249u;

    right = right && __any_sync(all, lane == 7) && !__any_sync(all, lane > 31);
    right = right && __all_sync(all, lane < 32) && !__all_sync(all, lane != 7);
    right = right && __reduce_add_sync(all, lane) == 496 && __reduce_max_sync(all, lane) == 31 &&
            __reduce_min_sync(all, lane - 3) == -3;
    return right;
}

__global__ void warp_functions_kernel(int *out)
{
    const int lane = threadIdx.x % 32;
    const bool shuffled = shuffles_work(lane), voted = votes_work(lane);
    const int warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    const bool all_right = __all_sync(0xffffffffu, shuffled && voted);

    if (lane == 0)
        out[warp] = all_right && __activemask() == 0xffffffffu;
    if (__syncthreads_count(lane == 1) != int(blockDim.x / 32) && lane == 0)
        out[warp] = 0;
}

void launch_warp_functions(int *out, int n_warps, cudaStream_t stream)
{
    LAUNCH(warp_functions_kernel, n_warps / 2, 64, 0, stream, out);
}

/* Threads from n on return at once; the others go on with barriers and full masks. */
__global__ void early_return_kernel(int *out, int n)
{
    __shared__ int numbers[64];
    const int i = threadIdx.x;

    if (i >= n)
        return;
    numbers[i] = i;
    __syncthreads();
    const int other = __shfl_xor_sync(0xffffffffu, numbers[n - 1 - i], 1);
    __syncthreads();
    out[i] = other;
}

void launch_early_return(int *out, int n, cudaStream_t stream)
{
    LAUNCH(early_return_kernel, 1, 64, 0, stream, out, n);
}

template <divergence variant> __global__ void divergent_kernel()
{
    const unsigned all = 0xffffffffu;
    const bool low = threadIdx.x % 32 < 16;

    if (variant == OUTSIDE_MASK)
        __shfl_xor_sync(0x0000ffffu, 1, 1);
    else if (low && variant == TWO_SHUFFLES)
        __shfl_xor_sync(all, 1, 1);
    else if (low)
        __syncthreads();
    else if (variant == TWO_BARRIERS)
        __syncthreads();
    else
        __shfl_xor_sync(all, 1, 1);
}

void launch_divergent(divergence variant, cudaStream_t stream)
{
    switch (variant) {
    case TWO_BARRIERS: LAUNCH(divergent_kernel<TWO_BARRIERS>, 2, 64, 0, stream); break;
    case BARRIER_AGAINST_WARP:
        LAUNCH(divergent_kernel<BARRIER_AGAINST_WARP>, 2, 64, 0, stream);
        break;
    case OUTSIDE_MASK: LAUNCH(divergent_kernel<OUTSIDE_MASK>, 2, 64, 0, stream); break;
    case TWO_SHUFFLES: LAUNCH(divergent_kernel<TWO_SHUFFLES>, 2, 64, 0, stream); break;
    }
}

__global__ void shared_store_kernel(int index)
{
    DYN_SHARED(float, values);

    values[index] = 1.0f;
}

void launch_shared_store(int n, int index, cudaStream_t stream)
{
    LAUNCH(shared_store_kernel, 1, 1, n * sizeof(float), stream, index);
}

cudaError_t allow_shared_store(int bytes)
{
    return cudaFuncSetAttribute(shared_store_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                bytes);
}

__global__ void __launch_bounds__(256) fill_kernel(float *out, float value, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;

    if (i < n)
        out[i] = value;
}

void launch_fill(float *out, float value, int n, cudaStream_t stream)
{
    LAUNCH(fill_kernel, (n + 255) / 256, 256, 0, stream, out, value, n);
}

struct two_arrays {
    float *out;
    const float *in;
};

__global__ void add_kernel(const two_arrays arrays, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;

    if (i < n)
        arrays.out[i] += __ldg(arrays.in + i);
}

void launch_add(float *out, const float *in, int n, cudaStream_t stream)
{
    const two_arrays arrays = {out, in};

    LAUNCH(add_kernel, (n + 255) / 256, 256, 0, stream, arrays, n);
}

void launch_too_large_block(cudaStream_t stream)
{
    LAUNCH(fill_kernel, 1, 1025, 0, stream, static_cast<float *>(nullptr), 0.0f, 0);
}
