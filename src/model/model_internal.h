/* model_internal.h - what model.c, forward.c and backward.c know of a model. */
#ifndef OCTET_MODEL_INTERNAL_H
#define OCTET_MODEL_INTERNAL_H

#include "base/arena.h"
#include "kernels/ops.h"
#include "model/model.h"

/* A normalised residual stream: x, layernorm(x) and what its backward pass needs. All (N, C), (N). */
struct normed {
    struct tensor x, norm;
    struct tensor mean, rstd;           /* master */
};

struct block_acts {
    struct normed attn_in;              /* (N, C) */
    struct tensor qkv;                  /* (N, 3C), after rotation */
    struct tensor lse;                  /* (N * H) master, as (B, H, T) */
    struct tensor att;                  /* (N, C) */
    struct normed mlp_in;               /* (N, C) */
    struct tensor mlp_pre, mlp_act;     /* (N, M): before and after GELU and dropout */
};

/* Everything of a step but parameters. N is the most rows there can be. */
struct acts {
    struct tensor ids, targets;         /* (N) I32 */
    struct tensor place;                /* a struct dropout_place */
    struct block_acts *blocks;          /* depth; all the same memory for generation */
    struct normed last;                 /* final residual stream and norm */
    struct tensor branch;               /* (N, C): what attention or MLP adds to the stream */
    struct tensor logits;               /* (logits_rows, V) */
    struct tensor losses, hits;         /* (N) F32 */
    struct tensor sums;                 /* (2) F64: losses, hits */
    struct tensor top;                  /* (2 * OPS_TOP_MAX) of 4 bytes, generation only */
    struct tensor cache;                /* (depth, 2 * T * C), generation only */

    /* Gradients; x's flows down the stream in place. */
    struct tensor dx, dbranch, dnorm;   /* (N, C) */
    struct tensor dqkv;                 /* (N, 3C) */
    struct tensor datt;                 /* (N, C) */
    struct tensor dmlp;                 /* (N, M) */
};

/* What a pass works on: the first B * T rows of the activations. */
struct pass {
    int64_t batch, length;              /* B, T */
    int64_t position;                   /* of the first token in its sequence: generation */
    struct dropout dropout;             /* site is filled in by pass_dropout() */
};

struct model {
    struct device *dev;
    struct model_config config;
    enum model_use use;
    int64_t max_rows;                   /* N */
    int64_t logits_rows;                /* rows of the classifier computed at a time */
    struct param_table table;
    struct model_params weights, gradients;
    struct tensor flat_weights, flat_gradients;     /* master */
    struct tensor flat_copy;            /* real, of flat_weights; data NULL where they are the same */
    bool shares_weights;                /* flat_weights and flat_copy belong to another model */
    struct acts acts;
    struct pass loaded;                 /* the micro-batch on the device */
    void *memory;                       /* one allocation for all */
    size_t memory_size;
};

/* The sites of dropout in a block. */
enum dropout_site { DROPOUT_ATTENTION, DROPOUT_GELU, DROPOUT_MLP, N_DROPOUT_SITES };

struct dropout pass_dropout(const struct pass *pass, int block, enum dropout_site site);

/* Views of a pass's rows. */
struct tensor pass_rows(const struct pass *pass, const struct tensor *t);         /* (B T, ...) */
struct tensor pass_sequences(const struct pass *pass, const struct tensor *t);    /* (B, T, ...) */
struct tensor pass_heads(const struct pass *pass, const struct tensor *t, const struct model *m);

/* Up to the final layernorm. */
enum status model_forward(struct model *model, const struct pass *pass);
/* From d(final layernorm) in acts.dnorm down to the embeddings. */
enum status model_backward(struct model *model, const struct pass *pass,
                           const struct model_hook *hook);

#endif
