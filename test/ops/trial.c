#include "ops/trial.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/element.h"

struct trials trials = {.nan_at = -1};

/* A result passes within this many times the error bound that number.h works out, which is to first
 * order, and for one order of each sum. A wrong term, sign, index or mask is off by its own size,
 * thousands of times more. */
static const double TOLERANCE = 2;

enum {
    GUARD = 256,            /* bytes before and behind every operand, and their alignment */
    GUARD_BYTE = 0xa5,
    NAN_BYTE = 0xff,        /* all ones are NaN in every floating-point format */
    MAX_MESSAGES = 100,
};

/* ---- devices ---- */

enum status trials_open_cpu(struct device **dev, int n_threads, const struct op_table *table,
                            enum dtype real, const char *name)
{
    /* More than any trial asks for. */
    const struct op_limits limits = {.rows = 1 << 14, .width = 4096, .max_seq_len = 1024,
                                     .heads = 16, .head_size = 128, .vocab_size = 1 << 16,
                                     .params = 1 << 28};

    TRY(cpu_device_create_with(dev, 0, n_threads, table, real, name));
    return device_reserve(*dev, &limits);
}

/* What small trials use of it. */
void trials_poison_scratch(struct device *dev)
{
    enum { FRONT = 1 << 18 };

    if (strcmp(dev->memory->backend, "cpu") != 0)
        return;
    const struct cpu_device *cpu = cpu_device(dev);
    memset(cpu->scratch, NAN_BYTE, cpu->shared_bytes < FRONT ? cpu->shared_bytes : FRONT);
    for (int i = 0; i < team_size(cpu->team); i++)
        memset(cpu_thread_scratch(dev, i), NAN_BYTE,
               cpu->thread_bytes < FRONT ? cpu->thread_bytes : FRONT);
}

enum status trials_open(void)
{
    struct cpu_variant variants[CPU_MAX_VARIANTS];
    const int n_variants = cpu_variants(variants, DTYPE_F32);

    for (int i = 0; i < 2 * n_variants; i++) {
        const struct cpu_variant *variant = &variants[i / 2];
        struct subject *subject = &trials.subjects[trials.n_subjects];
        if (!variant->usable)
            continue;
        trials.n_subjects++;
        subject->composed = i % 2 == 1;
        snprintf(subject->name, sizeof subject->name, "%s%s", variant->name,
                 subject->composed ? " composed" : "");
        variant->fill(&subject->table);
        if (subject->composed) {
            subject->table.linear_gelu_forward = NULL;
            subject->table.add_layernorm_forward = NULL;
            ops_complete(&subject->table);
        }
        for (int k = 0; k < MAX_THREADS; k++)
            TRY(trials_open_cpu(&subject->devices[k], k + 1, &subject->table, DTYPE_F32,
                                subject->name));
    }
    return OK;
}

void trials_close(void)
{
    for (int i = 0; i < trials.n_subjects; i++)
        for (int k = 0; k < MAX_THREADS; k++)
            device_destroy(trials.subjects[i].devices[k]);
}

void trials_fail(const char *format, ...)
{
    va_list args;

    if (++trials.n_failed == MAX_MESSAGES)
        printf("  further failures are counted only\n");
    if (trials.n_failed >= MAX_MESSAGES)
        return;
    printf("  ");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf(" (OCTET_TEST_SEED=%" PRIu64 ")\n", trials.seed);
}

/* ---- operands ---- */

static void *zeroed(int64_t count, size_t size)
{
    void *memory = calloc((size_t)count, size);

    if (!memory) {
        fprintf(stderr, "test_ops: no memory for %" PRId64 " numbers\n", count);
        exit(1);
    }
    return memory;
}

struct number *trial_numbers(int64_t count)
{
    return zeroed(count, sizeof(struct number));
}

void trial_begin(struct trial *t, enum op op, const char *shape, ...)
{
    va_list args;

    *t = (struct trial){.op = op};
    va_start(args, shape);
    vsnprintf(t->shape, sizeof t->shape, shape, args);
    va_end(args);
    trials.n_trials++;
}

static struct operand *add_operand(struct trial *t, const char *name, enum role role,
                                   struct tensor shape)
{
    struct operand *operand = &t->operands[t->n_operands++];
    const int64_t count = tensor_count(&shape);

    *operand = (struct operand){.name = name, .role = role, .shape = shape, .same_as = -1};
    if (role == ROLE_INPUT || role == ROLE_UPDATE)
        operand->before = zeroed(count, sizeof *operand->before);
    if (role == ROLE_OUTPUT || role == ROLE_UPDATE)
        operand->expected = trial_numbers(count);
    return operand;
}

/* Element i of the operand that is being declared. */
static struct rng_block random_block(const struct trial *t, int64_t i)
{
    return rng_philox(trials.seed, RNG_TEST, (uint32_t)t->n_operands, trials.n_trials,
                      (uint64_t)i);
}

