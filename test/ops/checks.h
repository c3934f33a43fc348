/* checks.h - one trial of each operation for given sizes: operands, and what is expected of them.
 *
 * Letters as in kernels/ops.h; `rate` is that of dropout, `in_place` uses the aliasing that ops.h
 * allows. */
#ifndef OCTET_TEST_CHECKS_H
#define OCTET_TEST_CHECKS_H

#include "ops/trial.h"

/* check_rows.c */
struct embedding_size {
    int64_t batch, length, width, vocab;
    bool positions;
};
void try_embedding_forward(const struct embedding_size *size);
void try_embedding_backward(const struct embedding_size *size);
void try_layernorm_forward(int64_t n, int64_t width);
void try_layernorm_backward(int64_t n, int64_t width);
void try_gelu_forward(int64_t n, int64_t width, double rate, bool in_place);
void try_gelu_backward(int64_t n, int64_t width, double rate, bool in_place);
void try_add_dropout_forward(int64_t n, int64_t width, double rate, bool in_place);
void try_add_dropout_backward(int64_t n, int64_t width, double rate);
void try_add_layernorm(int64_t n, int64_t width, double rate, bool in_place);
void check_rows(void);

/* check_linear.c */
void try_linear_forward(int64_t n, int64_t k, int64_t m, bool bias);
void try_linear_backward_input(int64_t n, int64_t k, int64_t m);
void try_linear_backward_weight(int64_t n, int64_t k, int64_t m, bool bias);
void try_linear_gelu(int64_t n, int64_t k, int64_t m, double rate);
void check_linear(void);

/* check_attention.c */
struct attention_size {
    int64_t batch, length, heads, size;
    double rate;
};
void try_rope(const struct attention_size *size, int64_t position, bool inverse);
void try_attention_forward(const struct attention_size *size);
void try_attention_backward(const struct attention_size *size);
void try_attention_cached(const struct attention_size *size, int64_t max_length,
                          int64_t position);
void check_attention(void);

/* check_loss.c */
void try_cross_entropy(int64_t n, int64_t vocab, double grad_scale, double spread);
struct top_size {
    int64_t vocab, n, k;
};
/* Logits in steps of `step`, so that many are equal; 0: any. */
void try_top_logits(const struct top_size *size, double step);
void try_cast(int64_t n);
void try_sum(int64_t n);
void try_sum_of_squares(int64_t n);
void try_adamw(int64_t n, int64_t decay_count, int64_t step, double squares);
void check_loss(void);

/* check_dropout.c: the mask itself. */
void check_dropout(void);
/* check_special.c: infinity and NaN. */
void check_special(void);
void check_special_logits(void);
/* check_math.c: the generator against published numbers; exp and the normal distribution. */
void check_math(void);

/* Vectors and matrices without data, of the `real` and `master` types of ops.h; heads are real. */
static inline struct tensor reals(int64_t rows, int64_t columns)
{
    return tensor_2d(NULL, DTYPE_F32, rows, columns);
}
static inline struct tensor masters(int64_t rows, int64_t columns)
{
    return tensor_2d(NULL, DTYPE_F32, rows, columns);
}
static inline struct tensor heads_of(int64_t batch, int64_t length, int64_t heads, int64_t size)
{
    return tensor_4d(NULL, DTYPE_F32, batch, length, heads, size);
}

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

#endif
