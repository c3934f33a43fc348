/* linear.cu - the linear layers: cuda_matmul(), and the gradient of the bias.
 *
 * linear_gelu_forward stays empty: cuBLASLt's GELU epilogue is the tanh form, the model's the erf
 * form. Its bias gradient epilogues overwrite where dbias is to be added to. */
#include "kernels/cuda/vector.cuh"

/* So that a block's threads are as many as its columns. */
static constexpr int SUM_WARPS = CHUNK / LANES;
/* The rows are divided into at most so many parts, of at least so many rows. */
static constexpr int64_t SUM_PARTS = 64, SUM_MIN_ROWS = 32;

/* Rows part_rows * blockIdx.y and on, columns CHUNK * blockIdx.x and on: each warp adds up every
 * SUM_WARPS-th row, then the warps' sums are added in order. `sums` has a row for each part. */
template <typename T, int W>
__global__ void __launch_bounds__(LANES *SUM_WARPS)
column_sums_kernel(float *sums, bool add, const T *x, int64_t rows, int64_t part_rows, int width)
{
    __shared__ float warp_sums[SUM_WARPS][CHUNK];
    const int first = (int)blockIdx.x * CHUNK;
    const int64_t begin = blockIdx.y * part_rows;
    const int64_t end = begin + part_rows < rows ? begin + part_rows : rows;
    float sum[LANE_COLUMNS] = {};

#pragma unroll 4
    for (int64_t row = begin + threadIdx.y; row < end; row += SUM_WARPS) {
        float v[LANE_COLUMNS];
        chunk_load<W>(v, x + row * width, first, width);
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; i++)
            sum[i] += v[i];
    }
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; i += W)
        vector_store<W>(&warp_sums[threadIdx.y][chunk_column<W>(0, i)], sum + i);
    __syncthreads();

    const int thread = (int)(threadIdx.y * LANES + threadIdx.x), column = first + thread;
    float total = 0;
    for (int warp = 0; warp < SUM_WARPS; warp++)
        total += warp_sums[warp][thread];
    if (column < width) {
        float *to = sums + (int64_t)blockIdx.y * width + column;
        *to = add ? *to + total : total;
    }
}

/* sums (parts, width) = or, with one part, += the column sums of x (rows, width). */
template <typename T>
static void sum_columns(struct device *dev, float *sums, bool add, const struct tensor *x,
                        int64_t parts)
{
    const int64_t rows = x->shape[0], width = x->shape[1];
    const auto kernel = rows_are_vectors<T>(width, {x}) ? column_sums_kernel<T, VECTOR<T>>
                                                        : column_sums_kernel<T, 1>;

    LAUNCH(kernel, dim3((unsigned)blocks_for(width, CHUNK), (unsigned)parts),
           dim3(LANES, SUM_WARPS), 0, cuda_stream(dev), sums, add, tensor_data<T>(x), rows,
           blocks_for(rows, parts), (int)width);
}

template <typename T>
static enum status add_column_sums(struct device *dev, const struct tensor *dbias,
                                   const struct tensor *dout)
{
    const int64_t rows = dout->shape[0], width = dout->shape[1];
    const int64_t enough = blocks_for(rows, SUM_MIN_ROWS);
    const int64_t parts = enough < SUM_PARTS ? enough : SUM_PARTS;
    const struct tensor sums = tensor_2d(cuda_device(dev)->scratch, DTYPE_F32, parts, width);

    if (parts == 1) {
        sum_columns<T>(dev, tensor_data<float>(dbias), true, dout, 1);
    } else {
        sum_columns<T>(dev, tensor_data<float>(&sums), false, dout, parts);
        sum_columns<float>(dev, tensor_data<float>(dbias), true, &sums, 1);
    }
    return cuda_launched(dev, "linear_backward_weight");
}

static enum status linear_forward(struct device *dev, const struct tensor *out,
                                  const struct tensor *a, const struct tensor *weight,
                                  const struct tensor *bias)
{
    struct cuda_matmul product = {};

    product.transpose_b = true;
    product.m = a->shape[0];
    product.n = weight->shape[0];
    product.k = weight->shape[1];
    product.a = a;
    product.b = weight;
    product.out = out;
    product.bias = bias->data ? bias : nullptr;
    return cuda_matmul(dev, &product);
}

static enum status linear_backward_input(struct device *dev, const struct tensor *da,
                                         const struct tensor *dout, const struct tensor *weight)
{
    struct cuda_matmul product = {};

    product.m = dout->shape[0];
    product.n = weight->shape[1];
    product.k = weight->shape[0];
    product.a = dout;
    product.b = weight;
    product.out = da;
    return cuda_matmul(dev, &product);
}

static enum status linear_backward_weight(struct device *dev, const struct tensor *dweight,
                                          const struct tensor *dbias, const struct tensor *dout,
                                          const struct tensor *a)
{
    struct cuda_matmul product = {};

    product.transpose_a = true;
    product.accumulate = true;
    product.m = dweight->shape[0];
    product.n = dweight->shape[1];
    product.k = dout->shape[0];
    product.a = dout;
    product.b = a;
    product.out = dweight;
    TRY(cuda_matmul(dev, &product));
    if (!dbias->data)
        return OK;
    return FOR_REAL_TYPE(dev->real, add_column_sums, dev, dbias, dout);
}

void cuda_linear_ops(struct op_table *table)
{
    table->linear_forward = linear_forward;
    table->linear_backward_input = linear_backward_input;
    table->linear_backward_weight = linear_backward_weight;
}

/* The parts of the widest bias gradient; or a copy of the largest weight gradient, while the
 * algorithms of its product are timed. */
size_t cuda_linear_scratch(const struct op_limits *limits, enum dtype real)
{
    const int64_t parts = SUM_PARTS * limits->width, c = limits->heads * limits->head_size;
    const int64_t rows = limits->width > limits->vocab_size ? limits->width : limits->vocab_size;

    (void)real;
    return (size_t)(parts > rows * c ? parts : rows * c) * sizeof(float);
}
