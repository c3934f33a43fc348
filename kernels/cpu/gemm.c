/* gemm.c - the matrix product under every linear layer: oneDNN for float, plain loops for double. */
#include "kernels/cpu/cpu_ops.h"

#ifdef CPU_REAL_DOUBLE

void CPU_NAME(gemm)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, real alpha,
                    const real *a, int64_t lda, const real *b, int64_t ldb, real beta, real *c,
                    int64_t ldc)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            real total = 0;
            for (int64_t l = 0; l < k; l++)
                total += (transpose_a ? a[l * lda + i] : a[i * lda + l]) *
                         (transpose_b ? b[j * ldb + l] : b[l * ldb + j]);
            /* beta 0 means that c may hold anything, NaN included. */
            c[i * ldc + j] = alpha * total + (beta == 0 ? 0 : beta * c[i * ldc + j]);
        }
}

#else

#include <dnnl.h>

void CPU_NAME(gemm)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, real alpha,
                    const real *a, int64_t lda, const real *b, int64_t ldb, real beta, real *c,
                    int64_t ldc)
{
    /* Its only errors are of arguments, which the callers above rule out. */
    dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb,
               beta, c, ldc);
}

#endif
