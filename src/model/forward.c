/* forward.c - tokens to the final layernorm, block by block. */
#include "model/model_internal.h"

struct dropout pass_dropout(const struct pass *pass, int block, enum dropout_site site)
{
    struct dropout dropout = pass->dropout;

    dropout.site = (uint32_t)(block * N_DROPOUT_SITES + (int)site);
    return dropout;
}

struct tensor pass_rows(const struct pass *pass, const struct tensor *t)
{
    return tensor_rows(t, 0, pass->batch * pass->length);
}

struct tensor pass_sequences(const struct pass *pass, const struct tensor *t)
{
    return tensor_3d(t->data, t->dtype, pass->batch, pass->length, t->shape[1]);
}

struct tensor pass_heads(const struct pass *pass, const struct tensor *t, const struct model *m)
{
    const int64_t head_size = m->config.dim / m->config.heads;

    return tensor_4d(t->data, t->dtype, pass->batch, pass->length, t->shape[1] / head_size,
                     head_size);
}

static struct normed pass_normed(const struct pass *pass, const struct normed *normed)
{
    return (struct normed){pass_rows(pass, &normed->x), pass_rows(pass, &normed->norm),
                           pass_rows(pass, &normed->mean), pass_rows(pass, &normed->rstd)};
}

static enum status attention(struct model *m, const struct pass *pass, int block)
{
    struct device *dev = m->dev;
    const struct block_acts *a = &m->acts.blocks[block];
    const struct dropout dropout = pass_dropout(pass, block, DROPOUT_ATTENTION);
    const struct tensor qkv = pass_heads(pass, &a->qkv, m);
    const struct tensor att = pass_heads(pass, &a->att, m);

    if (m->config.use_rotary_emb)
        RUN_OP(OPS_ROPE, dev, rope, &qkv, pass->position, false);
    if (m->use == MODEL_GENERATE) {
        const struct tensor one_block = tensor_rows(&m->acts.cache, block, 1);
        const struct tensor cache = tensor_4d(one_block.data, one_block.dtype, 2,
                                              m->config.max_seq_len, att.shape[2], att.shape[3]);
        RUN_OP(OPS_ATTENTION, dev, attention_cached, &att, &cache, &qkv, pass->position);
    } else {
        RUN_OP(OPS_ATTENTION, dev, attention_forward, &att, &a->lse, &qkv, &dropout);
    }
    return OK;
}

/* From attn_in of this block to `next`: the attn_in of the block above, or the model's last. */
static enum status block_forward(struct model *m, const struct pass *pass, int block,
                                 const struct normed *next, const struct tensor *next_weight,
                                 const struct tensor *next_bias)
{
    struct device *dev = m->dev;
    const struct block_params *w = &m->weights.blocks[block];
    const struct block_acts *a = &m->acts.blocks[block];
    const struct dropout none = {0};
    const struct dropout gelu_dropout = pass_dropout(pass, block, DROPOUT_GELU);
    const struct dropout mlp_dropout = pass_dropout(pass, block, DROPOUT_MLP);
    const struct tensor no_bias = {0};

    const struct normed attn_in = pass_normed(pass, &a->attn_in);
    const struct normed mlp_in = pass_normed(pass, &a->mlp_in);
    const struct tensor qkv = pass_rows(pass, &a->qkv), att = pass_rows(pass, &a->att);
    const struct tensor branch = pass_rows(pass, &m->acts.branch);
    const struct tensor pre = pass_rows(pass, &a->mlp_pre), act = pass_rows(pass, &a->mlp_act);

    RUN_OP(OPS_LINEAR, dev, linear_forward, &qkv, &attn_in.norm, &w->to_qkv, &no_bias);
    TRY(attention(m, pass, block));
    RUN_OP(OPS_LINEAR, dev, linear_forward, &branch, &att, &w->to_out, &no_bias);
    RUN_OP(OPS_LAYERNORM, dev, add_layernorm_forward, &mlp_in.x, &mlp_in.norm, &mlp_in.mean,
           &mlp_in.rstd, &attn_in.x, &branch, &w->norm2_weight, &w->norm2_bias, &none);

    RUN_OP(OPS_LINEAR, dev, linear_gelu_forward, &pre, &act, &mlp_in.norm, &w->mlp_in,
           &w->mlp_in_bias, &gelu_dropout);
    RUN_OP(OPS_LINEAR, dev, linear_forward, &branch, &act, &w->mlp_out, &w->mlp_out_bias);
    RUN_OP(OPS_LAYERNORM, dev, add_layernorm_forward, &next->x, &next->norm, &next->mean,
           &next->rstd, &mlp_in.x, &branch, next_weight, next_bias, &mlp_dropout);
    return OK;
}

static enum status embed(struct model *m, const struct pass *pass, const struct normed *first)
{
    const struct tensor x = pass_sequences(pass, &first->x);
    const struct tensor ids = pass_sequences(pass, &m->acts.ids);
    struct tensor positions = m->weights.pos_emb;

    if (positions.data)
        positions = tensor_rows(&positions, pass->position, pass->length);
    RUN_OP(OPS_EMBEDDING, m->dev, embedding_forward, &x, &ids, &m->weights.token_emb, &positions);
    RUN_OP(OPS_LAYERNORM, m->dev, layernorm_forward, &first->norm, &first->mean, &first->rstd,
           &first->x, &m->weights.blocks[0].norm1_weight, &m->weights.blocks[0].norm1_bias);
    return OK;
}

enum status model_forward(struct model *m, const struct pass *pass)
{
    const struct normed first = pass_normed(pass, &m->acts.blocks[0].attn_in);
    const struct normed last = pass_normed(pass, &m->acts.last);

    TRY(embed(m, pass, &first));
    for (int block = 0; block + 1 < m->config.depth; block++) {
        const struct block_params *above = &m->weights.blocks[block + 1];
        const struct normed next = pass_normed(pass, &m->acts.blocks[block + 1].attn_in);
        TRY(block_forward(m, pass, block, &next, &above->norm1_weight, &above->norm1_bias));
    }
    return block_forward(m, pass, m->config.depth - 1, &last, &m->weights.norm_weight,
                         &m->weights.norm_bias);
}
