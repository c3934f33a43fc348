#include "train/probe.h"

#include <math.h>
#include <string.h>

static const struct {
    enum dtype real;
    const char *name;
} types[] = {{DTYPE_F32, "float32"}, {DTYPE_BF16, "bfloat16"}, {DTYPE_F16, "float16"}};

enum { N_TYPES = sizeof types / sizeof types[0] };

const char *probe_type_name(enum dtype real)
{
    for (int i = 0; i < N_TYPES; i++)
        if (types[i].real == real)
            return types[i].name;
    return dtype_name(real);
}

enum dtype probe_type_from_name(const char *name)
{
    for (int i = 0; i < N_TYPES; i++)
        if (strcmp(types[i].name, name) == 0)
            return types[i].real;
    return N_DTYPES;
}

enum status probe_take(struct probe *probe, struct device *dev, struct model *model, uint64_t seed,
                       const struct progress_state *progress)
{
    const int length = model_config(model)->max_seq_len;
    const struct model_batch batch = {probe->tokens, probe->tokens + 1, 1, length};
    const struct model_step step = {.seed = seed, .step = (uint32_t)progress->step};
    /* As much as in a step, where this would be one window of many: float16 may have no room for
     * more. */
    const double scale = progress->loss_scale / (double)progress->global_batch;
    const struct tensor gradients = model_gradients(model), sums = model_sums(model);
    const struct tensor squares = tensor_rows(&sums, 0, 1);
    double totals[2];

    TRY(model_begin(model));
    TRY(model_train_batch(model, &batch, &step, scale / length, NULL));
    TRY(device_download(dev, totals, sums.data, sizeof totals));
    probe->loss = totals[0] / length;
    RUN_OP(OPS_OPTIMIZER, dev, sum_of_squares, &squares, &gradients);
    TRY(device_download(dev, totals, squares.data, sizeof totals[0]));
    probe->grad_norm = sqrt(totals[0]) / scale;
    probe->real = dev->real;
    return OK;
}
