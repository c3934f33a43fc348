#include "ops/element.h"

#include <math.h>
#include <string.h>

static uint16_t bfloat16_bits(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    if (isnan(x))
        return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static double bfloat16_value(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float x;

    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

static uint16_t float16_bits(float x)
{
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    const double size = fabs((double)x);
    int exponent;

    if (isnan(x))
        return 0x7fff;
    if (size >= 65520)
        return sign | 0x7c00;
    if (size < 0x1p-14)
        return sign | (uint16_t)nearbyint(size * 0x1p24);
    const double fraction = frexp(size, &exponent);
    /* Rounding up to the next power of two carries into the exponent by itself. */
    return sign | (uint16_t)(((exponent + 14) << 10) + (int)nearbyint(fraction * 2048) - 1024);
}

static double float16_value(uint16_t half)
{
    const int exponent = half >> 10 & 0x1f, fraction = half & 0x3ff;
    double size = ldexp(1024 + fraction, exponent - 25);

    if (exponent == 0)
        size = fraction * 0x1p-24;
    if (exponent == 31)
        size = fraction ? (double)NAN : (double)INFINITY;
    return half & 0x8000 ? -size : size;
}

void write_element(unsigned char *memory, enum dtype dtype, int64_t i, double value)
{
    switch (dtype) {
    case DTYPE_F32:
        memcpy(memory + 4 * i, &(float){(float)value}, 4);
        break;
    case DTYPE_F64:
        memcpy(memory + 8 * i, &value, 8);
        break;
    case DTYPE_BF16:
        memcpy(memory + 2 * i, &(uint16_t){bfloat16_bits((float)value)}, 2);
        break;
    case DTYPE_F16:
        memcpy(memory + 2 * i, &(uint16_t){float16_bits((float)value)}, 2);
        break;
    default:
        memcpy(memory + 4 * i, &(int32_t){(int32_t)value}, 4);
    }
}

double read_element(const unsigned char *memory, enum dtype dtype, int64_t i)
{
    float single;
    double value;
    uint16_t half;
    int32_t whole;

    switch (dtype) {
    case DTYPE_F32:
        memcpy(&single, memory + 4 * i, 4);
        return (double)single;
    case DTYPE_F64:
        memcpy(&value, memory + 8 * i, 8);
        return value;
    case DTYPE_I32:
        memcpy(&whole, memory + 4 * i, 4);
        return whole;
    default:
        memcpy(&half, memory + 2 * i, 2);
        return dtype == DTYPE_BF16 ? bfloat16_value(half) : float16_value(half);
    }
}

double rounded_to(double value, enum dtype dtype)
{
    unsigned char memory[8];

    write_element(memory, dtype, 0, value);
    return read_element(memory, dtype, 0);
}
