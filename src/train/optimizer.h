/* optimizer.h - AdamW's state beside a model's parameters. */
#ifndef OCTET_OPTIMIZER_H
#define OCTET_OPTIMIZER_H

#include "kernels/ops.h"
#include "model/model.h"

struct optimizer_config {
    double beta1, beta2, epsilon, weight_decay;
    double max_grad_norm;       /* 0: no clipping */
};

struct optimizer {
    struct model *model;
    struct device *dev;
    struct optimizer_config config;
    struct tensor m, v;         /* flat, master, as the model's weights */
    struct tensor squares;      /* (1) F64, the sum of the squared gradients */
    void *memory;
    size_t memory_size;
};

/* Bytes of m and v for a flat buffer of `flat_count` elements of this type. */
size_t optimizer_memory_plan(int64_t flat_count, enum dtype master);

/* Moments start at zero. */
enum status optimizer_create(struct optimizer *optimizer, struct device *dev, struct model *model,
                             const struct optimizer_config *config);
/* Moments to zero again. */
enum status optimizer_reset(struct optimizer *optimizer);
/* Safe on a zeroed struct. */
void optimizer_free(struct optimizer *optimizer);

/* The global norm of the model's gradients, which are `loss_scale` times too large, before any
 * clipping. Waits for the device. */
enum status optimizer_norm(struct optimizer *optimizer, double loss_scale, double *grad_norm);
/* Clip the gradients, whose norm was taken, and update the weights: the `update`-th time, from 1.
 * Where the norm is not finite, nothing is changed. */
enum status optimizer_update(struct optimizer *optimizer, int64_t update, double lr,
                             double loss_scale);

#endif
