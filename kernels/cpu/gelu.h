/* gelu.h - one row of GELU and dropout, for the GELU kernels and the product before them. */
#ifndef OCTET_CPU_GELU_H
#define OCTET_CPU_GELU_H

#include "kernels/cpu/vector_math.h"

/* Where a part of a row may begin: at multiples of this. */
enum { GELU_COLUMNS = DROPOUT_TILE };

/* out = dropout(gelu(x)) for n columns of this row, the first of them column `first` of `width`;
 * `factors` is scratch for n numbers. */
static inline void gelu_row(real *out, const real *x, int64_t first, int64_t n, int64_t width,
                            const struct dropout *dropout, int64_t row, calc *factors)
{
    const bool drops = dropout->rate > 0;

    if (drops)
        CPU_NAME(dropout_row)(factors, first, n, width, dropout, row);
    VECTOR
    for (int64_t c = 0; c < n; c++) {
        const calc value = widen(x[c]);
        calc cumulative, density;
        real_normal(value, &cumulative, &density);
        out[c] = narrow(drops ? value * cumulative * factors[c] : value * cumulative);
    }
}

#endif
