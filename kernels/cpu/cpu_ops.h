/* cpu_ops.h - what the CPU's kernel files share.
 *
 * The same C is compiled several times, into a table of kernels each: for the plain machine, for AVX2
 * and for AVX-512 (meson passes CPU_VARIANT and the instruction sets), where the compiler's
 * vectoriser does the rest; with bfloat16 as the type of activations; and with double, for the
 * gradient checks of the tests. */
#ifndef OCTET_CPU_OPS_H
#define OCTET_CPU_OPS_H

#include <string.h>

#include "base/team.h"
#include "device/cpu.h"
#include "kernels/ops.h"

/* real: the type of ops.h, in memory. calc: what is computed with; and the master type.
 * widen() and narrow(), to nearest, ties to even, lead from one to the other. */
#if defined CPU_REAL_BF16

typedef struct {
    uint16_t bits;              /* the upper half of a float */
} real;
typedef float calc;

static inline calc widen(real x)
{
    const uint32_t bits = (uint32_t)x.bits << 16;
    calc value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline real narrow(calc x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    return (real){(uint16_t)((x != x ? 0x7fc00000 : rounded) >> 16)};
}

#else

#ifdef CPU_REAL_DOUBLE
typedef double real;
#else
typedef float real;
#endif
typedef real calc;

static inline calc widen(real x)
{
    return x;
}

static inline real narrow(calc x)
{
    return x;
}

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

/* Matrix products. op(x) is x or its transpose; op(a) is (m, k), op(b) (k, n), c (m, n), all row-major,
 * ld* the length of a stored row. They run on the calling thread alone, and give the same bits for
 * the same shapes always.
 *
 * c = op(a) op(b) (+ bias, one for each column; NULL: none). */
void CPU_NAME(gemm)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                    const real *a, int64_t lda, const real *b, int64_t ldb, const real *bias,
                    real *c, int64_t ldc);
/* c = op(a) op(b), or c += that. */
void CPU_NAME(gemm_sum)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                        const real *a, int64_t lda, const real *b, int64_t ldb, bool accumulate,
                        calc *c, int64_t ldc);

/* Factors of one row of a dropout of `width` columns: 0 or the scale of what is kept, for n columns
 * from column `first` on, a multiple of DROPOUT_TILE. */
enum { DROPOUT_TILE = 128 };
void CPU_NAME(dropout_row)(calc *factors, int64_t first, int64_t n, int64_t width,
                           const struct dropout *dropout, int64_t row);

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
