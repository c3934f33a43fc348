/* residual.cu - the residual addition with dropout on the branch. */
#include "kernels/cuda/elementwise.cuh"

namespace {

struct add_dropout {
    static const int inputs = 2;

    static __device__ __forceinline__ float of(float a, float b, float factor)
    {
        return a + factor * b;
    }
};

struct only_dropout {
    static const int inputs = 1;

    static __device__ __forceinline__ float of(float a, float, float factor)
    {
        return factor * a;
    }
};

enum status add_dropout_forward(struct device *dev, const struct tensor *out,
                                const struct tensor *a, const struct tensor *b,
                                const struct dropout *dropout)
{
    return FOR_REAL_TYPE(dev->real, elementwise, add_dropout(), dev, "add_dropout_forward",
                         out, a, b, dropout);
}

enum status add_dropout_backward(struct device *dev, const struct tensor *db,
                                 const struct tensor *dout, const struct dropout *dropout)
{
    return FOR_REAL_TYPE(dev->real, elementwise, only_dropout(), dev, "add_dropout_backward",
                         db, dout, dout, dropout);
}

}

void cuda_residual_ops(struct op_table *table)
{
    table->add_dropout_forward = add_dropout_forward;
    table->add_dropout_backward = add_dropout_backward;
}
