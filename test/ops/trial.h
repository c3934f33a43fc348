/* trial.h - one call of one operation, checked on every compiled variant of the kernels.
 *
 *     struct trial t;
 *     trial_begin(&t, OP_GELU_FORWARD, "%d rows", n);
 *     struct number *out = trial_output(&t, "out", tensor_2d(NULL, DTYPE_F32, n, width));
 *     const double *x = trial_input(&t, "x", tensor_2d(NULL, DTYPE_F32, n, width), 1);
 *     ... fill in what is expected
 *     trial_run(&t);
 *
 * Operands are declared in the order of the operation's parameters. They lie in device memory with
 * guard bands around them. Afterwards every byte outside the outputs must be what it was; every
 * element of the outputs must be within the tolerance of trial.c; and the outputs must be the same,
 * bit for bit, with one thread, two and three. */
#ifndef OCTET_TEST_TRIAL_H
#define OCTET_TEST_TRIAL_H

#include "device/cpu.h"
#include "ops/calls.h"
#include "ops/number.h"

enum {
    MAX_OPERANDS = 8,
    MAX_THREADS = 3,
};

/* A table of kernels to be tested. */
struct subject {
    char name[40];
    bool composed;                  /* fused rows are compositions, and only they are tried */
    struct op_table table;
    struct device *devices[MAX_THREADS];    /* with 1, 2, ... threads */
};

struct trial;

/* What all trials share. */
struct trials {
    uint64_t seed;                  /* of the random operands */
    uint32_t n_trials;              /* with this seed */
    int64_t nan_at;                 /* this element of the first real operand is NaN; -1: none */
    struct subject subjects[2 * CPU_MAX_VARIANTS];
    int n_subjects;
    void (*try_types)(struct trial *t);     /* make it in other types too, if not NULL */
    int n_failed;
    int n_runs[N_OPS];
    double worst[N_OPS];            /* largest error in parts of the tolerance */
};
extern struct trials trials;

/* Devices for every variant that this machine runs. */
enum status trials_open(void);
/* A CPU with kernels of one variant and room for all trials. */
enum status trials_open_cpu(struct device **dev, int n_threads, const struct op_table *table,
                            enum dtype real, const char *name);
/* Of a CPU worker: NaN where kernels keep what they compute in between. */
void trials_poison_scratch(struct device *dev);
void trials_close(void);
/* Count a failure and print the line, with the seed behind it. */
void trials_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

enum role { ROLE_ABSENT, ROLE_INPUT, ROLE_OUTPUT, ROLE_UPDATE };

struct operand {
    const char *name;
    enum role role;
    struct tensor shape;            /* without data */
    int same_as;                    /* the operand in whose memory this one lies, or -1 */
    double *before;                 /* values before the call; NULL: NaN */
    struct number *expected;        /* NULL for inputs */
    double *between;                /* see trial_between(); NULL: nothing */
    size_t offset;                  /* of the memory that a run works in */
};

static inline bool operand_is_output(const struct operand *operand)
{
    return operand->role == ROLE_OUTPUT || operand->role == ROLE_UPDATE;
}

struct trial {
    enum op op;
    char shape[80];                 /* for messages */
    struct arguments arguments;
    struct operand operands[MAX_OPERANDS];
    int n_operands;
    bool has_nan;                   /* trials.nan_at was served */
};

void trial_begin(struct trial *t, enum op op, const char *shape, ...)
    __attribute__((format(printf, 3, 4)));

/* An input of random values between -scale and scale. The caller may put others in their place, as
 * long as they are float32 numbers. */
double *trial_input(struct trial *t, const char *name, struct tensor shape, double scale);
/* Random whole numbers from 0 to n-1. */
double *trial_ids(struct trial *t, const char *name, struct tensor shape, int64_t n);
/* The values of `numbers`, rounded to float32; zeros where that is NULL. */
double *trial_rounded(struct trial *t, const char *name, struct tensor shape,
                      const struct number *numbers);
/* An optional operand that is not given. */
void trial_absent(struct trial *t);

/* An output that is NaN before the call. Returns where to put what is expected. An element whose
 * expected value is NaN must be NaN, one with an infinite error may be any number. */
struct number *trial_output(struct trial *t, const char *name, struct tensor shape);
/* The same in the memory of the input with the index `same_as`, which may follow later. */
struct number *trial_output_over(struct trial *t, const char *name, struct tensor shape,
                                 int same_as);
/* An output that is added to, or updated: random before the call, and so expected to stay. */
struct number *trial_update(struct trial *t, const char *name, struct tensor shape, double scale);

/* Of each element of the last output: the sizes of the terms that a type narrower than float32
 * rounds before they are added up to it. Zeros at first. */
double *trial_between(struct trial *t);

/* Dropout with this rate of some step and layer, from global row `first_row` on. */
struct dropout trial_dropout(double rate, int64_t first_row);

/* Make the call on every subject, check it, and free the operands. */
void trial_run(struct trial *t);

/* Room for numbers that are no operand. */
struct number *trial_numbers(int64_t count);

#endif
