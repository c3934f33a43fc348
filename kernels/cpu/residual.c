/* residual.c - the residual addition with dropout on the branch, and dropout's factors. */
#include "kernels/cpu/cpu_ops.h"

#include <string.h>

#include "kernels/cpu/philox.h"

enum { ROW_SLICE = 64 };

void CPU_NAME(dropout_row)(calc *factors, int64_t first, int64_t n, int64_t width,
                           const struct dropout *dropout, int64_t row)
{
    enum { TILE = DROPOUT_TILE };
    const uint32_t threshold = (uint32_t)(dropout->rate * 65536.0);
    const calc scale = (calc)(65536.0 / (65536.0 - (double)threshold));
    const int64_t row_tiles = (width + TILE - 1) / TILE;
    const struct dropout_place place = dropout->place ? *dropout->place
                                                      : (struct dropout_place){0};
    const uint32_t step = dropout->step + (uint32_t)place.step;
    const int64_t first_tile = (dropout->first_row + place.first_row + row) * row_tiles +
                               first / TILE;
    uint64_t position = (uint64_t)first_tile * PHILOX_LANES;
    calc last[TILE];

    for (int64_t i = 0; i < n; i += TILE, position += PHILOX_LANES) {
        uint32_t words[4][PHILOX_LANES];
        calc *tile = n - i >= TILE ? factors + i : last;
        philox_lanes(words, dropout->seed, RNG_DROPOUT, dropout->site, step, position);
        for (int w = 0; w < 4; w++) {
            VECTOR
            for (int j = 0; j < PHILOX_LANES; j++) {
                tile[2 * w * PHILOX_LANES + j] = (words[w][j] & 0xffff) < threshold ? 0 : scale;
                tile[(2 * w + 1) * PHILOX_LANES + j] = words[w][j] >> 16 < threshold ? 0 : scale;
            }
        }
        if (tile == last)
            memcpy(factors + i, last, (size_t)(n - i) * sizeof *factors);
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
    calc *factors = cpu_thread_scratch(r->dev, thread);

    for (int64_t c = 0; c < r->width; c++)
        factors[c] = 1;
    for (int64_t row = first; row < end; row++) {
        real *out = r->out + row * r->width;
        const real *b = r->b + row * r->width;
        if (r->dropout->rate > 0)
            CPU_NAME(dropout_row)(factors, 0, r->width, r->width, r->dropout, row);
        if (r->a) {
            const real *a = r->a + row * r->width;
            VECTOR
            for (int64_t c = 0; c < r->width; c++)
                out[c] = narrow(widen(a[c]) + factors[c] * widen(b[c]));
        } else {
            VECTOR
            for (int64_t c = 0; c < r->width; c++)
                out[c] = narrow(factors[c] * widen(b[c]));
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
