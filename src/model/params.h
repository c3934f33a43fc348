/* params.h - the model's parameters as rows of one table, which drives initialisation, weight decay,
 * checkpoints and tests; and as named tensors for the code that computes with them. */
#ifndef OCTET_PARAMS_H
#define OCTET_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/tensor.h"

struct model_config {
    int vocab_size, max_seq_len;
    int dim, depth, heads, mlp_dim;
    double dropout;
    bool use_rotary_emb;    /* else learned positions */
};

enum param_init {
    INIT_ZERO,
    INIT_ONE,
    INIT_NORMAL,            /* mean 0, standard deviation 0.02 */
};

struct param {
    char name[64];          /* as in checkpoints: "blocks.0.attn.to_qkv.weight" */
    int n_dims;
    int64_t shape[2];
    enum param_init init;
    bool decay;             /* weight decay: two dimensions or more */
    int64_t offset, count;  /* elements in the flat buffer */
    int block;              /* -1 outside the blocks */
    size_t field;           /* of struct block_params or struct model_params */
};

/* The flat buffer holds first the matrices, then the vectors, each in the order of the table, so that
 * what is decayed is one range, and a backward pass completes the matrices' gradients from the end to
 * the front. Gaps between parameters stay zero. */
struct param_table {
    struct param *params;
    int n_params;
    int64_t decay_count;    /* elements of the matrices' part */
    int64_t flat_count;     /* elements of the flat buffer, gaps included */
    int64_t n_parameters;   /* gaps not included: what "124M" counts */
};

enum status param_table_create(struct param_table *table, const struct model_config *config);
void param_table_free(struct param_table *table);
/* NULL if there is none of this name. */
const struct param *param_find(const struct param_table *table, const char *name);

/* The initial values of one parameter, a pure function of (seed, its place in the table). */
void param_initial_values(const struct param_table *table, int index, uint64_t seed, float *values);

/* The same memory by name: C model width, M MLP width, V vocabulary, T longest sequence. */
struct block_params {
    struct tensor norm1_weight, norm1_bias;     /* (C) */
    struct tensor to_qkv;                       /* (3C, C): rows of q, then k, then v */
    struct tensor to_out;                       /* (C, C) */
    struct tensor norm2_weight, norm2_bias;     /* (C) */
    struct tensor mlp_in, mlp_in_bias;          /* (M, C), (M) */
    struct tensor mlp_out, mlp_out_bias;        /* (C, M), (C) */
};

struct model_params {
    struct tensor token_emb;                    /* (V, C), also the classifier */
    struct tensor pos_emb;                      /* (T, C); data NULL with rotary embedding */
    struct tensor norm_weight, norm_bias;       /* (C) */
    struct block_params *blocks;                /* depth of them */
};

/* Point the tensors into a flat buffer laid out by the table. */
enum status model_params_create(struct model_params *params, const struct param_table *table,
                                int depth, const struct tensor *flat);
void model_params_free(struct model_params *params);

#endif
