/* ops.c - fused operations composed of plain ones, for backends that have no kernel of their own. */
#include "kernels/ops.h"

#include "base/clock.h"

static enum status composed_linear_gelu(struct device *dev, const struct tensor *pre,
                                        const struct tensor *out, const struct tensor *a,
                                        const struct tensor *weight, const struct tensor *bias,
                                        const struct dropout *dropout)
{
    TRY(dev->ops->linear_forward(dev, pre, a, weight, bias));
    return dev->ops->gelu_forward(dev, out, pre, dropout);
}

static enum status composed_add_layernorm(struct device *dev, const struct tensor *sum,
                                          const struct tensor *out, const struct tensor *mean,
                                          const struct tensor *rstd, const struct tensor *a,
                                          const struct tensor *b, const struct tensor *weight,
                                          const struct tensor *bias,
                                          const struct dropout *dropout)
{
    TRY(dev->ops->add_dropout_forward(dev, sum, a, b, dropout));
    return dev->ops->layernorm_forward(dev, out, mean, rstd, sum, weight, bias);
}

void ops_complete(struct op_table *table)
{
    if (!table->linear_gelu_forward)
        table->linear_gelu_forward = composed_linear_gelu;
    if (!table->add_layernorm_forward)
        table->add_layernorm_forward = composed_add_layernorm;
}

const char *op_family_name(enum op_family family)
{
    static const char *const names[N_OP_FAMILIES] = {
        "embedding", "layernorm", "linear", "gelu", "residual", "rope", "attention", "classifier",
        "cross-entropy", "optimizer",
    };

    return names[family];
}

double profile_start(struct device *dev)
{
    return dev->profile ? seconds_now() : 0;
}

enum status profile_add(struct device *dev, enum op_family family, double start)
{
    if (!dev->profile)
        return OK;
    TRY(device_sync(dev));
    dev->profile->seconds[family] += seconds_now() - start;
    return OK;
}
