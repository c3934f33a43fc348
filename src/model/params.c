#include "model/params.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

enum dim { NONE, C, C3, M, V, T };

struct row {
    const char *name;
    enum dim shape[2];
    enum param_init init;
    size_t field;
};

#define MODEL_ROW(field) offsetof(struct model_params, field)
#define BLOCK_ROW(field) offsetof(struct block_params, field)

static const struct row first_rows[] = {
    {"token_emb.weight", {V, C}, INIT_NORMAL, MODEL_ROW(token_emb)},
    {"pos_emb.weight", {T, C}, INIT_NORMAL, MODEL_ROW(pos_emb)},
};

static const struct row block_rows[] = {
    {"norm1.weight", {C}, INIT_ONE, BLOCK_ROW(norm1_weight)},
    {"norm1.bias", {C}, INIT_ZERO, BLOCK_ROW(norm1_bias)},
    {"attn.to_qkv.weight", {C3, C}, INIT_NORMAL, BLOCK_ROW(to_qkv)},
    {"attn.to_out.weight", {C, C}, INIT_NORMAL, BLOCK_ROW(to_out)},
    {"norm2.weight", {C}, INIT_ONE, BLOCK_ROW(norm2_weight)},
    {"norm2.bias", {C}, INIT_ZERO, BLOCK_ROW(norm2_bias)},
    {"ff.net.0.weight", {M, C}, INIT_NORMAL, BLOCK_ROW(mlp_in)},
    {"ff.net.0.bias", {M}, INIT_ZERO, BLOCK_ROW(mlp_in_bias)},
    {"ff.net.3.weight", {C, M}, INIT_NORMAL, BLOCK_ROW(mlp_out)},
    {"ff.net.3.bias", {C}, INIT_ZERO, BLOCK_ROW(mlp_out_bias)},
};

static const struct row last_rows[] = {
    {"norm.weight", {C}, INIT_ONE, MODEL_ROW(norm_weight)},
    {"norm.bias", {C}, INIT_ZERO, MODEL_ROW(norm_bias)},
};

enum {
    N_FIRST = sizeof first_rows / sizeof *first_rows,
    N_BLOCK = sizeof block_rows / sizeof *block_rows,
    N_LAST = sizeof last_rows / sizeof *last_rows,
    ALIGNMENT = 64,         /* elements: every parameter starts on its own cache line */
};

static int64_t dim_size(enum dim dim, const struct model_config *config)
{
    switch (dim) {
    case C:
        return config->dim;
    case C3:
        return 3 * (int64_t)config->dim;
    case M:
        return config->mlp_dim;
    case V:
        return config->vocab_size;
    case T:
        return config->max_seq_len;
    default:
        return 1;
    }
}

static void add_param(struct param_table *table, const struct row *row, int block,
                      const struct model_config *config)
{
    if (config->use_rotary_emb && row->shape[0] == T)
        return;

    struct param *param = &table->params[table->n_params++];
    param->n_dims = row->shape[1] == NONE ? 1 : 2;
    param->shape[0] = dim_size(row->shape[0], config);
    param->shape[1] = dim_size(row->shape[1], config);
    param->init = row->init;
    param->decay = param->n_dims >= 2;
    param->count = param->shape[0] * param->shape[1];
    param->block = block;
    param->field = row->field;
    if (block < 0)
        snprintf(param->name, sizeof param->name, "%s", row->name);
    else
        snprintf(param->name, sizeof param->name, "blocks.%d.%s", block, row->name);
    table->n_parameters += param->count;
}

static void place_params(struct param_table *table, bool decayed)
{
    for (int i = 0; i < table->n_params; i++) {
        struct param *param = &table->params[i];
        if (param->decay != decayed)
            continue;
        param->offset = table->flat_count;
        table->flat_count += (param->count + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
}

enum status param_table_create(struct param_table *table, const struct model_config *config)
{
    const size_t most = (size_t)(N_FIRST + config->depth * N_BLOCK + N_LAST);

    *table = (struct param_table){.params = calloc(most, sizeof *table->params)};
    if (!table->params)
        return fail(ERR_NOMEM, "no memory for the table of %zu parameters", most);
    for (int i = 0; i < N_FIRST; i++)
        add_param(table, &first_rows[i], -1, config);
    for (int block = 0; block < config->depth; block++)
        for (int i = 0; i < N_BLOCK; i++)
            add_param(table, &block_rows[i], block, config);
    for (int i = 0; i < N_LAST; i++)
        add_param(table, &last_rows[i], -1, config);
    place_params(table, true);
    table->decay_count = table->flat_count;
    place_params(table, false);
    return OK;
}

void param_table_free(struct param_table *table)
{
    free(table->params);
    *table = (struct param_table){0};
}

const struct param *param_find(const struct param_table *table, const char *name)
{
    for (int i = 0; i < table->n_params; i++)
        if (strcmp(table->params[i].name, name) == 0)
            return &table->params[i];
    return NULL;
}

/* Two standard normal numbers from two uniform ones (Box and Muller, 1958). */
static void normal_pair(uint32_t a, uint32_t b, float out[2])
{
    const double radius = sqrt(-2 * log(1 - rng_uniform_double(a, 0)));
    const double angle = 6.283185307179586 * rng_uniform_double(b, 0);

    out[0] = (float)(radius * cos(angle));
    out[1] = (float)(radius * sin(angle));
}

void param_initial_values(const struct param_table *table, int index, uint64_t seed, float *values)
{
    const struct param *param = &table->params[index];

    for (int64_t i = 0; i < param->count && param->init != INIT_NORMAL; i++)
        values[i] = param->init == INIT_ONE ? 1.0f : 0.0f;
    for (int64_t i = 0; i < param->count && param->init == INIT_NORMAL; i += 4) {
        const struct rng_block random = rng_philox(seed, RNG_INIT, (uint32_t)index, 0,
                                                   (uint64_t)i / 4);
        float normals[4];
        normal_pair(random.word[0], random.word[1], normals);
        normal_pair(random.word[2], random.word[3], normals + 2);
        for (int64_t j = i; j < i + 4 && j < param->count; j++)
            values[j] = 0.02f * normals[j - i];
    }
}

enum status model_params_create(struct model_params *params, const struct param_table *table,
                                int depth, const struct tensor *flat)
{
    *params = (struct model_params){.blocks = calloc((size_t)depth, sizeof *params->blocks)};
    if (!params->blocks)
        return fail(ERR_NOMEM, "no memory for the parameters of %d blocks", depth);
    for (int i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        char *owner = param->block < 0 ? (char *)params : (char *)&params->blocks[param->block];
        struct tensor *tensor = (struct tensor *)(owner + param->field);
        *tensor = tensor_2d((char *)flat->data + (size_t)param->offset * dtype_size(flat->dtype),
                            flat->dtype, param->shape[0], param->shape[1]);
    }
    return OK;
}

void model_params_free(struct model_params *params)
{
    free(params->blocks);
    *params = (struct model_params){0};
}
