/* cases.c - operands are declared in the order of the operation's parameters in kernels/ops.h. */
#include "gpu/cases.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The model's letters as in kernels/ops.h, and the cases so far. */
struct list {
    struct op_case *cases;
    int count;
    int64_t B, T, C, H, D, M, V, N;
    double rate;
    bool rotary;
};

/* 16-bit activations and the weights that are computed with; masters. */
static const enum dtype REAL = DTYPE_BF16, MASTER = DTYPE_F32;

double case_bytes(const struct op_case *c)
{
    double bytes = 0;

    for (int i = 0; i < c->n_operands; i++) {
        const struct operand *o = &c->operands[i];
        const double moved = (double)o->touched * (double)dtype_size(o->shape.dtype);
        if (o->role != ROLE_ABSENT)
            bytes += o->role == ROLE_UPDATED ? 2 * moved : moved;
    }
    return bytes;
}

__attribute__((format(printf, 3, 4)))
static struct op_case *begin(struct list *l, enum op op, const char *detail, ...)
{
    struct op_case *c = &l->cases[l->count++];
    va_list args;

    *c = (struct op_case){.op = op};
    snprintf(c->name, sizeof c->name, "%s", op_calls[op].name);
    va_start(args, detail);
    vsnprintf(c->sizes, sizeof c->sizes, detail, args);
    va_end(args);
    return c;
}

static struct operand *operand(struct op_case *c, enum role role, struct tensor shape)
{
    struct operand *o = &c->operands[c->n_operands++];

    *o = (struct operand){.role = role, .shape = shape, .touched = tensor_count(&shape),
                          .fill = shape.dtype == DTYPE_I32 ? FILL_IDS : FILL_UNIFORM};
    return o;
}

static void real(struct op_case *c, enum role role, int64_t rows, int64_t columns)
{
    operand(c, role, tensor_2d(NULL, REAL, rows, columns));
}

static void master(struct op_case *c, enum role role, int64_t rows, int64_t columns)
{
    operand(c, role, tensor_2d(NULL, MASTER, rows, columns));
}

/* Standard deviations and their like. */
static void positive(struct op_case *c, enum role role, int64_t count)
{
    operand(c, role, tensor_1d(NULL, MASTER, count))->fill = FILL_POSITIVE;
}

static void absent(struct op_case *c)
{
    operand(c, ROLE_ABSENT, (struct tensor){0});
}

static void drop(struct op_case *c, double rate)
{
    const size_t length = strlen(c->name);

    c->arguments.dropout = (struct dropout){.rate = rate, .seed = 42, .step = 1, .site = 1};
    if (rate == 0)
        return;
    snprintf(c->name + length, sizeof c->name - length, ", dropout %g", rate);
}

/* ---- embedding ---- */

/* A row of the table, or of its gradient, for each token; rows that come twice are in the cache. */
static void embedding(struct list *l)
{
    const int64_t rows = l->N < l->V ? l->N : l->V;
    const struct tensor ids = tensor_2d(NULL, DTYPE_I32, l->B, l->T);
    const struct tensor x = tensor_3d(NULL, REAL, l->B, l->T, l->C);

    struct op_case *c = begin(l, OP_EMBEDDING_FORWARD, "%d rows of %d", (int)l->N, (int)l->C);
    operand(c, ROLE_WRITTEN, x);
    operand(c, ROLE_READ, ids);
    operand(c, ROLE_READ, tensor_2d(NULL, REAL, l->V, l->C))->touched = rows * l->C;
    if (l->rotary)
        absent(c);
    else
        real(c, ROLE_READ, l->T, l->C);

    c = begin(l, OP_EMBEDDING_BACKWARD, "%d rows of %d", (int)l->N, (int)l->C);
    operand(c, ROLE_UPDATED, tensor_2d(NULL, MASTER, l->V, l->C))->touched = rows * l->C;
    if (l->rotary)
        absent(c);
    else
        master(c, ROLE_UPDATED, l->T, l->C);
    operand(c, ROLE_READ, x);
    operand(c, ROLE_READ, ids);
}

/* ---- layernorm ---- */

