/* gradcheck.c - the backward pass of every operation against differences of its forward pass, in
 * double precision. */
#include "gradcheck.h"

enum { MAX_VARIABLES = 3 };

/* loss = sum of out * dout, with random dout. */
struct problem {
    const char *name;
    struct variable {
        const char *name;
        struct tensor value, gradient;
    } variables[MAX_VARIABLES];
    int n_variables;
    struct tensor out, dout;
    struct tensor saved[2];         /* what the forward pass keeps for the backward pass */
    struct tensor ids;
    struct dropout dropout;
    enum status (*forward)(struct problem *p);
    enum status (*backward)(struct problem *p);
};

enum gradient_rule { ADDS, OVERWRITES };

static struct tensor tensor_of(int64_t a, int64_t b, int64_t c, int64_t d)
{
    return tensor_4d(doubles(a * b * c * d), DTYPE_F64, a, b, c, d);
}

static void add_variable(struct problem *p, const char *name, enum gradient_rule rule, int64_t a,
                         int64_t b, int64_t c, int64_t d)
{
    struct variable *v = &p->variables[p->n_variables++];

    *v = (struct variable){name, tensor_of(a, b, c, d), tensor_of(a, b, c, d)};
    fill_random(v->value.data, a * b * c * d, (uint32_t)p->n_variables, 1.5);
    for (int64_t i = 0; i < a * b * c * d && rule == OVERWRITES; i++)
        ((double *)v->gradient.data)[i] = NAN;
}

static void set_output(struct problem *p, int64_t a, int64_t b, int64_t c, int64_t d)
{
    p->out = tensor_of(a, b, c, d);
    p->dout = tensor_of(a, b, c, d);
    fill_random(p->dout.data, a * b * c * d, 100, 1);
}

static double problem_loss(void *context)
{
    struct problem *p = context;
    const double *out = p->out.data, *dout = p->dout.data;
    double loss = 0;

    CHECK_OK(p->forward(p));
    for (int64_t i = 0; i < tensor_count(&p->out); i++)
        loss += out[i] * dout[i];
    return loss;
}

/* Check all elements of all variables; frees the problem. */
static void solve(struct problem *p)
{
    CHECK_OK(p->forward(p));
    CHECK_OK(p->backward(p));
    for (int i = 0; i < p->n_variables; i++) {
        struct variable *v = &p->variables[i];
        const int64_t n = tensor_count(&v->value);
        double *expected = doubles(n), *value = v->value.data;
        for (int64_t k = 0; k < n; k++)
            expected[k] = difference(&value[k], problem_loss, p);
        check_gradient(p->name, v->name, expected, v->gradient.data, n);
        free(expected);
    }
    for (int i = 0; i < p->n_variables; i++) {
        free(p->variables[i].value.data);
        free(p->variables[i].gradient.data);
    }
    free(p->out.data);
    free(p->dout.data);
    free(p->saved[0].data);
    free(p->saved[1].data);
    free(p->ids.data);
}

static struct dropout some_dropout(double rate)
{
    return (struct dropout){.rate = rate, .seed = SEED, .step = 3, .site = 1, .first_row = 14};
}

static enum status embedding_forward(struct problem *p)
{
    return dev->ops->embedding_forward(dev, &p->out, &p->ids, &p->variables[0].value,
                                       &p->variables[1].value);
}

static enum status embedding_backward(struct problem *p)
{
    return dev->ops->embedding_backward(dev, &p->variables[0].gradient, &p->variables[1].gradient,
                                        &p->dout, &p->ids);
}

static void embedding(void)
{
    struct problem p = {.name = "embedding", .forward = embedding_forward,
                        .backward = embedding_backward, .ids = ids_of(2, 5, 4)};

    add_variable(&p, "table", ADDS, 4, 7, 1, 1);
    add_variable(&p, "positions", ADDS, 5, 7, 1, 1);
    set_output(&p, 2, 5, 7, 1);
    solve(&p);
}

