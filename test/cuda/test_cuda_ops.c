/* test_cuda_ops.c - the CUDA kernels in the trials of test/ops.
 *
 * In float32 a trial compares them with its plain reference, as it does the CPU's. The linker's
 * --wrap=trial_run makes each trial in other ways first: in the 16-bit types, which must give what
 * float32 makes of the same, rounded operands, rounded once more; and in all types with operands
 * one element off their alignment. Fused operations of a 16-bit type round in between, so they are
 * compared with their compositions. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda.h"
#include "device/gpu.h"
#include "ops/checks.h"

enum {
    GUARD = 256,
    GUARD_BYTE = 0xa5,
    NAN_BYTE = 0xff,
    N_REALS = 3,
};

void __real_trial_run(struct trial *t);
void __wrap_trial_run(struct trial *t);

/* What the trials ask for, and no more: scratch memory is taken for every device. */
static const struct op_limits limits = {.rows = 4608, .width = 3 * 16392, .max_seq_len = 1,
                                        .heads = 1, .head_size = 1, .vocab_size = 1 << 16,
                                        .params = 1};

/* A type of activations. */
static struct real_type {
    const char *name;
    enum dtype dtype;
    double rounding;            /* what storing a number in it costs, relative to the number ... */
    double smallest;            /* ... and where numbers are subnormal */
    struct device *dev, *composed;
} reals_tested[N_REALS] = {
    {.name = "float32", .dtype = DTYPE_F32},
    {.name = "bfloat16", .dtype = DTYPE_BF16, .rounding = 0x1p-8},
    {.name = "float16", .dtype = DTYPE_F16, .rounding = 0x1p-11, .smallest = 0x1p-25},
};

static struct op_table composed_table;

/* The operands of each operation that are of master type. */
#define BIT(operand) (1u << (operand))
static const unsigned master_operands[N_OPS] = {
    [OP_EMBEDDING_BACKWARD] = BIT(0) | BIT(1),
    [OP_LAYERNORM_FORWARD] = BIT(1) | BIT(2),
    [OP_LAYERNORM_BACKWARD] = BIT(1) | BIT(2) | BIT(6) | BIT(7),
    [OP_LINEAR_BACKWARD_WEIGHT] = BIT(0) | BIT(1),
    [OP_ATTENTION_FORWARD] = BIT(1),
    [OP_ATTENTION_BACKWARD] = BIT(3),
    [OP_CROSS_ENTROPY] = BIT(0) | BIT(1),
    [OP_TOP_LOGITS] = BIT(0),
    [OP_CAST] = BIT(1),
    [OP_SUM] = BIT(0) | BIT(1),
    [OP_SUM_OF_SQUARES] = BIT(0) | BIT(1),
    [OP_ADAMW] = BIT(0) | BIT(1) | BIT(2) | BIT(3),
    [OP_ADD_LAYERNORM_FORWARD] = BIT(2) | BIT(3),
};

/* ---- 16-bit numbers ---- */