static void add_layernorm(struct list *l, double rate)
{
    struct op_case *c = begin(l, OP_ADD_LAYERNORM_FORWARD, "%d x %d", (int)l->N, (int)l->C);

    drop(c, rate);
    real(c, ROLE_WRITTEN, l->N, l->C);
    real(c, ROLE_WRITTEN, l->N, l->C);
    master(c, ROLE_WRITTEN, l->N, 1);
    master(c, ROLE_WRITTEN, l->N, 1);
    real(c, ROLE_READ, l->N, l->C);
    real(c, ROLE_READ, l->N, l->C);
    real(c, ROLE_READ, l->C, 1);
    real(c, ROLE_READ, l->C, 1);
}

static void layernorm(struct list *l)
{
    struct op_case *c = begin(l, OP_LAYERNORM_FORWARD, "%d x %d", (int)l->N, (int)l->C);

    real(c, ROLE_WRITTEN, l->N, l->C);
    master(c, ROLE_WRITTEN, l->N, 1);
    master(c, ROLE_WRITTEN, l->N, 1);
    real(c, ROLE_READ, l->N, l->C);
    real(c, ROLE_READ, l->C, 1);
    real(c, ROLE_READ, l->C, 1);

    add_layernorm(l, 0);
    if (l->rate > 0)
        add_layernorm(l, l->rate);

    c = begin(l, OP_LAYERNORM_BACKWARD, "%d x %d", (int)l->N, (int)l->C);
    real(c, ROLE_UPDATED, l->N, l->C);
    master(c, ROLE_UPDATED, l->C, 1);
    master(c, ROLE_UPDATED, l->C, 1);
    real(c, ROLE_READ, l->N, l->C);
    real(c, ROLE_READ, l->N, l->C);
    real(c, ROLE_READ, l->C, 1);
    master(c, ROLE_READ, l->N, 1);
    positive(c, ROLE_READ, l->N);
}

/* ---- products ---- */

/* From width `k` to width `m`. */
static void forward_product(struct list *l, int64_t n, int64_t k, int64_t m, bool bias)
{
    struct op_case *c = begin(l, OP_LINEAR_FORWARD, "%d x %d -> %d%s", (int)n, (int)k, (int)m,
                              bias ? " + bias" : "");

    c->is_product = true;
    c->flops = 2.0 * (double)n * (double)k * (double)m;
    real(c, ROLE_WRITTEN, n, m);
    real(c, ROLE_READ, n, k);
    real(c, ROLE_READ, m, k);
    if (bias)
        real(c, ROLE_READ, m, 1);
    else
        absent(c);
}

static void backward_products(struct list *l, int64_t n, int64_t k, int64_t m, bool bias)
{
    struct op_case *c = begin(l, OP_LINEAR_BACKWARD_INPUT, "%d x %d -> %d", (int)n, (int)m, (int)k);

    c->is_product = true;
    c->flops = 2.0 * (double)n * (double)k * (double)m;
    real(c, ROLE_WRITTEN, n, k);
    real(c, ROLE_READ, n, m);
    real(c, ROLE_READ, m, k);

    c = begin(l, OP_LINEAR_BACKWARD_WEIGHT, "%d x %d of %d rows%s", (int)m, (int)k, (int)n,
              bias ? " + bias" : "");
    c->is_product = !bias;
    c->flops = 2.0 * (double)n * (double)k * (double)m;
    master(c, ROLE_UPDATED, m, k);
    if (bias)
        master(c, ROLE_UPDATED, m, 1);
    else
        absent(c);
    real(c, ROLE_READ, n, m);
    real(c, ROLE_READ, n, k);
}

static void linear_gelu(struct list *l, double rate)
{
    struct op_case *c = begin(l, OP_LINEAR_GELU_FORWARD, "%d x %d -> %d", (int)l->N, (int)l->C,
                              (int)l->M);

    drop(c, rate);
    c->flops = 2.0 * (double)l->N * (double)l->C * (double)l->M;
    real(c, ROLE_WRITTEN, l->N, l->M);
    real(c, ROLE_WRITTEN, l->N, l->M);
    real(c, ROLE_READ, l->N, l->C);
    real(c, ROLE_READ, l->M, l->C);
    real(c, ROLE_READ, l->M, 1);
}

