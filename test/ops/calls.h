/* calls.h - every operation of struct op_table behind one signature, so that tests and benches can
 * treat them alike: the tensors in the order of the operation's parameters, the rest a struct. */
#ifndef OCTET_TEST_CALLS_H
#define OCTET_TEST_CALLS_H

#include "kernels/ops.h"

enum op {
    OP_EMBEDDING_FORWARD,
    OP_EMBEDDING_BACKWARD,
    OP_LAYERNORM_FORWARD,
    OP_LAYERNORM_BACKWARD,
    OP_LINEAR_FORWARD,
    OP_LINEAR_BACKWARD_INPUT,
    OP_LINEAR_BACKWARD_WEIGHT,
    OP_GELU_FORWARD,
    OP_GELU_BACKWARD,
    OP_ADD_DROPOUT_FORWARD,
    OP_ADD_DROPOUT_BACKWARD,
    OP_ROPE,
    OP_ATTENTION_FORWARD,
    OP_ATTENTION_BACKWARD,
    OP_ATTENTION_CACHED,
    OP_CROSS_ENTROPY,
    OP_TOP_LOGITS,
    OP_CAST,
    OP_SUM,
    OP_SUM_OF_SQUARES,
    OP_ADAMW,
    OP_LINEAR_GELU_FORWARD,
    OP_ADD_LAYERNORM_FORWARD,
    N_OPS,
};

struct arguments {
    struct dropout dropout;
    int64_t position;
    bool inverse;
    double grad_scale;
    int64_t count;
    struct adamw_step step;
};

struct op_call {
    const char *name;
    bool fused;
    enum status (*run)(struct device *dev, const struct tensor *t, const struct arguments *a);
};
extern const struct op_call op_calls[N_OPS];

#endif
