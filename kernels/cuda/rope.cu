/* rope.cu - rotary position embedding, in place. */
#include "kernels/cuda/vector.cuh"

namespace {

enum {
    THREADS = 256,
    SEQUENCES = 8,              /* whose rows at one position a block turns */
    SLICE = 1024,               /* pairs of a head, at most; a multiple of every vector's length */
};

/* The sine and cosine of `turns` full turns, exact to float precision however many those are: what
 * is left of the nearest quarter turn goes through the Taylor series, to the terms in r^9 and r^10;
 * |r| <= pi/4 leaves less than 2^-28 behind them. */
DEVICE_FUNCTION void sine_cosine(double turns, float *sine, float *cosine)
{
    const double quarters = rint(4 * turns);
    const float r = (float)((4 * turns - quarters) * 1.5707963267948966), square = r * r;
    const int quadrant = (int)((long long)quarters & 3);
    float s = 2.7557319e-6f, c = -2.7557319e-7f;

    s = s * square - 1.9841270e-4f;
    s = s * square + 8.3333333e-3f;
    s = s * square - 1.6666667e-1f;
    s = s * square * r + r;
    c = c * square + 2.4801587e-5f;
    c = c * square - 1.3888889e-3f;
    c = c * square + 4.1666667e-2f;
    c = c * square - 0.5f;
    c = c * square + 1.0f;
    *sine = quadrant % 2 == 0 ? s : c;
    *cosine = quadrant % 2 == 0 ? c : s;
    if (quadrant >= 2)
        *sine = -*sine;
    if (quadrant == 1 || quadrant == 2)
        *cosine = -*cosine;
}

/* One position of some sequences, and as many of the heads' `half` pairs as SLICE: their sines are
 * worked out once. W pairs at a time. */
template <typename T, int W>
__global__ void __launch_bounds__(THREADS)
rope_kernel(T *qkv, int64_t batch, int length, int heads, int half, int64_t position, float sign)
{
    alignas(16) __shared__ float sines[SLICE], cosines[SLICE];
    const int t = (int)blockIdx.x, first_pair = (int)blockIdx.z * SLICE;
    const int pairs = min(half - first_pair, (int)SLICE);
    const int vectors = pairs / W, per_sequence = 2 * heads * vectors;
    const int64_t first = (int64_t)blockIdx.y * SEQUENCES;
    const int n_sequences = (int)min(batch - first, (int64_t)SEQUENCES);

    for (int i = (int)threadIdx.x; i < pairs; i += THREADS) {
        /* log2(10000) and 1/(2 pi) */
        const double frequency = exp2(-13.287712379549449 * (first_pair + i) / half) *
                                 0.15915494309189535;
        float sine;
        sine_cosine((double)(position + t) * frequency, &sine, &cosines[i]);
        sines[i] = sign * sine;
    }
    __syncthreads();
    for (int item = (int)threadIdx.x; item < n_sequences * per_sequence; item += THREADS) {
        /* q and k lie side by side: (2, H, D). */
        const int64_t row = (first + item / per_sequence) * length + t;
        const int head = item % per_sequence / vectors, i = item % vectors * W;
        T *const x = qkv + (row * 3 * heads + head) * 2 * half + first_pair + i;
        float low[W], high[W], cosine[W], sine[W], turned[W];
        vector_load<W>(low, x);
        vector_load<W>(high, x + half);
        vector_load<W>(cosine, cosines + i);
        vector_load<W>(sine, sines + i);
#pragma unroll
        for (int j = 0; j < W; j++) {
            turned[j] = low[j] * cosine[j] - high[j] * sine[j];
            high[j] = high[j] * cosine[j] + low[j] * sine[j];
        }
        vector_store<W>(x, turned);
        vector_store<W>(x + half, high);
    }
}

/* qkv (B, T, 3H, D) */
template <typename T>
enum status rope_of(struct device *dev, const struct tensor *qkv, int64_t position, bool inverse)
{
    const int64_t half = qkv->shape[3] / 2;
    const dim3 grid((unsigned)qkv->shape[1], (unsigned)blocks_for(qkv->shape[0], SEQUENCES),
                    (unsigned)blocks_for(half, SLICE));
    const auto rope = rows_are_vectors<T>(half, {qkv}) ? rope_kernel<T, VECTOR<T>>
                                                       : rope_kernel<T, 1>;

    LAUNCH(rope, grid, THREADS, 0, cuda_stream(dev),
           tensor_data<T>(qkv), qkv->shape[0], (int)qkv->shape[1], (int)qkv->shape[2] / 3,
           (int)half, position, inverse ? -1.0f : 1.0f);
    return cuda_launched(dev, "rope");
}

enum status rope(struct device *dev, const struct tensor *qkv, int64_t position, bool inverse)
{
    return FOR_REAL_TYPE(dev->real, rope_of, dev, qkv, position, inverse);
}

}

void cuda_rope_ops(struct op_table *table)
{
    table->rope = rope;
}