static uint16_t bfloat16_bits(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    if (isnan(x))
        return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static double bfloat16_value(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float x;

    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

static uint16_t float16_bits(float x)
{
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    const double size = fabs((double)x);
    int exponent;

    if (isnan(x))
        return 0x7fff;
    if (size >= 65520)
        return sign | 0x7c00;
    if (size < 0x1p-14)
        return sign | (uint16_t)nearbyint(size * 0x1p24);
    const double fraction = frexp(size, &exponent);
    /* Rounding up to the next power of two carries into the exponent by itself. */
    return sign | (uint16_t)(((exponent + 14) << 10) + (int)nearbyint(fraction * 2048) - 1024);
}

static double float16_value(uint16_t half)
{
    const int exponent = half >> 10 & 0x1f, fraction = half & 0x3ff;
    double size = ldexp(1024 + fraction, exponent - 25);

    if (exponent == 0)
        size = fraction * 0x1p-24;
    if (exponent == 31)
        size = fraction ? (double)NAN : (double)INFINITY;
    return half & 0x8000 ? -size : size;
}

static void write_element(unsigned char *memory, enum dtype dtype, int64_t i, double value)
{
    switch (dtype) {
    case DTYPE_F32:
        memcpy(memory + 4 * i, &(float){(float)value}, 4);
        break;
    case DTYPE_F64:
        memcpy(memory + 8 * i, &value, 8);
        break;
    case DTYPE_BF16:
        memcpy(memory + 2 * i, &(uint16_t){bfloat16_bits((float)value)}, 2);
        break;
    case DTYPE_F16:
        memcpy(memory + 2 * i, &(uint16_t){float16_bits((float)value)}, 2);
        break;
    default:
        memcpy(memory + 4 * i, &(int32_t){(int32_t)value}, 4);
    }
}

static double read_element(const unsigned char *memory, enum dtype dtype, int64_t i)
{
    float single;
    double value;
    uint16_t half;
    int32_t whole;

    switch (dtype) {
    case DTYPE_F32:
        memcpy(&single, memory + 4 * i, 4);
        return (double)single;
    case DTYPE_F64:
        memcpy(&value, memory + 8 * i, 8);
        return value;
    case DTYPE_I32:
        memcpy(&whole, memory + 4 * i, 4);
        return whole;
    default:
        memcpy(&half, memory + 2 * i, 2);
        return dtype == DTYPE_BF16 ? bfloat16_value(half) : float16_value(half);
    }
}

static double rounded_to(double value, enum dtype dtype)
{
    unsigned char memory[8];

    write_element(memory, dtype, 0, value);
    return read_element(memory, dtype, 0);
}

/* ---- one run ---- */

/* Memory before and after a call, on the host. */
struct run {
    const struct trial *trial;
    const struct real_type *real;
    struct tensor tensors[MAX_OPERANDS];    /* of `after` */
    unsigned char *before, *after;
    size_t size;
};

static void run_fail(const struct run *run, bool shifted, const char *what)
{
    trials_fail("%s(%s), %s%s: %s", op_calls[run->trial->op].name, run->trial->shape,
                run->real->name, shifted ? ", not aligned" : "", what);
}

static bool is_output(const struct operand *operand)
{
    return operand->role == ROLE_OUTPUT || operand->role == ROLE_UPDATE;
}

static enum dtype operand_dtype(const struct trial *t, int i, enum dtype real)
{
    const enum dtype dtype = t->operands[i].shape.dtype;

    return dtype == DTYPE_F32 && !(master_operands[t->op] & BIT(i)) ? real : dtype;
}

static size_t tensor_bytes(const struct tensor *t)
{
    return (size_t)tensor_count(t) * dtype_size(t->dtype);
}

/* Where the operands lie, as offsets from NULL; `shift` elements behind their alignment. */
static void place_operands(struct run *run, int shift)
{
    const struct trial *t = run->trial;

    run->size = GUARD;
    for (int i = 0; i < t->n_operands; i++) {
        struct tensor *tensor = &run->tensors[i];
        *tensor = t->operands[i].shape;
        tensor->dtype = operand_dtype(t, i, run->real->dtype);
        if (t->operands[i].role == ROLE_ABSENT || t->operands[i].same_as >= 0)
            continue;
        tensor->data = (void *)(run->size + (size_t)shift * dtype_size(tensor->dtype));
        run->size += (tensor_bytes(tensor) + 3 * GUARD - 1) / GUARD * GUARD;
    }
    for (int i = 0; i < t->n_operands; i++)
        if (t->operands[i].role != ROLE_ABSENT && t->operands[i].same_as >= 0)
            run->tensors[i].data = run->tensors[t->operands[i].same_as].data;
}

static unsigned char *host_memory(size_t size)
{
    unsigned char *memory = malloc(size);

    if (!memory) {
        fprintf(stderr, "test_cuda_ops: no memory\n");
        exit(1);
    }
    memset(memory, GUARD_BYTE, size);
    return memory;
}

/* Values of real type are rounded to `inputs` first. */
static void write_operands(struct run *run, enum dtype inputs)
{
    const struct trial *t = run->trial;

    for (int i = 0; i < t->n_operands; i++) {
        const struct operand *operand = &t->operands[i];
        const struct tensor *tensor = &run->tensors[i];
        const enum dtype rounding = operand_dtype(t, i, inputs);
        if (operand->role == ROLE_ABSENT || operand->same_as >= 0)
            continue;
        unsigned char *memory = run->before + (size_t)tensor->data;
        memset(memory, NAN_BYTE, tensor_bytes(tensor));
        for (int64_t k = 0; operand->before && k < tensor_count(tensor); k++)
            write_element(memory, tensor->dtype, k,
                          rounding == DTYPE_I32 ? operand->before[k]
                                                : rounded_to(operand->before[k], rounding));
    }
}

static enum status call(struct run *run, struct device *dev)
{
    struct tensor tensors[MAX_OPERANDS];
    enum status status;
    void *memory;

    TRY(device_alloc(dev, run->size, &memory));
    TRY_GOTO(status, device_upload(dev, memory, run->before, run->size), done);
    for (int i = 0; i < run->trial->n_operands; i++) {
        tensors[i] = run->tensors[i];
        if (run->trial->operands[i].role != ROLE_ABSENT)
            tensors[i].data = (char *)memory + (size_t)tensors[i].data;
    }
    TRY_GOTO(status, op_calls[run->trial->op].run(dev, tensors, &run->trial->arguments), done);
    status = device_download(dev, run->after, memory, run->size);
done:
    device_free(dev, memory, run->size);
    return status;
}

static void check_untouched(const struct run *run, bool shifted)
{
    const struct trial *t = run->trial;
    unsigned char *expected = host_memory(run->size);

    memcpy(expected, run->before, run->size);
    for (int i = 0; i < t->n_operands; i++)
        if (is_output(&t->operands[i]))
            memcpy(expected + (size_t)run->tensors[i].data,
                   run->after + (size_t)run->tensors[i].data, tensor_bytes(&run->tensors[i]));
    if (memcmp(expected, run->after, run->size) != 0)
        run_fail(run, shifted, "wrote where it must not");
    free(expected);
}

/* The trial on `dev`, in the type of `real`, with inputs that are numbers of the type `inputs`. */
static struct run run_trial(const struct trial *t, const struct real_type *real,
                            struct device *dev, enum dtype inputs, int shift)
{
    struct run run = {.trial = t, .real = real};

    place_operands(&run, shift);
    run.before = host_memory(run.size);
    run.after = host_memory(run.size);
    write_operands(&run, inputs);
    if (call(&run, dev) != OK)
        run_fail(&run, shift > 0, status_message());
    else
        check_untouched(&run, shift > 0);
    return run;
}

static void run_free(struct run *run)
{
    free(run->before);
    free(run->after);
}

/* ---- comparison ---- */

/* How far an element may be from what it is compared with: the errors of two computations in
 * float32 (in double where the result is), and the rounding of what is stored, twice where
 * `expected` was stored in that type too. A copy of updated weights is as exact as they are. */
static double tolerance(const struct run *run, int operand, int64_t i, double expected)
{
    const struct number *numbers = run->trial->operands[operand].expected;
    const double roundings = numbers ? numbers[i].error : fabs(expected);
    const struct real_type *real = run->real;
    const int n_stored = op_calls[run->trial->op].fused ? 2 : 1;

    if (run->tensors[operand].dtype == DTYPE_I32)
        return 0;
    if (run->tensors[operand].dtype == DTYPE_F64)
        return 4 * 0x1p-53 * roundings;
    if (run->tensors[operand].dtype == DTYPE_F32)
        return 4 * 0x1p-24 * roundings;
    return 4 * 0x1p-24 * roundings + n_stored * (real->rounding * fabs(expected) + real->smallest);
}

static bool close_enough(const struct run *run, int operand, int64_t i, double value,
                         double expected)
{
    if (isnan(expected))
        return isnan(value);
    /* Too large for this type is infinite in it. */
    if (value == rounded_to(expected, run->tensors[operand].dtype))
        return true;
    return fabs(value - expected) <= tolerance(run, operand, i, expected);
}

static void compare(const struct run *run, const struct run *base, bool shifted)
{
    const struct trial *t = run->trial;

    for (int i = 0; i < t->n_operands; i++) {
        const struct tensor *tensor = &run->tensors[i], *base_tensor = &base->tensors[i];
        if (!is_output(&t->operands[i]))
            continue;
        for (int64_t k = 0; k < tensor_count(tensor); k++) {
            const double value = read_element(run->after + (size_t)tensor->data, tensor->dtype, k);
            const double expected = read_element(base->after + (size_t)base_tensor->data,
                                                 base_tensor->dtype, k);
            char text[120];
            if (close_enough(run, i, k, value, expected))
                continue;
            snprintf(text, sizeof text, "%s[%" PRId64 "] is %.9g, expected %.9g within %.3g",
                     t->operands[i].name, k, value, expected, tolerance(run, i, k, expected));
            run_fail(run, shifted, text);
            break;
        }
    }
}

static void compare_types(const struct trial *t)
{
    for (int r = 0; r < N_REALS; r++) {
        const struct real_type *real = &reals_tested[r], *single = &reals_tested[0];
        const bool composed = op_calls[t->op].fused && r > 0;
        struct run base = composed ? run_trial(t, real, real->composed, real->dtype, 0)
                                   : run_trial(t, single, single->dev, real->dtype, 0);
        struct run aligned = run_trial(t, real, real->dev, real->dtype, 0);
        struct run shifted = run_trial(t, real, real->dev, real->dtype, 1);
        compare(&aligned, &base, false);
        compare(&shifted, &base, true);
        run_free(&base);
        run_free(&aligned);
        run_free(&shifted);
    }
}

void __wrap_trial_run(struct trial *t)
{
    const struct operand no_copy = t->operands[4];

    if (t->op == OP_ADAMW)
        t->operands[4] = (struct operand){.name = "copy", .role = ROLE_OUTPUT, .same_as = -1,
                                          .shape = t->operands[0].shape};
    compare_types(t);
    if (t->op == OP_ADAMW)
        t->operands[4] = no_copy;
    __real_trial_run(t);
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
    for (int r = 0; r < N_REALS; r++) {
        TRY(open_device(&reals_tested[r].dev, reals_tested[r].dtype));
        TRY(open_device(&reals_tested[r].composed, reals_tested[r].dtype));
        reals_tested[r].composed->ops = &composed_table;
    }
    *subject = (struct subject){.name = "CUDA", .table = *cuda_ops()};
    for (int i = 0; i < MAX_THREADS; i++)
        TRY(open_device(&subject->devices[i], DTYPE_F32));
    trials.n_subjects = 1;
    return OK;
}

static void close_devices(void)
{
    trials_close();
    for (int r = 0; r < N_REALS; r++) {
        device_destroy(reals_tested[r].dev);
        device_destroy(reals_tested[r].composed);
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
