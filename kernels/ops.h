/* ops.h - every operation of the model, declared once: formula, shapes, what is overwritten.
 *
 * B batch, T sequence length, N = B*T rows, C model width, H heads, D = C/H head size, M the other
 * width of a linear layer, V vocabulary. All tensors are row-major and contiguous. Their types:
 *
 *   real      activations, their gradients, and the weights that are computed with: dev->real
 *   master    F32 (F64 where real is): weights that are updated, moments, gradients of weights
 *             (dweight, dbias, dtable, dpositions), statistics (mean, rstd, lse)
 *
 * and unless a comment says otherwise a tensor is real. Where real is F32, both are the same. "="
 * overwrites the output, "+=" adds to it; dX is the gradient of X. Outputs never alias inputs unless
 * the comment says that they may.
 *
 * Rows marked "fused" may be NULL in a backend's table; ops_complete() fills them with compositions
 * of the others, so the model calls every row without asking. */
#ifndef OCTET_OPS_H
#define OCTET_OPS_H

#include "base/rng.h"
#include "device/device.h"

/* Inverted dropout. Element (row, column) of the whole global batch has one fate, whatever device
 * computes it. Rows are cut in tiles of 128 columns, the last one filled up: column c takes the
 * (c % 128 / 16)-th of the eight 16-bit numbers of the Philox block (low half of word 0, high half of
 * word 0, low half of word 1, ...) at
 *
 *     position = ((first_row + row) * ceil(columns / 128) + c / 128) * 16 + c % 16
 *
 * of (seed, RNG_DROPOUT, site, step), and is dropped where that is below rate * 65536, rounded down;
 * what is kept is multiplied by 65536 / (65536 - threshold). rate 0 is the identity. So 16 blocks
 * side by side make a tile, and each thread of a tensor core's fragment needs four of them. */
struct dropout {
    double rate;
    uint64_t seed;
    uint32_t step, site;
    int64_t first_row;      /* of this call's row 0 in the global batch: window * T */
    const struct dropout_place *place;
};

/* On the device; where `place` is not NULL, its values are added to those of struct dropout. So one
 * recorded call (device_section_begin()) serves every step. */
struct dropout_place {
    int64_t first_row;
    int64_t step;
};

/* AdamW over a flat buffer. */
struct adamw_step {
    double lr, beta1, beta2, epsilon, weight_decay;
    int64_t decay_count;    /* elements at the front of the buffer that are decayed */
    int64_t step;           /* from 1, for the bias correction */
    double loss_scale;      /* divides every gradient */
    double max_norm;        /* of the gradients after that: longer ones are shortened; 0: never */
};

enum { OPS_TOP_MAX = 1024 };

struct op_table {
    /* out = table[ids] (+ positions[t]); out (B, T, C), ids (B, T) I32, table (V, C), positions
     * (max T, C) or data NULL. */
    enum status (*embedding_forward)(struct device *dev, const struct tensor *out,
                                     const struct tensor *ids, const struct tensor *table,
                                     const struct tensor *positions);
    /* dtable[ids] += dout; dpositions[t] += dout summed over B, where its data is not NULL. */
    enum status (*embedding_backward)(struct device *dev, const struct tensor *dtable,
                                      const struct tensor *dpositions, const struct tensor *dout,
                                      const struct tensor *ids);

    /* out = (x - mean) * rstd * weight + bias over the last dimension, rstd = 1/sqrt(var + 1e-5);
     * x, out (N, C), mean, rstd (N), weight, bias (C). Ba, Kiros, Hinton (2016). */
    enum status (*layernorm_forward)(struct device *dev, const struct tensor *out,
                                     const struct tensor *mean, const struct tensor *rstd,
                                     const struct tensor *x, const struct tensor *weight,
                                     const struct tensor *bias);
    /* dx +=, dweight +=, dbias +=. */
    enum status (*layernorm_backward)(struct device *dev, const struct tensor *dx,
                                      const struct tensor *dweight, const struct tensor *dbias,
                                      const struct tensor *dout, const struct tensor *x,
                                      const struct tensor *weight, const struct tensor *mean,
                                      const struct tensor *rstd);

