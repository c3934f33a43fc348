#include "ops/real_types.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/element.h"

enum {
    GUARD = 256,
    GUARD_BYTE = 0xa5,
    NAN_BYTE = 0xff,
};

const struct real_type real_float32 = {.name = "float32", .dtype = DTYPE_F32};
const struct real_type real_bfloat16 = {.name = "bfloat16", .dtype = DTYPE_BF16,
                                        .rounding = 0x1p-8};
const struct real_type real_float16 = {.name = "float16", .dtype = DTYPE_F16,
                                       .rounding = 0x1p-11, .smallest = 0x1p-25};

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

/* ---- one run ---- */

/* Memory before and after a call, on the host. */
struct run {
    const struct trial *trial;
    const struct typed_kernels *kernels;
    enum dtype real;
    bool shifted;               /* operands are one element behind their alignment */
    struct tensor tensors[MAX_OPERANDS];    /* of `after` */
    unsigned char *before, *after;
    size_t size;
};

static void run_fail(const struct run *run, const char *what)
{
    trials_fail("%s(%s), %s, %s%s: %s", op_calls[run->trial->op].name, run->trial->shape,
                run->kernels->name, run->kernels->real->name,
                run->shifted ? ", not aligned" : "", what);
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

/* Where the operands lie, as offsets from NULL. */
static void place_operands(struct run *run)
{
    const struct trial *t = run->trial;

    run->size = GUARD;
    for (int i = 0; i < t->n_operands; i++) {
        struct tensor *tensor = &run->tensors[i];
        *tensor = t->operands[i].shape;
        tensor->dtype = operand_dtype(t, i, run->real);
        if (t->operands[i].role == ROLE_ABSENT || t->operands[i].same_as >= 0)
            continue;
        tensor->data = (void *)(run->size + (run->shifted ? dtype_size(tensor->dtype) : 0));
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
        fprintf(stderr, "no memory for a trial\n");
        exit(1);
    }
    memset(memory, GUARD_BYTE, size);
    return memory;
}

/* Values of real type are rounded to the kernels' first. */
static void write_operands(struct run *run)
{
    const struct trial *t = run->trial;

    for (int i = 0; i < t->n_operands; i++) {
        const struct operand *operand = &t->operands[i];
        const struct tensor *tensor = &run->tensors[i];
        const enum dtype rounding = operand_dtype(t, i, run->kernels->real->dtype);
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
    trials_poison_scratch(dev);
    TRY_GOTO(status, op_calls[run->trial->op].run(dev, tensors, &run->trial->arguments), done);
    status = device_download(dev, run->after, memory, run->size);
done:
    device_free(dev, memory, run->size);
    return status;
}

static void check_untouched(const struct run *run)
{
    const struct trial *t = run->trial;
    unsigned char *expected = host_memory(run->size);

    memcpy(expected, run->before, run->size);
    for (int i = 0; i < t->n_operands; i++)
        if (operand_is_output(&t->operands[i]))
            memcpy(expected + (size_t)run->tensors[i].data,
                   run->after + (size_t)run->tensors[i].data, tensor_bytes(&run->tensors[i]));
    if (memcmp(expected, run->after, run->size) != 0)
        run_fail(run, "wrote where it must not");
    free(expected);
}

/* The trial on `dev`, in the type `real`, with inputs that are numbers of the kernels' type. */
static struct run run_trial(const struct trial *t, const struct typed_kernels *kernels,
                            struct device *dev, enum dtype real, bool shifted)
{
    struct run run = {.trial = t, .kernels = kernels, .real = real, .shifted = shifted};

    place_operands(&run);
    run.before = host_memory(run.size);
    run.after = host_memory(run.size);
    write_operands(&run);
    if (call(&run, dev) != OK)
        run_fail(&run, status_message());
    else
        check_untouched(&run);
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
 * `expected` was stored in that type too, and of what is rounded on the way to it. Where only
 * the result is rounded, it is to the nearest. A copy of updated weights is as exact as they are. */
static double tolerance(const struct run *run, int operand, int64_t i, double expected)
{
    const struct operand *o = &run->trial->operands[operand];
    const double roundings = o->expected ? o->expected[i].error : fabs(expected);
    const double between = o->between ? o->between[i] : 0;
    const struct real_type *real = run->kernels->real;
    const int n_stored = op_calls[run->trial->op].fused ? 2 : 1;

    if (run->tensors[operand].dtype == DTYPE_I32)
        return 0;
    if (o->expected && roundings <= 0 && between <= 0 && n_stored == 1)
        return 0;
    if (run->tensors[operand].dtype == DTYPE_F64)
        return 4 * 0x1p-53 * roundings;
    if (run->tensors[operand].dtype == DTYPE_F32)
        return 4 * 0x1p-24 * roundings;
    return 4 * 0x1p-24 * roundings + real->rounding * between +
           n_stored * (real->rounding * fabs(expected) + real->smallest);
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

static void compare(const struct run *run, const struct run *base)
{
    const struct trial *t = run->trial;

    for (int i = 0; i < t->n_operands; i++) {
        const struct tensor *tensor = &run->tensors[i], *base_tensor = &base->tensors[i];
        if (!operand_is_output(&t->operands[i]))
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
            run_fail(run, text);
            break;
        }
    }
}

static void check_kernels(const struct trial *t, const struct typed_kernels *kernels)
{
    const enum dtype real = kernels->real->dtype;
    struct run base, first;

    if (op_calls[t->op].fused && kernels->composed)
        base = run_trial(t, kernels, kernels->composed, real, false);
    else
        base = run_trial(t, kernels, trials.subjects[0].devices[0], DTYPE_F32, false);
    first = run_trial(t, kernels, kernels->devices[0], real, false);
    compare(&first, &base);
    for (int i = 1; i < MAX_THREADS && kernels->devices[i]; i++) {
        struct run other = run_trial(t, kernels, kernels->devices[i], real, false);
        if (memcmp(first.after, other.after, first.size) != 0)
            run_fail(&other, "the result differs from that of one thread");
        run_free(&other);
    }
    struct run shifted = run_trial(t, kernels, kernels->devices[0], real, true);
    compare(&shifted, &base);
    run_free(&shifted);
    run_free(&first);
    run_free(&base);
}

void trial_types(struct trial *t, const struct typed_kernels *kernels, int n_kernels)
{
    const struct operand no_copy = t->operands[4];

    if (t->op == OP_ADAMW)
        t->operands[4] = (struct operand){.name = "copy", .role = ROLE_OUTPUT, .same_as = -1,
                                          .shape = t->operands[0].shape};
    for (int i = 0; i < n_kernels; i++)
        check_kernels(t, &kernels[i]);
    if (t->op == OP_ADAMW)
        t->operands[4] = no_copy;
}
