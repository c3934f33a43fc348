/* gelu.c - GELU with the error function, and the dropout behind it. */
#include "kernels/cpu/gelu.h"

enum { ROW_SLICE = 64 };

struct gelu {
    real *out;                  /* backward: dx */
    const real *x, *dout;
    int64_t n, width;
    const struct dropout *dropout;
    struct device *dev;
};

static void forward_task(void *context, int task, int thread)
{
    const struct gelu *g = context;
    const int64_t first = (int64_t)task * ROW_SLICE, end = slice_end(first, ROW_SLICE, g->n);

    for (int64_t row = first; row < end; row++)
        gelu_row(g->out + row * g->width, g->x + row * g->width, 0, g->width, g->width,
                 g->dropout, row, cpu_thread_scratch(g->dev, thread));
}

static void backward_task(void *context, int task, int thread)
{
    const struct gelu *g = context;
    const int64_t first = (int64_t)task * ROW_SLICE, end = slice_end(first, ROW_SLICE, g->n);
    calc *factors = cpu_thread_scratch(g->dev, thread);

    for (int64_t c = 0; c < g->width; c++)
        factors[c] = 1;
    for (int64_t row = first; row < end; row++) {
        const real *x = g->x + row * g->width, *dout = g->dout + row * g->width;
        real *dx = g->out + row * g->width;
        if (g->dropout->rate > 0)
            CPU_NAME(dropout_row)(factors, 0, g->width, g->width, g->dropout, row);
        VECTOR
        for (int64_t c = 0; c < g->width; c++) {
            const calc value = widen(x[c]);
            calc cumulative, density;
            real_normal(value, &cumulative, &density);
            dx[c] = narrow(widen(dout[c]) * (cumulative + value * density) * factors[c]);
        }
    }
}

static enum status gelu_forward(struct device *dev, const struct tensor *out,
                                const struct tensor *x, const struct dropout *dropout)
{
    struct gelu g = {.out = out->data, .x = x->data, .n = x->shape[0], .width = x->shape[1],
                     .dropout = dropout, .dev = dev};

    cpu_run(dev, n_slices(g.n, ROW_SLICE), forward_task, &g);
    return OK;
}

static enum status gelu_backward(struct device *dev, const struct tensor *dx,
                                 const struct tensor *dout, const struct tensor *x,
                                 const struct dropout *dropout)
{
    struct gelu g = {.out = dx->data, .x = x->data, .dout = dout->data, .n = x->shape[0],
                     .width = x->shape[1], .dropout = dropout, .dev = dev};

    cpu_run(dev, n_slices(g.n, ROW_SLICE), backward_task, &g);
    return OK;
}

void CPU_NAME(cpu_gelu_ops)(struct op_table *table)
{
    table->gelu_forward = gelu_forward;
    table->gelu_backward = gelu_backward;
}