    /* out = a weight^T + bias; a (N, C), weight (M, C), bias (M) or data NULL, out (N, M). */
    enum status (*linear_forward)(struct device *dev, const struct tensor *out,
                                  const struct tensor *a, const struct tensor *weight,
                                  const struct tensor *bias);
    /* da = dout weight. */
    enum status (*linear_backward_input)(struct device *dev, const struct tensor *da,
                                         const struct tensor *dout, const struct tensor *weight);
    /* dweight += dout^T a; dbias += column sums of dout, where its data is not NULL. */
    enum status (*linear_backward_weight)(struct device *dev, const struct tensor *dweight,
                                          const struct tensor *dbias, const struct tensor *dout,
                                          const struct tensor *a);

    /* out = dropout(gelu(x)), gelu(x) = x Phi(x) with the error function (Hendrycks, Gimpel 2016);
     * x, out (N, M); out may alias x. */
    enum status (*gelu_forward)(struct device *dev, const struct tensor *out,
                                const struct tensor *x, const struct dropout *dropout);
    /* dx = gelu'(x) * dropout'(dout); dx may alias dout. */
    enum status (*gelu_backward)(struct device *dev, const struct tensor *dx,
                                 const struct tensor *dout, const struct tensor *x,
                                 const struct dropout *dropout);

    /* out = a + dropout(b); (N, C); out may alias a. */
    enum status (*add_dropout_forward)(struct device *dev, const struct tensor *out,
                                       const struct tensor *a, const struct tensor *b,
                                       const struct dropout *dropout);
    /* db = dropout'(dout); a's gradient is dout itself. */
    enum status (*add_dropout_backward)(struct device *dev, const struct tensor *db,
                                        const struct tensor *dout, const struct dropout *dropout);

    /* Rotary position embedding on q and k of qkv (B, T, 3H, D) in place: with angle
     * (position + t) * 10000^(-2i/D), the pair (x[i], x[i + D/2]) becomes
     * (x[i] cos - x[i + D/2] sin, x[i + D/2] cos + x[i] sin). Su et al. (2021), section 3.4.2,
     * halves paired. `inverse` turns the other way: the backward pass. D is even. */
    enum status (*rope)(struct device *dev, const struct tensor *qkv, int64_t position,
                        bool inverse);

    /* out = dropout(softmax(q k^T / sqrt(D), causal)) v per head; qkv (B, T, 3H, D),
     * out (B, T, H, D), lse (B, H, T) the logarithm of each row's sum of exponentials. The dropout's
     * row is (first_row + query) * H + h, its column the key. */
    enum status (*attention_forward)(struct device *dev, const struct tensor *out,
                                     const struct tensor *lse, const struct tensor *qkv,
                                     const struct dropout *dropout);
    /* dqkv = (every element); probabilities are recomputed from lse (Dao et al. 2022, section 3.1
     * and appendix B). */
    enum status (*attention_backward)(struct device *dev, const struct tensor *dqkv,
                                      const struct tensor *dout, const struct tensor *out,
                                      const struct tensor *lse, const struct tensor *qkv,
                                      const struct dropout *dropout);
    /* For generation, one sequence: append k and v of qkv (1, T, 3H, D) to cache (2, max T, H, D) at
     * rows position .. position+T-1, then out (T, H, D) = each query's causal attention over the
     * cache so far. */
    enum status (*attention_cached)(struct device *dev, const struct tensor *out,
                                    const struct tensor *cache, const struct tensor *qkv,
                                    int64_t position);

    /* Softmax cross-entropy with classes in rows: losses[n] = -log softmax(logits[n])[targets[n]],
     * hits[n] = 1 where the target is the largest logit, else 0. Where `grad_scale` is not 0, logits
     * are overwritten by their gradient (softmax - onehot) * grad_scale.
     * logits (N, V), targets (N) I32, losses, hits (N) F32. */
    enum status (*cross_entropy)(struct device *dev, const struct tensor *losses,
                                 const struct tensor *hits, const struct tensor *logits,
                                 const struct tensor *targets, double grad_scale);