static void linear(struct list *l)
{
    forward_product(l, l->N, l->C, 3 * l->C, false);
    forward_product(l, l->N, l->C, l->C, false);
    forward_product(l, l->N, l->C, l->M, true);
    linear_gelu(l, l->rate);
    forward_product(l, l->N, l->M, l->C, true);
    backward_products(l, l->N, l->C, 3 * l->C, false);
    backward_products(l, l->N, l->C, l->C, false);
    backward_products(l, l->N, l->C, l->M, true);
    backward_products(l, l->N, l->M, l->C, true);
}

/* ---- elementwise ---- */

static void gelu(struct list *l, double rate)
{
    struct op_case *c = begin(l, OP_GELU_FORWARD, "%d x %d", (int)l->N, (int)l->M);

    drop(c, rate);
    real(c, ROLE_WRITTEN, l->N, l->M);
    real(c, ROLE_READ, l->N, l->M);

    c = begin(l, OP_GELU_BACKWARD, "%d x %d", (int)l->N, (int)l->M);
    drop(c, rate);
    real(c, ROLE_WRITTEN, l->N, l->M);
    real(c, ROLE_READ, l->N, l->M);
    real(c, ROLE_READ, l->N, l->M);
}

static void residual(struct list *l, double rate)
{
    struct op_case *c = begin(l, OP_ADD_DROPOUT_FORWARD, "%d x %d", (int)l->N, (int)l->C);

    drop(c, rate);
    real(c, ROLE_WRITTEN, l->N, l->C);
    real(c, ROLE_READ, l->N, l->C);
    real(c, ROLE_READ, l->N, l->C);
    if (rate == 0)      /* a copy, which the model has no use for */
        return;
    c = begin(l, OP_ADD_DROPOUT_BACKWARD, "%d x %d", (int)l->N, (int)l->C);
    drop(c, rate);
    real(c, ROLE_WRITTEN, l->N, l->C);
    real(c, ROLE_READ, l->N, l->C);
}

/* ---- attention ---- */

/* Two products forward (q k^T and p v), five backward, of which causal attention needs half. */
static void attention(struct list *l, double rate)
{
    const struct tensor qkv = tensor_4d(NULL, REAL, l->B, l->T, 3 * l->H, l->D);
    const struct tensor out = tensor_4d(NULL, REAL, l->B, l->T, l->H, l->D);
    const double product = (double)(l->B * l->H * l->T) * (double)(l->T * l->D);
    struct op_case *c = begin(l, OP_ATTENTION_FORWARD, "%d x %d, %d heads of %d", (int)l->B,
                              (int)l->T, (int)l->H, (int)l->D);

    drop(c, rate);
    c->flops = 2 * product;
    operand(c, ROLE_WRITTEN, out);
    master(c, ROLE_WRITTEN, l->B * l->H, l->T);
    operand(c, ROLE_READ, qkv);

    c = begin(l, OP_ATTENTION_BACKWARD, "%d x %d, %d heads of %d", (int)l->B, (int)l->T,
              (int)l->H, (int)l->D);
    drop(c, rate);
    c->flops = 5 * product;
    operand(c, ROLE_WRITTEN, qkv);
    operand(c, ROLE_READ, out);
    operand(c, ROLE_READ, out);
    operand(c, ROLE_READ, tensor_3d(NULL, MASTER, l->B, l->H, l->T))->fill = FILL_POSITIVE;
    operand(c, ROLE_READ, qkv);
}

static void rope(struct list *l)
{
    struct op_case *c = begin(l, OP_ROPE, "%d x %d, %d heads of %d", (int)l->B, (int)l->T,
                              (int)l->H, (int)l->D);

    operand(c, ROLE_UPDATED, tensor_4d(NULL, REAL, l->B, l->T, 3 * l->H, l->D))->touched =
        2 * l->N * l->C;
}

enum { TOP_K = 40 };            /* default of generation.top_k */

