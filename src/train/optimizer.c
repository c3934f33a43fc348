#include "train/optimizer.h"

#include <math.h>

#include "base/arena.h"

static void layout(struct optimizer *o, struct arena *arena, int64_t flat_count, enum dtype master)
{
    o->m = arena_tensor(arena, master, flat_count, 1);
    o->v = arena_tensor(arena, master, flat_count, 1);
    o->squares = arena_tensor(arena, DTYPE_F64, 1, 1);
}

size_t optimizer_memory_plan(int64_t flat_count, enum dtype master)
{
    struct optimizer o;
    struct arena measure = {0};

    layout(&o, &measure, flat_count, master);
    return measure.used;
}

enum status optimizer_create(struct optimizer *o, struct device *dev, struct model *model,
                             const struct optimizer_config *config)
{
    const struct param_table *table = model_param_table(model);
    const enum dtype master = device_master(dev);
    struct arena arena = {0};

    *o = (struct optimizer){.model = model, .dev = dev, .config = *config};
    o->memory_size = optimizer_memory_plan(table->flat_count, master);
    TRY(device_alloc(dev, o->memory_size, &o->memory));
    arena.base = o->memory;
    layout(o, &arena, table->flat_count, master);
    return OK;
}

enum status optimizer_reset(struct optimizer *o)
{
    return device_zero(o->dev, o->memory, o->memory_size);
}

void optimizer_free(struct optimizer *o)
{
    if (!o->dev)
        return;
    device_free(o->dev, o->memory, o->memory_size);
    *o = (struct optimizer){0};
}

enum status optimizer_norm(struct optimizer *o, double loss_scale, double *grad_norm)
{
    const struct tensor grads = model_gradients(o->model);
    double squares;

    RUN_OP(OPS_OPTIMIZER, o->dev, sum_of_squares, &o->squares, &grads);
    TRY(device_download(o->dev, &squares, o->squares.data, sizeof squares));
    *grad_norm = sqrt(squares) / loss_scale;
    return OK;
}

enum status optimizer_update(struct optimizer *o, int64_t update, double lr, double loss_scale)
{
    const struct tensor weights = model_weights(o->model), grads = model_gradients(o->model);
    const struct tensor copy = model_compute_copy(o->model);
    const struct adamw_step adamw = {
        .lr = lr,
        .beta1 = o->config.beta1,
        .beta2 = o->config.beta2,
        .epsilon = o->config.epsilon,
        .weight_decay = o->config.weight_decay,
        .decay_count = model_param_table(o->model)->decay_count,
        .step = update,
        .loss_scale = loss_scale,
        .max_norm = o->config.max_grad_norm,
    };

    RUN_OP(OPS_OPTIMIZER, o->dev, adamw, &weights, &o->m, &o->v, &grads, &copy, &o->squares,
           &adamw);
    return OK;
}
