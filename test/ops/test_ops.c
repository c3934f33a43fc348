/* test_ops.c - every operation, on every compiled variant of the kernels, against a plain reference
 * at odd shapes; --bench times them at realistic ones.
 *
 * OCTET_TEST_SEED in the environment sets the seed of the random operands; a failure prints it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/team.h"
#include "ops/checks.h"

enum { N_SEEDS = 2 };

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

int main(int argc, char **argv)
{
    const bool timing = argc == 2 && strcmp(argv[1], "--bench") == 0;
    const char *seed = getenv("OCTET_TEST_SEED");

    if (argc != 1 && !timing) {
        fprintf(stderr, "usage: test_ops [--bench]\n");
        return 2;
    }
    if (trials_open(timing, team_cores()) != OK) {
        fprintf(stderr, "test_ops: %s\n", status_message());
        trials_close();
        return 1;
    }
    if (timing)
        bench(team_cores());
    else
        check_all(seed ? strtoull(seed, NULL, 10) : 1);
    trials_close();
    return trials.n_failed > 0;
}