/* The last token of a full context, and the choice of the next one. */
static void decoding(struct list *l)
{
    struct op_case *c = begin(l, OP_ATTENTION_CACHED, "1 token, context %d", (int)l->T);

    c->arguments.position = l->T - 1;
    operand(c, ROLE_WRITTEN, tensor_3d(NULL, REAL, 1, l->H, l->D));
    operand(c, ROLE_READ, tensor_4d(NULL, REAL, 2, l->T, l->H, l->D));
    operand(c, ROLE_READ, tensor_4d(NULL, REAL, 1, 1, 3 * l->H, l->D));

    c = begin(l, OP_TOP_LOGITS, "%d of %d", TOP_K, (int)l->V);
    c->arguments.count = l->V;
    master(c, ROLE_WRITTEN, TOP_K, 1);
    operand(c, ROLE_WRITTEN, tensor_1d(NULL, DTYPE_I32, TOP_K));
    real(c, ROLE_READ, l->V, 1);
}

/* ---- classifier ---- */

/* As many rows at a time as the model takes: 64 MiB of logits, at least 256 rows. */
static void classifier(struct list *l)
{
    const int64_t fitting = (64 << 20) / (l->V * (int64_t)dtype_size(REAL));
    const int64_t most = fitting < 256 ? 256 : fitting, rows = most < l->N ? most : l->N;

    forward_product(l, rows, l->C, l->V, false);
    struct op_case *c = begin(l, OP_CROSS_ENTROPY, "%d x %d", (int)rows, (int)l->V);
    c->arguments.grad_scale = 1.0 / (double)l->N;
    master(c, ROLE_WRITTEN, rows, 1);
    master(c, ROLE_WRITTEN, rows, 1);
    real(c, ROLE_UPDATED, rows, l->V);
    operand(c, ROLE_READ, tensor_1d(NULL, DTYPE_I32, rows));
    backward_products(l, rows, l->C, l->V, false);
}

/* ---- all parameters ---- */

static void optimizer(struct list *l, int64_t params)
{
    const struct tensor one = tensor_1d(NULL, DTYPE_F64, 1);
    struct op_case *c = begin(l, OP_SUM, "%d", (int)l->N);

    operand(c, ROLE_UPDATED, one);
    master(c, ROLE_READ, l->N, 1);
    c = begin(l, OP_SUM_OF_SQUARES, "%lld", (long long)params);
    operand(c, ROLE_WRITTEN, one);
    master(c, ROLE_READ, params, 1);
    c = begin(l, OP_CAST, "%lld", (long long)params);
    real(c, ROLE_WRITTEN, params, 1);
    master(c, ROLE_READ, params, 1);

    c = begin(l, OP_ADAMW, "%lld", (long long)params);
    c->arguments.step = (struct adamw_step){.lr = 1e-4, .beta1 = 0.9, .beta2 = 0.95,
                                            .epsilon = 1e-8, .weight_decay = 0.1,
                                            .decay_count = params, .step = 10, .loss_scale = 1,
                                            .max_norm = 1};
    master(c, ROLE_UPDATED, params, 1);
    master(c, ROLE_UPDATED, params, 1);
    positive(c, ROLE_UPDATED, params);
    master(c, ROLE_READ, params, 1);
    real(c, ROLE_WRITTEN, params, 1);
    operand(c, ROLE_READ, one)->fill = FILL_POSITIVE;
}

int cases_of(struct op_case cases[MAX_CASES], const struct shape *shape)
{
    const struct model_config *m = &shape->config;
    struct list l = {
        .cases = cases, .B = shape->op_windows, .T = m->max_seq_len, .C = m->dim, .H = m->heads,
        .D = m->dim / m->heads, .M = m->mlp_dim, .V = m->vocab_size,
        .N = (int64_t)shape->op_windows * m->max_seq_len, .rate = m->dropout,
        .rotary = m->use_rotary_emb,
    };
    const int64_t params = l.V * l.C + m->depth * (4 * l.C * l.C + 2 * l.C * l.M);

    embedding(&l);
    layernorm(&l);
    linear(&l);
    gelu(&l, 0);
    residual(&l, 0);
    attention(&l, 0);
    if (l.rate > 0) {
        gelu(&l, l.rate);
        residual(&l, l.rate);
        attention(&l, l.rate);
    }
    if (l.rotary)
        rope(&l);
    decoding(&l);
    classifier(&l);
    optimizer(&l, params);
    return l.count;
}
