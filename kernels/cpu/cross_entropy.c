/* cross_entropy.c - softmax cross-entropy; the logits become their own gradient. */
#include "kernels/cpu/vector_math.h"

enum { ROW_SLICE = 16 };

struct cross_entropy {
    float *losses, *hits;
    real *logits;
    const int32_t *targets;
    int64_t n, vocab;
    real grad_scale;
};

static void cross_entropy_task(void *context, int task, int thread)
{
    const struct cross_entropy *e = context;
    const int64_t first = (int64_t)task * ROW_SLICE, end = slice_end(first, ROW_SLICE, e->n);

    (void)thread;
    for (int64_t row = first; row < end; row++) {
        real *logits = e->logits + row * e->vocab;
        const real target = logits[e->targets[row]];
        real largest = logits[0], total = 0;

        VECTOR_MAX(largest)
        for (int64_t v = 0; v < e->vocab; v++)
            largest = logits[v] > largest ? logits[v] : largest;
        if (e->grad_scale == 0) {
            VECTOR_SUM(total)
            for (int64_t v = 0; v < e->vocab; v++)
                total += real_exp(logits[v] - largest);
        } else {
            VECTOR_SUM(total)
            for (int64_t v = 0; v < e->vocab; v++) {
                logits[v] = real_exp(logits[v] - largest);
                total += logits[v];
            }
            const real factor = e->grad_scale / total;
            VECTOR
            for (int64_t v = 0; v < e->vocab; v++)
                logits[v] *= factor;
            logits[e->targets[row]] -= e->grad_scale;
        }
        e->losses[row] = (float)(log((double)total) + (double)(largest - target));
        e->hits[row] = target >= largest ? 1.0f : 0.0f;
    }
}

static enum status cross_entropy(struct device *dev, const struct tensor *losses,
                                 const struct tensor *hits, const struct tensor *logits,
                                 const struct tensor *targets, double grad_scale)
{
    struct cross_entropy e = {losses->data, hits->data, logits->data, targets->data,
                              logits->shape[0], logits->shape[1], (real)grad_scale};

    cpu_run(dev, n_slices(e.n, ROW_SLICE), cross_entropy_task, &e);
    return OK;
}

void CPU_NAME(cpu_cross_entropy_ops)(struct op_table *table)
{
    table->cross_entropy = cross_entropy;
}