static void fill_random(struct trial *t, double *values, int64_t count, double scale)
{
    for (int64_t i = 0; i < count; i += 4) {
        const struct rng_block random = random_block(t, i / 4);
        for (int64_t j = i; j < i + 4 && j < count; j++) {
            const double uniform = (double)rng_uniform(random.word[j - i]);
            values[j] = (double)(float)(scale * (2 * uniform - 1));
        }
    }
    if (trials.nan_at >= 0 && !t->has_nan)
        values[trials.nan_at % count] = NAN;
    t->has_nan = true;
}

double *trial_input(struct trial *t, const char *name, struct tensor shape, double scale)
{
    double *values = add_operand(t, name, ROLE_INPUT, shape)->before;

    fill_random(t, values, tensor_count(&shape), scale);
    return values;
}

double *trial_ids(struct trial *t, const char *name, struct tensor shape, int64_t n)
{
    double *values = add_operand(t, name, ROLE_INPUT, shape)->before;

    for (int64_t i = 0; i < tensor_count(&shape); i++)
        values[i] = (double)(random_block(t, i).word[0] % (uint64_t)n);
    return values;
}

double *trial_rounded(struct trial *t, const char *name, struct tensor shape,
                      const struct number *numbers)
{
    double *values = add_operand(t, name, ROLE_INPUT, shape)->before;

    for (int64_t i = 0; numbers && i < tensor_count(&shape); i++)
        values[i] = (double)(float)numbers[i].value;
    return values;
}

void trial_absent(struct trial *t)
{
    t->operands[t->n_operands++] = (struct operand){.role = ROLE_ABSENT};
}

struct number *trial_output(struct trial *t, const char *name, struct tensor shape)
{
    return add_operand(t, name, ROLE_OUTPUT, shape)->expected;
}

struct number *trial_output_over(struct trial *t, const char *name, struct tensor shape,
                                 int same_as)
{
    struct operand *operand = add_operand(t, name, ROLE_OUTPUT, shape);

    operand->same_as = same_as;
    return operand->expected;
}

struct number *trial_update(struct trial *t, const char *name, struct tensor shape, double scale)
{
    struct operand *operand = add_operand(t, name, ROLE_UPDATE, shape);
    const int64_t count = tensor_count(&shape);

    fill_random(t, operand->before, count, scale);
    for (int64_t i = 0; operand->expected && i < count; i++)
        operand->expected[i] = exact(operand->before[i]);
    return operand->expected;
}

double *trial_between(struct trial *t)
{
    struct operand *operand = &t->operands[t->n_operands - 1];

    operand->between = zeroed(tensor_count(&operand->shape), sizeof *operand->between);
    return operand->between;
}

struct dropout trial_dropout(double rate, int64_t first_row)
{
    return (struct dropout){.rate = rate, .seed = 0x9876543210abcdef ^ trials.seed,
                            .step = 70000, .site = 321, .first_row = first_row};
}

/* ---- the memory of a run ---- */

static size_t operand_bytes(const struct operand *operand)
{
    return (size_t)tensor_count(&operand->shape) * dtype_size(operand->shape.dtype);
}

/* Place the operands; returns the bytes of all. */
static size_t place_operands(struct trial *t)
{
    size_t end = GUARD;

    for (int i = 0; i < t->n_operands; i++) {
        struct operand *operand = &t->operands[i];
        if (operand->role == ROLE_ABSENT || operand->same_as >= 0)
            continue;
        operand->offset = end;
        end += (operand_bytes(operand) + 2 * GUARD - 1) / GUARD * GUARD;
    }
    for (int i = 0; i < t->n_operands; i++)
        if (t->operands[i].same_as >= 0)
            t->operands[i].offset = t->operands[t->operands[i].same_as].offset;
    return end;
}

/* All memory as it is before the call. */
static unsigned char *image_before(const struct trial *t, size_t size)
{
    unsigned char *image = zeroed((int64_t)size, 1);

    memset(image, GUARD_BYTE, size);
    for (int i = 0; i < t->n_operands; i++) {
        const struct operand *operand = &t->operands[i];
        if (operand->role == ROLE_ABSENT || operand->same_as >= 0)
            continue;
        unsigned char *memory = image + operand->offset;
        memset(memory, NAN_BYTE, operand_bytes(operand));
        for (int64_t k = 0; operand->before && k < tensor_count(&operand->shape); k++)
            write_element(memory, operand->shape.dtype, k, operand->before[k]);
    }
    return image;
}

static void make_tensors(const struct trial *t, void *memory, struct tensor *tensors)
{
    for (int i = 0; i < t->n_operands; i++) {
        tensors[i] = t->operands[i].shape;
        if (t->operands[i].role != ROLE_ABSENT)
            tensors[i].data = (char *)memory + t->operands[i].offset;
    }
}

/* ---- checking ---- */

/* Where the run stands, for messages. */
struct run {
    const struct trial *trial;
    const struct subject *subject;
    int threads;
};

static void run_fail(const struct run *run, const char *what)
{
    trials_fail("%s(%s), %s, %d threads: %s", op_calls[run->trial->op].name, run->trial->shape,
                run->subject->name, run->threads, what);
}

