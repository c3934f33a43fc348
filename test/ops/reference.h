/* reference.h - every operation of kernels/ops.h once more, written from its formula there as naive
 * loops, in double precision with an error bound (number.h); the kernels are checked against it.
 *
 * Letters and shapes as in ops.h. Results marked += there are added to what the array holds. */
#ifndef OCTET_TEST_REFERENCE_H
#define OCTET_TEST_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/ops.h"
#include "ops/number.h"

/* What dropout multiplies element (row, column) of this call by, of `width` columns. */
double reference_dropout(const struct dropout *dropout, int64_t row, int64_t column, int64_t width);

/* positions: NULL or (max T, C). */
void reference_embedding_forward(struct number *out, const double *ids, const double *table,
                                 const double *positions, int64_t batch, int64_t length,
                                 int64_t width);
void reference_embedding_backward(struct number *dtable, struct number *dpositions,
                                  const double *dout, const double *ids, int64_t batch,
                                  int64_t length, int64_t width);

void reference_layernorm_forward(struct number *out, struct number *mean, struct number *rstd,
                                 const struct number *x, const double *weight, const double *bias,
                                 int64_t n, int64_t width);
void reference_layernorm_backward(struct number *dx, struct number *dweight, struct number *dbias,
                                  const double *dout, const double *x, const double *weight,
                                  const double *mean, const double *rstd, int64_t n,
                                  int64_t width);

void reference_linear_forward(struct number *out, const double *a, const double *weight,
                              const double *bias, int64_t n, int64_t k, int64_t m);
void reference_linear_backward_input(struct number *da, const double *dout, const double *weight,
                                     int64_t n, int64_t k, int64_t m);
void reference_linear_backward_weight(struct number *dweight, struct number *dbias,
                                      const double *dout, const double *a, int64_t n, int64_t k,
                                      int64_t m);

void reference_gelu_forward(struct number *out, const struct number *x, int64_t n, int64_t width,
                            const struct dropout *dropout);
void reference_gelu_backward(struct number *dx, const double *dout, const double *x, int64_t n,
                             int64_t width, const struct dropout *dropout);

/* a NULL: zeros, so the result is dropout(b), which is the backward pass too. */
void reference_add_dropout(struct number *out, const double *a, const double *b, int64_t n,
                           int64_t width, const struct dropout *dropout);

/* qkv (B, T, 3H, D) in place. */
void reference_rope(struct number *qkv, int64_t batch, int64_t length, int64_t heads, int64_t size,
                    int64_t position, bool inverse);

struct attention_shape {
    int64_t batch, length, heads, size;     /* B, T, H, D */
};
/* The sizes of the terms of each sum of probabilities, or of gradients of scores, are added to
 * `between`, if it is not NULL: both become operands of products, and rounded as such. */
void reference_attention_forward(struct number *out, double *between, struct number *lse,
                                 const double *qkv, const struct attention_shape *shape,
                                 const struct dropout *dropout);
void reference_attention_backward(struct number *dqkv, double *between, const double *dout,
                                  const double *out, const double *lse, const double *qkv,
                                  const struct attention_shape *shape,
                                  const struct dropout *dropout);
/* cache (2, max T, H, D) is updated; shape's batch is 1. */
void reference_attention_cached(struct number *out, double *between, struct number *cache,
                                const double *qkv, const struct attention_shape *shape,
                                int64_t max_length, int64_t position);

/* `logits` is changed if grad_scale is not 0. */
void reference_cross_entropy(struct number *losses, struct number *hits, struct number *logits,
                             const double *targets, int64_t n, int64_t vocab, double grad_scale);

/* The k largest of n, in order; NaN and infinity are largest of all, and NaN. */
void reference_top_logits(struct number *values, struct number *ids, const double *logits,
                          int64_t n, int64_t k);

/* In roundings of double precision. */
void reference_sum(struct number *out, const double *x, int64_t n);
void reference_sum_of_squares(struct number *out, const double *x, int64_t n);

void reference_adamw(struct number *weights, struct number *m, struct number *v,
                     const double *grads, double squares, int64_t n,
                     const struct adamw_step *step);

#endif
