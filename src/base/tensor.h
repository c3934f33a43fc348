/* tensor.h - a typed view of memory; it owns nothing. */
#ifndef OCTET_TENSOR_H
#define OCTET_TENSOR_H

#include <stddef.h>
#include <stdint.h>

enum dtype {
    DTYPE_F32,
    DTYPE_F64,
    DTYPE_BF16,
    DTYPE_F16,
    DTYPE_I32,
    DTYPE_I64,
    DTYPE_U8,
    DTYPE_U16,
    DTYPE_U32,
    N_DTYPES,
};

/* Bytes of one element. */
size_t dtype_size(enum dtype dtype);
/* The name that safetensors uses: "F32", "BF16", "U16", ... */
const char *dtype_name(enum dtype dtype);
/* N_DTYPES when the name is unknown. */
enum dtype dtype_from_name(const char *name);
/* Numbers of type F32, F64, BF16 or F16, aligned or not, as floats. */
void dtype_to_float(float *out, const void *data, enum dtype dtype, int64_t count);

struct tensor {
    void *data;             /* in the memory of one device; NULL where an operand is optional */
    enum dtype dtype;
    int64_t shape[4];       /* row-major and contiguous; unused trailing dimensions are 1 */
};

/* Views of `data`; the dimensions left out are 1. */
static inline struct tensor tensor_4d(void *data, enum dtype dtype, int64_t a, int64_t b, int64_t c,
                                      int64_t d)
{
    return (struct tensor){data, dtype, {a, b, c, d}};
}
static inline struct tensor tensor_3d(void *data, enum dtype dtype, int64_t a, int64_t b, int64_t c)
{
    return tensor_4d(data, dtype, a, b, c, 1);
}
static inline struct tensor tensor_2d(void *data, enum dtype dtype, int64_t a, int64_t b)
{
    return tensor_4d(data, dtype, a, b, 1, 1);
}
static inline struct tensor tensor_1d(void *data, enum dtype dtype, int64_t a)
{
    return tensor_4d(data, dtype, a, 1, 1, 1);
}

static inline int64_t tensor_count(const struct tensor *t)
{
    return t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
}

/* Rows n .. n+count-1 of the first dimension. */
static inline struct tensor tensor_rows(const struct tensor *t, int64_t first, int64_t count)
{
    struct tensor rows = *t;
    const int64_t row = t->shape[1] * t->shape[2] * t->shape[3];

    rows.data = (char *)t->data + (size_t)(first * row) * dtype_size(t->dtype);
    rows.shape[0] = count;
    return rows;
}

#endif
