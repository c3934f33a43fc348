/* table.c - the table of CUDA kernels. */
#include <pthread.h>

#include "kernels/cuda/cuda_ops.h"

static struct op_table table;

static void fill(void)
{
    cuda_embedding_ops(&table);
    cuda_layernorm_ops(&table);
    cuda_linear_ops(&table);
    cuda_gelu_ops(&table);
    cuda_residual_ops(&table);
    cuda_rope_ops(&table);
    cuda_attention_ops(&table);
    cuda_cross_entropy_ops(&table);
    cuda_top_logits_ops(&table);
    cuda_optimizer_ops(&table);
    ops_complete(&table);
}

const struct op_table *cuda_ops(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, fill);
    return &table;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

size_t cuda_kernel_scratch(const struct op_limits *limits, enum dtype real)
{
    size_t size = cuda_embedding_scratch(limits, real);

    size = larger(size, cuda_layernorm_scratch(limits, real));
    size = larger(size, cuda_linear_scratch(limits, real));
    size = larger(size, cuda_attention_scratch(limits, real));
    size = larger(size, cuda_top_logits_scratch(limits, real));
    return larger(size, cuda_optimizer_scratch(limits, real));
}
