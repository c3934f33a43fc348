/* test_cuda_ops.c - the CUDA kernels in the trials of test/ops: in float32 against the plain
 * reference, and in all types against float32 (ops/real_types.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda.h"
#include "device/gpu.h"
#include "ops/checks.h"
#include "ops/real_types.h"

/* What the trials ask for, and no more: scratch memory is taken for every device. */
static const struct op_limits limits = {.rows = 4608, .width = 3 * 16392, .max_seq_len = 1,
                                        .heads = 1, .head_size = 1, .vocab_size = 1 << 16,
                                        .params = 1};

static struct typed_kernels types[] = {
    {.name = "CUDA", .real = &real_float32},
    {.name = "CUDA", .real = &real_bfloat16},
    {.name = "CUDA", .real = &real_float16},
};

static struct op_table composed_table;

static void try_types(struct trial *t)
{
    trial_types(t, types, (int)COUNT_OF(types));
}

/* ---- devices ---- */

static enum status open_device(struct device **dev, enum dtype real)
{
    TRY(gpu_open(dev, 0, real, true));
    return device_reserve(*dev, &limits);
}

static enum status open_devices(void)
{
    struct subject *subject = &trials.subjects[0];

    composed_table = *cuda_ops();
    composed_table.add_layernorm_forward = NULL;
    composed_table.linear_gelu_forward = NULL;
    ops_complete(&composed_table);
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        TRY(open_device(&types[i].devices[0], types[i].real->dtype));
        if (types[i].real->dtype == DTYPE_F32)
            continue;
        TRY(open_device(&types[i].composed, types[i].real->dtype));
        types[i].composed->ops = &composed_table;
    }
    *subject = (struct subject){.name = "CUDA", .table = *cuda_ops()};
    for (int i = 0; i < MAX_THREADS; i++)
        TRY(open_device(&subject->devices[i], DTYPE_F32));
    trials.n_subjects = 1;
    trials.try_types = try_types;
    return OK;
}

static void close_devices(void)
{
    trials_close();
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        device_destroy(types[i].devices[0]);
        device_destroy(types[i].composed);
    }
}

/* ---- shapes ---- */

/* Around the vectors, tiles and chunks of a row; and what a NaN reaches. */
static void check_edges(void)
{
    static const int64_t widths[] = {2, 15, 16, 63, 64, 127, 128, 136, 255, 256, 384, 520};

    for (size_t i = 0; i < COUNT_OF(widths); i++) {
        try_add_dropout_forward(18, widths[i], 0.3, i % 2 == 0);
        try_add_dropout_backward(3, widths[i], 0.999);
        try_gelu_forward(2, widths[i], 0.3, i % 2 == 1);
        try_gelu_backward(5, widths[i], 0.3, i % 2 == 0);
        try_add_layernorm(3, widths[i], 0.3, i % 2 == 1);
    }
    check_special_logits();
    trials.nan_at = 40;
    for (int64_t width = 32; width < 34; width++) {
        try_layernorm_forward(5, width);
        try_layernorm_backward(5, width);
        try_add_layernorm(5, width, 0.5, false);
        try_add_dropout_forward(5, width, 0.5, false);
        try_gelu_backward(5, width, 0.5, false);
        try_cross_entropy(5, width, 1, 5);
    }
    try_sum_of_squares(50);
    try_adamw(200, 100, 1, 1);
    trials.nan_at = -1;
}

/* Rows that warps share, that are too long for registers, that end in the middle of a vector, and
 * tokens whose runs cross many segments of the embedding's sorted list. */
static void check_cuda_shapes(void)
{
    static const int64_t widths[] = {8, 256, 264, 1024, 1032, 2056, 4104, 16392};
    static const struct embedding_size tables[] = {
        {3, 700, 72, 3, true}, {1, 4500, 8, 70000, true}, {2, 2048, 3, 300, false},
    };
    /* Merged once, and once or twice. */
    static const struct top_size lists[] = {{30000, 29999, 1024}, {65536, 65536, 1024}};

    for (size_t i = 0; i < COUNT_OF(widths); i++) {
        try_layernorm_forward(5, widths[i]);
        try_layernorm_backward(11, widths[i]);
        try_add_layernorm(5, widths[i], 0.5, i % 2 == 0);
        try_add_layernorm(3, widths[i], 0, i % 2 == 1);
    }
    for (size_t i = 0; i < COUNT_OF(tables); i++) {
        try_embedding_forward(&tables[i]);
        try_embedding_backward(&tables[i]);
    }
    for (int64_t vocab = 1020; vocab < 1030; vocab++)
        try_cross_entropy(9, vocab, 0.5, 5);
    try_cross_entropy(3, 50257, 0.5, 10);
    for (size_t i = 0; i < COUNT_OF(lists); i++)
        try_top_logits(&lists[i], 0);
}

