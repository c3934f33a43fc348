/* gelu.cu - GELU with the error function, and the dropout behind it. */
#include "kernels/cuda/elementwise.cuh"

namespace {

/* Phi(x) and phi(x), the normal distribution and its density, by Abramowitz, Stegun, "Handbook of
 * mathematical functions", 7.1.26: erfc(y) = t (a1 + t (a2 + ...)) exp(-y^2) within 1.5e-7,
 * t = 1 / (1 + 0.3275911 y), y = |x| / sqrt 2. The quick exponential and division cost less than
 * the 16-bit types' traffic and are exact to some 2^-22 where the result is not negligible; the
 * exponential serves the density too. */
DEVICE_FUNCTION void normal(float x, float *cumulative, float *density)
{
    const float y = fabsf(x) * 0.70710678f;
    const float t = __fdividef(1.0f, 1.0f + 0.3275911f * y);
    const float e = __expf(-y * y);
    float p = 1.061405429f;

    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float tail = 0.5f * p * t * e;
    *cumulative = x < 0.0f ? tail : 1.0f - tail;
    *density = 0.39894228f * e;
}

struct gelu {
    static const int inputs = 1;

    static __device__ __forceinline__ float of(float x, float, float factor)
    {
        float cumulative, density;

        normal(x, &cumulative, &density);
        return x * cumulative * factor;
    }
};

struct gelu_gradient {
    static const int inputs = 2;

    static __device__ __forceinline__ float of(float dout, float x, float factor)
    {
        float cumulative, density;

        normal(x, &cumulative, &density);
        return dout * (cumulative + x * density) * factor;
    }
};

enum status gelu_forward(struct device *dev, const struct tensor *out, const struct tensor *x,
                         const struct dropout *dropout)
{
    return FOR_REAL_TYPE(dev->real, elementwise, gelu(), dev, "gelu_forward", out, x, x, dropout);
}

enum status gelu_backward(struct device *dev, const struct tensor *dx, const struct tensor *dout,
                          const struct tensor *x, const struct dropout *dropout)
{
    return FOR_REAL_TYPE(dev->real, elementwise, gelu_gradient(), dev, "gelu_backward",
                         dx, dout, x, dropout);
}

}

void cuda_gelu_ops(struct op_table *table)
{
    table->gelu_forward = gelu_forward;
    table->gelu_backward = gelu_backward;
}
