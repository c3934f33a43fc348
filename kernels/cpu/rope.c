/* rope.c - rotary position embedding, in place. */
#include "kernels/cpu/cpu_ops.h"

#include <math.h>

struct rope {
    real *qkv;
    int64_t batch, length, heads, half, position;
    calc sign;
    struct device *dev;
};

/* One position of every sequence: its sines are worked out once. */
static void rope_task(void *context, int task, int thread)
{
    const struct rope *r = context;
    calc *cosine = cpu_thread_scratch(r->dev, thread), *sine = cosine + r->half;

    for (int64_t i = 0; i < r->half; i++) {
        const double angle = (double)(r->position + task) *
                             pow(10000.0, -(double)i / (double)r->half);
        cosine[i] = (calc)cos(angle);
        sine[i] = r->sign * (calc)sin(angle);
    }
    for (int64_t b = 0; b < r->batch; b++) {
        /* q and k lie side by side: (2, H, D). */
        real *head = r->qkv + (b * r->length + task) * 6 * r->heads * r->half;
        for (int64_t h = 0; h < 2 * r->heads; h++, head += 2 * r->half) {
            VECTOR
            for (int64_t i = 0; i < r->half; i++) {
                const calc low = widen(head[i]), high = widen(head[i + r->half]);
                head[i] = narrow(low * cosine[i] - high * sine[i]);
                head[i + r->half] = narrow(high * cosine[i] + low * sine[i]);
            }
        }
    }
}

static enum status rope(struct device *dev, const struct tensor *qkv, int64_t position,
                        bool inverse)
{
    /* qkv (B, T, 3 * H, D) */
    struct rope r = {qkv->data, qkv->shape[0], qkv->shape[1], qkv->shape[2] / 3, qkv->shape[3] / 2,
                     position, inverse ? -1 : 1, dev};

    cpu_run(dev, (int)r.length, rope_task, &r);
    return OK;
}

void CPU_NAME(cpu_rope_ops)(struct op_table *table)
{
    table->rope = rope;
}
