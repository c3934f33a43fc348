/* gradcheck.h - what the gradient checks share: a device that computes in double precision,
 * differences of a loss, and the comparison with a gradient, which is also made with gradients that
 * are wrong on purpose and must be rejected. */
#ifndef OCTET_GRADCHECK_H
#define OCTET_GRADCHECK_H

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "check.h"
#include "device/cpu.h"
#include "kernels/cpu/variants.h"
#include "kernels/ops.h"

/* Five points, (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h: at this h what the formula leaves out,
 * of order h^4, and the cancellation, of order 1e-16 f / h, are about as small as each other. */
static const double STEP = 4e-4;

/* An element passes within this, relative to its own size or to a thousandth of the largest element
 * of its tensor, whichever is larger. The errors measured are a tenth of it. */
static const double TOLERANCE = 1e-7;
static const double SMALL = 1e-3;

static const uint64_t SEED = 2024;

/* Every row's loss is multiplied by this. */
static const double LOSS_SCALE = 0.37;

static struct device *dev;
static double worst;                /* error of any accepted gradient */

static inline enum status gradcheck_open(void)
{
    static struct op_table table;
    const struct op_limits limits = {.rows = 64, .width = 64, .max_seq_len = 64, .heads = 2,
                                     .head_size = 32, .vocab_size = 64, .params = 1 << 20};

    cpu_fill_ops_double(&table);
    TRY(cpu_device_create_with(&dev, 0, 1, &table, DTYPE_F64, "double"));
    return device_reserve(dev, &limits);
}

static inline int gradcheck_finish(void)
{
    printf("largest relative error %.2g, tolerance %.2g\n", worst, TOLERANCE);
    device_destroy(dev);
    return check_finish();
}

static inline double *doubles(int64_t count)
{
    double *memory = calloc((size_t)count, sizeof *memory);

    if (!memory) {
        fprintf(stderr, "gradcheck: no memory\n");
        exit(1);
    }
    return memory;
}

/* Between -scale and scale; `stream` keeps the tensors of a test apart. */
static inline void fill_random(double *values, int64_t count, uint32_t stream, double scale)
{
    for (int64_t i = 0; i < count; i++) {
        const struct rng_block random = rng_philox(SEED, RNG_TEST, stream, 0, (uint64_t)i);
        values[i] = scale * (2 * rng_uniform_double(random.word[0], random.word[1]) - 1);
    }
}

/* d loss / dx. */
static inline double difference(double *x, double (*loss)(void *context), void *context)
{
    const double at = *x;
    double value[4];

    for (int i = 0; i < 4; i++) {
        static const double steps[4] = {1, -1, 2, -2};
        *x = at + steps[i] * STEP;
        value[i] = loss(context);
    }
    *x = at;
    return (8 * (value[0] - value[1]) - (value[2] - value[3])) / (12 * STEP);
}

/* The largest error of `factor` times the gradient; NaN and infinity stay. */
static inline double gradient_error(const double *expected, const double *gradient, int64_t n,
                                    double factor)
{
    double largest = 0, result = 0;

    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(expected[i]));
    for (int64_t i = 0; i < n; i++) {
        const double size = fmax(fabs(expected[i]), SMALL * largest);
        const double error = fabs(expected[i] - factor * gradient[i]) / size;
        result = isnan(result) || error <= result ? result : error;
    }
    return result;
}

/* The gradient must pass; negated, or one hundredth too large, it must not. */
static inline void check_gradient(const char *owner, const char *name, const double *expected,
                                  const double *gradient, int64_t n)
{
    const double error = gradient_error(expected, gradient, n, 1);
    const double negated = gradient_error(expected, gradient, n, -1);
    const double scaled = gradient_error(expected, gradient, n, 1.01);

    if (!(error <= TOLERANCE))
        check_report(__FILE__, __LINE__, "%s: the gradient of %s is off by %g", owner, name, error);
    else
        worst = fmax(worst, error);
    if (!(negated > TOLERANCE))
        check_report(__FILE__, __LINE__, "%s: the negated gradient of %s passes, %g", owner, name,
                     negated);
    if (!(scaled > TOLERANCE))
        check_report(__FILE__, __LINE__, "%s: the gradient of %s passes when 1%% too large, %g",
                     owner, name, scaled);
}

static inline struct tensor ids_of(int64_t rows, int64_t columns, int n)
{
    int32_t *ids = calloc((size_t)(rows * columns), sizeof *ids);

    if (!ids)
        exit(1);
    for (int64_t i = 0; i < rows * columns; i++)
        ids[i] = (int32_t)(rng_philox(SEED, RNG_TEST, 200, 0, (uint64_t)i).word[0] % (uint32_t)n);
    return tensor_2d(ids, DTYPE_I32, rows, columns);
}

/* -log softmax(logits)[target]; the operation's own is a float32, too coarse for differences. */
static inline double token_loss(const double *logits, int64_t vocab, int32_t target)
{
    double largest = logits[0], total = 0;

    for (int64_t v = 0; v < vocab; v++)
        largest = fmax(largest, logits[v]);
    for (int64_t v = 0; v < vocab; v++)
        total += exp(logits[v] - largest);
    return largest + log(total) - logits[target];
}

#endif
