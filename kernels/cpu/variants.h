/* variants.h - the compiled versions of this directory; which of them exist, meson decides. */
#ifndef OCTET_CPU_VARIANTS_H
#define OCTET_CPU_VARIANTS_H

struct op_table;

void cpu_fill_ops_plain(struct op_table *table);
void cpu_fill_ops_avx2(struct op_table *table);
void cpu_fill_ops_avx512(struct op_table *table);
void cpu_fill_ops_plain_bf16(struct op_table *table);
void cpu_fill_ops_avx512_bf16(struct op_table *table);
void cpu_fill_ops_double(struct op_table *table);   /* tests only */

#endif
