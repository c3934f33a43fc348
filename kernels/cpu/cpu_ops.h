/* cpu_ops.h - what the CPU's kernel files share.
 *
 * The same C is compiled several times, into a table of kernels each: for the plain machine, for AVX2
 * and for AVX-512 (meson passes CPU_VARIANT and the instruction sets), where the compiler's
 * vectoriser does the rest; and with real = double, for the gradient checks of the tests. */
#ifndef OCTET_CPU_OPS_H
#define OCTET_CPU_OPS_H

#include "base/team.h"
#include "device/cpu.h"
#include "kernels/ops.h"

#ifdef CPU_REAL_DOUBLE
typedef double real;
#define REAL_DTYPE DTYPE_F64
#else
typedef float real;
#define REAL_DTYPE DTYPE_F32
#endif

#define CPU_PASTE_(a, b) a##_##b
#define CPU_PASTE(a, b) CPU_PASTE_(a, b)
#define CPU_NAME(name) CPU_PASTE(name, CPU_VARIANT)

/* Ask the vectoriser to reorder a sum; only these sums are, so nothing else changes its rounding. */
#define VECTOR_SUM(variable) _Pragma(VECTOR_TEXT(omp simd reduction(+ : variable)))
#define VECTOR_MAX(variable) _Pragma(VECTOR_TEXT(omp simd reduction(max : variable)))
#define VECTOR _Pragma("omp simd")
#define VECTOR_TEXT(x) #x

/* Each family fills in its rows. */
void CPU_NAME(cpu_embedding_ops)(struct op_table *table);
void CPU_NAME(cpu_layernorm_ops)(struct op_table *table);
void CPU_NAME(cpu_linear_ops)(struct op_table *table);
void CPU_NAME(cpu_gelu_ops)(struct op_table *table);
void CPU_NAME(cpu_residual_ops)(struct op_table *table);
void CPU_NAME(cpu_rope_ops)(struct op_table *table);
void CPU_NAME(cpu_attention_ops)(struct op_table *table);
void CPU_NAME(cpu_cross_entropy_ops)(struct op_table *table);
void CPU_NAME(cpu_top_logits_ops)(struct op_table *table);
void CPU_NAME(cpu_optimizer_ops)(struct op_table *table);

/* c = alpha op(a) op(b) + beta c, row-major, op(x) = x or its transpose; a is (m, k) after op, b
 * (k, n), ld* the length of a stored row. Runs on the calling thread alone, and gives the same bits
 * for the same shapes always. */
void CPU_NAME(gemm)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, real alpha,
                    const real *a, int64_t lda, const real *b, int64_t ldb, real beta, real *c,
                    int64_t ldc);

/* Factors of one row of a dropout of `width` columns: 0 or the scale of what is kept, for columns
 * 0 .. n-1 of them. */
void CPU_NAME(dropout_row)(real *factors, int64_t n, int64_t width, const struct dropout *dropout,
                           int64_t row);

/* Work over `n` items is cut in slices of `slice`, the last one shorter. */
static inline int n_slices(int64_t n, int64_t slice)
{
    return (int)((n + slice - 1) / slice);
}
static inline int64_t slice_end(int64_t first, int64_t slice, int64_t n)
{
    return first + slice < n ? first + slice : n;
}

#endif
