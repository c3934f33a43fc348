/* cases.h - every operation at the sizes of a model: operands, and how much work a call is. */
#ifndef OCTET_BENCH_GPU_CASES_H
#define OCTET_BENCH_GPU_CASES_H

#include "gpu/bench.h"
#include "ops/calls.h"

enum {
    MAX_OPERANDS = 8,
    MAX_CASES = 64,
};

enum role { ROLE_ABSENT, ROLE_READ, ROLE_WRITTEN, ROLE_UPDATED };
/* Random values: between -1 and 1, between 0.5 and 1.5, token ids. */
enum fill { FILL_UNIFORM, FILL_POSITIVE, FILL_IDS, N_FILLS };

struct operand {
    enum role role;
    enum fill fill;
    struct tensor shape;        /* without data */
    int64_t touched;            /* elements that a call must move; an update moves them twice */
};

struct op_case {
    char name[56], sizes[40];
    enum op op;
    struct arguments arguments;
    struct operand operands[MAX_OPERANDS];
    int n_operands;
    double flops;               /* of matrix products; 0: memory is what takes the time */
    bool is_product;            /* of cuBLASLt, alone */
};

/* Returns how many there are. */
int cases_of(struct op_case cases[MAX_CASES], const struct shape *shape);

/* Of the memory that a call cannot help reading and writing. */
double case_bytes(const struct op_case *c);

#endif
