/* elementwise.cuh - operations that make each element of the output from the same element of one or
 * two inputs and its dropout factor.
 *
 * The operation is a struct with `static const int inputs` and
 * `static float of(float a, float b, float factor)`; b is 0 where there is one input. */
#ifndef OCTET_CUDA_ELEMENTWISE_CUH
#define OCTET_CUDA_ELEMENTWISE_CUH

#include "kernels/cuda/dropout.cuh"

enum {
    ELEMENTWISE_WARPS = 8,
    ELEMENTWISE_ROWS = 2,           /* chunks that a warp has under way, one below the other */
    ELEMENTWISE_BLOCK_ROWS = ELEMENTWISE_WARPS * ELEMENTWISE_ROWS,
};

/* The output may be one of the inputs. */
template <typename Op, typename T, int W, bool DROPOUT>
static __global__ void __launch_bounds__(LANES *ELEMENTWISE_WARPS)
elementwise_kernel(T *out, const T *a, const T *b, int64_t n, int width,
                   const struct dropout_mask mask)
{
    const int chunks = (width + CHUNK - 1) / CHUNK;
    const int first = (int)blockIdx.x % chunks * CHUNK;
    const int64_t first_row = (int64_t)((int)blockIdx.x / chunks) * ELEMENTWISE_BLOCK_ROWS +
                              threadIdx.y;
    float x[ELEMENTWISE_ROWS][LANE_COLUMNS], y[ELEMENTWISE_ROWS][LANE_COLUMNS] = {};

#pragma unroll
    for (int r = 0; r < ELEMENTWISE_ROWS; r++) {
        const int64_t row = first_row + r * ELEMENTWISE_WARPS;
        if (row >= n)
            break;
        chunk_load<W>(x[r], a + row * width, first, width);
        if (Op::inputs == 2)
            chunk_load<W>(y[r], b + row * width, first, width);
    }
#pragma unroll
    for (int r = 0; r < ELEMENTWISE_ROWS; r++) {
        const int64_t row = first_row + r * ELEMENTWISE_WARPS;
        float factors[LANE_COLUMNS];
        if (row >= n)
            break;
        if (DROPOUT)
            dropout_chunk<W>(factors, mask, row, first, width);
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; i++)
            x[r][i] = Op::of(x[r][i], y[r][i], DROPOUT ? factors[i] : 1.0f);
        chunk_store<W>(out + row * width, x[r], first, width);
    }
}

/* Tensors of (n, width); with one input, b is a again. */
template <typename T, typename Op>
static enum status elementwise(Op, struct device *dev, const char *name, const struct tensor *out,
                               const struct tensor *a, const struct tensor *b,
                               const struct dropout *dropout)
{
    constexpr int V = VECTOR<T>;
    const int64_t n = out->shape[0], width = out->shape[1];
    const int64_t grid = blocks_for(n, ELEMENTWISE_BLOCK_ROWS) * blocks_for(width, CHUNK);
    const struct dropout_mask mask = dropout_mask_of(dropout);
    const bool wide = rows_are_vectors<T>(width, {out, a, b}), drops = mask.threshold > 0;
    const auto kernel = wide && drops ? elementwise_kernel<Op, T, V, true>
                        : wide        ? elementwise_kernel<Op, T, V, false>
                        : drops       ? elementwise_kernel<Op, T, 1, true>
                                      : elementwise_kernel<Op, T, 1, false>;

    LAUNCH(kernel, (unsigned)grid, dim3(LANES, ELEMENTWISE_WARPS), 0, cuda_stream(dev),
           tensor_data<T>(out), tensor_data<T>(a), tensor_data<T>(b), n, (int)width, mask);
    return cuda_launched(dev, name);
}

#endif
