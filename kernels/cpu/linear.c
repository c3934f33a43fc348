/* linear.c - the matrix products of the linear layers, with what follows them done while the slice of
 * the output is still in the cache. */
#include "kernels/cpu/dot.h"
#include "kernels/cpu/gelu.h"

/* A matrix cut in tiles, one task each. Neither sizes nor order depend on the number of threads. */
struct tiles {
    int64_t rows, columns;      /* of the matrix */
    int64_t height, width;      /* of a tile; the last ones may be smaller */
};

struct tile {
    int64_t top, bottom, left, right;       /* bottom and right lie behind the last row and column */
};

static int64_t round_up(int64_t value, int64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

static int64_t clamp(int64_t value, int64_t least, int64_t most)
{
    return value < least ? least : value < most ? value : most;
}

/* Rows of `height`, and as many columns that there are about `wanted` tiles in all. A tile's width is
 * a multiple of `multiple`. */
static struct tiles tiles_of(int64_t rows, int64_t columns, int64_t height, int64_t multiple,
                             int wanted)
{
    const int n_rows = n_slices(rows, height);
    const int64_t parts = n_rows < wanted ? (wanted + n_rows - 1) / n_rows : 1;

    return (struct tiles){rows, columns, height, round_up((columns + parts - 1) / parts, multiple)};
}

static int n_tiles(const struct tiles *t)
{
    return n_slices(t->rows, t->height) * n_slices(t->columns, t->width);
}

/* Those of the same columns, which share a part of the weight, come one after the other. */
static struct tile tile_at(const struct tiles *t, int task)
{
    const int n_rows = n_slices(t->rows, t->height);
    const int64_t top = task % n_rows * t->height, left = task / n_rows * t->width;

    return (struct tile){top, slice_end(top, t->height, t->rows),
                         left, slice_end(left, t->width, t->columns)};
}

/* Of activations: wide tiles, for a product is the faster the less of it is copied into the order
 * that it is computed in. Few rows, those of a prompt, are shared out by columns. */
static struct tiles activation_tiles(int64_t rows, int64_t columns)
{
    enum { HEIGHT = 256, WANTED = 16 };

    return tiles_of(rows, columns, HEIGHT, GELU_COLUMNS, WANTED);
}

/* Of one row, a new token's, there is little for each thread: small tiles, so that all end together. */
static struct tiles row_tiles(int64_t columns)
{
    enum { WANTED = 64 };

    return tiles_of(1, columns, 1, 16, WANTED);
}

/* Of a weight's gradient. */
static struct tiles gradient_tiles(int64_t rows, int64_t columns)
{
    enum { WANTED = 8, MIN_HEIGHT = 64, MAX_HEIGHT = 512 };

    return tiles_of(rows, columns, clamp(round_up(rows / WANTED, 16), MIN_HEIGHT, MAX_HEIGHT),
                    64, WANTED);
}

struct linear {
    real *out, *pre;            /* pre: NULL, or the product before GELU, which goes to out */
    const real *a, *weight, *bias;
    int64_t k;
    struct tiles tiles;         /* of out (n, m) = a (n, k) weight (m, k)^T */
    const struct dropout *dropout;
    struct device *dev;
};

/* Columns left .. right - 1 of the only row of out: of a new token. Each weight is read once and used
 * once, so memory's speed is the limit. */
static void forward_row(const struct linear *l, real *out, int64_t left, int64_t right)
{
    for (int64_t j = left; j < right; j++)
        out[j] = narrow(dot(l->a, l->weight + j * l->k, l->k) + (l->bias ? widen(l->bias[j]) : 0));
}

static void forward_task(void *context, int task, int thread)
{
    const struct linear *l = context;
    const struct tile tile = tile_at(&l->tiles, task);
    const int64_t k = l->k, m = l->tiles.columns, width = tile.right - tile.left;
    real *product = l->pre ? l->pre : l->out;

    if (l->tiles.rows == 1)
        forward_row(l, product, tile.left, tile.right);
    else
        CPU_NAME(gemm)(false, true, tile.bottom - tile.top, width, k, l->a + tile.top * k, k,
                       l->weight + tile.left * k, k, l->bias ? l->bias + tile.left : NULL,
                       product + tile.top * m + tile.left, m);
    if (!l->pre)
        return;
    for (int64_t row = tile.top; row < tile.bottom; row++) {
        const int64_t place = row * m + tile.left;
        gelu_row(l->out + place, l->pre + place, tile.left, width, m, l->dropout, row,
                 cpu_thread_scratch(l->dev, thread));
    }
}

static enum status linear_forward(struct device *dev, const struct tensor *out,
                                  const struct tensor *a, const struct tensor *weight,
                                  const struct tensor *bias)
{
    struct linear l = {.out = out->data, .a = a->data, .weight = weight->data, .bias = bias->data,
                       .k = a->shape[1],
                       .tiles = activation_tiles(a->shape[0], weight->shape[0])};

    if (a->shape[0] == 1)
        l.tiles = row_tiles(weight->shape[0]);
    cpu_run(dev, n_tiles(&l.tiles), forward_task, &l);
    return OK;
}

static enum status linear_gelu_forward(struct device *dev, const struct tensor *pre,
                                       const struct tensor *out, const struct tensor *a,
                                       const struct tensor *weight, const struct tensor *bias,
                                       const struct dropout *dropout)
{
    struct linear l = {.out = out->data, .pre = pre->data, .a = a->data, .weight = weight->data,
                       .bias = bias->data, .k = a->shape[1], .dropout = dropout, .dev = dev,
                       .tiles = activation_tiles(a->shape[0], weight->shape[0])};

    if (a->shape[0] == 1 && dropout->rate == 0)
        l.tiles = row_tiles(weight->shape[0]);
    cpu_run(dev, n_tiles(&l.tiles), forward_task, &l);
    return OK;
}

struct input_gradient {
    real *da;
    const real *dout, *weight;
    int64_t m;
    struct tiles tiles;         /* of da (n, k) = dout (n, m) weight (m, k) */
};

static void backward_input_task(void *context, int task, int thread)
{
    const struct input_gradient *g = context;
    const struct tile tile = tile_at(&g->tiles, task);
    const int64_t m = g->m, k = g->tiles.columns;

    (void)thread;
    CPU_NAME(gemm)(false, false, tile.bottom - tile.top, tile.right - tile.left, m,
                   g->dout + tile.top * m, m, g->weight + tile.left, k, NULL,
                   g->da + tile.top * k + tile.left, k);
}

static enum status linear_backward_input(struct device *dev, const struct tensor *da,
                                         const struct tensor *dout, const struct tensor *weight)
{
    struct input_gradient g = {da->data, dout->data, weight->data, weight->shape[0],
                               activation_tiles(dout->shape[0], weight->shape[1])};

    cpu_run(dev, n_tiles(&g.tiles), backward_input_task, &g);
    return OK;
}

struct weight_gradient {
    calc *dweight, *dbias;
    const real *dout, *a;
    int64_t n;
    struct tiles tiles;         /* of dweight (m, k) += dout (n, m)^T a (n, k) */
};

/* A tile's sum goes over all rows of the batch in order, in parts between which it stays in the
 * cache. The leftmost tiles add up their columns of dbias, too. */
static void backward_weight_task(void *context, int task, int thread)
{
    enum { PART = 1024 };
    const struct weight_gradient *g = context;
    const struct tile tile = tile_at(&g->tiles, task);
    const int64_t m = g->tiles.rows, k = g->tiles.columns;
    calc *dweight = g->dweight + tile.top * k + tile.left;

    (void)thread;
    for (int64_t first = 0; first < g->n; first += PART) {
        const int64_t end = slice_end(first, PART, g->n);
        CPU_NAME(gemm_sum)(true, false, tile.bottom - tile.top, tile.right - tile.left, end - first,
                           g->dout + first * m + tile.top, m, g->a + first * k + tile.left, k,
                           true, dweight, k);
    }
    if (!g->dbias || tile.left > 0)
        return;
    for (int64_t row = 0; row < g->n; row++) {
        const real *dout = g->dout + row * m;
        VECTOR
        for (int64_t c = tile.top; c < tile.bottom; c++)
            g->dbias[c] += widen(dout[c]);
    }
}

static enum status linear_backward_weight(struct device *dev, const struct tensor *dweight,
                                          const struct tensor *dbias, const struct tensor *dout,
                                          const struct tensor *a)
{
    struct weight_gradient g = {dweight->data, dbias->data, dout->data, a->data, a->shape[0],
                                gradient_tiles(dweight->shape[0], dweight->shape[1])};

    cpu_run(dev, n_tiles(&g.tiles), backward_weight_task, &g);
    return OK;
}

void CPU_NAME(cpu_linear_ops)(struct op_table *table)
{
    table->linear_forward = linear_forward;
    table->linear_gelu_forward = linear_gelu_forward;
    table->linear_backward_input = linear_backward_input;
    table->linear_backward_weight = linear_backward_weight;
}
