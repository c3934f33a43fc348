/* check_step - forward and backward of small models on a GPU, in its three types, against the same
 * in double on the CPU: the loss, and the gradient of every parameter. It reaches what the checks
 * of single kernels do not: the products of cuBLASLt, and the order of it all.
 *
 *     check_step [--toy] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/team.h"
#include "device/cpu.h"
#include "device/gpu.h"
#include "gpu/bench.h"
#include "kernels/cpu/variants.h"
#include "kernels/ops.h"
#include "model/model.h"

enum { N_REALS = 3, WINDOWS = 3 };

/* Distances that are passed, relative to the length: about three times those on emulated GPUs. */
static const struct real_type {
    const char *name;
    enum dtype dtype;
    double loss, gradient, parameter;   /* of the loss, of all gradients, of a single parameter's */
} reals[N_REALS] = {
    {"float32", DTYPE_F32, 1e-6, 5e-6, 1e-5},
    {"float16", DTYPE_F16, 3e-5, 3e-3, 4e-3},
    {"bfloat16", DTYPE_BF16, 1e-4, 2e-2, 3e-2},
};

/* A loss, and gradients by parameter, as a device has computed them. */
struct outcome {
    double loss;
    float *gradients;           /* flat_count of the parameter table */
};

/* Weights that every type can hold, so that only the computation differs: 8 bits are kept. */
static enum status set_weights(struct model *model)
{
    const struct param_table *table = model_param_table(model);
    const struct tensor weights = model_weights(model);

    for (int i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        float *values = malloc((size_t)param->count * sizeof *values);
        if (!values)
            return fail(ERR_NOMEM, "no memory to initialise %s", param->name);
        param_initial_values(table, i, 1, values);
        for (int64_t k = 0; k < param->count; k++) {
            uint32_t bits;
            memcpy(&bits, &values[k], sizeof bits);
            bits &= 0xffff0000;
            memcpy(&values[k], &bits, sizeof bits);
        }
        const enum status status = model_set_param(model, &weights, param, values);
        free(values);
        TRY(status);
    }
    return model_weights_changed(model);
}

static enum status read_outcome(struct device *dev, struct model *model, struct outcome *out)
{
    const struct param_table *table = model_param_table(model);
    const struct tensor gradients = model_gradients(model), sums = model_sums(model);
    double totals[2];

    out->gradients = calloc((size_t)table->flat_count, sizeof *out->gradients);
    if (!out->gradients)
        return fail(ERR_NOMEM, "no memory for gradients");
    TRY(device_download(dev, totals, sums.data, sizeof totals));
    out->loss = totals[0];
    for (int i = 0; i < table->n_params; i++)
        TRY(model_get_param(model, &gradients, &table->params[i],
                            out->gradients + table->params[i].offset));
    return OK;
}

/* One micro-batch on `dev`; the gradient is that of the sum of all losses. */
static enum status compute(struct device *dev, const struct model_config *config,
                           struct outcome *out)
{
    const int64_t count = (int64_t)WINDOWS * config->max_seq_len;
    int32_t *ids = malloc((size_t)(count + 1) * sizeof *ids);
    const struct model_batch batch = {ids, ids + 1, WINDOWS, config->max_seq_len};
    const struct model_step step = {7, 3, 5};
    struct model *model = NULL;
    uint32_t state = 1;
    enum status status;

    if (!ids)
        return fail(ERR_NOMEM, "no memory for tokens");
    for (int64_t i = 0; i <= count; i++) {
        state = state * 1664525u + 1013904223u;
        ids[i] = (int32_t)((state >> 8) % (uint32_t)config->vocab_size);
    }
    TRY_GOTO(status, model_create(&model, dev, config, WINDOWS, MODEL_TRAIN, NULL), done);
    TRY_GOTO(status, set_weights(model), done);
    TRY_GOTO(status, model_begin(model), done);
    TRY_GOTO(status, model_train_batch(model, &batch, &step, 1, NULL), done);
    status = read_outcome(dev, model, out);
done:
    model_destroy(model);
    free(ids);
    return status;
}

