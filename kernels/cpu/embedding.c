/* embedding.c - token (and learned position) embeddings. */
#include "kernels/cpu/cpu_ops.h"

#include <string.h>

enum {
    ROW_SLICE = 256,
    COLUMN_SLICE = 32,      /* of the backward pass: each task owns these columns of the tables */
};

struct embedding {
    real *x, *table, *positions;    /* x: out or dout */
    const int32_t *ids;
    int64_t n, length, width;
};

static struct embedding embedding_of(const struct tensor *x, const struct tensor *ids,
                                     const struct tensor *table, const struct tensor *positions)
{
    return (struct embedding){x->data, table->data, positions->data, ids->data,
                              x->shape[0] * x->shape[1], x->shape[1], x->shape[2]};
}

static void forward_task(void *context, int task, int thread)
{
    const struct embedding *e = context;
    const int64_t first = (int64_t)task * ROW_SLICE, end = slice_end(first, ROW_SLICE, e->n);

    (void)thread;
    for (int64_t row = first; row < end; row++) {
        real *out = e->x + row * e->width;
        memcpy(out, e->table + e->ids[row] * e->width, (size_t)e->width * sizeof(real));
        if (!e->positions)
            continue;
        const real *position = e->positions + row % e->length * e->width;
        VECTOR
        for (int64_t c = 0; c < e->width; c++)
            out[c] += position[c];
    }
}

static enum status embedding_forward(struct device *dev, const struct tensor *out,
                                     const struct tensor *ids, const struct tensor *table,
                                     const struct tensor *positions)
{
    struct embedding e = embedding_of(out, ids, table, positions);

    cpu_run(dev, n_slices(e.n, ROW_SLICE), forward_task, &e);
    return OK;
}

/* Rows meet in the tables, columns never do: tasks are slices of columns, rows go in order. */
static void backward_task(void *context, int task, int thread)
{
    const struct embedding *e = context;
    const int64_t first = (int64_t)task * COLUMN_SLICE;
    const int64_t end = slice_end(first, COLUMN_SLICE, e->width);

    (void)thread;
    for (int64_t row = 0; row < e->n; row++) {
        const real *dout = e->x + row * e->width;
        real *dtable = e->table + e->ids[row] * e->width;
        VECTOR
        for (int64_t c = first; c < end; c++)
            dtable[c] += dout[c];
        if (!e->positions)
            continue;
        real *dposition = e->positions + row % e->length * e->width;
        VECTOR
        for (int64_t c = first; c < end; c++)
            dposition[c] += dout[c];
    }
}

static enum status embedding_backward(struct device *dev, const struct tensor *dtable,
                                      const struct tensor *dpositions, const struct tensor *dout,
                                      const struct tensor *ids)
{
    struct embedding e = embedding_of(dout, ids, dtable, dpositions);

    cpu_run(dev, n_slices(e.width, COLUMN_SLICE), backward_task, &e);
    return OK;
}

void CPU_NAME(cpu_embedding_ops)(struct op_table *table)
{
    table->embedding_forward = embedding_forward;
    table->embedding_backward = embedding_backward;
}