static enum status layernorm_forward(struct problem *p)
{
    return dev->ops->layernorm_forward(dev, &p->out, &p->saved[0], &p->saved[1],
                                       &p->variables[0].value, &p->variables[1].value,
                                       &p->variables[2].value);
}

static enum status layernorm_backward(struct problem *p)
{
    return dev->ops->layernorm_backward(dev, &p->variables[0].gradient, &p->variables[1].gradient,
                                        &p->variables[2].gradient, &p->dout,
                                        &p->variables[0].value, &p->variables[1].value,
                                        &p->saved[0], &p->saved[1]);
}

static void layernorm(void)
{
    struct problem p = {.name = "layernorm", .forward = layernorm_forward,
                        .backward = layernorm_backward,
                        .saved = {tensor_of(5, 1, 1, 1), tensor_of(5, 1, 1, 1)}};

    add_variable(&p, "x", ADDS, 5, 11, 1, 1);
    add_variable(&p, "weight", ADDS, 11, 1, 1, 1);
    add_variable(&p, "bias", ADDS, 11, 1, 1, 1);
    set_output(&p, 5, 11, 1, 1);
    solve(&p);
}

static enum status linear_forward(struct problem *p)
{
    return dev->ops->linear_forward(dev, &p->out, &p->variables[0].value, &p->variables[1].value,
                                    &p->variables[2].value);
}

static enum status linear_backward(struct problem *p)
{
    TRY(dev->ops->linear_backward_input(dev, &p->variables[0].gradient, &p->dout,
                                        &p->variables[1].value));
    return dev->ops->linear_backward_weight(dev, &p->variables[1].gradient,
                                            &p->variables[2].gradient, &p->dout,
                                            &p->variables[0].value);
}

static void linear(void)
{
    struct problem p = {.name = "linear", .forward = linear_forward, .backward = linear_backward};

    add_variable(&p, "a", OVERWRITES, 5, 7, 1, 1);
    add_variable(&p, "weight", ADDS, 9, 7, 1, 1);
    add_variable(&p, "bias", ADDS, 9, 1, 1, 1);
    set_output(&p, 5, 9, 1, 1);
    solve(&p);
}

static enum status gelu_forward(struct problem *p)
{
    return dev->ops->gelu_forward(dev, &p->out, &p->variables[0].value, &p->dropout);
}

static enum status gelu_backward(struct problem *p)
{
    return dev->ops->gelu_backward(dev, &p->variables[0].gradient, &p->dout,
                                   &p->variables[0].value, &p->dropout);
}

static void gelu(void)
{
    for (int drops = 0; drops < 2; drops++) {
        struct problem p = {.name = drops ? "gelu, dropout" : "gelu", .forward = gelu_forward,
                            .backward = gelu_backward, .dropout = some_dropout(drops ? 0.3 : 0)};
        add_variable(&p, "x", OVERWRITES, 5, 17, 1, 1);
        set_output(&p, 5, 17, 1, 1);
        solve(&p);
    }
}

static enum status add_dropout_forward(struct problem *p)
{
    return dev->ops->add_dropout_forward(dev, &p->out, &p->variables[0].value,
                                         &p->variables[1].value, &p->dropout);
}

/* The gradient of a is dout itself. */
static enum status add_dropout_backward(struct problem *p)
{
    memcpy(p->variables[0].gradient.data, p->dout.data,
           (size_t)tensor_count(&p->dout) * sizeof(double));
    return dev->ops->add_dropout_backward(dev, &p->variables[1].gradient, &p->dout, &p->dropout);
}

static void add_dropout(void)
{
    for (int drops = 0; drops < 2; drops++) {
        struct problem p = {.name = drops ? "add_dropout" : "add_dropout, rate 0",
                            .forward = add_dropout_forward, .backward = add_dropout_backward,
                            .dropout = some_dropout(drops ? 0.3 : 0)};
        add_variable(&p, "a", OVERWRITES, 5, 17, 1, 1);
        add_variable(&p, "b", OVERWRITES, 5, 17, 1, 1);
        set_output(&p, 5, 17, 1, 1);
        solve(&p);
    }
}