    /* Of the first n of logits (V) the k largest, largest first, of equals the smaller index:
     * values (k) F32, ids (k) I32; 1 <= k <= OPS_TOP_MAX and k <= n. NaN and +infinity are equals
     * above all numbers, and their value is NaN. */
    enum status (*top_logits)(struct device *dev, const struct tensor *values,
                              const struct tensor *ids, const struct tensor *logits, int64_t n);

    /* out = x, converted; out real, x master. */
    enum status (*cast)(struct device *dev, const struct tensor *out, const struct tensor *x);
    /* out[0] += sum of x in double; out (1) F64, x (N) F32. */
    enum status (*sum)(struct device *dev, const struct tensor *out, const struct tensor *x);
    /* out[0] = sum of x^2, accumulated in double; out (1) F64, x (N) master. */
    enum status (*sum_of_squares)(struct device *dev, const struct tensor *out,
                                  const struct tensor *x);
    /* Loshchilov, Hutter (2019), algorithm 2, with decoupled decay lr * weight_decay:
     * norm = sqrt(squares) / loss_scale; g = grad min(1, max_norm / norm) / loss_scale;
     * m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
     * weight -= lr (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + epsilon) + weight_decay weight).
     * Nothing changes where `squares` is not finite.
     * weights, m, v, grads (N) master; `copy` (N) real receives the new weights, converted, or has
     * data NULL; squares (1) F64, the sum_of_squares of grads. */
    enum status (*adamw)(struct device *dev, const struct tensor *weights, const struct tensor *m,
                         const struct tensor *v, const struct tensor *grads,
                         const struct tensor *copy, const struct tensor *squares,
                         const struct adamw_step *step);

    /* Fused: pre = a weight^T + bias; out = dropout(gelu(pre)). */
    enum status (*linear_gelu_forward)(struct device *dev, const struct tensor *pre,
                                       const struct tensor *out, const struct tensor *a,
                                       const struct tensor *weight, const struct tensor *bias,
                                       const struct dropout *dropout);
    /* Fused: sum = a + dropout(b); out = layernorm(sum). sum may alias a. */
    enum status (*add_layernorm_forward)(struct device *dev, const struct tensor *sum,
                                         const struct tensor *out, const struct tensor *mean,
                                         const struct tensor *rstd, const struct tensor *a,
                                         const struct tensor *b, const struct tensor *weight,
                                         const struct tensor *bias, const struct dropout *dropout);
};

/* Fill the fused rows that a backend left empty. */
void ops_complete(struct op_table *table);

/* What a profile sums up by. */
enum op_family {
    OPS_EMBEDDING,
    OPS_LAYERNORM,
    OPS_LINEAR,
    OPS_GELU,
    OPS_RESIDUAL,
    OPS_ROPE,
    OPS_ATTENTION,
    OPS_CLASSIFIER,         /* the products with the token embedding at the end */
    OPS_CROSS_ENTROPY,
    OPS_OPTIMIZER,
    N_OP_FAMILIES,
};
const char *op_family_name(enum op_family family);

/* Seconds spent in each family; a device whose `profile` points to one waits for every kernel. */
struct profile {
    double seconds[N_OP_FAMILIES];
};

/* Call an operation of `dev`, timed if it has a profile; leaves the calling function if it fails. A
 * section that is replayed has it recorded. */
#define RUN_OP(family, dev, name, ...)                              \
    do {                                                            \
        if ((dev)->replaying)                                       \
            break;                                                  \
        const double run_op_start = profile_start(dev);             \
        TRY((dev)->ops->name((dev), __VA_ARGS__));                  \
        TRY(profile_add((dev), (family), run_op_start));            \
    } while (0)

/* 0 where the device has no profile. */
double profile_start(struct device *dev);
enum status profile_add(struct device *dev, enum op_family family, double start);

#endif
