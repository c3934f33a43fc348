/* cuda_ops.h - what the CUDA kernel files share: the list of families, and dispatch by type.
 *
 * Kernels are templates over the real type (float, __nv_bfloat16, __half) and compute in float.
 * Element access is 16 bytes wide where alignment and length allow. Nothing uses atomics whose order
 * would show in the result. */
#ifndef OCTET_CUDA_OPS_H
#define OCTET_CUDA_OPS_H

#include "device/cuda.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Each family fills in its rows, and says how many bytes of device scratch it needs at most. */
void cuda_embedding_ops(struct op_table *table);        /* embedding.cu */
void cuda_layernorm_ops(struct op_table *table);        /* layernorm.cu */
void cuda_linear_ops(struct op_table *table);           /* linear.cu: cuda_matmul, bias gradients */
void cuda_gelu_ops(struct op_table *table);             /* gelu.cu */
void cuda_residual_ops(struct op_table *table);         /* residual.cu */
void cuda_rope_ops(struct op_table *table);             /* rope.cu */
void cuda_attention_ops(struct op_table *table);        /* attention.cu */
void cuda_cross_entropy_ops(struct op_table *table);    /* cross_entropy.cu */
void cuda_top_logits_ops(struct op_table *table);       /* top_logits.cu */
void cuda_optimizer_ops(struct op_table *table);        /* optimizer.cu: cast, sums, adamw */

size_t cuda_embedding_scratch(const struct op_limits *limits, enum dtype real);
size_t cuda_layernorm_scratch(const struct op_limits *limits, enum dtype real);
size_t cuda_linear_scratch(const struct op_limits *limits, enum dtype real);
size_t cuda_attention_scratch(const struct op_limits *limits, enum dtype real);
size_t cuda_top_logits_scratch(const struct op_limits *limits, enum dtype real);
size_t cuda_optimizer_scratch(const struct op_limits *limits, enum dtype real);

#ifdef __cplusplus
}
#endif
#endif
