/* model.h - the decoder-only transformer, written once for every backend.
 *
 * Pre-norm: x += attention(layernorm(x)); x += mlp(layernorm(x)); a final layernorm; logits = x E^T
 * with the token embedding E. forward.c and backward.c follow a block from top to bottom. */
#ifndef OCTET_MODEL_H
#define OCTET_MODEL_H

#include "base/candidate.h"
#include "device/device.h"
#include "model/params.h"

enum model_use {
    MODEL_TRAIN,            /* weights, gradients, every block's activations */
    MODEL_GENERATE,         /* weights, one block's activations, the KV cache; batch 1 */
};

/* Bytes on one device. */
struct model_memory {
    size_t weights, gradients, activations, cache, scratch;     /* weights: with their copy */
};

struct model;

/* `batch` windows of max_seq_len at most in one call. */
enum status model_memory_plan(struct model_memory *out, const struct device *dev,
                              const struct model_config *config, int batch, enum model_use use,
                              bool shares_weights);
/* Allocates everything there will ever be. Weights are zero; or, where `shared` is not NULL, they are
 * that model's, of the same device and configuration, which must live longer (samples drawn while
 * training). */
enum status model_create(struct model **out, struct device *dev, const struct model_config *config,
                         int batch, enum model_use use, const struct model *shared);
/* NULL is fine. */
void model_destroy(struct model *model);

const struct model_config *model_config(const struct model *model);
const struct param_table *model_param_table(const struct model *model);
/* The flat buffers of weights and gradients, in the master type (kernels/ops.h); gradients have data
 * NULL unless MODEL_TRAIN. */
struct tensor model_weights(const struct model *model);
struct tensor model_gradients(const struct model *model);
/* The weights that are computed with, where they are of another type; else data is NULL. */
struct tensor model_compute_copy(const struct model *model);

/* Fresh weights from a seed. */
enum status model_init(struct model *model, uint64_t seed);

/* Copy one parameter-shaped part of a flat buffer (weights, gradients, moments) between the device
 * and float32 host memory of param->count elements. After the last weight was set, call
 * model_weights_changed(). */
enum status model_set_param(struct model *model, const struct tensor *flat,
                            const struct param *param, const float *values);
enum status model_get_param(struct model *model, const struct tensor *flat,
                            const struct param *param, float *values);

/* Renew the compute copy. */
enum status model_weights_changed(struct model *model);

/* One micro-batch in host memory. */
struct model_batch {
    const int32_t *ids, *targets;   /* (windows, length) */
    int windows, length;
};

/* What the dropout of one step depends on. */
struct model_step {
    uint64_t seed;
    uint32_t step;
    int64_t first_window;           /* of this micro-batch in the global batch */
};

/* Set the sums below and all gradients to zero: the start of an optimizer step or an evaluation. */
enum status model_begin(struct model *model);
/* Told while a backward pass runs: all gradients of matrices from this element of the flat buffer on
 * are queued; their all-reduce may begin. */
struct model_hook {
    enum status (*gradients_ready)(void *context, int64_t first);
    void *context;
};
/* Copy a micro-batch to the device, with what its dropout depends on. */
enum status model_load(struct model *model, const struct model_batch *batch,
                       const struct model_step *step);
/* Forward and backward, with dropout, of the micro-batch that was loaded: gradients += d(sum of losses *
 * loss_scale). `hook` may be NULL. It queues the same work for every micro-batch of one shape and
 * seed: a section (device.h). */
enum status model_train(struct model *model, double loss_scale, const struct model_hook *hook);
static inline enum status model_train_batch(struct model *model, const struct model_batch *batch,
                                            const struct model_step *step, double loss_scale,
                                            const struct model_hook *hook)
{
    TRY(model_load(model, batch, step));
    return model_train(model, loss_scale, hook);
}
/* Forward without dropout. */
enum status model_evaluate_batch(struct model *model, const struct model_batch *batch);
/* Sums over the tokens since model_begin(): F64 (2) on the device, losses and hits. */
struct tensor model_sums(const struct model *model);

/* Logits (windows * length, V) of a batch, into host memory; for tests and self-tests. */
enum status model_logits(struct model *model, const struct model_batch *batch, float *logits);

/* Generation: run `count` tokens that follow the `position` tokens already in the cache. The
 * logits (V) behind the last one stay on the device, for the two below. position + count <=
 * max_seq_len. */
enum status model_extend(struct model *model, const int32_t *ids, int count, int position);
/* Copy these logits to host memory. */
enum status model_read_logits(struct model *model, float *logits);
/* The k largest of the first n of them, in order; k is at most n and OPS_TOP_MAX (kernels/ops.h).
 * NaN and infinity come first, as NaN. */
enum status model_top(struct model *model, int n, int k, struct candidate *likeliest);

#endif
