/* attention.h - what the versions of attention share. */
#ifndef OCTET_CPU_ATTENTION_H
#define OCTET_CPU_ATTENTION_H

#include "kernels/cpu/vector_math.h"

struct attention {
    real *out, *dqkv;
    calc *lse;
    const real *qkv, *dout, *saved_out;
    const calc *saved_lse;
    int64_t batch, length, heads, size;     /* B, T, H, D */
    const struct dropout *dropout;
    struct device *dev;
};

static inline struct attention attention_of(struct device *dev, const struct tensor *qkv)
{
    return (struct attention){.qkv = qkv->data, .batch = qkv->shape[0], .length = qkv->shape[1],
                              .heads = qkv->shape[2] / 3, .size = qkv->shape[3], .dev = dev};
}

static inline struct attention attention_forward_of(struct device *dev, const struct tensor *out,
                                                    const struct tensor *lse,
                                                    const struct tensor *qkv,
                                                    const struct dropout *dropout)
{
    struct attention a = attention_of(dev, qkv);

    a.out = out->data;
    a.lse = lse->data;
    a.dropout = dropout;
    return a;
}

static inline struct attention
attention_backward_of(struct device *dev, const struct tensor *dqkv, const struct tensor *dout,
                      const struct tensor *out, const struct tensor *lse, const struct tensor *qkv,
                      const struct dropout *dropout)
{
    struct attention a = attention_of(dev, qkv);

    a.dqkv = dqkv->data;
    a.dout = dout->data;
    a.saved_out = out->data;
    a.saved_lse = lse->data;
    a.dropout = dropout;
    return a;
}

/* Of the scores. */
static inline calc scale_of(int64_t size)
{
    return 1 / (calc)sqrt((double)size);
}

/* Factors of one query's dropped probabilities; `row` as in struct dropout. */
static inline void dropout_factors(calc *factors, const struct attention *a, int64_t row,
                                   int64_t head, int64_t visible)
{
    struct dropout one_head = *a->dropout;
    struct dropout_place place = {0};

    if (one_head.place)
        place = *one_head.place;
    one_head.first_row = (one_head.first_row + place.first_row + row) * a->heads + head;
    one_head.step += (uint32_t)place.step;
    one_head.place = NULL;
    CPU_NAME(dropout_row)(factors, 0, visible, a->length, &one_head, 0);
}

struct cached_attention {
    real *out, *keys, *values;  /* keys, values (max T, H, D) */
    const real *qkv;
    int64_t length, heads, size, position;
    struct device *dev;
};

static inline struct cached_attention cached_attention_of(struct device *dev,
                                                          const struct tensor *out,
                                                          const struct tensor *cache,
                                                          const struct tensor *qkv,
                                                          int64_t position)
{
    const struct tensor values = tensor_rows(cache, 1, 1);

    return (struct cached_attention){out->data, cache->data, values.data, qkv->data, qkv->shape[1],
                                     cache->shape[2], cache->shape[3], position, dev};
}

/* The new keys and values of one head. */
static inline void append_to_cache(const struct cached_attention *a, int64_t head)
{
    const int64_t D = a->size, width = a->heads * D;

    for (int64_t t = 0; t < a->length; t++) {
        const real *new_key = a->qkv + 3 * t * width + width + head * D;
        const int64_t place = (a->position + t) * width + head * D;
        memcpy(a->keys + place, new_key, (size_t)D * sizeof(real));
        memcpy(a->values + place, new_key + width, (size_t)D * sizeof(real));
    }
}

/* attention_avx512.c: better than the rows that attention.c has filled in, which it calls for what it
 * cannot do. */
void CPU_NAME(cpu_attention_avx512_ops)(struct op_table *table);

#endif
