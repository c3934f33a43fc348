#include "base/tensor.h"

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
