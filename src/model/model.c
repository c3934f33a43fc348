#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#include "model/model_internal.h"

/* ---- memory ---- */

static struct normed layout_normed(struct arena *arena, const struct model *m)
{
    const enum dtype real = m->dev->real, master = device_master(m->dev);
    const int64_t n = m->max_rows, width = m->config.dim;

    return (struct normed){arena_tensor(arena, real, n, width), arena_tensor(arena, real, n, width),
                           arena_tensor(arena, master, n, 1), arena_tensor(arena, master, n, 1)};
}

static struct block_acts layout_block(struct arena *arena, const struct model *m)
{
    const enum dtype real = m->dev->real;
    const int64_t n = m->max_rows, width = m->config.dim, mlp = m->config.mlp_dim;

    return (struct block_acts){
        .attn_in = layout_normed(arena, m),
        .qkv = arena_tensor(arena, real, n, 3 * width),
        .lse = arena_tensor(arena, device_master(m->dev), n, m->config.heads),
        .att = arena_tensor(arena, real, n, width),
        .mlp_in = layout_normed(arena, m),
        .mlp_pre = arena_tensor(arena, real, n, mlp),
        .mlp_act = arena_tensor(arena, real, n, mlp),
    };
}

static void layout_activations(struct arena *arena, struct model *m)
{
    const enum dtype real = m->dev->real;
    const int64_t n = m->max_rows, width = m->config.dim;
    struct acts *a = &m->acts;

    a->ids = arena_tensor(arena, DTYPE_I32, n, 1);
    a->targets = arena_tensor(arena, DTYPE_I32, n, 1);
    a->place = arena_tensor(arena, DTYPE_I64, 2, 1);
    for (int block = 0; block < m->config.depth; block++) {
        /* Without a backward pass a block may overwrite the one below. */
        const bool shares = m->use == MODEL_GENERATE && block > 0;
        a->blocks[block] = shares ? a->blocks[0] : layout_block(arena, m);
    }
    a->last = layout_normed(arena, m);
    a->branch = arena_tensor(arena, real, n, width);
    a->logits = arena_tensor(arena, real, m->logits_rows, m->config.vocab_size);
    a->losses = arena_tensor(arena, DTYPE_F32, n, 1);
    a->hits = arena_tensor(arena, DTYPE_F32, n, 1);
    a->sums = arena_tensor(arena, DTYPE_F64, 2, 1);
    if (m->use == MODEL_GENERATE)
        a->top = arena_tensor(arena, DTYPE_F32, 2 * OPS_TOP_MAX, 1);
    if (m->use != MODEL_TRAIN)
        return;
    a->dx = arena_tensor(arena, real, n, width);
    a->dbranch = arena_tensor(arena, real, n, width);
    a->dnorm = arena_tensor(arena, real, n, width);
    a->dqkv = arena_tensor(arena, real, n, 3 * width);
    a->datt = arena_tensor(arena, real, n, width);
    a->dmlp = arena_tensor(arena, real, n, m->config.mlp_dim);
}

/* Lay out everything; returns what each part takes. */
static struct model_memory layout(struct model *m, struct arena *arena)
{
    const enum dtype real = m->dev->real, master = device_master(m->dev);
    struct model_memory memory = {0};
    size_t before = arena->used;

    if (!m->shares_weights)
        m->flat_weights = arena_tensor(arena, master, m->table.flat_count, 1);
    if (!m->shares_weights && real != master)
        m->flat_copy = arena_tensor(arena, real, m->table.flat_count, 1);
    memory.weights = arena->used - before;
    before = arena->used;
    if (m->use == MODEL_TRAIN)
        m->flat_gradients = arena_tensor(arena, master, m->table.flat_count, 1);
    memory.gradients = arena->used - before;
    before = arena->used;
    layout_activations(arena, m);
    memory.activations = arena->used - before;
    before = arena->used;
    if (m->use == MODEL_GENERATE)
        m->acts.cache = arena_tensor(arena, real, m->config.depth,
                                     2 * (int64_t)m->config.max_seq_len * m->config.dim);
    memory.cache = arena->used - before;
    return memory;
}

static struct op_limits limits_of(const struct model *m)
{
    const struct model_config *c = &m->config;
    const int64_t qkv = 3 * (int64_t)c->dim;

    return (struct op_limits){
        .rows = m->max_rows,
        .width = qkv > c->mlp_dim ? qkv : c->mlp_dim,
        .max_seq_len = c->max_seq_len,
        .heads = c->heads,
        .head_size = c->dim / c->heads,
        .vocab_size = c->vocab_size,
        .params = m->table.flat_count,
    };
}

