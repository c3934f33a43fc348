/* loopback.cu - the sum for ranks that share one GPU, in tests: nothing here is made fast. */
#include "kernels/cuda/loopback.h"
#include "kernels/cuda/launch.h"

namespace {

constexpr int THREADS = 256, MAX_BLOCKS = 256;

/* A thread owns its elements in all buffers, so that the sums may be in place. */
template <class T>
__global__ void __launch_bounds__(THREADS)
loopback_sum_kernel(loopback_buffers buffers, int64_t count)
{
    const int64_t stride = (int64_t)gridDim.x * THREADS;

    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride) {
        T sum = static_cast<const T *>(buffers.data[0])[i];
        for (int rank = 1; rank < buffers.size; rank++)
            sum += static_cast<const T *>(buffers.data[rank])[i];
        for (int rank = 0; rank < buffers.size; rank++)
            static_cast<T *>(buffers.data[rank])[i] = sum;
    }
}

}

enum status cuda_loopback_sum(struct device *dev, cudaStream_t stream,
                              const struct loopback_buffers *buffers, enum dtype dtype,
                              int64_t count)
{
    const int64_t needed = (count + THREADS - 1) / THREADS;
    const unsigned blocks = (unsigned)(needed < MAX_BLOCKS ? needed : MAX_BLOCKS);

    if (count == 0)
        return OK;
    if (dtype == DTYPE_F64)
        LAUNCH(loopback_sum_kernel<double>, blocks, THREADS, 0, stream, *buffers, count);
    else
        LAUNCH(loopback_sum_kernel<float>, blocks, THREADS, 0, stream, *buffers, count);
    return cuda_launched(dev, "loopback sum");
}
