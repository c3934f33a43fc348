#include "base/tensor.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[N_DTYPES] = {
    [DTYPE_F32] = {"F32", 4}, [DTYPE_F64] = {"F64", 8}, [DTYPE_BF16] = {"BF16", 2},
    [DTYPE_F16] = {"F16", 2}, [DTYPE_I32] = {"I32", 4}, [DTYPE_I64] = {"I64", 8},
    [DTYPE_U8] = {"U8", 1},   [DTYPE_U16] = {"U16", 2}, [DTYPE_U32] = {"U32", 4},
};

size_t dtype_size(enum dtype dtype)
{
    return dtypes[dtype].size;
}

const char *dtype_name(enum dtype dtype)
{
    return dtypes[dtype].name;
}

enum dtype dtype_from_name(const char *name)
{
    for (int i = 0; i < N_DTYPES; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return (enum dtype)i;
    return N_DTYPES;
}

static float bf16_to_float(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;

    memcpy(&value, &wide, sizeof value);
    return value;
}

static float f16_to_float(uint16_t bits)
{
    const int exponent = bits >> 10 & 31;
    const float fraction = (float)(bits & 1023);
    float magnitude;

    if (exponent == 31)
        magnitude = fraction > 0 ? NAN : INFINITY;
    else if (exponent == 0)
        magnitude = ldexpf(fraction, -24);
    else
        magnitude = ldexpf(1024 + fraction, exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

void dtype_to_float(float *out, const void *data, enum dtype dtype, int64_t count)
{
    const unsigned char *bytes = data;

    for (int64_t i = 0; i < count; i++) {
        uint16_t half;
        double wide;
        switch (dtype) {
        case DTYPE_F64:
            memcpy(&wide, bytes + 8 * i, sizeof wide);
            out[i] = (float)wide;
            break;
        case DTYPE_F32:
            memcpy(&out[i], bytes + 4 * i, sizeof *out);
            break;
        default:
            memcpy(&half, bytes + 2 * i, sizeof half);
            out[i] = dtype == DTYPE_BF16 ? bf16_to_float(half) : f16_to_float(half);
        }
    }
}