/* Rows of logits at a time: at most 64 MiB of them, but enough rows for fast products. */
static int64_t logits_rows_for(const struct model *m)
{
    const int64_t row = m->config.vocab_size * (int64_t)dtype_size(m->dev->real);
    int64_t rows = (64 << 20) / row;

    rows = rows < 256 ? 256 : rows;
    return rows < m->max_rows ? rows : m->max_rows;
}

static void model_free_host(struct model *m)
{
    param_table_free(&m->table);
    model_params_free(&m->weights);
    model_params_free(&m->gradients);
    free(m->acts.blocks);
    m->acts.blocks = NULL;
}

/* A model without memory: sizes are known, tensors point nowhere. */
static enum status model_prepare(struct model *m, struct device *dev,
                                 const struct model_config *config, int batch, enum model_use use)
{
    *m = (struct model){.dev = dev, .config = *config, .use = use};
    m->max_rows = (int64_t)batch * config->max_seq_len;
    m->logits_rows = use == MODEL_GENERATE ? 1 : logits_rows_for(m);
    TRY(param_table_create(&m->table, config));
    m->acts.blocks = calloc((size_t)config->depth, sizeof *m->acts.blocks);
    return m->acts.blocks ? OK : fail(ERR_NOMEM, "no memory for %d blocks", config->depth);
}

enum status model_memory_plan(struct model_memory *out, const struct device *dev,
                              const struct model_config *config, int batch, enum model_use use,
                              bool shares_weights)
{
    struct model m;
    struct arena measure = {0};
    const enum status status = model_prepare(&m, (struct device *)dev, config, batch, use);

    m.shares_weights = shares_weights;
    if (status == OK) {
        const struct op_limits limits = limits_of(&m);
        *out = layout(&m, &measure);
        out->scratch = device_scratch_size(dev, &limits);
    }
    model_free_host(&m);
    return status;
}

enum status model_create(struct model **out, struct device *dev, const struct model_config *config,
                         int batch, enum model_use use, const struct model *shared)
{
    struct model *m = malloc(sizeof *m);
    struct arena arena = {0};
    enum status status;

    *out = NULL;
    if (!m)
        return fail(ERR_NOMEM, "no memory for a model");
    TRY_GOTO(status, model_prepare(m, dev, config, batch, use), failed);
    if (shared) {
        m->shares_weights = true;
        m->flat_weights = shared->flat_weights;
        m->flat_copy = shared->flat_copy;
    }
    layout(m, &arena);
    TRY_GOTO(status, device_alloc(dev, arena.used, &m->memory), failed);
    m->memory_size = arena.used;
    arena = (struct arena){.base = m->memory};
    layout(m, &arena);
    const struct tensor *used = m->flat_copy.data ? &m->flat_copy : &m->flat_weights;
    TRY_GOTO(status, model_params_create(&m->weights, &m->table, config->depth, used), failed);
    if (use == MODEL_TRAIN)
        TRY_GOTO(status, model_params_create(&m->gradients, &m->table, config->depth,
                                             &m->flat_gradients), failed);
    const struct op_limits limits = limits_of(m);
    TRY_GOTO(status, device_reserve(dev, &limits), failed);
    *out = m;
    return OK;
failed:
    model_destroy(m);
    return status;
}

void model_destroy(struct model *m)
{
    if (!m)
        return;
    device_free(m->dev, m->memory, m->memory_size);
    model_free_host(m);
    free(m);
}

const struct model_config *model_config(const struct model *m)
{
    return &m->config;
}

const struct param_table *model_param_table(const struct model *m)
{
    return &m->table;
}

struct tensor model_weights(const struct model *m)
{
    return m->flat_weights;
}

struct tensor model_gradients(const struct model *m)
{
    return m->flat_gradients;
}

struct tensor model_compute_copy(const struct model *m)
{
    return m->flat_copy;
}

struct tensor model_sums(const struct model *m)
{
    return m->acts.sums;
}

/* ---- parameters ---- */

enum status model_init(struct model *m, uint64_t seed)
{
    for (int i = 0; i < m->table.n_params; i++) {
        const struct param *param = &m->table.params[i];
        float *values = malloc((size_t)param->count * sizeof *values);
        if (!values)
            return fail(ERR_NOMEM, "no memory to initialise %s", param->name);
        param_initial_values(&m->table, i, seed, values);
        const enum status status = model_set_param(m, &m->flat_weights, param, values);
        free(values);
        TRY(status);
    }
    return model_weights_changed(m);
}

