/* residual.c - the residual addition with dropout on the branch, and dropout's factors. */
#include "kernels/cpu/cpu_ops.h"

enum {
    ROW_SLICE = 64,
    BLOCKS = 32,            /* Philox blocks made side by side, in vector registers */
};

void CPU_NAME(dropout_row)(real *factors, int64_t n, int64_t width, const struct dropout *dropout,
                           int64_t row)
{
    const uint32_t threshold = (uint32_t)(dropout->rate * 65536.0);
    const real scale = (real)(65536.0 / (65536.0 - (double)threshold));
    const uint64_t first = (uint64_t)((dropout->first_row + row) * ((width + 7) / 8));

    for (int64_t block = 0; block * 8 < n; block += BLOCKS) {
        uint32_t words[4][BLOCKS];
        VECTOR
        for (int i = 0; i < BLOCKS; i++) {
            const struct rng_block random = rng_philox(dropout->seed, RNG_DROPOUT, dropout->site,
                                                       dropout->step, first + (uint64_t)(block + i));
            words[0][i] = random.word[0];
            words[1][i] = random.word[1];
            words[2][i] = random.word[2];
            words[3][i] = random.word[3];
        }
        real *out = factors + block * 8;
        const int64_t left = n - block * 8;
        if (left >= BLOCKS * 8) {
            for (int w = 0; w < 4; w++) {
                VECTOR
                for (int i = 0; i < BLOCKS; i++) {
                    out[i * 8 + 2 * w] = (words[w][i] & 0xffff) < threshold ? 0 : scale;
                    out[i * 8 + 2 * w + 1] = (words[w][i] >> 16) < threshold ? 0 : scale;
                }
            }
        } else {
            for (int64_t c = 0; c < left; c++) {
                const uint32_t word = words[c % 8 / 2][c / 8];
                out[c] = (c % 2 ? word >> 16 : word & 0xffff) < threshold ? 0 : scale;
            }
        }
    }
}

struct residual {
    real *out;
    const real *a, *b;          /* a NULL: the backward pass, out = dropout'(b) */
    int64_t n, width;
    const struct dropout *dropout;
    struct device *dev;
};

static void residual_task(void *context, int task, int thread)
{
    const struct residual *r = context;
    const int64_t first = (int64_t)task * ROW_SLICE, end = slice_end(first, ROW_SLICE, r->n);
    real *factors = cpu_thread_scratch(r->dev, thread);

    for (int64_t c = 0; c < r->width; c++)
        factors[c] = 1;
    for (int64_t row = first; row < end; row++) {
        real *out = r->out + row * r->width;
        const real *b = r->b + row * r->width;
        if (r->dropout->rate > 0)
            CPU_NAME(dropout_row)(factors, r->width, r->width, r->dropout, row);
        if (r->a) {
            const real *a = r->a + row * r->width;
            VECTOR
            for (int64_t c = 0; c < r->width; c++)
                out[c] = a[c] + factors[c] * b[c];
        } else {
            VECTOR
            for (int64_t c = 0; c < r->width; c++)
                out[c] = factors[c] * b[c];
        }
    }
}

static enum status add_dropout_forward(struct device *dev, const struct tensor *out,
                                       const struct tensor *a, const struct tensor *b,
                                       const struct dropout *dropout)
{
    struct residual r = {out->data, a->data, b->data, out->shape[0], out->shape[1], dropout, dev};

    cpu_run(dev, n_slices(r.n, ROW_SLICE), residual_task, &r);
    return OK;
}

static enum status add_dropout_backward(struct device *dev, const struct tensor *db,
                                        const struct tensor *dout, const struct dropout *dropout)
{
    struct residual r = {db->data, NULL, dout->data, db->shape[0], db->shape[1], dropout, dev};

    cpu_run(dev, n_slices(r.n, ROW_SLICE), residual_task, &r);
    return OK;
}

void CPU_NAME(cpu_residual_ops)(struct op_table *table)
{
    table->add_dropout_forward = add_dropout_forward;
    table->add_dropout_backward = add_dropout_backward;
}
