/* vector_math.h - exp, and the normal distribution, as straight-line code that vectorises.
 *
 * The double versions, for gradient checks, call the C library. */
#ifndef OCTET_VECTOR_MATH_H
#define OCTET_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"

#ifdef CPU_REAL_DOUBLE

static inline double real_exp(double x)
{
    return exp(x);
}

/* Phi(x) and phi(x), the normal distribution and its density. */
static inline void real_normal(double x, double *cumulative, double *density)
{
    *cumulative = 0.5 * erfc(-x * 0.70710678118654752);
    *density = 0.39894228040143268 * exp(-0.5 * x * x);
}

#else

/* Relative error below 2e-7; 0 below -87.3, infinity above 88.7, NaN stays NaN.
 * 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2, and the Taylor series of e^r to r^7. */
static inline float real_exp(float x)
{
    const float shift = 0x1.8p23f;      /* adding it rounds to a whole number */
    /* Not min and max functions: the comparisons must let NaN through. */
    float clamped = x > 88.8f ? 88.8f : x;
    clamped = clamped < -87.4f ? -87.4f : clamped;
    const float shifted = clamped * 1.44269504f + shift;
    const float n = shifted - shift;
    const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    /* 2^n in two factors, so that n = 128 does not overflow the exponent's bits too early. */
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    const int32_t exponent = (int32_t)(bits << 9) >> 9;
    const int32_t half = exponent >> 1;
    const uint32_t a = (uint32_t)(half + 127) << 23, b = (uint32_t)(exponent - half + 127) << 23;
    float scale_a, scale_b;
    memcpy(&scale_a, &a, sizeof a);
    memcpy(&scale_b, &b, sizeof b);
    const float result = p * scale_a * scale_b;
    return x < -87.3f ? 0.0f : result;
}

/* Abramowitz, Stegun, "Handbook of mathematical functions", 7.1.26: erfc(y) =
 * t (a1 + t (a2 + ...)) exp(-y^2) within 1.5e-7, t = 1 / (1 + 0.3275911 y), y = |x| / sqrt 2;
 * with the roundings of float32, Phi within 4e-7. The exponential serves the density too. */
static inline void real_normal(float x, float *cumulative, float *density)
{
    const float y = fabsf(x) * 0.70710678f;
    const float t = 1.0f / (1.0f + 0.3275911f * y);
    const float e = real_exp(-y * y);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float tail = 0.5f * p * t * e;
    *cumulative = x < 0.0f ? tail : 1.0f - tail;
    *density = 0.39894228f * e;
}

#endif
#endif