enum status model_weights_changed(struct model *m)
{
    if (m->flat_copy.data)
        RUN_OP(OPS_OPTIMIZER, m->dev, cast, &m->flat_copy, &m->flat_weights);
    return OK;
}

static void *param_address(const struct tensor *flat, const struct param *param)
{
    return (char *)flat->data + (size_t)param->offset * dtype_size(flat->dtype);
}

/* Float64 exists in tests only; there a copy in between is fine. */
enum status model_set_param(struct model *m, const struct tensor *flat, const struct param *param,
                            const float *values)
{
    const size_t count = (size_t)param->count;

    if (flat->dtype == DTYPE_F32)
        return device_upload(m->dev, param_address(flat, param), values, count * sizeof *values);
    double *wide = malloc(count * sizeof *wide);
    if (!wide)
        return fail(ERR_NOMEM, "no memory to convert %s", param->name);
    for (size_t i = 0; i < count; i++)
        wide[i] = (double)values[i];
    const enum status status = device_upload(m->dev, param_address(flat, param), wide,
                                             count * sizeof *wide);
    free(wide);
    return status;
}

/* Float32 numbers from any type; of the others, which are rare, there is a copy in between. */
static enum status download_floats(struct model *m, float *out, const void *from, enum dtype dtype,
                                   int64_t count)
{
    const size_t size = (size_t)count * dtype_size(dtype);

    if (dtype == DTYPE_F32)
        return device_download(m->dev, out, from, size);
    void *copy = malloc(size);
    if (!copy)
        return fail(ERR_NOMEM, "no memory to convert %lld numbers", (long long)count);
    const enum status status = device_download(m->dev, copy, from, size);
    if (status == OK)
        dtype_to_float(out, copy, dtype, count);
    free(copy);
    return status;
}

enum status model_get_param(struct model *m, const struct tensor *flat, const struct param *param,
                            float *values)
{
    return download_floats(m, values, param_address(flat, param), flat->dtype, param->count);
}

/* ---- steps ---- */

static struct pass pass_of(const struct model_batch *batch)
{
    return (struct pass){.batch = batch->windows, .length = batch->length};
}

static enum status upload_batch(struct model *m, const struct model_batch *batch)
{
    const size_t size = (size_t)batch->windows * (size_t)batch->length * sizeof(int32_t);

    TRY(device_upload(m->dev, m->acts.ids.data, batch->ids, size));
    if (batch->targets)
        TRY(device_upload(m->dev, m->acts.targets.data, batch->targets, size));
    return OK;
}

enum status model_begin(struct model *m)
{
    TRY(device_zero(m->dev, m->acts.sums.data, 2 * sizeof(double)));
    if (m->use == MODEL_TRAIN)
        TRY(device_zero(m->dev, m->flat_gradients.data,
                        (size_t)m->table.flat_count * dtype_size(m->flat_gradients.dtype)));
    return OK;
}

/* Classifier and loss in blocks of rows, so that logits of the whole batch never exist at once. With
 * a loss scale the gradients follow at once: d(norm) into acts.dnorm, and the embedding's. */
static enum status classify(struct model *m, const struct pass *pass, double loss_scale)
{
    struct device *dev = m->dev;
    struct acts *a = &m->acts;
    const int64_t n = pass->batch * pass->length;
    const struct tensor none = {0};

    for (int64_t first = 0; first < n; first += m->logits_rows) {
        const int64_t rows = first + m->logits_rows < n ? m->logits_rows : n - first;
        const struct tensor norm = tensor_rows(&a->last.norm, first, rows);
        const struct tensor logits = tensor_rows(&a->logits, 0, rows);
        const struct tensor targets = tensor_rows(&a->targets, first, rows);
        const struct tensor losses = tensor_rows(&a->losses, first, rows);
        const struct tensor hits = tensor_rows(&a->hits, first, rows);

        RUN_OP(OPS_CLASSIFIER, dev, linear_forward, &logits, &norm, &m->weights.token_emb, &none);
        RUN_OP(OPS_CROSS_ENTROPY, dev, cross_entropy, &losses, &hits, &logits, &targets,
               loss_scale);
        if (loss_scale == 0)
            continue;
        const struct tensor dnorm = tensor_rows(&a->dnorm, first, rows);
        RUN_OP(OPS_CLASSIFIER, dev, linear_backward_weight, &m->gradients.token_emb, &none,
               &logits, &norm);
        RUN_OP(OPS_CLASSIFIER, dev, linear_backward_input, &dnorm, &logits,
               &m->weights.token_emb);
    }

