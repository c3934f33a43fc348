/* embedding.c - token (and learned position) embeddings. */
#include "kernels/cpu/cpu_ops.h"

#include <string.h>

enum {
    ROW_SLICE = 256,
    COLUMN_SLICE = 32,      /* of the backward pass: each task owns these columns of the tables */
};

struct embedding {
    real *out;
    const real *table, *positions;
    const int32_t *ids;
    int64_t n, length, width;
};

static void forward_task(void *context, int task, int thread)
{
    const struct embedding *e = context;
    const int64_t first = (int64_t)task * ROW_SLICE, end = slice_end(first, ROW_SLICE, e->n);

    (void)thread;
    for (int64_t row = first; row < end; row++) {
        real *out = e->out + row * e->width;
        memcpy(out, e->table + e->ids[row] * e->width, (size_t)e->width * sizeof(real));
        if (!e->positions)
            continue;
        const real *position = e->positions + row % e->length * e->width;
        VECTOR
        for (int64_t c = 0; c < e->width; c++)
            out[c] = narrow(widen(out[c]) + widen(position[c]));
    }
}

static enum status embedding_forward(struct device *dev, const struct tensor *out,
                                     const struct tensor *ids, const struct tensor *table,
                                     const struct tensor *positions)
{
    struct embedding e = {out->data, table->data, positions->data, ids->data,
                          out->shape[0] * out->shape[1], out->shape[1], out->shape[2]};

    cpu_run(dev, n_slices(e.n, ROW_SLICE), forward_task, &e);
    return OK;
}

struct embedding_gradient {
    calc *dtable, *dpositions;
    const real *dout;
    const int32_t *ids;
    int64_t n, length, width;
};

/* Rows meet in the tables, columns never do: tasks are slices of columns, rows go in order. */
static void backward_task(void *context, int task, int thread)
{
    const struct embedding_gradient *g = context;
    const int64_t first = (int64_t)task * COLUMN_SLICE;
    const int64_t end = slice_end(first, COLUMN_SLICE, g->width);

    (void)thread;
    for (int64_t row = 0; row < g->n; row++) {
        const real *dout = g->dout + row * g->width;
        calc *dtable = g->dtable + g->ids[row] * g->width;
        VECTOR
        for (int64_t c = first; c < end; c++)
            dtable[c] += widen(dout[c]);
        if (!g->dpositions)
            continue;
        calc *dposition = g->dpositions + row % g->length * g->width;
        VECTOR
        for (int64_t c = first; c < end; c++)
            dposition[c] += widen(dout[c]);
    }
}

static enum status embedding_backward(struct device *dev, const struct tensor *dtable,
                                      const struct tensor *dpositions, const struct tensor *dout,
                                      const struct tensor *ids)
{
    struct embedding_gradient g = {dtable->data, dpositions->data, dout->data, ids->data,
                                   dout->shape[0] * dout->shape[1], dout->shape[1],
                                   dout->shape[2]};

    cpu_run(dev, n_slices(g.width, COLUMN_SLICE), backward_task, &g);
    return OK;
}

void CPU_NAME(cpu_embedding_ops)(struct op_table *table)
{
    table->embedding_forward = embedding_forward;
    table->embedding_backward = embedding_backward;
}
