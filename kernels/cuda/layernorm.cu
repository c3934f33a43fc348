/* layernorm.cu - layer normalisation, also together with the residual addition before it.
 *
 * Rows whose length and alignment allow 16-byte accesses stay in registers from the first read to
 * the last use: one warp takes a row of up to 1024 columns, several share a longer one. Other rows
 * go through plain kernels that read them again from the caches. */
#include "kernels/cuda/dropout.cuh"

namespace {

constexpr float EPSILON = 1e-5f;

enum {
    WARP_CHUNKS = 4,            /* of a row, that one warp keeps in registers */
    WARP_COLUMNS = WARP_CHUNKS * CHUNK,
    FORWARD_WARPS = 16,         /* of a block, at most */
    BACKWARD_WARPS = 4,
    SINGLE_WARPS = 4,           /* of a block whose warps have a row each */
    PLAIN_WARPS = 8,
    PARTIALS = 1024,            /* blocks of the backward pass, at most: each has sums of its own */
    PLAIN_BLOCKS = 4,           /* of that pass, on a multiprocessor */
    COMBINE_SLICES = 32,
};

/* ---- forward ---- */

enum source {
    SOURCE_X,                   /* x is given */
    SOURCE_SUM,                 /* x = sum = a + b */
    SOURCE_DROPOUT_SUM,         /* x = sum = a + dropout(b) */
};

template <typename T> struct forward {
    T *out, *sum;
    float *mean, *rstd;
    const T *a, *b;             /* a is x where x is given */
    const T *weight, *bias;
    int64_t n;
    int width;
    struct dropout_mask mask;
};

/* Sum over the warps that share a row: one, or all of the block. */
DEVICE_FUNCTION float row_sum(float v)
{
    return blockDim.y == 1 ? warp_sum(v) : block_sum(v);
}

/* The first column of this warp's chunk k. */
DEVICE_FUNCTION int warp_chunk(int k)
{
    return (k * (int)blockDim.y + (int)threadIdx.y) * CHUNK;
}

template <typename T, int CHUNKS, enum source SOURCE>
DEVICE_FUNCTION void read_row(float (&x)[CHUNKS][LANE_COLUMNS], const struct forward<T> &f,
                              int64_t row)
{
    constexpr int W = VECTOR<T>;
    struct raw_chunk<T, W> a[CHUNKS], b[CHUNKS];

#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        chunk_read(a[k], f.a + row * f.width, warp_chunk(k), f.width);
        if (SOURCE != SOURCE_X)
            chunk_read(b[k], f.b + row * f.width, warp_chunk(k), f.width);
    }
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        chunk_unpack(x[k], a[k]);
        if (SOURCE == SOURCE_X || warp_chunk(k) >= f.width)
            continue;
        float branch[LANE_COLUMNS], factors[LANE_COLUMNS];
        chunk_unpack(branch, b[k]);
        if (SOURCE == SOURCE_DROPOUT_SUM)
            dropout_chunk<W>(factors, f.mask, row, warp_chunk(k), f.width);
        /* The backward pass will see the sum as it is stored, so that is what is normalised. */
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; i++) {
            const float factor = SOURCE == SOURCE_DROPOUT_SUM ? factors[i] : 1.0f;
            x[k][i] = rounded_to<T>(x[k][i] + factor * branch[i]);
        }
        chunk_store<W>(f.sum + row * f.width, x[k], warp_chunk(k), f.width);
    }
}

/* Blocks of (32, warps for a row, rows). */
template <typename T, int CHUNKS, enum source SOURCE>
__global__ void __launch_bounds__(LANES *FORWARD_WARPS)
layernorm_forward_kernel(const struct forward<T> f)
{
    constexpr int W = VECTOR<T>;
    const int64_t row = (int64_t)blockIdx.x * blockDim.z + threadIdx.z;
    float x[CHUNKS][LANE_COLUMNS];
    float total = 0, squares = 0;

    if (row >= f.n)
        return;
    read_row<T, CHUNKS, SOURCE>(x, f, row);
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; i++)
            total += x[k][i];
    const float mean = row_sum(total) / (float)f.width;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++)
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; i++) {
            const bool inside = chunk_column<W>(warp_chunk(k), i) < f.width;
            squares += inside ? (x[k][i] - mean) * (x[k][i] - mean) : 0;
        }
    const float rstd = 1.0f / sqrtf(row_sum(squares) / (float)f.width + EPSILON);
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        float weight[LANE_COLUMNS], bias[LANE_COLUMNS];
        chunk_load<W>(weight, f.weight, warp_chunk(k), f.width);
        chunk_load<W>(bias, f.bias, warp_chunk(k), f.width);
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; i++)
            x[k][i] = (x[k][i] - mean) * rstd * weight[i] + bias[i];
        chunk_store<W>(f.out + row * f.width, x[k], warp_chunk(k), f.width);
    }
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        f.mean[row] = mean;
        f.rstd[row] = rstd;
    }
}

