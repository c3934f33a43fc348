#include "ops/calls.h"

_Static_assert(sizeof(struct op_table) == N_OPS * sizeof(void (*)(void)),
               "an operation of struct op_table is missing here, and so in the tests");

/* A function of that name that passes on these of its tensors t and arguments a. */
#define CALL(name, ...)                                                                \
    static enum status name(struct device *dev, const struct tensor *t,                \
                            const struct arguments *a)                                 \
    {                                                                                  \
        (void)a;                                                                       \
        return dev->ops->name(dev, __VA_ARGS__);                                       \
    }

CALL(embedding_forward, &t[0], &t[1], &t[2], &t[3])
CALL(embedding_backward, &t[0], &t[1], &t[2], &t[3])
CALL(layernorm_forward, &t[0], &t[1], &t[2], &t[3], &t[4], &t[5])
CALL(layernorm_backward, &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7])
CALL(linear_forward, &t[0], &t[1], &t[2], &t[3])
CALL(linear_backward_input, &t[0], &t[1], &t[2])
CALL(linear_backward_weight, &t[0], &t[1], &t[2], &t[3])
CALL(gelu_forward, &t[0], &t[1], &a->dropout)
CALL(gelu_backward, &t[0], &t[1], &t[2], &a->dropout)
CALL(add_dropout_forward, &t[0], &t[1], &t[2], &a->dropout)
CALL(add_dropout_backward, &t[0], &t[1], &a->dropout)
CALL(rope, &t[0], a->position, a->inverse)
CALL(attention_forward, &t[0], &t[1], &t[2], &a->dropout)
CALL(attention_backward, &t[0], &t[1], &t[2], &t[3], &t[4], &a->dropout)
CALL(attention_cached, &t[0], &t[1], &t[2], a->position)
CALL(cross_entropy, &t[0], &t[1], &t[2], &t[3], a->grad_scale)
CALL(top_logits, &t[0], &t[1], &t[2], a->count)
CALL(cast, &t[0], &t[1])
CALL(sum, &t[0], &t[1])
CALL(sum_of_squares, &t[0], &t[1])
CALL(adamw, &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &a->step)
CALL(linear_gelu_forward, &t[0], &t[1], &t[2], &t[3], &t[4], &a->dropout)
CALL(add_layernorm_forward, &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7], &a->dropout)

const struct op_call op_calls[N_OPS] = {
    [OP_EMBEDDING_FORWARD] = {"embedding_forward", false, embedding_forward},
    [OP_EMBEDDING_BACKWARD] = {"embedding_backward", false, embedding_backward},
    [OP_LAYERNORM_FORWARD] = {"layernorm_forward", false, layernorm_forward},
    [OP_LAYERNORM_BACKWARD] = {"layernorm_backward", false, layernorm_backward},
    [OP_LINEAR_FORWARD] = {"linear_forward", false, linear_forward},
    [OP_LINEAR_BACKWARD_INPUT] = {"linear_backward_input", false, linear_backward_input},
    [OP_LINEAR_BACKWARD_WEIGHT] = {"linear_backward_weight", false, linear_backward_weight},
    [OP_GELU_FORWARD] = {"gelu_forward", false, gelu_forward},
    [OP_GELU_BACKWARD] = {"gelu_backward", false, gelu_backward},
    [OP_ADD_DROPOUT_FORWARD] = {"add_dropout_forward", false, add_dropout_forward},
    [OP_ADD_DROPOUT_BACKWARD] = {"add_dropout_backward", false, add_dropout_backward},
    [OP_ROPE] = {"rope", false, rope},
    [OP_ATTENTION_FORWARD] = {"attention_forward", false, attention_forward},
    [OP_ATTENTION_BACKWARD] = {"attention_backward", false, attention_backward},
    [OP_ATTENTION_CACHED] = {"attention_cached", false, attention_cached},
    [OP_CROSS_ENTROPY] = {"cross_entropy", false, cross_entropy},
    [OP_TOP_LOGITS] = {"top_logits", false, top_logits},
    [OP_CAST] = {"cast", false, cast},
    [OP_SUM] = {"sum", false, sum},
    [OP_SUM_OF_SQUARES] = {"sum_of_squares", false, sum_of_squares},
    [OP_ADAMW] = {"adamw", false, adamw},
    [OP_LINEAR_GELU_FORWARD] = {"linear_gelu_forward", true, linear_gelu_forward},
    [OP_ADD_LAYERNORM_FORWARD] = {"add_layernorm_forward", true, add_layernorm_forward},
};
