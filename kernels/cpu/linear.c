/* linear.c - the matrix products of the linear layers, with what follows them done while the slice of
 * the output is still in the cache. */
#include "kernels/cpu/gelu.h"

enum { ROW_SLICE = 256 };

struct linear {
    real *out, *pre;            /* pre: NULL, or the product before GELU, which goes to out */
    const real *a, *weight, *bias;
    int64_t n, k, m;            /* out (n, m) = a (n, k) weight (m, k)^T */
    const struct dropout *dropout;
    struct device *dev;
};

static void forward_task(void *context, int task, int thread)
{
    const struct linear *l = context;
    const int64_t first = (int64_t)task * ROW_SLICE, end = slice_end(first, ROW_SLICE, l->n);
    real *product = l->pre ? l->pre : l->out;

    CPU_NAME(gemm)(false, true, end - first, l->m, l->k, l->a + first * l->k, l->k, l->weight,
                   l->k, l->bias, product + first * l->m, l->m);
    if (l->pre)
        for (int64_t row = first; row < end; row++)
            gelu_row(l->out + row * l->m, l->pre + row * l->m, l->m, l->dropout, row,
                     cpu_thread_scratch(l->dev, thread));
}

static enum status linear_forward(struct device *dev, const struct tensor *out,
                                  const struct tensor *a, const struct tensor *weight,
                                  const struct tensor *bias)
{
    struct linear l = {.out = out->data, .a = a->data, .weight = weight->data, .bias = bias->data,
                       .n = a->shape[0], .k = a->shape[1], .m = weight->shape[0]};

    cpu_run(dev, n_slices(l.n, ROW_SLICE), forward_task, &l);
    return OK;
}

static enum status linear_gelu_forward(struct device *dev, const struct tensor *pre,
                                       const struct tensor *out, const struct tensor *a,
                                       const struct tensor *weight, const struct tensor *bias,
                                       const struct dropout *dropout)
{
    struct linear l = {.out = out->data, .pre = pre->data, .a = a->data, .weight = weight->data,
                       .bias = bias->data, .n = a->shape[0], .k = a->shape[1],
                       .m = weight->shape[0], .dropout = dropout, .dev = dev};

    cpu_run(dev, n_slices(l.n, ROW_SLICE), forward_task, &l);
    return OK;
}

struct linear_gradient {
    real *da;
    calc *dweight, *dbias;
    const real *dout, *a, *weight;
    int64_t n, k, m;
    int64_t slice;              /* of the m rows of dweight */
};

static void backward_input_task(void *context, int task, int thread)
{
    const struct linear_gradient *g = context;
    const int64_t first = (int64_t)task * ROW_SLICE, end = slice_end(first, ROW_SLICE, g->n);

    (void)thread;
    CPU_NAME(gemm)(false, false, end - first, g->k, g->m, g->dout + first * g->m, g->m,
                   g->weight, g->k, NULL, g->da + first * g->k, g->k);
}

static enum status linear_backward_input(struct device *dev, const struct tensor *da,
                                         const struct tensor *dout, const struct tensor *weight)
{
    struct linear_gradient g = {.da = da->data, .dout = dout->data, .weight = weight->data,
                                .n = dout->shape[0], .k = weight->shape[1],
                                .m = weight->shape[0]};

    cpu_run(dev, n_slices(g.n, ROW_SLICE), backward_input_task, &g);
    return OK;
}

/* Each task owns some rows of dweight and sums over all n rows of the batch, in order. */
static void backward_weight_task(void *context, int task, int thread)
{
    const struct linear_gradient *g = context;
    const int64_t first = task * g->slice, end = slice_end(first, g->slice, g->m);

    (void)thread;
    CPU_NAME(gemm_sum)(true, false, end - first, g->k, g->n, g->dout + first, g->m, g->a, g->k,
                       true, g->dweight + first * g->k, g->k);
    if (!g->dbias)
        return;
    for (int64_t row = 0; row < g->n; row++) {
        const real *dout = g->dout + row * g->m;
        VECTOR
        for (int64_t c = first; c < end; c++)
            g->dbias[c] += widen(dout[c]);
    }
}

static enum status linear_backward_weight(struct device *dev, const struct tensor *dweight,
                                          const struct tensor *dbias, const struct tensor *dout,
                                          const struct tensor *a)
{
    struct linear_gradient g = {.dweight = dweight->data, .dbias = dbias->data,
                                .dout = dout->data, .a = a->data, .n = a->shape[0],
                                .k = a->shape[1], .m = dweight->shape[0]};

    /* Enough slices to share out, each wide enough for the product to be fast. */
    g.slice = (g.m / 8 + 15) / 16 * 16;
    g.slice = g.slice < 32 ? 32 : g.slice > 512 ? 512 : g.slice;
    cpu_run(dev, n_slices(g.m, g.slice), backward_weight_task, &g);
    return OK;
}

void CPU_NAME(cpu_linear_ops)(struct op_table *table)
{
    table->linear_forward = linear_forward;
    table->linear_gelu_forward = linear_gelu_forward;
    table->linear_backward_input = linear_backward_input;
    table->linear_backward_weight = linear_backward_weight;
}
