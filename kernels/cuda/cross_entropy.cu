/* cross_entropy.cu - softmax cross-entropy; the logits become their own gradient.
 *
 * Each row has a warp, or several where it is long. The first pass keeps a running maximum and the
 * sum of exponentials relative to it; the second, for the gradient, reads the row from the caches.
 * V need not be a multiple of anything: rows begin and end with loose elements around their 16-byte
 * vectors. */
#include <float.h>

#include "kernels/cuda/reduce.cuh"

namespace {

enum {
    WARP_COLUMNS = 1024,        /* of a row, for each warp until a block has no more of them */
    MAX_WARPS = 16,
    SINGLE_WARPS = 8,           /* of a block whose warps have a row each */
    BATCH = 4,                  /* vectors that a thread has under way */
};

/* The threads that share a row, and where its vectors begin. */
template <typename T> struct row_layout {
    T *row;
    int thread, threads;
    int head;                   /* loose elements before the first vector */
    int n_vectors, n_loose;

    __device__ __forceinline__ row_layout(T *logits, int64_t index, int vocab)
    {
        row = logits + index * vocab;
        thread = (int)(threadIdx.y * LANES + threadIdx.x);
        threads = (int)(blockDim.y * LANES);
        head = min((int)(-(uintptr_t)row % 16 / sizeof(T)), vocab);
        n_vectors = (vocab - head) / VECTOR<T>;
        n_loose = vocab - n_vectors * VECTOR<T>;
    }
    __device__ __forceinline__ int vector_column(int i) const
    {
        return head + i * VECTOR<T>;
    }
    /* Vectors i, i + threads, ... as far as there are any. */
    __device__ __forceinline__ void read(struct packed<T, VECTOR<T>> (&raw)[BATCH], int i) const
    {
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            if (i + k * threads < n_vectors)
                raw[k] = *(const struct packed<T, VECTOR<T>> *)(row +
                                                                vector_column(i + k * threads));
    }
    /* There are fewer loose elements than lanes. */
    __device__ __forceinline__ int loose_column(void) const
    {
        return thread < head ? thread : thread + n_vectors * VECTOR<T>;
    }
};

/* 16-bit logits are rounded far more than the quick exponential is. */
template <typename T> DEVICE_FUNCTION float exponential(float x)
{
    return sizeof(T) == 2 ? __expf(x) : expf(x);
}

/* The sum of e^(x - largest) over what was seen so far. A NaN is no maximum, but stays in the sum.
 */
struct running_sum {
    float largest, total;
};

template <typename T, int N>
DEVICE_FUNCTION void running_add(struct running_sum &sum, const float (&x)[N])
{
    float largest = sum.largest;

#pragma unroll
    for (int i = 0; i < N; i++)
        largest = fmaxf(largest, x[i]);
    sum.total *= exponential<T>(sum.largest - largest);
#pragma unroll
    for (int i = 0; i < N; i++)
        sum.total += exponential<T>(x[i] - largest);
    sum.largest = largest;
}

template <typename T> DEVICE_FUNCTION struct running_sum sum_row(const struct row_layout<T> &layout)
{
    /* Not infinity: the difference of two would be NaN. */
    struct running_sum sum = {-FLT_MAX, 0};
    struct packed<T, VECTOR<T>> raw[BATCH];
    float x[VECTOR<T>];

    if (layout.thread < layout.n_loose) {
        const float loose[1] = {to_float(layout.row[layout.loose_column()])};
        running_add<T>(sum, loose);
    }
    for (int i = layout.thread; i < layout.n_vectors; i += BATCH * layout.threads) {
        layout.read(raw, i);
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            if (i + k * layout.threads >= layout.n_vectors)
                break;
            vector_unpack(x, raw[k]);
            running_add<T>(sum, x);
        }
    }
    return sum;
}