/* A block for each row, of any length and alignment. */
template <typename T>
__global__ void __launch_bounds__(LANES *PLAIN_WARPS)
layernorm_forward_plain_kernel(const struct forward<T> f)
{
    const int64_t row = blockIdx.x;
    const T *x = f.a + row * f.width;
    T *out = f.out + row * f.width;
    float total = 0, squares = 0;

    for (int c = (int)threadIdx.x; c < f.width; c += LANES * PLAIN_WARPS)
        total += to_float(x[c]);
    const float mean = block_sum(total) / (float)f.width;
    for (int c = (int)threadIdx.x; c < f.width; c += LANES * PLAIN_WARPS)
        squares += (to_float(x[c]) - mean) * (to_float(x[c]) - mean);
    const float rstd = 1.0f / sqrtf(block_sum(squares) / (float)f.width + EPSILON);
    for (int c = (int)threadIdx.x; c < f.width; c += LANES * PLAIN_WARPS)
        out[c] = from_float<T>((to_float(x[c]) - mean) * rstd * to_float(f.weight[c]) +
                               to_float(f.bias[c]));
    if (threadIdx.x == 0) {
        f.mean[row] = mean;
        f.rstd[row] = rstd;
    }
}

/* The block for rows that stay in registers. */
dim3 row_block(int width)
{
    const unsigned warps = (unsigned)blocks_for(width, WARP_COLUMNS);

    return dim3(LANES, warps, warps == 1 ? (unsigned)SINGLE_WARPS : 1);
}

template <typename T, int CHUNKS> auto layernorm_forward_kernel_for(enum source source)
{
    return source == SOURCE_X     ? layernorm_forward_kernel<T, CHUNKS, SOURCE_X>
           : source == SOURCE_SUM ? layernorm_forward_kernel<T, CHUNKS, SOURCE_SUM>
                                  : layernorm_forward_kernel<T, CHUNKS, SOURCE_DROPOUT_SUM>;
}

/* For rows that stay in registers. */
template <typename T>
void launch_forward(struct device *dev, const struct forward<T> *f, enum source source)
{
    const dim3 block = row_block(f->width);
    const auto kernel = f->width <= CHUNK ? layernorm_forward_kernel_for<T, 1>(source)
                                          : layernorm_forward_kernel_for<T, WARP_CHUNKS>(source);

    LAUNCH(kernel, (unsigned)blocks_for(f->n, block.z), block, 0, cuda_stream(dev), *f);
}

template <typename T>
struct forward<T> forward_operands(const struct tensor *out, const struct tensor *mean,
                                   const struct tensor *rstd, const struct tensor *a,
                                   const struct tensor *weight, const struct tensor *bias)
{
    struct forward<T> f = {};

    f.out = tensor_data<T>(out);
    f.mean = tensor_data<float>(mean);
    f.rstd = tensor_data<float>(rstd);
    f.a = tensor_data<T>(a);
    f.weight = tensor_data<T>(weight);
    f.bias = tensor_data<T>(bias);
    f.n = a->shape[0];
    f.width = (int)a->shape[1];
    return f;
}

template <typename T>
enum status forward_of(struct device *dev, const struct tensor *out, const struct tensor *mean,
                       const struct tensor *rstd, const struct tensor *x,
                       const struct tensor *weight, const struct tensor *bias)
{
    const struct forward<T> f = forward_operands<T>(out, mean, rstd, x, weight, bias);

    if (rows_are_vectors<T>(f.width, {out, x, weight, bias}) &&
        f.width <= WARP_COLUMNS * FORWARD_WARPS)
        launch_forward(dev, &f, SOURCE_X);
    else
        LAUNCH((layernorm_forward_plain_kernel<T>), (unsigned)f.n, LANES * PLAIN_WARPS, 0,
               cuda_stream(dev), f);
    return cuda_launched(dev, "layernorm_forward");
}

