/* backward.c - gradients, from the final layernorm back to the embeddings.
 *
 * acts.dx is the gradient of the residual stream, which flows down in place: each layernorm's backward
 * pass adds its branch's part to it. */
#include "model/model_internal.h"

static enum status norm_backward(struct model *m, const struct pass *pass,
                                 const struct normed *normed, const struct tensor *weight,
                                 const struct tensor *dweight, const struct tensor *dbias)
{
    const struct tensor dx = pass_rows(pass, &m->acts.dx);
    const struct tensor dnorm = pass_rows(pass, &m->acts.dnorm);
    const struct tensor x = pass_rows(pass, &normed->x);

    RUN_OP(OPS_LAYERNORM, m->dev, layernorm_backward, &dx, dweight, dbias, &dnorm, &x, weight,
           &normed->mean, &normed->rstd);
    return OK;
}

static enum status mlp_backward(struct model *m, const struct pass *pass, int block)
{
    struct device *dev = m->dev;
    const struct block_params *w = &m->weights.blocks[block], *g = &m->gradients.blocks[block];
    const struct block_acts *a = &m->acts.blocks[block];
    const struct dropout gelu_dropout = pass_dropout(pass, block, DROPOUT_GELU);
    const struct dropout mlp_dropout = pass_dropout(pass, block, DROPOUT_MLP);
    const struct tensor dx = pass_rows(pass, &m->acts.dx);
    const struct tensor dnorm = pass_rows(pass, &m->acts.dnorm);
    const struct tensor dmlp = pass_rows(pass, &m->acts.dmlp);
    const struct tensor norm = pass_rows(pass, &a->mlp_in.norm);
    const struct tensor pre = pass_rows(pass, &a->mlp_pre), act = pass_rows(pass, &a->mlp_act);
    struct tensor dbranch = dx;     /* the addition passes the gradient on as it is ... */

    if (mlp_dropout.rate > 0) {     /* ... unless dropout stood before it */
        dbranch = pass_rows(pass, &m->acts.dbranch);
        RUN_OP(OPS_RESIDUAL, dev, add_dropout_backward, &dbranch, &dx, &mlp_dropout);
    }
    RUN_OP(OPS_LINEAR, dev, linear_backward_weight, &g->mlp_out, &g->mlp_out_bias, &dbranch, &act);
    RUN_OP(OPS_LINEAR, dev, linear_backward_input, &dmlp, &dbranch, &w->mlp_out);
    RUN_OP(OPS_GELU, dev, gelu_backward, &dmlp, &dmlp, &pre, &gelu_dropout);
    RUN_OP(OPS_LINEAR, dev, linear_backward_weight, &g->mlp_in, &g->mlp_in_bias, &dmlp, &norm);
    RUN_OP(OPS_LINEAR, dev, linear_backward_input, &dnorm, &dmlp, &w->mlp_in);
    return norm_backward(m, pass, &a->mlp_in, &w->norm2_weight, &g->norm2_weight, &g->norm2_bias);
}

static enum status attention_backward(struct model *m, const struct pass *pass, int block)
{
    struct device *dev = m->dev;
    const struct block_params *w = &m->weights.blocks[block], *g = &m->gradients.blocks[block];
    const struct block_acts *a = &m->acts.blocks[block];
    const struct dropout dropout = pass_dropout(pass, block, DROPOUT_ATTENTION);
    const struct tensor no_bias = {0};
    const struct tensor dx = pass_rows(pass, &m->acts.dx);
    const struct tensor dnorm = pass_rows(pass, &m->acts.dnorm);
    const struct tensor norm = pass_rows(pass, &a->attn_in.norm);
    const struct tensor att = pass_rows(pass, &a->att), datt = pass_rows(pass, &m->acts.datt);
    const struct tensor dqkv = pass_rows(pass, &m->acts.dqkv);
    const struct tensor qkv_heads = pass_heads(pass, &a->qkv, m);
    const struct tensor dqkv_heads = pass_heads(pass, &m->acts.dqkv, m);
    const struct tensor att_heads = pass_heads(pass, &a->att, m);
    const struct tensor datt_heads = pass_heads(pass, &m->acts.datt, m);

    RUN_OP(OPS_LINEAR, dev, linear_backward_weight, &g->to_out, &no_bias, &dx, &att);
    RUN_OP(OPS_LINEAR, dev, linear_backward_input, &datt, &dx, &w->to_out);
    RUN_OP(OPS_ATTENTION, dev, attention_backward, &dqkv_heads, &datt_heads, &att_heads, &a->lse,
           &qkv_heads, &dropout);
    if (m->config.use_rotary_emb)
        RUN_OP(OPS_ROPE, dev, rope, &dqkv_heads, pass->position, true);
    RUN_OP(OPS_LINEAR, dev, linear_backward_weight, &g->to_qkv, &no_bias, &dqkv, &norm);
    RUN_OP(OPS_LINEAR, dev, linear_backward_input, &dnorm, &dqkv, &w->to_qkv);
    return norm_backward(m, pass, &a->attn_in, &w->norm1_weight, &g->norm1_weight, &g->norm1_bias);
}

/* Where the block's matrices begin in the flat buffer; those of the blocks above lie behind them. */
static int64_t first_gradient(const struct model *m, int block)
{
    const struct tensor *to_qkv = &m->gradients.blocks[block].to_qkv;

    return ((const char *)to_qkv->data - (const char *)m->flat_gradients.data) /
           (int64_t)dtype_size(to_qkv->dtype);
}

enum status model_backward(struct model *m, const struct pass *pass,
                           const struct model_hook *hook)
{
    const struct tensor dx = pass_rows(pass, &m->acts.dx);
    const struct tensor dx_sequences = pass_sequences(pass, &m->acts.dx);
    const struct tensor ids = pass_sequences(pass, &m->acts.ids);
    struct tensor dpositions = m->gradients.pos_emb;

    TRY(device_zero(m->dev, dx.data, (size_t)tensor_count(&dx) * dtype_size(dx.dtype)));
    TRY(norm_backward(m, pass, &m->acts.last, &m->weights.norm_weight, &m->gradients.norm_weight,
                      &m->gradients.norm_bias));
    for (int block = m->config.depth - 1; block >= 0; block--) {
        TRY(mlp_backward(m, pass, block));
        TRY(attention_backward(m, pass, block));
        if (hook)
            TRY(hook->gradients_ready(hook->context, first_gradient(m, block)));
    }
    if (dpositions.data)
        dpositions = tensor_rows(&dpositions, 0, pass->length);
    RUN_OP(OPS_EMBEDDING, m->dev, embedding_backward, &m->gradients.token_emb, &dpositions,
           &dx_sequences, &ids);
    return hook ? hook->gradients_ready(hook->context, 0) : OK;
}
