#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>

#include "base/arena.h"

static void layout(struct optimizer *o, struct arena *arena, int64_t flat_count, enum dtype real)
{
    o->m = arena_tensor(arena, real, flat_count, 1);
    o->v = arena_tensor(arena, real, flat_count, 1);
    o->norm = arena_tensor(arena, DTYPE_F64, 1, 1);
}

size_t optimizer_memory_plan(int64_t flat_count, enum dtype real)
{
    struct optimizer o;
    struct arena measure = {0};

    layout(&o, &measure, flat_count, real);
    return measure.used;
}

/* Runs of parameters that are decayed alike; the gaps between parameters are zero and stay zero. */
static enum status make_segments(struct optimizer *o, const struct param_table *table)
{
    o->segments = calloc((size_t)table->n_params, sizeof *o->segments);
    if (!o->segments)
        return fail(ERR_NOMEM, "no memory for the optimizer's segments");
    for (int i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        const int64_t end = i + 1 < table->n_params ? table->params[i + 1].offset
                                                    : table->flat_count;
        if (i == 0 || o->segments[o->n_segments - 1].decay != param->decay)
            o->segments[o->n_segments++] = (struct adamw_segment){param->offset, 0, param->decay};
        struct adamw_segment *segment = &o->segments[o->n_segments - 1];
        segment->count = end - segment->offset;
    }
    return OK;
}

enum status optimizer_create(struct optimizer *o, struct device *dev, struct model *model,
                             const struct optimizer_config *config)
{
    const struct param_table *table = model_param_table(model);
    struct arena arena = {0};
    enum status status;

    *o = (struct optimizer){.model = model, .dev = dev, .config = *config};
    o->memory_size = optimizer_memory_plan(table->flat_count, dev->real);
    TRY_GOTO(status, make_segments(o, table), failed);
    TRY_GOTO(status, device_alloc(dev, o->memory_size, &o->memory), failed);
    arena.base = o->memory;
    layout(o, &arena, table->flat_count, dev->real);
    return OK;
failed:
    optimizer_free(o);
    return status;
}

void optimizer_free(struct optimizer *o)
{
    if (!o->dev)
        return;
    device_free(o->dev, o->memory, o->memory_size);
    free(o->segments);
    *o = (struct optimizer){0};
}

enum status optimizer_step(struct optimizer *o, int64_t step, double lr, double *grad_norm)
{
    const struct tensor weights = model_weights(o->model), grads = model_gradients(o->model);
    double squares;

    RUN_OP(OPS_OPTIMIZER, o->dev, sum_of_squares, &o->norm, &grads);
    TRY(device_download(o->dev, &squares, o->norm.data, sizeof squares));
    *grad_norm = sqrt(squares);
    if (!isfinite(squares))
        return fail(ERR_DEVICE, "step %lld: the gradient norm is %g; the weights were left as they "
                    "are (a lower learning_rate or max_grad_norm may help)", (long long)step,
                    *grad_norm);

    const double limit = o->config.max_grad_norm;
    const struct adamw_step adamw = {
        .lr = lr,
        .beta1 = o->config.beta1,
        .beta2 = o->config.beta2,
        .epsilon = o->config.epsilon,
        .weight_decay = o->config.weight_decay,
        .step = step,
        .grad_scale = limit > 0 && *grad_norm > limit ? limit / *grad_norm : 1,
    };
    RUN_OP(OPS_OPTIMIZER, o->dev, adamw, &weights, &o->m, &o->v, &grads, o->segments,
           o->n_segments, &adamw);
    return OK;
}