enum status layernorm_forward(struct device *dev, const struct tensor *out,
                              const struct tensor *mean, const struct tensor *rstd,
                              const struct tensor *x, const struct tensor *weight,
                              const struct tensor *bias)
{
    return FOR_REAL_TYPE(dev->real, forward_of, dev, out, mean, rstd, x, weight, bias);
}

template <typename T>
enum status add_forward_of(struct device *dev, const struct tensor *sum, const struct tensor *out,
                           const struct tensor *mean, const struct tensor *rstd,
                           const struct tensor *a, const struct tensor *b,
                           const struct tensor *weight, const struct tensor *bias,
                           const struct dropout *dropout)
{
    struct forward<T> f = forward_operands<T>(out, mean, rstd, a, weight, bias);

    if (!rows_are_vectors<T>(f.width, {sum, out, a, b, weight, bias}) ||
        f.width > WARP_COLUMNS * FORWARD_WARPS) {
        TRY(dev->ops->add_dropout_forward(dev, sum, a, b, dropout));
        return forward_of<T>(dev, out, mean, rstd, sum, weight, bias);
    }
    f.sum = tensor_data<T>(sum);
    f.b = tensor_data<T>(b);
    f.mask = dropout_mask_of(dropout);
    launch_forward(dev, &f, f.mask.threshold > 0 ? SOURCE_DROPOUT_SUM : SOURCE_SUM);
    return cuda_launched(dev, "add_layernorm_forward");
}

enum status add_layernorm_forward(struct device *dev, const struct tensor *sum,
                                  const struct tensor *out, const struct tensor *mean,
                                  const struct tensor *rstd, const struct tensor *a,
                                  const struct tensor *b, const struct tensor *weight,
                                  const struct tensor *bias, const struct dropout *dropout)
{
    return FOR_REAL_TYPE(dev->real, add_forward_of, dev, sum, out, mean, rstd, a, b, weight, bias,
                         dropout);
}

/* ---- backward ---- */

/* With n = (x - mean) rstd and d = dout weight: dx += rstd (d - mean(d) - n mean(d n)). */
template <typename T> struct backward {
    T *dx;
    const T *dout, *x, *weight;
    const float *mean, *rstd;
    float *partials;            /* (blocks, 2, width): each block's sums of dweight and dbias */
    int64_t n;
    int width;
};

/* The sums of warps that had rows of their own, in the order of the warps. */
template <int CHUNKS> DEVICE_FUNCTION void combine_warps(float (&sums)[CHUNKS][LANE_COLUMNS])
{
    __shared__ float combined[CHUNKS][LANES][LANE_COLUMNS + 1];     /* 9: no two lanes in a bank */

    for (int warp = 0; warp < (int)blockDim.z; warp++) {
        __syncthreads();
        if ((int)threadIdx.z != warp)
            continue;
#pragma unroll
        for (int k = 0; k < CHUNKS; k++)
#pragma unroll
            for (int i = 0; i < LANE_COLUMNS; i++) {
                float *to = &combined[k][lane_index()][i];
                *to = warp == 0 ? sums[k][i] : *to + sums[k][i];
            }
    }
    __syncthreads();
    if (threadIdx.z == 0)
#pragma unroll
        for (int k = 0; k < CHUNKS; k++)
#pragma unroll
            for (int i = 0; i < LANE_COLUMNS; i++)
                sums[k][i] = combined[k][lane_index()][i];
}

/* normal = (x - mean) rstd and d = dout weight of one chunk. */
template <typename T, int W>
DEVICE_FUNCTION void row_terms(float (&dout)[LANE_COLUMNS], float (&d)[LANE_COLUMNS],
                               float (&normal)[LANE_COLUMNS], const struct backward<T> &g,
                               const struct raw_chunk<T, W> &raw_dout,
                               const struct raw_chunk<T, W> &raw_x, float mean, float rstd, int k)
{
    chunk_load<W>(d, g.weight, warp_chunk(k), g.width);
    chunk_unpack(dout, raw_dout);
    chunk_unpack(normal, raw_x);
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; i++) {
        normal[i] = (normal[i] - mean) * rstd;
        d[i] *= dout[i];
    }
}

/* Blocks that a multiprocessor has registers for. */
template <typename T, int CHUNKS>
constexpr int BACKWARD_BLOCKS = CHUNKS == 1 ? 6 : sizeof(T) == 2 ? 3 : 2;