static enum status rope_forward(struct problem *p)
{
    memcpy(p->out.data, p->variables[0].value.data,
           (size_t)tensor_count(&p->out) * sizeof(double));
    return dev->ops->rope(dev, &p->out, 3, false);
}

static enum status rope_backward(struct problem *p)
{
    memcpy(p->variables[0].gradient.data, p->dout.data,
           (size_t)tensor_count(&p->dout) * sizeof(double));
    return dev->ops->rope(dev, &p->variables[0].gradient, 3, true);
}

static void rope(void)
{
    struct problem p = {.name = "rope", .forward = rope_forward, .backward = rope_backward};

    add_variable(&p, "qkv", OVERWRITES, 2, 5, 3 * 2, 6);
    set_output(&p, 2, 5, 3 * 2, 6);
    solve(&p);
}

static enum status attention_forward(struct problem *p)
{
    return dev->ops->attention_forward(dev, &p->out, &p->saved[0], &p->variables[0].value,
                                       &p->dropout);
}

static enum status attention_backward(struct problem *p)
{
    return dev->ops->attention_backward(dev, &p->variables[0].gradient, &p->dout, &p->out,
                                        &p->saved[0], &p->variables[0].value, &p->dropout);
}

static void attention(void)
{
    for (int drops = 0; drops < 2; drops++) {
        struct problem p = {.name = drops ? "attention, dropout" : "attention",
                            .forward = attention_forward, .backward = attention_backward,
                            .saved = {tensor_of(2, 2, 9, 1)},
                            .dropout = some_dropout(drops ? 0.3 : 0)};
        add_variable(&p, "qkv", OVERWRITES, 2, 9, 3 * 2, 6);
        set_output(&p, 2, 9, 2, 6);
        solve(&p);
    }
}

static enum status cross_entropy_forward(struct problem *p)
{
    const struct tensor *logits = &p->variables[0].value;
    const int64_t vocab = logits->shape[1];

    for (int64_t row = 0; row < logits->shape[0]; row++)
        ((double *)p->out.data)[row] = token_loss((const double *)logits->data + row * vocab,
                                                  vocab, ((const int32_t *)p->ids.data)[row]);
    return OK;
}

static enum status cross_entropy_backward(struct problem *p)
{
    enum { ROWS = 6 };
    const struct tensor *gradient = &p->variables[0].gradient;
    float losses[ROWS], hits[ROWS];
    const struct tensor losses_view = tensor_1d(losses, DTYPE_F32, ROWS);
    const struct tensor hits_view = tensor_1d(hits, DTYPE_F32, ROWS);

    memcpy(gradient->data, p->variables[0].value.data,
           (size_t)tensor_count(gradient) * sizeof(double));
    TRY(dev->ops->cross_entropy(dev, &losses_view, &hits_view, gradient, &p->ids, LOSS_SCALE));
    for (int row = 0; row < ROWS; row++)
        CHECK_NEAR((double)losses[row], ((const double *)p->out.data)[row], 1e-6);
    return OK;
}

static void cross_entropy(void)
{
    struct problem p = {.name = "cross_entropy", .forward = cross_entropy_forward,
                        .backward = cross_entropy_backward, .ids = ids_of(6, 1, 11)};

    add_variable(&p, "logits", OVERWRITES, 6, 11, 1, 1);
    set_output(&p, 6, 1, 1, 1);
    for (int row = 0; row < 6; row++)
        ((double *)p.dout.data)[row] = LOSS_SCALE;
    solve(&p);
}

int main(void)
{
    if (gradcheck_open() != OK) {
        fprintf(stderr, "gradcheck: %s\n", status_message());
        device_destroy(dev);
        return 1;
    }
    CASE(embedding);
    CASE(layernorm);
    CASE(linear);
    CASE(gelu);
    CASE(add_dropout);
    CASE(rope);
    CASE(attention);
    CASE(cross_entropy);
    return gradcheck_finish();
}
