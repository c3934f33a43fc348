/* optimizer.cu - conversion, sums over all rows or parameters, and AdamW over the flat buffer. */
#include <math.h>

#include "kernels/cuda/reduce.cuh"

namespace {

enum {
    THREADS = 256,
    QUAD = 4,                   /* elements of a thread: 16 bytes of float */
    /* A sum has a block for so many elements, and as many as are allowed: the same on every GPU. */
    SUM_ELEMENTS = 4 * THREADS * QUAD,
    SUM_BLOCKS = 1024,
};

/* ---- cast ---- */

template <typename T> __global__ void __launch_bounds__(THREADS)
cast_kernel(T *out, const float *x, int64_t n, bool wide)
{
    const int64_t first = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * VECTOR<T>;
    float v[VECTOR<T>];

    if (wide && first + VECTOR<T> <= n) {
        vector_load<VECTOR<T>>(v, x + first);
        vector_store<VECTOR<T>>(out + first, v);
        return;
    }
    for (int64_t i = first; i < first + VECTOR<T> && i < n; i++)
        out[i] = from_float<T>(x[i]);
}

template <typename T>
enum status cast_of(struct device *dev, const struct tensor *out, const struct tensor *x)
{
    const int64_t n = tensor_count(x);

    LAUNCH((cast_kernel<T>), (unsigned)blocks_for(n, THREADS * VECTOR<T>), THREADS, 0,
           cuda_stream(dev), tensor_data<T>(out), tensor_data<float>(x), n, are_aligned({out, x}));
    return cuda_launched(dev, "cast");
}

enum status cast(struct device *dev, const struct tensor *out, const struct tensor *x)
{
    return FOR_REAL_TYPE(dev->real, cast_of, dev, out, x);
}

/* ---- sums ---- */

template <bool SQUARES> DEVICE_FUNCTION double term(float x)
{
    return SQUARES ? (double)x * (double)x : (double)x;
}

/* partials: each block's part of the sum of x, or of its squares. */
template <bool SQUARES> __global__ void __launch_bounds__(THREADS)
partial_sums_kernel(double *partials, const float *x, int64_t n, bool wide)
{
    const int64_t thread = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t threads = (int64_t)gridDim.x * THREADS, n_quads = wide ? n / QUAD : 0;
    double total = 0;

#pragma unroll 4
    for (int64_t i = thread; i < n_quads; i += threads) {
        float v[QUAD];
        vector_load<QUAD>(v, x + i * QUAD);
#pragma unroll
        for (int j = 0; j < QUAD; j++)
            total += term<SQUARES>(v[j]);
    }
    for (int64_t i = n_quads * QUAD + thread; i < n; i += threads)
        total += term<SQUARES>(x[i]);
    total = block_sum(total);
    if (threadIdx.x == 0)
        partials[blockIdx.x] = total;
}

/* out = the sum of n partials, or += it. One block. */
__global__ void __launch_bounds__(THREADS)
combine_sums_kernel(double *out, const double *partials, int n, bool accumulate)
{
    double total = 0;

    for (int i = (int)threadIdx.x; i < n; i += THREADS)
        total += partials[i];
    total = block_sum(total);
    if (threadIdx.x == 0)
        out[0] = accumulate ? out[0] + total : total;
}

template <bool SQUARES>
enum status sum_of(struct device *dev, const char *name, const struct tensor *out,
                   const struct tensor *x, bool accumulate)
{
    double *partials = (double *)cuda_device(dev)->scratch;
    const int64_t n = tensor_count(x);
    const int blocks = (int)smaller(blocks_for(n, SUM_ELEMENTS), SUM_BLOCKS);

    LAUNCH((partial_sums_kernel<SQUARES>), blocks, THREADS, 0, cuda_stream(dev), partials,
           tensor_data<float>(x), n, are_aligned({x}));
    TRY(cuda_launched(dev, name));
    LAUNCH(combine_sums_kernel, 1, THREADS, 0, cuda_stream(dev), tensor_data<double>(out),
           partials, blocks, accumulate);
    return cuda_launched(dev, name);
}

enum status sum(struct device *dev, const struct tensor *out, const struct tensor *x)
{
    return sum_of<false>(dev, "sum", out, x, true);
}

enum status sum_of_squares(struct device *dev, const struct tensor *out, const struct tensor *x)
{
    return sum_of<true>(dev, "sum_of_squares", out, x, false);
}

/* ---- AdamW ---- */

template <typename T> struct adamw_buffers {
    float *weights, *m, *v;
    const float *grads;
    T *copy;                    /* or NULL */
    int64_t n, decay_count;
    bool wide;
};

struct adamw_factors {
    float beta1, rest1;         /* rest = 1 - beta */
    float beta2, rest2;
    float epsilon;
    float step_size;            /* lr / (1 - beta1^t) */
    float v_scale;              /* 1 / sqrt(1 - beta2^t) */
    float keep;                 /* 1 - lr * weight_decay */
};

/* What every gradient is multiplied by; not a number if their norm is none. One thread. */
__global__ void adamw_scale_kernel(float *scale, const double *squares, double loss_scale,
                                   double max_norm)
{
    const double norm = sqrt(squares[0]) / loss_scale;
    const double clip = max_norm > 0 && norm > max_norm ? max_norm / norm : 1;

    scale[0] = isfinite(norm) ? (float)(clip / loss_scale) : NAN;
}

/* COUNT neighbours at a time: four, or one. */
template <int COUNT, typename T>
DEVICE_FUNCTION void adamw_update(const struct adamw_buffers<T> &b, const struct adamw_factors &f,
                                  float scale, int64_t first)
{
    float weights[COUNT], m[COUNT], v[COUNT], g[COUNT];

    vector_load<COUNT>(weights, b.weights + first);
    vector_load<COUNT>(m, b.m + first);
    vector_load<COUNT>(v, b.v + first);
    vector_load<COUNT>(g, b.grads + first);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        g[i] *= scale;
        m[i] = f.beta1 * m[i] + f.rest1 * g[i];
        v[i] = f.beta2 * v[i] + f.rest2 * g[i] * g[i];
        weights[i] = weights[i] * (first + i < b.decay_count ? f.keep : 1.0f) -
                     f.step_size * m[i] / (sqrtf(v[i]) * f.v_scale + f.epsilon);
    }
    vector_store<COUNT>(b.weights + first, weights);
    vector_store<COUNT>(b.m + first, m);
    vector_store<COUNT>(b.v + first, v);
    if (b.copy)
        vector_store<COUNT>(b.copy + first, weights);
}