/* Blocks of (32, warps for a row, rows). Each goes through rows with the stride of the grid. */
template <typename T, int CHUNKS>
__global__ void __launch_bounds__(LANES *BACKWARD_WARPS, (BACKWARD_BLOCKS<T, CHUNKS>))
layernorm_backward_kernel(const struct backward<T> g)
{
    constexpr int W = VECTOR<T>;
    const int64_t stride = (int64_t)gridDim.x * blockDim.z;
    float dweight[CHUNKS][LANE_COLUMNS] = {}, dbias[CHUNKS][LANE_COLUMNS] = {};

    for (int64_t row = (int64_t)blockIdx.x * blockDim.z + threadIdx.z; row < g.n; row += stride) {
        const float mean = g.mean[row], rstd = g.rstd[row];
        struct raw_chunk<T, W> raw_dout[CHUNKS], raw_x[CHUNKS], raw_dx[CHUNKS];
        float dout[LANE_COLUMNS], d[LANE_COLUMNS], normal[LANE_COLUMNS], dx[LANE_COLUMNS];
        float means[2] = {0, 0};
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            chunk_read(raw_dout[k], g.dout + row * g.width, warp_chunk(k), g.width);
            chunk_read(raw_x[k], g.x + row * g.width, warp_chunk(k), g.width);
            chunk_read(raw_dx[k], g.dx + row * g.width, warp_chunk(k), g.width);
        }
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            if (warp_chunk(k) >= g.width)
                break;
            row_terms(dout, d, normal, g, raw_dout[k], raw_x[k], mean, rstd, k);
#pragma unroll
            for (int i = 0; i < LANE_COLUMNS; i++) {
                dweight[k][i] += dout[i] * normal[i];
                dbias[k][i] += dout[i];
                means[0] += d[i];
                means[1] += d[i] * normal[i];
            }
        }
        if (blockDim.y > 1) {
            block_sums(means);
        } else {
            means[0] = warp_sum(means[0]);
            means[1] = warp_sum(means[1]);
        }
        means[0] /= (float)g.width;
        means[1] /= (float)g.width;
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            if (warp_chunk(k) >= g.width)
                break;
            row_terms(dout, d, normal, g, raw_dout[k], raw_x[k], mean, rstd, k);
            chunk_unpack(dx, raw_dx[k]);
#pragma unroll
            for (int i = 0; i < LANE_COLUMNS; i++)
                dx[i] += rstd * (d[i] - means[0] - normal[i] * means[1]);
            chunk_store<W>(g.dx + row * g.width, dx, warp_chunk(k), g.width);
        }
    }
    if (blockDim.z > 1) {
        combine_warps(dweight);
        combine_warps(dbias);
        if (threadIdx.z > 0)
            return;
    }
    float *partial = g.partials + (int64_t)blockIdx.x * 2 * g.width;
#pragma unroll
    for (int k = 0; k < CHUNKS; k++) {
        chunk_store<W>(partial, dweight[k], warp_chunk(k), g.width);
        chunk_store<W>(partial + g.width, dbias[k], warp_chunk(k), g.width);
    }
}

/* Rows of any length and alignment; a thread adds to its columns' sums where they lie. */
template <typename T>
__global__ void __launch_bounds__(LANES *PLAIN_WARPS)
layernorm_backward_plain_kernel(const struct backward<T> g)
{
    float *dweight = g.partials + (int64_t)blockIdx.x * 2 * g.width, *dbias = dweight + g.width;

    for (int c = (int)threadIdx.x; c < g.width; c += LANES * PLAIN_WARPS) {
        dweight[c] = 0;
        dbias[c] = 0;
    }
    for (int64_t row = blockIdx.x; row < g.n; row += gridDim.x) {
        const T *dout = g.dout + row * g.width, *x = g.x + row * g.width;
        T *dx = g.dx + row * g.width;
        const float mean = g.mean[row], rstd = g.rstd[row];
        float means[2] = {0, 0};
        for (int c = (int)threadIdx.x; c < g.width; c += LANES * PLAIN_WARPS) {
            const float normal = (to_float(x[c]) - mean) * rstd;
            const float d = to_float(dout[c]) * to_float(g.weight[c]);
            means[0] += d;
            means[1] += d * normal;
            dweight[c] += to_float(dout[c]) * normal;
            dbias[c] += to_float(dout[c]);
        }
        block_sums(means);
        for (int c = (int)threadIdx.x; c < g.width; c += LANES * PLAIN_WARPS) {
            const float normal = (to_float(x[c]) - mean) * rstd;
            const float d = to_float(dout[c]) * to_float(g.weight[c]);
            const float part = d - means[0] / (float)g.width - normal * means[1] / (float)g.width;
            dx[c] = from_float<T>(to_float(dx[c]) + rstd * part);
        }
    }
}

