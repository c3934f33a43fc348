/* check_dropout.c - the dropout mask of every operation that has one, element by element against
 * the definition in kernels/ops.h, and the same whether a global batch goes through in one call or
 * two.
 *
 * The operands are such that an output element is the dropout factor, times something known. */
#include "ops/checks.h"
#include "ops/reference.h"

enum {
    WINDOWS = 4,            /* of the global batch */
    LENGTH = 33,
    HEADS = 3,
    HEAD_SIZE = 128,
    LONGEST = 100,          /* at most the head size, see mask_attention() */
};

/* Rows of the global batch that go through one call. */
struct part {
    int64_t first, count;
};
static const struct part parts[] = {{0, WINDOWS}, {0, 1}, {1, WINDOWS - 1}};

/* GELU is the identity out here, and its derivative 1. */
static const double FAR_OUT = 32;

static void fill(double *values, int64_t count, double value)
{
    for (int64_t i = 0; i < count; i++)
        values[i] = value;
}

/* The expected output of an operation on rows: `scale` times the mask of these global rows. */
static void fill_mask(struct number *out, double rate, const struct part *part, int64_t width,
                      double scale)
{
    const struct dropout whole = trial_dropout(rate, 0);

    for (int64_t i = 0; i < part->count * LENGTH; i++)
        for (int64_t c = 0; c < width; c++)
            out[i * width + c] = rounded(scale * reference_dropout(
                &whole, part->first * LENGTH + i, c, width));
}

static struct trial begin_mask(enum op op, double rate, const struct part *part, int64_t length,
                               int64_t width)
{
    struct trial t;

    trial_begin(&t, op, "mask of windows %d to %d, width %d, dropout %g", (int)part->first,
                (int)(part->first + part->count - 1), (int)width, rate);
    t.arguments.dropout = trial_dropout(rate, part->first * length);
    return t;
}

static void mask_add_dropout(double rate, const struct part *part, int64_t width)
{
    const int64_t n = part->count * LENGTH;
    const struct tensor shape = reals(n, width);
    struct trial t = begin_mask(OP_ADD_DROPOUT_FORWARD, rate, part, LENGTH, width);

    fill_mask(trial_output(&t, "out", shape), rate, part, width, 1);
    fill(trial_input(&t, "a", shape, 1), n * width, 0);
    fill(trial_input(&t, "b", shape, 1), n * width, 1);
    trial_run(&t);

    t = begin_mask(OP_ADD_DROPOUT_BACKWARD, rate, part, LENGTH, width);
    fill_mask(trial_output(&t, "db", shape), rate, part, width, 1);
    fill(trial_input(&t, "dout", shape, 1), n * width, 1);
    trial_run(&t);
}

static void mask_gelu(double rate, const struct part *part, int64_t width)
{
    const int64_t n = part->count * LENGTH;
    const struct tensor shape = reals(n, width);
    struct trial t = begin_mask(OP_GELU_FORWARD, rate, part, LENGTH, width);

    fill_mask(trial_output(&t, "out", shape), rate, part, width, FAR_OUT);
    fill(trial_input(&t, "x", shape, 1), n * width, FAR_OUT);
    trial_run(&t);

    t = begin_mask(OP_GELU_BACKWARD, rate, part, LENGTH, width);
    fill_mask(trial_output(&t, "dx", shape), rate, part, width, 1);
    fill(trial_input(&t, "dout", shape, 1), n * width, 1);
    fill(trial_input(&t, "x", shape, 1), n * width, FAR_OUT);
    trial_run(&t);
}

static void mask_fused(double rate, const struct part *part, int64_t width)
{
    const int64_t n = part->count * LENGTH;
    const struct tensor shape = reals(n, width);
    struct trial t = begin_mask(OP_LINEAR_GELU_FORWARD, rate, part, LENGTH, width);

    struct number *pre = trial_output(&t, "pre", shape);
    for (int64_t i = 0; i < n * width; i++)
        pre[i] = exact(FAR_OUT);
    fill_mask(trial_output(&t, "out", shape), rate, part, width, FAR_OUT);
    fill(trial_input(&t, "a", reals(n, 1), 1), n, 0);
    trial_input(&t, "weight", reals(width, 1), 1);
    fill(trial_input(&t, "bias", reals(width, 1), 1), width, FAR_OUT);
    trial_run(&t);

    t = begin_mask(OP_ADD_LAYERNORM_FORWARD, rate, part, LENGTH, width);
    struct number *sum = trial_output(&t, "sum", shape);
    struct number *out = trial_output(&t, "out", shape);
    struct number *mean = trial_output(&t, "mean", masters(n, 1));
    struct number *rstd = trial_output(&t, "rstd", masters(n, 1));
    fill(trial_input(&t, "a", shape, 1), n * width, 0);
    fill(trial_input(&t, "b", shape, 1), n * width, 1);
    const double *weight = trial_input(&t, "weight", reals(width, 1), 1);
    const double *bias = trial_input(&t, "bias", reals(width, 1), 1);
    fill_mask(sum, rate, part, width, 1);
    reference_layernorm_forward(out, mean, rstd, sum, weight, bias, n, width);
    trial_run(&t);
}