/* From each thread's sum to the row's; all of the row has been read when it returns. */
template <typename T> DEVICE_FUNCTION struct running_sum combine_sums(struct running_sum sum)
{
    struct running_sum row;

    if (blockDim.y == 1) {
        row.largest = warp_max(sum.largest);
        row.total = warp_sum(sum.total * exponential<T>(sum.largest - row.largest));
        __syncwarp();
    } else {
        row.largest = block_max(sum.largest);
        row.total = block_sum(sum.total * exponential<T>(sum.largest - row.largest));
    }
    return row;
}

/* logits = softmax * grad_scale, less grad_scale at the target. */
template <typename T>
DEVICE_FUNCTION void write_gradient(const struct row_layout<T> &layout, struct running_sum sum,
                                    int target, float grad_scale)
{
    const float factor = grad_scale / sum.total;
    struct packed<T, VECTOR<T>> raw[BATCH];
    float x[VECTOR<T>];

    if (layout.thread < layout.n_loose) {
        const int column = layout.loose_column();
        const float p = exponential<T>(to_float(layout.row[column]) - sum.largest) * factor;
        layout.row[column] = from_float<T>(column == target ? p - grad_scale : p);
    }
    for (int i = layout.thread; i < layout.n_vectors; i += BATCH * layout.threads) {
        layout.read(raw, i);
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            const int column = layout.vector_column(i + k * layout.threads);
            if (i + k * layout.threads >= layout.n_vectors)
                break;
            vector_unpack(x, raw[k]);
#pragma unroll
            for (int j = 0; j < VECTOR<T>; j++) {
                x[j] = exponential<T>(x[j] - sum.largest) * factor;
                x[j] -= column + j == target ? grad_scale : 0;
            }
            vector_store<VECTOR<T>>(layout.row + column, x);
        }
    }
}

/* Blocks of (32, warps for a row, rows). */
template <typename T>
__global__ void __launch_bounds__(LANES *MAX_WARPS)
cross_entropy_kernel(float *losses, float *hits, T *logits, const int32_t *targets, int64_t n,
                     int vocab, float grad_scale)
{
    const int64_t index = (int64_t)blockIdx.x * blockDim.z + threadIdx.z;

    if (index >= n)
        return;
    const struct row_layout<T> layout(logits, index, vocab);
    const int target = targets[index];
    const float target_logit = to_float(layout.row[target]);
    const struct running_sum sum = combine_sums<T>(sum_row(layout));
    if (layout.thread == 0) {
        losses[index] = logf(sum.total) + (sum.largest - target_logit);
        hits[index] = target_logit >= sum.largest ? 1.0f : 0.0f;
    }
    if (grad_scale != 0)
        write_gradient(layout, sum, target, grad_scale);
}

template <typename T>
enum status cross_entropy_of(struct device *dev, const struct tensor *losses,
                             const struct tensor *hits, const struct tensor *logits,
                             const struct tensor *targets, double grad_scale)
{
    const int64_t n = logits->shape[0], vocab = logits->shape[1];
    const unsigned warps = (unsigned)smaller(blocks_for(vocab, WARP_COLUMNS), MAX_WARPS);
    const dim3 block(LANES, warps, warps == 1 ? (unsigned)SINGLE_WARPS : 1);

    LAUNCH((cross_entropy_kernel<T>), (unsigned)blocks_for(n, block.z), block, 0, cuda_stream(dev),
           tensor_data<float>(losses), tensor_data<float>(hits), tensor_data<T>(logits),
           tensor_data<int32_t>(targets), n, (int)vocab, (float)grad_scale);
    return cuda_launched(dev, "cross_entropy");
}

enum status cross_entropy(struct device *dev, const struct tensor *losses,
                          const struct tensor *hits, const struct tensor *logits,
                          const struct tensor *targets, double grad_scale)
{
    return FOR_REAL_TYPE(dev->real, cross_entropy_of, dev, losses, hits, logits, targets,
                         grad_scale);
}

}

void cuda_cross_entropy_ops(struct op_table *table)
{
    table->cross_entropy = cross_entropy;
}