/* dweight += and dbias += the columns of partials (n, 2, width); blocks of (32, COMBINE_SLICES) for
 * 32 columns each. */
__global__ void __launch_bounds__(LANES *COMBINE_SLICES)
layernorm_combine_kernel(float *dweight, float *dbias, const float *partials, int n, int width)
{
    __shared__ float slices[COMBINE_SLICES][LANES];
    const int64_t column = (int64_t)blockIdx.x * LANES + threadIdx.x, columns = 2 * (int64_t)width;
    float total = 0;

    if (column < columns)
#pragma unroll 4
        for (int i = (int)threadIdx.y; i < n; i += COMBINE_SLICES)
            total += partials[i * columns + column];
    slices[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y > 0 || column >= columns)
        return;
    for (int i = 1; i < COMBINE_SLICES; i++)
        total += slices[i][threadIdx.x];
    if (column < width)
        dweight[column] += total;
    else
        dbias[column - width] += total;
}

/* Returns the number of blocks, and so of partial sums. */
template <typename T, int CHUNKS>
int launch_backward(struct device *dev, const struct backward<T> *g)
{
    const dim3 block = row_block(g->width);
    const int room = cuda_device(dev)->n_sms * BACKWARD_BLOCKS<T, CHUNKS>;
    const int blocks = smaller(blocks_for(g->n, block.z), smaller(room, PARTIALS));

    LAUNCH((layernorm_backward_kernel<T, CHUNKS>), blocks, block, 0, cuda_stream(dev), *g);
    return blocks;
}

template <typename T>
int launch_backward_plain(struct device *dev, const struct backward<T> *g)
{
    const int room = cuda_device(dev)->n_sms * PLAIN_BLOCKS;
    const int blocks = smaller(g->n, smaller(room, PARTIALS));

    LAUNCH((layernorm_backward_plain_kernel<T>), blocks, LANES * PLAIN_WARPS, 0, cuda_stream(dev),
           *g);
    return blocks;
}

template <typename T>
enum status backward_of(struct device *dev, const struct tensor *dx, const struct tensor *dweight,
                        const struct tensor *dbias, const struct tensor *dout,
                        const struct tensor *x, const struct tensor *weight,
                        const struct tensor *mean, const struct tensor *rstd)
{
    const int64_t width = x->shape[1];
    const bool fits = rows_are_vectors<T>(width, {dx, dout, x, weight}) &&
                      width <= WARP_COLUMNS * BACKWARD_WARPS;
    const struct backward<T> g = {
        tensor_data<T>(dx), tensor_data<T>(dout), tensor_data<T>(x), tensor_data<T>(weight),
        tensor_data<float>(mean), tensor_data<float>(rstd),
        (float *)cuda_device(dev)->scratch, x->shape[0], (int)width,
    };
    const int blocks = !fits            ? launch_backward_plain(dev, &g)
                       : width <= CHUNK ? launch_backward<T, 1>(dev, &g)
                                        : launch_backward<T, WARP_CHUNKS>(dev, &g);

    TRY(cuda_launched(dev, "layernorm_backward"));
    LAUNCH(layernorm_combine_kernel, (unsigned)blocks_for(2 * width, LANES),
           dim3(LANES, COMBINE_SLICES), 0, cuda_stream(dev), tensor_data<float>(dweight),
           tensor_data<float>(dbias), g.partials, blocks, (int)width);
    return cuda_launched(dev, "layernorm_backward");
}

enum status layernorm_backward(struct device *dev, const struct tensor *dx,
                               const struct tensor *dweight, const struct tensor *dbias,
                               const struct tensor *dout, const struct tensor *x,
                               const struct tensor *weight, const struct tensor *mean,
                               const struct tensor *rstd)
{
    return FOR_REAL_TYPE(dev->real, backward_of, dev, dx, dweight, dbias, dout, x, weight, mean,
                         rstd);
}

}

size_t cuda_layernorm_scratch(const struct op_limits *limits, enum dtype)
{
    return (size_t)PARTIALS * 2 * (size_t)largest_width(limits) * sizeof(float);
}

void cuda_layernorm_ops(struct op_table *table)
{
    table->layernorm_forward = layernorm_forward;
    table->layernorm_backward = layernorm_backward;
    table->add_layernorm_forward = add_layernorm_forward;
}
