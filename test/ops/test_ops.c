/* test_ops.c - every operation, on every compiled variant of the kernels, at odd shapes: in float32
 * against a plain reference, in bfloat16 against float32 (ops/real_types.h).
 *
 * OCTET_TEST_SEED in the environment sets the seed of the random operands; a failure prints it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "ops/checks.h"
#include "ops/real_types.h"

enum { N_SEEDS = 2 };

/* The variants of bfloat16. */
static struct typed_kernels types[CPU_MAX_VARIANTS];
static struct op_table tables[CPU_MAX_VARIANTS], composed_tables[CPU_MAX_VARIANTS];
static int n_types;

static const struct {
    const char *name;
    void (*run)(void);
} families[] = {
    {"math", check_math},           {"rows", check_rows},       {"linear", check_linear},
    {"attention", check_attention}, {"loss", check_loss},       {"dropout", check_dropout},
    {"special", check_special},
};

/* Families with all seeds. */
static void check_all(uint64_t first_seed)
{
    int n_failed_families = 0;

    for (size_t i = 0; i < COUNT_OF(families); i++) {
        const int n_failed_before = trials.n_failed;
        for (uint64_t seed = first_seed; seed < first_seed + N_SEEDS; seed++) {
            trials.seed = seed;
            trials.n_trials = 0;
            families[i].run();
        }
        const bool ok = trials.n_failed == n_failed_before;
        n_failed_families += !ok;
        printf("%s %s\n", ok ? "ok    " : "FAILED", families[i].name);
        fflush(stdout);
    }
    printf("largest error as a part of its tolerance, over all kernels:\n");
    for (int op = 0; op < N_OPS; op++) {
        printf("  %-23s %3d trials %8.3f\n", op_calls[op].name, trials.n_runs[op],
               trials.worst[op]);
        if (trials.n_runs[op] == 0)
            trials_fail("%s was never tried", op_calls[op].name);
    }
    printf("%d passed, %d failed\n", (int)COUNT_OF(families) - n_failed_families,
           n_failed_families);
}

static void try_types(struct trial *t)
{
    trial_types(t, types, n_types);
}

static enum status open_types(void)
{
    struct cpu_variant variants[CPU_MAX_VARIANTS];
    const int n_variants = cpu_variants(variants, DTYPE_BF16);

    for (int i = 0; i < n_variants; i++) {
        struct typed_kernels *kernels = &types[n_types];
        struct op_table *table = &tables[n_types], *composed_table = &composed_tables[n_types];
        if (!variants[i].usable)
            continue;
        n_types++;
        *kernels = (struct typed_kernels){.name = variants[i].name, .real = &real_bfloat16};
        variants[i].fill(table);
        *composed_table = *table;
        composed_table->linear_gelu_forward = NULL;
        composed_table->add_layernorm_forward = NULL;
        ops_complete(composed_table);
        for (int k = 0; k < MAX_THREADS; k++)
            TRY(trials_open_cpu(&kernels->devices[k], k + 1, table, DTYPE_BF16, kernels->name));
        TRY(trials_open_cpu(&kernels->composed, 1, composed_table, DTYPE_BF16, kernels->name));
    }
    trials.try_types = try_types;
    return OK;
}

static void close_all(void)
{
    trials_close();
    for (int i = 0; i < n_types; i++) {
        for (int k = 0; k < MAX_THREADS; k++)
            device_destroy(types[i].devices[k]);
        device_destroy(types[i].composed);
    }
}

int main(void)
{
    const char *seed = getenv("OCTET_TEST_SEED");

    if (trials_open() != OK || open_types() != OK) {
        fprintf(stderr, "test_ops: %s\n", status_message());
        close_all();
        return 1;
    }
    check_all(seed ? strtoull(seed, NULL, 10) : 1);
    close_all();
    return trials.n_failed > 0;
}