static double tolerance_of(struct number expected, enum dtype dtype)
{
    return TOLERANCE * (dtype == DTYPE_F64 ? 0x1p-53 : 0x1p-24) * expected.error;
}

/* The error in parts of the tolerance: at most 1 passes, and NaN does not. */
static double relative_error(double value, struct number expected, enum dtype dtype)
{
    const double difference = fabs(value - expected.value);

    if (isnan(expected.value))
        return isnan(value) ? 0 : NAN;
    if (value == expected.value || (isinf(expected.error) && !isnan(value)))
        return 0;
    return difference / tolerance_of(expected, dtype);
}

static void check_output(const struct run *run, const struct operand *operand,
                         const unsigned char *after)
{
    const unsigned char *memory = after + operand->offset;
    const int64_t count = tensor_count(&operand->shape);
    double *worst = &trials.worst[run->trial->op];
    int64_t n_wrong = 0, first = 0;

    for (int64_t i = 0; i < count; i++) {
        const double value = read_element(memory, operand->shape.dtype, i);
        const double error = relative_error(value, operand->expected[i], operand->shape.dtype);
        if (!(error <= 1) && n_wrong++ == 0)
            first = i;
        if (error > *worst)
            *worst = error;
    }
    if (n_wrong == 0)
        return;
    char text[200];
    snprintf(text, sizeof text, "%s[%" PRId64 "] is %.9g, expected %.9g within %.3g; %" PRId64
             " of %" PRId64 " elements are wrong", operand->name, first,
             read_element(memory, operand->shape.dtype, first), operand->expected[first].value,
             tolerance_of(operand->expected[first], operand->shape.dtype), n_wrong, count);
    run_fail(run, text);
}

/* The first operand that is within `reach` bytes of the byte `at`; of outputs only, or of all. */
static const struct operand *operand_at(const struct trial *t, size_t at, size_t reach,
                                        bool outputs_only)
{
    for (int i = 0; i < t->n_operands; i++) {
        const struct operand *operand = &t->operands[i];
        if (operand->role == ROLE_ABSENT || (outputs_only && !operand_is_output(operand)))
            continue;
        if (operand->offset < at + reach + 1 &&
            at < operand->offset + operand_bytes(operand) + reach)
            return operand;
    }
    return NULL;
}

/* Inputs and guard bands: what is not an output is as it was. */
static void check_untouched(const struct run *run, const unsigned char *before,
                            const unsigned char *after, size_t size)
{
    const struct trial *t = run->trial;

    for (size_t at = 0; at < size; at++) {
        if (before[at] == after[at] || operand_at(t, at, 0, true))
            continue;
        const struct operand *near = operand_at(t, at, GUARD, false);
        char text[100];
        snprintf(text, sizeof text, "wrote where it must not, %td bytes from the start of %s",
                 (ptrdiff_t)at - (ptrdiff_t)near->offset, near->name);
        run_fail(run, text);
        return;
    }
}

static enum status run_once(const struct trial *t, struct device *dev, const unsigned char *before,
                            unsigned char *after, size_t size)
{
    struct tensor tensors[MAX_OPERANDS] = {0};
    void *memory;
    enum status status;

    TRY(device_alloc(dev, size, &memory));
    TRY_GOTO(status, device_upload(dev, memory, before, size), done);
    make_tensors(t, memory, tensors);
    trials_poison_scratch(dev);
    TRY_GOTO(status, op_calls[t->op].run(dev, tensors, &t->arguments), done);
    status = device_download(dev, after, memory, size);
done:
    device_free(dev, memory, size);
    return status;
}

static void check_subject(const struct trial *t, const struct subject *subject,
                          const unsigned char *before, size_t size)
{
    unsigned char *first = zeroed((int64_t)size, 1), *after = zeroed((int64_t)size, 1);

    for (int i = 0; i < MAX_THREADS; i++) {
        const struct run run = {t, subject, i + 1};
        if (run_once(t, subject->devices[i], before, after, size) != OK) {
            run_fail(&run, status_message());
            continue;
        }
        if (i == 0) {
            memcpy(first, after, size);
            check_untouched(&run, before, after, size);
            for (int k = 0; k < t->n_operands; k++)
                if (operand_is_output(&t->operands[k]))
                    check_output(&run, &t->operands[k], after);
        } else if (memcmp(first, after, size) != 0) {
            run_fail(&run, "the result differs from that of one thread");
        }
    }
    free(first);
    free(after);
}

void trial_run(struct trial *t)
{
    const size_t size = place_operands(t);
    unsigned char *before = image_before(t, size);

    trials.n_runs[t->op]++;
    for (int i = 0; i < trials.n_subjects; i++) {
        const struct subject *subject = &trials.subjects[i];
        if (subject->composed && !op_calls[t->op].fused)
            continue;
        check_subject(t, subject, before, size);
    }
    free(before);
    if (trials.try_types)
        trials.try_types(t);
    for (int i = 0; i < t->n_operands; i++) {
        free(t->operands[i].before);
        free(t->operands[i].between);
        free(t->operands[i].expected);
    }
}