static enum status compute_on_cpu(const struct model_config *config, struct outcome *out)
{
    static struct op_table table;
    struct device *dev = NULL;
    enum status status;

    cpu_fill_ops_double(&table);
    TRY(cpu_device_create_with(&dev, 0, team_cores(), &table, DTYPE_F64, "double"));
    status = compute(dev, config, out);
    device_destroy(dev);
    return status;
}

static enum status compute_on_gpu(const struct model_config *config, enum dtype real,
                                  struct outcome *out)
{
    struct device *dev = NULL;
    enum status status;

    TRY(gpu_open(&dev, 0, real, true));
    status = compute(dev, config, out);
    device_destroy(dev);
    return status;
}

/* |values - expected| / |expected|; NaN where anything is. */
static double distance(const float *values, const float *expected, int64_t n)
{
    double apart = 0, length = 0;

    for (int64_t i = 0; i < n; i++) {
        const double a = (double)values[i], b = (double)expected[i];
        apart += (a - b) * (a - b);
        length += b * b;
    }
    return sqrt(apart / length);
}

/* Is it within every limit? */
static bool compare(const struct real_type *real, const struct param_table *table,
                    const struct outcome *out, const struct outcome *expected)
{
    const double loss = fabs(out->loss - expected->loss) / expected->loss;
    const double all = distance(out->gradients, expected->gradients, table->flat_count);
    const char *name = "";
    double worst = -1;

    for (int i = 0; i < table->n_params; i++) {
        const struct param *p = &table->params[i];
        const double d = distance(out->gradients + p->offset, expected->gradients + p->offset,
                                  p->count);
        if (!(d <= worst)) {
            worst = d;
            name = p->name;
        }
    }
    printf("    off by, relative: loss %.1e, gradient %.1e, most of all %s %.1e\n", loss, all, name,
           worst);
    return loss <= real->loss && all <= real->gradient && worst <= real->parameter;
}

/* Returns how many types fail. */
static int check(const char *name, const struct model_config *config)
{
    struct outcome expected = {0};
    struct param_table table = {0};
    int n_failed = N_REALS;

    if (param_table_create(&table, config) != OK || compute_on_cpu(config, &expected) != OK) {
        printf("FAILED %s: on the CPU: %s\n", name, status_message());
        goto done;
    }
    for (int i = 0; i < N_REALS; i++) {
        struct outcome out = {0};
        const enum status status = compute_on_gpu(config, reals[i].dtype, &out);
        const bool ok = status == OK && compare(&reals[i], &table, &out, &expected);
        printf("%s %s, %s%s%s\n", ok ? "ok    " : "FAILED", name, reals[i].name,
               status == OK ? "" : ": ", status == OK ? "" : status_message());
        fflush(stdout);
        n_failed -= ok;
        free(out.gradients);
    }
done:
    param_table_free(&table);
    free(expected.gradients);
    return n_failed;
}

int main(int argc, char **argv)
{
    struct model_config rotary = {.vocab_size = 1003, .max_seq_len = 200, .dim = 256, .depth = 2,
                                  .heads = 4, .mlp_dim = 1024, .dropout = 0.1,
                                  .use_rotary_emb = true};
    struct bench_flags flags;

    if (bench_flags_read(&flags, argc, argv) != OK || gpu_count() == 0) {
        fprintf(stderr, "check_step: %s\n", *status_message() ? status_message() : gpu_support());
        return 2;
    }
    if (flags.toy) {
        rotary.vocab_size = 67;
        rotary.max_seq_len = 40;
        rotary.dim = 64;
        rotary.heads = 2;
        rotary.mlp_dim = 128;
    }
    struct model_config learned = rotary;
    learned.use_rotary_emb = false;
    learned.dropout = 0;
    learned.heads = rotary.heads / 2;
    const int n_failed = check("rotary positions, dropout", &rotary) +
                         check("learned positions", &learned);
    printf("%d passed, %d failed\n", 2 * N_REALS - n_failed, n_failed);
    return n_failed > 0;
}
