/* cross_entropy.c - softmax cross-entropy; the logits become their own gradient. */
#include "kernels/cpu/vector_math.h"

enum { ROW_SLICE = 16 };

struct cross_entropy {
    float *losses, *hits;
    real *logits;
    const int32_t *targets;
    int64_t n, vocab;
    calc grad_scale;
};

static void cross_entropy_task(void *context, int task, int thread)
{
    const struct cross_entropy *e = context;
    const int64_t first = (int64_t)task * ROW_SLICE, end = slice_end(first, ROW_SLICE, e->n);

    (void)thread;
    for (int64_t row = first; row < end; row++) {
        real *logits = e->logits + row * e->vocab;
        const int32_t target_id = e->targets[row];
        const calc target = widen(logits[target_id]);
        calc largest = widen(logits[0]), total = 0;

        VECTOR_MAX(largest)
        for (int64_t v = 0; v < e->vocab; v++) {
            const calc logit = widen(logits[v]);
            largest = logit > largest ? logit : largest;
        }
        VECTOR_SUM(total)
        for (int64_t v = 0; v < e->vocab; v++)
            total += real_exp(widen(logits[v]) - largest);
        if (e->grad_scale != 0) {
            /* Exponentials again: their sum was of unrounded ones. */
            const calc factor = e->grad_scale / total;
            const calc at_target = real_exp(target - largest) * factor - e->grad_scale;
            VECTOR
            for (int64_t v = 0; v < e->vocab; v++)
                logits[v] = narrow(real_exp(widen(logits[v]) - largest) * factor);
            logits[target_id] = narrow(at_target);
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
                              logits->shape[0], logits->shape[1], (calc)grad_scale};

    cpu_run(dev, n_slices(e.n, ROW_SLICE), cross_entropy_task, &e);
    return OK;
}

void CPU_NAME(cpu_cross_entropy_ops)(struct op_table *table)
{
    table->cross_entropy = cross_entropy;
}