/* The factor of one probability, of `length` keys in one row. */
static double attention_mask(double rate, int64_t window, int64_t length, int64_t query, int64_t h,
                             int64_t key)
{
    const struct dropout whole = trial_dropout(rate, 0);

    return reference_dropout(&whole, (window * length + query) * HEADS + h, key, length);
}

/* With q = k = 0 the probabilities of query t are 1/(t+1). With v the unit matrix, element c of the
 * output is the kept probability of key c; and with dout the unit matrix and v = 0, element c of dv
 * is that of query c. */
static void mask_attention(double rate, const struct part *part, int64_t length)
{
    const int64_t n = part->count * length;
    const struct tensor heads = heads_of(part->count, length, HEADS, HEAD_SIZE);
    const struct tensor qkv_shape = heads_of(part->count, length, 3 * HEADS, HEAD_SIZE);
    const struct tensor lse_shape = tensor_3d(NULL, DTYPE_F32, part->count, HEADS, length);

    struct trial t = begin_mask(OP_ATTENTION_FORWARD, rate, part, length, length);
    struct number *out = trial_output(&t, "out", heads);
    double *out_between = trial_between(&t);
    struct number *lse = trial_output(&t, "lse", lse_shape);
    double *qkv = trial_input(&t, "qkv", qkv_shape, 1);
    struct trial back = begin_mask(OP_ATTENTION_BACKWARD, rate, part, length, length);
    struct number *dqkv = trial_output(&back, "dqkv", qkv_shape);
    double *dqkv_between = trial_between(&back);
    double *dout = trial_input(&back, "dout", heads, 1);
    trial_rounded(&back, "out", heads, NULL);
    double *saved_lse = trial_rounded(&back, "lse", lse_shape, NULL);
    fill(trial_input(&back, "qkv", qkv_shape, 1), n * 3 * HEADS * HEAD_SIZE, 0);

    fill(qkv, n * 3 * HEADS * HEAD_SIZE, 0);
    fill(dout, n * HEADS * HEAD_SIZE, 0);
    for (int64_t i = 0; i < n * HEADS; i++) {
        const int64_t h = i % HEADS, token = i / HEADS, time = token % length;
        const int64_t window = token / length, row = (window * HEADS + h) * length + time;
        qkv[((token * 3 + 2) * HEADS + h) * HEAD_SIZE + time] = 1;
        dout[i * HEAD_SIZE + time] = 1;
        lse[row] = rounded(log((double)time + 1));
        saved_lse[row] = (double)(float)lse[row].value;
        for (int64_t key = 0; key <= time; key++) {
            const double kept = attention_mask(rate, part->first + window, length, time, h, key) /
                                (double)(time + 1);
            const int64_t key_token = window * length + key;
            const int64_t dv = ((key_token * 3 + 2) * HEADS + h) * HEAD_SIZE + time;
            out[i * HEAD_SIZE + key] = (struct number){kept, 4 * kept};
            /* lse came through memory, and e^-lse and the factor are rounded. */
            dqkv[dv] = (struct number){kept, kept * (6 + lse[row].value)};
            out_between[i * HEAD_SIZE + key] = dqkv_between[dv] = kept;
        }
    }
    trial_run(&t);
    trial_run(&back);
}

void check_dropout(void)
{
    /* Around the 16 positions of a tile of random numbers, and its 128 columns. */
    static const int64_t widths[] = {1, 15, 17, 100, 127, 128, 129, 300};
    static const int64_t lengths[] = {1, 17, 64, LONGEST};
    /* The last two drop nothing, and almost all. */
    static const double rates[] = {0.1, 0.5, 1e-6, 0.999};

    for (size_t r = 0; r < COUNT_OF(rates); r++)
        for (size_t p = 0; p < COUNT_OF(parts); p++) {
            for (size_t i = 0; i < COUNT_OF(widths); i++) {
                mask_add_dropout(rates[r], &parts[p], widths[i]);
                mask_gelu(rates[r], &parts[p], widths[i]);
                mask_fused(rates[r], &parts[p], widths[i]);
            }
            for (size_t i = 0; i < COUNT_OF(lengths); i++)
                mask_attention(rates[r], &parts[p], lengths[i]);
        }
}
