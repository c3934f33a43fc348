/* layernorm.c - layer normalisation, also together with the residual addition before it. */
#include "kernels/cpu/cpu_ops.h"

#include <math.h>
#include <string.h>

enum { ROW_SLICE = 64 };

static const calc EPSILON = (calc)1e-5;

struct layernorm {
    real *out;
    calc *mean, *rstd;
    const real *x, *weight, *bias;
    int64_t n, width;
    /* add_layernorm: x = sum = a + dropout(b) is made first. */
    real *sum;
    const real *a, *b;
    const struct dropout *dropout;
    struct device *dev;
};

static void normalize_row(const struct layernorm *l, int64_t row, const real *x)
{
    const int64_t width = l->width;
    real *out = l->out + row * width;
    calc total = 0, squares = 0;

    VECTOR_SUM(total)
    for (int64_t c = 0; c < width; c++)
        total += widen(x[c]);
    const calc mean = total / (calc)width;
    VECTOR_SUM(squares)
    for (int64_t c = 0; c < width; c++)
        squares += (widen(x[c]) - mean) * (widen(x[c]) - mean);
    const calc rstd = 1 / (calc)sqrt((double)(squares / (calc)width + EPSILON));
    VECTOR
    for (int64_t c = 0; c < width; c++)
        out[c] = narrow((widen(x[c]) - mean) * rstd * widen(l->weight[c]) + widen(l->bias[c]));
    l->mean[row] = mean;
    l->rstd[row] = rstd;
}

static void forward_task(void *context, int task, int thread)
{
    const struct layernorm *l = context;
    const int64_t first = (int64_t)task * ROW_SLICE, end = slice_end(first, ROW_SLICE, l->n);

    (void)thread;
    for (int64_t row = first; row < end; row++)
        normalize_row(l, row, l->x + row * l->width);
}

static enum status layernorm_forward(struct device *dev, const struct tensor *out,
                                     const struct tensor *mean, const struct tensor *rstd,
                                     const struct tensor *x, const struct tensor *weight,
                                     const struct tensor *bias)
{
    struct layernorm l = {.out = out->data, .mean = mean->data, .rstd = rstd->data, .x = x->data,
                          .weight = weight->data, .bias = bias->data,
                          .n = x->shape[0], .width = x->shape[1]};

    cpu_run(dev, n_slices(l.n, ROW_SLICE), forward_task, &l);
    return OK;
}

static void add_forward_task(void *context, int task, int thread)
{
    const struct layernorm *l = context;
    const int64_t first = (int64_t)task * ROW_SLICE, end = slice_end(first, ROW_SLICE, l->n);
    calc *factors = cpu_thread_scratch(l->dev, thread);

    for (int64_t row = first; row < end; row++) {
        real *sum = l->sum + row * l->width;
        const real *a = l->a + row * l->width, *b = l->b + row * l->width;
        if (l->dropout->rate > 0) {
            CPU_NAME(dropout_row)(factors, 0, l->width, l->width, l->dropout, row);
            VECTOR
            for (int64_t c = 0; c < l->width; c++)
                sum[c] = narrow(widen(a[c]) + factors[c] * widen(b[c]));
        } else {
            VECTOR
            for (int64_t c = 0; c < l->width; c++)
                sum[c] = narrow(widen(a[c]) + widen(b[c]));
        }
        normalize_row(l, row, sum);
    }
}

static enum status add_layernorm_forward(struct device *dev, const struct tensor *sum,
                                         const struct tensor *out, const struct tensor *mean,
                                         const struct tensor *rstd, const struct tensor *a,
                                         const struct tensor *b, const struct tensor *weight,
                                         const struct tensor *bias, const struct dropout *dropout)
{
    struct layernorm l = {.out = out->data, .mean = mean->data, .rstd = rstd->data,
                          .weight = weight->data, .bias = bias->data, .sum = sum->data,
                          .a = a->data, .b = b->data, .dropout = dropout, .dev = dev,
                          .n = sum->shape[0], .width = sum->shape[1]};

    cpu_run(dev, n_slices(l.n, ROW_SLICE), add_forward_task, &l);
    return OK;
}

struct layernorm_gradient {
    real *dx;
    calc *dweight, *dbias;
    const real *dout, *x, *weight;
    const calc *mean, *rstd;
    calc *partials;             /* (CPU_PARTIALS, 2, width): dweight and dbias of a chunk of rows */
    int64_t n, width;
};

static void backward_task(void *context, int task, int thread)
{
    const struct layernorm_gradient *g = context;
    const int64_t width = g->width;
    const int64_t first = g->n * task / CPU_PARTIALS, end = g->n * (task + 1) / CPU_PARTIALS;
    calc *dweight = g->partials + task * 2 * width, *dbias = dweight + width;
    const real *weight = g->weight;     /* no loop over it becomes vector code otherwise */

    (void)thread;
    memset(dweight, 0, (size_t)(2 * width) * sizeof(calc));
    for (int64_t row = first; row < end; row++) {
        const real *dout = g->dout + row * width, *x = g->x + row * width;
        const calc mean = g->mean[row], rstd = g->rstd[row];
        real *dx = g->dx + row * width;
        calc total = 0, along = 0;

        /* With n = (x - mean) rstd and d = dout weight:
         * dx = rstd (d - mean(d) - n mean(d n)). */
        _Pragma("omp simd reduction(+ : total, along)")
        for (int64_t c = 0; c < width; c++) {
            const calc normalized = (widen(x[c]) - mean) * rstd;
            const calc d = widen(dout[c]) * widen(weight[c]);
            total += d;
            along += d * normalized;
            dweight[c] += widen(dout[c]) * normalized;
            dbias[c] += widen(dout[c]);
        }
        total /= (calc)width;
        along /= (calc)width;
        VECTOR
        for (int64_t c = 0; c < width; c++) {
            const calc d = widen(dout[c]) * widen(weight[c]);
            const calc normalized = (widen(x[c]) - mean) * rstd;
            dx[c] = narrow(widen(dx[c]) + rstd * (d - total - normalized * along));
        }
    }
}

static enum status layernorm_backward(struct device *dev, const struct tensor *dx,
                                      const struct tensor *dweight, const struct tensor *dbias,
                                      const struct tensor *dout, const struct tensor *x,
                                      const struct tensor *weight, const struct tensor *mean,
                                      const struct tensor *rstd)
{
    struct layernorm_gradient g = {dx->data, dweight->data, dbias->data, dout->data, x->data,
                                   weight->data, mean->data, rstd->data, cpu_shared_scratch(dev),
                                   x->shape[0], x->shape[1]};

    cpu_run(dev, CPU_PARTIALS, backward_task, &g);
    for (int chunk = 0; chunk < CPU_PARTIALS; chunk++) {
        const calc *partial = g.partials + chunk * 2 * g.width;
        VECTOR
        for (int64_t c = 0; c < g.width; c++) {
            g.dweight[c] += partial[c];
            g.dbias[c] += partial[g.width + c];
        }
    }
    return OK;
}

void CPU_NAME(cpu_layernorm_ops)(struct op_table *table)
{
    table->layernorm_forward = layernorm_forward;
    table->layernorm_backward = layernorm_backward;
    table->add_layernorm_forward = add_layernorm_forward;
}
