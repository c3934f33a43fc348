/* gelu.h - one row of GELU and dropout, for the GELU kernels and the product before them. */
#ifndef OCTET_CPU_GELU_H
#define OCTET_CPU_GELU_H

#include "kernels/cpu/vector_math.h"

/* out = dropout(gelu(x)), n columns of this row; `factors` is scratch for n numbers. */
static inline void gelu_row(real *out, const real *x, int64_t n, const struct dropout *dropout,
                            int64_t row, calc *factors)
{
    const bool drops = dropout->rate > 0;

    if (drops)
        CPU_NAME(dropout_row)(factors, n, n, dropout, row);
    VECTOR
    for (int64_t c = 0; c < n; c++) {
        const calc value = widen(x[c]);
        calc cumulative, density;
        real_normal(value, &cumulative, &density);
        out[c] = narrow(drops ? value * cumulative * factors[c] : value * cumulative);
    }
}

#endif
