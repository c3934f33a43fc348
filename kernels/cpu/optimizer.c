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
    const calc *x;
    int64_t n;
    double *partials;           /* one for each slice */
};

static void squares_task(void *context, int task, int thread)
{
    const struct squares *s = context;
    const int64_t first = (int64_t)task * SLICE, end = slice_end(first, SLICE, s->n);
    const int64_t quarter = (end - first) / 4;
    const calc *a = s->x + first, *b = a + quarter, *c = b + quarter, *d = c + quarter;
    double of_a = 0, of_b = 0, of_c = 0, of_d = 0;

    (void)thread;
    /* Four sums at a time: one alone would wait for each of its additions. */
    _Pragma("omp simd reduction(+ : of_a, of_b, of_c, of_d)")
    for (int64_t i = 0; i < quarter; i++) {
        of_a += (double)a[i] * (double)a[i];
        of_b += (double)b[i] * (double)b[i];
        of_c += (double)c[i] * (double)c[i];
        of_d += (double)d[i] * (double)d[i];
    }
    for (int64_t i = first + 4 * quarter; i < end; i++)
        of_a += (double)s->x[i] * (double)s->x[i];
    s->partials[task] = of_a + of_b + of_c + of_d;
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
    calc *weights, *m, *v;
    const calc *grads;
    real *copy;                 /* or NULL */
    int64_t n, decay_count;
    calc beta1, beta2, epsilon, grad_scale;
    calc new1, new2;            /* 1 - beta: worked out of the rounded beta it would lose digits */
    calc step_size;             /* lr / (1 - beta1^t) */
    calc v_scale;               /* 1 / sqrt(1 - beta2^t) */
    calc keep;                  /* 1 - lr * weight_decay */
};

static void narrow_range(real *out, const calc *x, int64_t first, int64_t end)
{
    VECTOR
    for (int64_t i = first; i < end; i++)
        out[i] = narrow(x[i]);
}

static void adamw_range(const struct adamw *a, int64_t first, int64_t end, calc keep)
{
    calc *weights = a->weights, *m = a->m, *v = a->v;
    const calc *grads = a->grads;

    VECTOR
    for (int64_t i = first; i < end; i++) {
        const calc g = grads[i] * a->grad_scale;
        m[i] = a->beta1 * m[i] + a->new1 * g;
        v[i] = a->beta2 * v[i] + a->new2 * g * g;
#ifdef CPU_REAL_DOUBLE
        const calc root = sqrt(v[i]);
#else
        const calc root = sqrtf(v[i]);
#endif
        weights[i] = weights[i] * keep - a->step_size * m[i] / (root * a->v_scale + a->epsilon);
    }
    if (a->copy)
        narrow_range(a->copy, weights, first, end);
}

static void adamw_task(void *context, int task, int thread)
{
    const struct adamw *a = context;
    const int64_t first = (int64_t)task * SLICE, end = slice_end(first, SLICE, a->n);
    const int64_t decayed = a->decay_count < first ? first : a->decay_count < end ? a->decay_count
                                                                                  : end;
    (void)thread;
    adamw_range(a, first, decayed, a->keep);
    adamw_range(a, decayed, end, 1);
}

static enum status adamw(struct device *dev, const struct tensor *weights, const struct tensor *m,
                         const struct tensor *v, const struct tensor *grads,
                         const struct tensor *copy, const struct tensor *squares,
                         const struct adamw_step *step)
{
    const double t = (double)step->step;
    const double norm = sqrt(*(const double *)squares->data) / step->loss_scale;
    const double clip = step->max_norm > 0 && norm > step->max_norm ? step->max_norm / norm : 1;
    struct adamw a = {
        .weights = weights->data,
        .m = m->data,
        .v = v->data,
        .grads = grads->data,
        .copy = copy->data,
        .n = tensor_count(weights),
        .decay_count = step->decay_count,
        .beta1 = (calc)step->beta1,
        .beta2 = (calc)step->beta2,
        .new1 = (calc)(1 - step->beta1),
        .new2 = (calc)(1 - step->beta2),
        .epsilon = (calc)step->epsilon,
        .grad_scale = (calc)(clip / step->loss_scale),
        .step_size = (calc)(step->lr / (1 - pow(step->beta1, t))),
        .v_scale = (calc)(1 / sqrt(1 - pow(step->beta2, t))),
        .keep = (calc)(1 - step->lr * step->weight_decay),
    };

    if (!isfinite(norm))
        return OK;
    cpu_run(dev, n_slices(a.n, SLICE), adamw_task, &a);
    return OK;
}

struct cast {
    real *out;
    const calc *x;
    int64_t n;
};

static void cast_task(void *context, int task, int thread)
{
    const struct cast *c = context;
    const int64_t first = (int64_t)task * SLICE, end = slice_end(first, SLICE, c->n);

    (void)thread;
    narrow_range(c->out, c->x, first, end);
}

static enum status cast(struct device *dev, const struct tensor *out, const struct tensor *x)
{
    struct cast c = {out->data, x->data, tensor_count(x)};

    cpu_run(dev, n_slices(c.n, SLICE), cast_task, &c);
    return OK;
}

void CPU_NAME(cpu_optimizer_ops)(struct op_table *table)
{
    table->cast = cast;
    table->sum = sum;
    table->sum_of_squares = sum_of_squares;
    table->adamw = adamw;
}