static void check_rope(void)
{
    static const struct attention_size sizes[] = {
        {1, 1, 1, 2, 0}, {2, 3, 2, 6, 0}, {17, 5, 3, 64, 0}, {3, 33, 2, 128, 0}, {9, 2, 1, 20, 0},
        {1, 2, 1, 4162, 0}, {2, 1, 1, 4160, 0},
    };

    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        for (int inverse = 0; inverse < 2; inverse++) {
            try_rope(&sizes[i], 0, inverse);
            try_rope(&sizes[i], 1000003, inverse);
        }
}

/* Every kernel in all its variants, and not much more: for runs that are slow or many. */
static void check_each(void)
{
    static const int64_t widths[] = {33, 64, 1032};
    static const double rates[] = {0, 0.3};
    static const struct embedding_size tables[] = {{2, 300, 33, 9, true}, {1, 77, 64, 5, true}};
    static const struct attention_size heads[] = {{3, 5, 2, 6, 0}, {1, 3, 1, 64, 0}};
    static const struct top_size list = {20000, 19999, 1000};

    for (size_t i = 0; i < COUNT_OF(tables); i++) {
        try_embedding_forward(&tables[i]);
        try_embedding_backward(&tables[i]);
        try_rope(&heads[i], 1, i % 2 == 0);
    }
    for (size_t i = 0; i < COUNT_OF(widths); i++) {
        try_layernorm_forward(5, widths[i]);
        try_layernorm_backward(7, widths[i]);
        try_cross_entropy(5, widths[i], 0.5, 5);
        for (size_t k = 0; k < COUNT_OF(rates); k++) {
            try_add_layernorm(3, widths[i], rates[k], false);
            try_gelu_forward(3, widths[i], rates[k], false);
            try_gelu_backward(3, widths[i], rates[k], false);
            try_add_dropout_forward(3, widths[i], rates[k], false);
            try_add_dropout_backward(3, widths[i], rates[k]);
        }
    }
    try_top_logits(&list, 0);
    try_sum(1000);
    try_sum_of_squares(1000);
    try_cast(1000);
    try_adamw(1000, 400, 3, 7);
}

static const struct {
    const char *name;
    void (*run)(void);
} families[] = {
    {"each", check_each},
    {"rows", check_rows},       {"loss", check_loss},       {"rope", check_rope},
    {"edges", check_edges},     {"shapes", check_cuda_shapes},
};

/* Returns whether it passes. */
static bool run_family(size_t i)
{
    const int n_failed_before = trials.n_failed;

    trials.n_trials = 0;
    families[i].run();
    const bool ok = trials.n_failed == n_failed_before;
    printf("%s %s\n", ok ? "ok    " : "FAILED", families[i].name);
    fflush(stdout);
    return ok;
}

/* All families, or those that are named. */
static bool is_wanted(const char *family, char **names)
{
    bool wanted = !*names;

    for (; *names; names++)
        wanted = wanted || strcmp(*names, family) == 0;
    return wanted;
}

int main(int argc, char **argv)
{
    const char *seed = getenv("OCTET_TEST_SEED");
    int n_passed = 0, n_failed = 0;

    (void)argc;
    trials.seed = seed ? strtoull(seed, NULL, 10) : 1;
    if (open_devices() != OK) {
        fprintf(stderr, "test_cuda_ops: %s\n", status_message());
        close_devices();
        return 1;
    }
    for (size_t i = 0; i < COUNT_OF(families); i++) {
        if (!is_wanted(families[i].name, argv + 1))
            continue;
        if (run_family(i))
            n_passed++;
        else
            n_failed++;
    }
    close_devices();
    for (int op = 0; op < N_OPS; op++)
        if (trials.n_runs[op] > 0)
            printf("  %-23s %3d trials, largest error %.3f of its tolerance\n", op_calls[op].name,
                   trials.n_runs[op], trials.worst[op]);
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed > 0;
}