    const struct tensor losses = pass_rows(pass, &a->losses), hits = pass_rows(pass, &a->hits);
    const struct tensor loss_sum = tensor_rows(&a->sums, 0, 1);
    const struct tensor hit_sum = tensor_rows(&a->sums, 1, 1);
    RUN_OP(OPS_CROSS_ENTROPY, dev, sum, &loss_sum, &losses);
    RUN_OP(OPS_CROSS_ENTROPY, dev, sum, &hit_sum, &hits);
    return OK;
}

enum status model_load(struct model *m, const struct model_batch *batch,
                       const struct model_step *step)
{
    const struct dropout_place place = {step->first_window * batch->length, step->step};

    m->loaded = pass_of(batch);
    m->loaded.dropout = (struct dropout){.rate = m->config.dropout, .seed = step->seed,
                                         .place = m->acts.place.data};
    TRY(device_upload(m->dev, m->acts.place.data, &place, sizeof place));
    return upload_batch(m, batch);
}

enum status model_train(struct model *m, double loss_scale, const struct model_hook *hook)
{
    TRY(model_forward(m, &m->loaded));
    TRY(classify(m, &m->loaded, loss_scale));
    return model_backward(m, &m->loaded, hook);
}

enum status model_evaluate_batch(struct model *m, const struct model_batch *batch)
{
    const struct pass pass = pass_of(batch);

    TRY(upload_batch(m, batch));
    TRY(model_forward(m, &pass));
    return classify(m, &pass, 0);
}

/* Logits of rows first .. first+rows-1 of the last forward pass, to the front of acts.logits. */
static enum status compute_logits(struct model *m, int64_t first, int64_t rows)
{
    const struct tensor norm = tensor_rows(&m->acts.last.norm, first, rows);
    const struct tensor logits = tensor_rows(&m->acts.logits, 0, rows);
    const struct tensor none = {0};

    RUN_OP(OPS_CLASSIFIER, m->dev, linear_forward, &logits, &norm, &m->weights.token_emb, &none);
    return OK;
}

static enum status read_logits(struct model *m, int64_t rows, float *out)
{
    const struct tensor *logits = &m->acts.logits;

    return download_floats(m, out, logits->data, logits->dtype, rows * m->config.vocab_size);
}

enum status model_logits(struct model *m, const struct model_batch *batch, float *out)
{
    const struct pass pass = pass_of(batch);
    const int64_t n = pass.batch * pass.length;

    TRY(upload_batch(m, batch));
    TRY(model_forward(m, &pass));
    for (int64_t first = 0; first < n; first += m->logits_rows) {
        const int64_t rows = first + m->logits_rows < n ? m->logits_rows : n - first;
        TRY(compute_logits(m, first, rows));
        TRY(read_logits(m, rows, out + first * m->config.vocab_size));
    }
    return OK;
}

/* ---- generation ---- */

enum status model_extend(struct model *m, const int32_t *ids, int count, int position)
{
    const struct pass pass = {.batch = 1, .length = count, .position = position};

    TRY(device_upload(m->dev, m->acts.ids.data, ids, (size_t)count * sizeof *ids));
    TRY(model_forward(m, &pass));
    return compute_logits(m, count - 1, 1);
}

enum status model_read_logits(struct model *m, float *out)
{
    return read_logits(m, 1, out);
}

enum status model_top(struct model *m, int n, int k, struct candidate *likeliest)
{
    /* Side by side, so that one copy brings both. */
    const struct tensor both = tensor_rows(&m->acts.top, 0, 2 * k);
    const struct tensor values = tensor_rows(&both, 0, k);
    struct tensor ids = tensor_rows(&both, k, k);
    float copy[2 * OPS_TOP_MAX];

    ids.dtype = DTYPE_I32;
    RUN_OP(OPS_CLASSIFIER, m->dev, top_logits, &values, &ids, &m->acts.logits, n);
    TRY(device_download(m->dev, copy, both.data, 2 * (size_t)k * sizeof *copy));
    for (int i = 0; i < k; i++) {
        likeliest[i].logit = copy[i];
        memcpy(&likeliest[i].id, &copy[k + i], sizeof likeliest[i].id);
    }
    return OK;
}
