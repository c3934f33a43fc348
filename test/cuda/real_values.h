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

    if (x == 0)
        return x;
    (void)frexp(x, &exponent);
    const double unit = ldexp(1, exponent - 1 - bits);
    return nearbyint(x / unit) * unit;
}

static inline int type_bits(enum dtype dtype)
{
    return dtype == DTYPE_BF16 ? 7 : dtype == DTYPE_F16 ? 10 : 23;
}

static inline void encode(void *to, enum dtype dtype, double x)
{
    const float value = (float)rounded(x, type_bits(dtype));
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    if (dtype == DTYPE_F32) {
        memcpy(to, &bits, 4);
    } else if (dtype == DTYPE_BF16) {
        memcpy(to, (char *)&bits + 2, 2);
    } else {        /* normal numbers only: the exponent's bias is 15, not 127 */
        const uint16_t half = (uint16_t)(bits >> 16 & 0x8000) |
                              (uint16_t)(value == 0 ? 0 : (bits >> 13 & 0x3ffff) - (112 << 10));
        memcpy(to, &half, 2);
    }
}

static inline double decode(const void *from, enum dtype dtype)
{
    uint32_t bits = 0;
    uint16_t half;
    float value;

    if (dtype == DTYPE_F16) {
        memcpy(&half, from, 2);
        const int exponent = half >> 10 & 31;
        const double size = exponent ? ldexp(1024 + (half & 1023), exponent - 25)
                                     : ldexp(half & 1023, -24);
        return exponent == 31 ? NAN : half & 0x8000 ? -size : size;
    }
    memcpy((char *)&bits + (dtype == DTYPE_BF16 ? 2 : 0), from, dtype_size(dtype));
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
