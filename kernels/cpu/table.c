/* table.c - fills a table with the CPU kernels that this directory was compiled to. */
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/variants.h"

void CPU_NAME(cpu_fill_ops)(struct op_table *table)
{
    *table = (struct op_table){0};
    CPU_NAME(cpu_embedding_ops)(table);
    CPU_NAME(cpu_layernorm_ops)(table);
    CPU_NAME(cpu_linear_ops)(table);
    CPU_NAME(cpu_gelu_ops)(table);
    CPU_NAME(cpu_residual_ops)(table);
    CPU_NAME(cpu_rope_ops)(table);
    CPU_NAME(cpu_attention_ops)(table);
    CPU_NAME(cpu_cross_entropy_ops)(table);
    CPU_NAME(cpu_top_logits_ops)(table);
    CPU_NAME(cpu_optimizer_ops)(table);
    ops_complete(table);
}