template <typename T> __global__ void __launch_bounds__(THREADS)
adamw_kernel(const struct adamw_buffers<T> b, const struct adamw_factors f, const float *grad_scale)
{
    const int64_t first = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * QUAD;
    const float scale = *grad_scale;

    if (isnan(scale))
        return;
    if (b.wide && first + QUAD <= b.n) {
        adamw_update<QUAD>(b, f, scale, first);
        return;
    }
    for (int64_t i = first; i < first + QUAD && i < b.n; i++)
        adamw_update<1>(b, f, scale, i);
}

template <typename T>
enum status adamw_of(struct device *dev, const struct tensor *weights, const struct tensor *m,
                     const struct tensor *v, const struct tensor *grads, const struct tensor *copy,
                     const struct tensor *squares, const struct adamw_step *step)
{
    float *scale = (float *)cuda_device(dev)->scratch;
    const double t = (double)step->step;
    const int64_t n = tensor_count(weights);
    const struct adamw_buffers<T> buffers = {
        tensor_data<float>(weights), tensor_data<float>(m), tensor_data<float>(v),
        tensor_data<float>(grads), tensor_data<T>(copy), n, step->decay_count,
        are_aligned({weights, m, v, grads, copy}),
    };
    const struct adamw_factors factors = {
        (float)step->beta1, (float)(1 - step->beta1),
        (float)step->beta2, (float)(1 - step->beta2),
        (float)step->epsilon,
        (float)(step->lr / (1 - pow(step->beta1, t))),
        (float)(1 / sqrt(1 - pow(step->beta2, t))),
        (float)(1 - step->lr * step->weight_decay),
    };

    LAUNCH(adamw_scale_kernel, 1, 1, 0, cuda_stream(dev), scale, tensor_data<double>(squares),
           step->loss_scale, step->max_norm);
    TRY(cuda_launched(dev, "adamw"));
    LAUNCH((adamw_kernel<T>), (unsigned)blocks_for(n, THREADS * QUAD), THREADS, 0,
           cuda_stream(dev), buffers, factors, scale);
    return cuda_launched(dev, "adamw");
}

enum status adamw(struct device *dev, const struct tensor *weights, const struct tensor *m,
                  const struct tensor *v, const struct tensor *grads, const struct tensor *copy,
                  const struct tensor *squares, const struct adamw_step *step)
{
    return FOR_REAL_TYPE(dev->real, adamw_of, dev, weights, m, v, grads, copy, squares, step);
}

}

size_t cuda_optimizer_scratch(const struct op_limits *, enum dtype)
{
    return SUM_BLOCKS * sizeof(double);
}

void cuda_optimizer_ops(struct op_table *table)
{
    table->cast = cast;
    table->sum = sum;
    table->sum_of_squares = sum_of_squares;
    table->adamw = adamw;
}
