/* real_values.h - random numbers, and the types of a GPU's tensors as doubles. */
#ifndef OCTET_TEST_REAL_VALUES_H
#define OCTET_TEST_REAL_VALUES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/tensor.h"

static uint32_t random_state;

/* From -1 to 1, but not so small that a 16-bit float would be subnormal. */
static inline double random_number(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    const double number = (double)(int32_t)random_state / 0x1p31;
    return fabs(number) < 0x1p-10 ? 0 : number;
}

/* Round to nearest, ties to even, at this many explicit bits; far from overflow and underflow. */
static inline double rounded(double x, int bits)
{
    int exponent;

    if (x == 0 || !isfinite(x))
        return x;
    (void)frexp(x, &exponent);
    const double unit = ldexp(1, exponent - 1 - bits);
    return nearbyint(x / unit) * unit;
}

static inline int type_bits(enum dtype dtype)
{
    return dtype == DTYPE_BF16 ? 7 : dtype == DTYPE_F16 ? 10 : 23;
}

static inline uint16_t float16_bits(double x)
{
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    int exponent;

    if (isnan(x))
        return 0x7fff;
    if (fabs(x) < 0x1p-14)          /* subnormal */
        return sign | (uint16_t)nearbyint(fabs(x) * 0x1p24);
    const double fraction = frexp(rounded(fabs(x), 10), &exponent);
    /* The fraction's leading one adds to the exponent. */
    return sign | (uint16_t)((exponent + 13) * 1024 + (int)(fraction * 2048));
}

static inline void encode(void *to, enum dtype dtype, double x)
{
    if (dtype == DTYPE_F16) {
        const uint16_t half = float16_bits(x);
        memcpy(to, &half, 2);
    } else {        /* a bfloat16 is the upper half of a float */
        const float value = (float)rounded(x, type_bits(dtype));
        memcpy(to, (const char *)&value + (dtype == DTYPE_BF16 ? 2 : 0), dtype_size(dtype));
    }
}

/* An infinite float16 comes out as NaN. */
static inline double decode(const void *from, enum dtype dtype)
{
    float value = 0;
    uint16_t half;

    if (dtype == DTYPE_F16) {
        memcpy(&half, from, 2);
        const int exponent = half >> 10 & 31, fraction = half & 1023;
        const double size = exponent == 0 ? ldexp(fraction, -24)
                                          : ldexp(1024 + fraction, exponent - 25);
        return exponent == 31 ? NAN : half & 0x8000 ? -size : size;
    }
    memcpy((char *)&value + (dtype == DTYPE_BF16 ? 2 : 0), from, dtype_size(dtype));
    return value;
}

#endif
