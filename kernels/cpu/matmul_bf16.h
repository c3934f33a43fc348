/* matmul_bf16.h - products of bfloat16 matrices by oneDNN, each prepared once and kept. */
#ifndef OCTET_CPU_MATMUL_BF16_H
#define OCTET_CPU_MATMUL_BF16_H

#include <stdbool.h>
#include <stdint.h>

enum matmul_kind {
    MATMUL_BF16,                /* c = op(a) op(b), rounded to bfloat16 */
    MATMUL_BF16_BIAS,           /* and a bias, bfloat16 too, added before the rounding */
    MATMUL_FLOAT,               /* c = op(a) op(b), float */
    MATMUL_FLOAT_ADD,           /* c += op(a) op(b), float */
};

/* All that a product depends on but the addresses; letters as in cpu_ops.h. Whole words alone, so
 * that two of them may be compared as bytes. */
struct matmul {
    int64_t kind;               /* enum matmul_kind */
    int64_t transpose_a, transpose_b;
    int64_t m, n, k, lda, ldb, ldc;
};

/* `bias` is read only by MATMUL_BF16_BIAS. False, with c as it was: oneDNN has no such product for
 * this machine, or no memory. Each thread keeps what it prepared until it ends. */
bool matmul_bf16(const struct matmul *shape, const void *a, const void *b, const void *bias,
                 void *c);
/* Whether these products run on tile registers (AMX), at many times the speed of vectors. */
bool matmul_bf16_has_tiles(void);

#endif
