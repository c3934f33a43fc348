/* optimizer.c - sums over all rows or parameters, and AdamW over the flat parameter buffer. */
#include "kernels/cpu/cpu_ops.h"

#include <math.h>

enum { SLICE = 1 << 16 };

static enum status sum(struct device *dev, const struct tensor *out, const struct tensor *x)
{
    const float *values = x->data;
    const int64_t n = tensor_count(x);
    double total = 0;

    (void)dev;
    VECTOR_SUM(total)
    for (int64_t i = 0; i < n; i++)
        total += (double)values[i];
    *(double *)out->data += total;
    return OK;
}

struct squares {
    const real *x;
    int64_t n;
    double *partials;           /* one for each slice */
};

static void squares_task(void *context, int task, int thread)
{
    const struct squares *s = context;
    const int64_t first = (int64_t)task * SLICE, end = slice_end(first, SLICE, s->n);
    double total = 0;

    (void)thread;
    VECTOR_SUM(total)
    for (int64_t i = first; i < end; i++)
        total += (double)s->x[i] * (double)s->x[i];
    s->partials[task] = total;
}

static enum status sum_of_squares(struct device *dev, const struct tensor *out,
                                  const struct tensor *x)
{
    struct squares s = {x->data, tensor_count(x), cpu_shared_scratch(dev)};
    double total = 0;

    cpu_run(dev, n_slices(s.n, SLICE), squares_task, &s);
    for (int i = 0; i < n_slices(s.n, SLICE); i++)
        total += s.partials[i];
    *(double *)out->data = total;
    return OK;
}

struct adamw {
    real *weights, *m, *v;
    const real *grads;
    int64_t n;                  /* of this segment */
    real beta1, beta2, epsilon, grad_scale;
    real new1, new2;            /* 1 - beta, which would lose digits of beta in single precision */
    real step_size;             /* lr / (1 - beta1^t) */
    real v_scale;               /* 1 / sqrt(1 - beta2^t) */
    real keep;                  /* 1 - lr * weight_decay */
};

static void adamw_task(void *context, int task, int thread)
{
    const struct adamw *a = context;
    const int64_t first = (int64_t)task * SLICE, end = slice_end(first, SLICE, a->n);
    real *weights = a->weights, *m = a->m, *v = a->v;
    const real *grads = a->grads;

    (void)thread;
    VECTOR
    for (int64_t i = first; i < end; i++) {
        const real g = grads[i] * a->grad_scale;
        m[i] = a->beta1 * m[i] + a->new1 * g;
        v[i] = a->beta2 * v[i] + a->new2 * g * g;
#ifdef CPU_REAL_DOUBLE
        const real root = sqrt(v[i]);
#else
        const real root = sqrtf(v[i]);
#endif
        weights[i] = weights[i] * a->keep -
                     a->step_size * m[i] / (root * a->v_scale + a->epsilon);
    }
}

static enum status adamw(struct device *dev, const struct tensor *weights, const struct tensor *m,
                         const struct tensor *v, const struct tensor *grads,
                         const struct adamw_segment *segments, int n_segments,
                         const struct adamw_step *step)
{
    const double t = (double)step->step;

    for (int i = 0; i < n_segments; i++) {
        const struct adamw_segment *segment = &segments[i];
        const double decay = segment->decay ? step->weight_decay : 0;
        struct adamw a = {
            .weights = (real *)weights->data + segment->offset,
            .m = (real *)m->data + segment->offset,
            .v = (real *)v->data + segment->offset,
            .grads = (const real *)grads->data + segment->offset,
            .n = segment->count,
            .beta1 = (real)step->beta1,
            .beta2 = (real)step->beta2,
            .new1 = (real)(1 - step->beta1),
            .new2 = (real)(1 - step->beta2),
            .epsilon = (real)step->epsilon,
            .grad_scale = (real)step->grad_scale,
            .step_size = (real)(step->lr / (1 - pow(step->beta1, t))),
            .v_scale = (real)(1 / sqrt(1 - pow(step->beta2, t))),
            .keep = (real)(1 - step->lr * decay),
        };
        cpu_run(dev, n_slices(a.n, SLICE), adamw_task, &a);
    }
    return OK;
}

void CPU_NAME(cpu_optimizer_ops)(struct op_table *table)
{
    table->sum = sum;
    table->sum_of_squares = sum_of_squares;
    table->adamw = adamw;
}
