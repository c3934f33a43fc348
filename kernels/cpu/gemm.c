/* gemm.c - the matrix products under linear layers and attention: oneDNN for float and bfloat16,
 * plain loops for double and where oneDNN has none. */
#include "kernels/cpu/cpu_ops.h"

#if defined CPU_REAL_DOUBLE

void CPU_NAME(gemm_sum)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                        const real *a, int64_t lda, const real *b, int64_t ldb, bool accumulate,
                        calc *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            calc total = 0;
            for (int64_t l = 0; l < k; l++)
                total += (transpose_a ? a[l * lda + i] : a[i * lda + l]) *
                         (transpose_b ? b[j * ldb + l] : b[l * ldb + j]);
            c[i * ldc + j] = total + (accumulate ? c[i * ldc + j] : 0);
        }
}

#elif !defined CPU_REAL_BF16

#include <dnnl.h>

#include "base/memory_error.h"

void CPU_NAME(gemm_sum)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                        const real *a, int64_t lda, const real *b, int64_t ldb, bool accumulate,
                        calc *c, int64_t ldc)
{
    /* Of its errors those of arguments are ruled out by the callers; what remains is memory. */
    if (dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, 1, a, lda, b, ldb,
                   accumulate ? 1 : 0, c, ldc) != dnnl_success)
        memory_error_end();
}

#endif

#ifndef CPU_REAL_BF16

void CPU_NAME(gemm)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                    const real *a, int64_t lda, const real *b, int64_t ldb, const real *bias,
                    real *c, int64_t ldc)
{
    if (bias)
        for (int64_t i = 0; i < m; i++)
            memcpy(c + i * ldc, bias, (size_t)n * sizeof *c);
    CPU_NAME(gemm_sum)(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, bias != NULL, c, ldc);
}

#else

#include "kernels/cpu/matmul_bf16.h"

enum { BLOCK_COLUMNS = 64, BLOCK_TERMS = 256 };

/* total (n <= BLOCK_COLUMNS) = row i of op(a) times columns `first` .. of op(b). */
static void plain_row(calc *total, const struct matmul *s, const real *a, const real *b, int64_t i,
                      int64_t first, int64_t n)
{
    calc terms[BLOCK_TERMS];

    memset(total, 0, (size_t)n * sizeof *total);
    for (int64_t from = 0; from < s->k; from += BLOCK_TERMS) {
        const int64_t count = slice_end(from, BLOCK_TERMS, s->k) - from;
        const real *row = s->transpose_a ? a + from * s->lda + i : a + i * s->lda + from;
        const int64_t step = s->transpose_a ? s->lda : 1;
        for (int64_t l = 0; l < count; l++)
            terms[l] = widen(row[l * step]);
        if (s->transpose_b) {
            for (int64_t j = 0; j < n; j++) {
                const real *column = b + (first + j) * s->ldb + from;
                calc sum = 0;
                VECTOR_SUM(sum)
                for (int64_t l = 0; l < count; l++)
                    sum += terms[l] * widen(column[l]);
                total[j] += sum;
            }
        } else {
            for (int64_t l = 0; l < count; l++) {
                const real *columns = b + (from + l) * s->ldb + first;
                VECTOR
                for (int64_t j = 0; j < n; j++)
                    total[j] += terms[l] * widen(columns[j]);
            }
        }
    }
}

/* Straight from the operands, without copies of them; c is float or bfloat16, as the kind says. */
static void plain_product(const struct matmul *s, const real *a, const real *b, const real *bias,
                          void *c)
{
    calc total[BLOCK_COLUMNS];

    for (int64_t i = 0; i < s->m; i++)
        for (int64_t first = 0; first < s->n; first += BLOCK_COLUMNS) {
            const int64_t n = slice_end(first, BLOCK_COLUMNS, s->n) - first;
            const int64_t place = i * s->ldc + first;
            plain_row(total, s, a, b, i, first, n);
            if (s->kind == MATMUL_FLOAT) {
                memcpy((calc *)c + place, total, (size_t)n * sizeof *total);
            } else if (s->kind == MATMUL_FLOAT_ADD) {
                for (int64_t j = 0; j < n; j++)
                    ((calc *)c)[place + j] += total[j];
            } else {
                for (int64_t j = 0; j < n; j++)
                    ((real *)c)[place + j] = narrow(total[j] + (bias ? widen(bias[first + j]) : 0));
            }
        }
}

/* One row to be summed as float is a new token's attention: it meets one key more each time, a
 * shape of its own, and to prepare that would take longer than the product. */
static void product(const struct matmul *s, const real *a, const real *b, const real *bias,
                    void *c)
{
    const bool is_passing = s->m == 1 && s->kind == MATMUL_FLOAT;

    if (is_passing || !matmul_bf16(s, a, b, bias, c))
        plain_product(s, a, b, bias, c);
}

void CPU_NAME(gemm)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                    const real *a, int64_t lda, const real *b, int64_t ldb, const real *bias,
                    real *c, int64_t ldc)
{
    product(&(struct matmul){bias ? MATMUL_BF16_BIAS : MATMUL_BF16, transpose_a, transpose_b, m, n,
                             k, lda, ldb, ldc}, a, b, bias, c);
}

void CPU_NAME(gemm_sum)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                        const real *a, int64_t lda, const real *b, int64_t ldb, bool accumulate,
                        calc *c, int64_t ldc)
{
    product(&(struct matmul){accumulate ? MATMUL_FLOAT_ADD : MATMUL_FLOAT, transpose_a, transpose_b,
                             m, n, k, lda, ldb, ldc}, a, b, NULL, c);
}

#endif
