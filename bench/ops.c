/* ops - how fast each operation is on the CPU at the sizes of a model, in every compiled version of
 * the kernels, and how near to what the machine can do, which is measured first.
 *
 *     build/bench/ops [CONFIG.ini] [--threads N] [--op NAME] [--set section.key=value]...
 *
 * A rate counts each input read once and each output written once, in GB/s; or the operations of
 * matrix products, of causal attention the half that is needed, in GF/s: whichever takes the
 * machine longer at best. The share is of that best. For what is moved it is the rate of reading
 * where it is only read, and that of updating where it is written: those of memory if the operands
 * are larger than the last cache, else those of 1 MiB a thread. So the arithmetic of GELU, or of
 * dropout's random numbers, shows as a low share. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "device/cpu.h"
#include "gpu/cases.h"
#include "ops/element.h"
#include "ops_ceilings.h"
#include "train/run.h"

enum {
    BYTE_VOCABULARY = 256,          /* where the configuration leaves it to the tokenizer */
    MIN_CALLS = 3,
    MAX_CALLS = 999,
    N_RANDOM = 1 << 18,             /* elements of an operand, before they repeat */
};

/* Of one version's calls of an operation; and of the first MIN_CALLS of them at most. */
static const double CELL_SECONDS = 0.15, SLOW_CELL_SECONDS = 1.5;
/* What the last lines of the output name. */
static const double LOW_SHARE = 0.5;

struct settings {
    int64_t threads;
    const char *op;
};

static const struct option rows[] = {
    {.flag = "threads", .placeholder = "N", .type = OPTION_INT, .min = 0, .max = 1024,
     .offset = offsetof(struct settings, threads), .default_value = "0",
     .help = "threads to compute with; 0: one for each core"},
    {.flag = "op", .placeholder = "NAME", .type = OPTION_ARGUMENT,
     .offset = offsetof(struct settings, op),
     .help = "time only the operations whose names begin so"},
};
static const struct option_table bench_options = {.rows = rows, .n_rows = 2};
static const struct option_table *const tables[] = {&bench_options, &config_options};

/* A compiled table of kernels that this machine can run. */
struct version {
    const char *name;
    struct op_table table;
    struct device *dev;
};

/* All versions for one type of activations; the fastest is the first. */
struct block {
    const char *name;
    enum dtype real;
    struct version versions[CPU_MAX_VARIANTS];
    int n_versions;
    struct op_case cases[MAX_CASES];
    double shares[MAX_CASES];       /* of the fastest version; 0: not timed */
    int n_cases;
};

enum { N_BLOCKS = 2 };

struct bench {
    struct settings settings;
    struct shape shape;
    struct ceilings ceilings;
    struct block blocks[N_BLOCKS];
};

/* ---- what is timed ---- */

/* A linear layer on the newest token alone: its weights are what takes the time. */
static void add_one_row(struct block *b, int64_t k, int64_t m, bool bias)
{
    struct op_case *c = &b->cases[b->n_cases++];
    const struct tensor shapes[] = {
        tensor_2d(NULL, b->real, 1, m), tensor_2d(NULL, b->real, 1, k),
        tensor_2d(NULL, b->real, m, k), tensor_1d(NULL, b->real, m),
    };

    *c = (struct op_case){.op = OP_LINEAR_FORWARD, .n_operands = 4,
                          .flops = 2 * (double)k * (double)m};
    snprintf(c->name, sizeof c->name, "%s", op_calls[c->op].name);
    snprintf(c->sizes, sizeof c->sizes, "1 x %d -> %d%s", (int)k, (int)m, bias ? " + bias" : "");
    for (int i = 0; i < c->n_operands; i++)
        c->operands[i] = (struct operand){.role = i == 0 ? ROLE_WRITTEN : ROLE_READ,
                                          .shape = shapes[i], .touched = tensor_count(&shapes[i])};
    if (!bias)
        c->operands[3] = (struct operand){.role = ROLE_ABSENT};
}

/* The GPUs' cases are of bfloat16. In float32 the weights are computed with as they are, and AdamW
 * has no copy to write. */
static void add_cases(struct block *b, const struct shape *shape)
{
    const struct model_config *m = &shape->config;

    b->n_cases = cases_of(b->cases, shape);
    for (int i = 0; i < b->n_cases; i++) {
        struct op_case *c = &b->cases[i];
        for (int k = 0; k < c->n_operands; k++)
            if (c->operands[k].shape.dtype == DTYPE_BF16)
                c->operands[k].shape.dtype = b->real;
        if (c->op == OP_ADAMW && b->real == DTYPE_F32)
            c->operands[4] = (struct operand){.role = ROLE_ABSENT};
    }
    add_one_row(b, m->dim, m->mlp_dim, true);
    add_one_row(b, m->dim, m->vocab_size, false);
}

static bool is_wanted(const struct bench *b, const struct op_case *c)
{
    const char *op = b->settings.op;

    return !op || strncmp(op_calls[c->op].name, op, strlen(op)) == 0;
}

static enum status check_wanted(const struct bench *b)
{
    for (int i = 0; i < b->blocks[0].n_cases; i++)
        if (is_wanted(b, &b->blocks[0].cases[i]))
            return OK;
    return fail(ERR_INVALID, "--op %s: no operation of this model begins so; they are named as in "
                "kernels/ops.h, like attention_forward", b->settings.op);
}

/* ---- operands ---- */

static size_t operand_bytes(const struct operand *o)
{
    const size_t bytes = (size_t)tensor_count(&o->shape) * dtype_size(o->shape.dtype);

    return o->role == ROLE_ABSENT ? 0 : (bytes + 4095) / 4096 * 4096;
}

static size_t case_memory(const struct op_case *c)
{
    size_t bytes = 0;

    for (int i = 0; i < c->n_operands; i++)
        bytes += operand_bytes(&c->operands[i]);
    return bytes;
}

static void fill_random(const struct operand *o, int number, int vocab, unsigned char *memory)
{
    const int64_t count = tensor_count(&o->shape);
    const size_t size = dtype_size(o->shape.dtype);
    const int64_t n = count < N_RANDOM ? count : N_RANDOM;

    for (int64_t i = 0; i < n; i++) {
        const uint32_t word = rng_philox(1, RNG_TEST, (uint32_t)number, 0, (uint64_t)i).word[0];
        const double uniform = (double)word / 0x1p32;
        write_element(memory, o->shape.dtype, i,
                      o->fill == FILL_IDS ? (double)(word % (uint32_t)vocab)
                      : o->fill == FILL_POSITIVE ? 0.5 + uniform : 2 * uniform - 1);
    }
    for (int64_t done = n; done < count; done += n)
        memcpy(memory + (size_t)done * size, memory,
               (size_t)(count - done < n ? count - done : n) * size);
}

static void place_operands(const struct op_case *c, int vocab, unsigned char *memory,
                           struct tensor *tensors)
{
    for (int i = 0; i < c->n_operands; i++) {
        const struct operand *o = &c->operands[i];
        tensors[i] = o->shape;
        if (o->role == ROLE_ABSENT)
            continue;
        fill_random(o, i, vocab, memory);
        tensors[i].data = memory;
        memory += operand_bytes(o);
    }
}

/* ---- timing ---- */

/* The first call only meets new memory and prepares products. */
static enum status time_case(const struct version *v, const struct op_case *c,
                             const struct tensor *tensors, double *median)
{
    double samples[MAX_CALLS], elapsed;
    int n = 0;

    TRY(op_calls[c->op].run(v->dev, tensors, &c->arguments));
    const double begin = seconds_now();
    do {
        const double start = seconds_now();
        TRY(op_calls[c->op].run(v->dev, tensors, &c->arguments));
        samples[n++] = seconds_now() - start;
        elapsed = seconds_now() - begin;
    } while (n < MAX_CALLS && elapsed < (n < MIN_CALLS ? SLOW_CELL_SECONDS : CELL_SECONDS));
    *median = median_of(samples, n);
    return OK;
}

/* No version could take less for what it must move. */
static double moving_seconds(const struct ceilings *ceilings, const struct op_case *c)
{
    const struct memory_rates *rates = &ceilings->cache;
    double size = 0, read = 0, changed = 0;

    for (int i = 0; i < c->n_operands; i++) {
        const struct operand *o = &c->operands[i];
        const double bytes = (double)o->touched * (double)dtype_size(o->shape.dtype);
        if (o->role == ROLE_ABSENT)
            continue;
        size += bytes;
        if (o->role == ROLE_READ)
            read += bytes;
        else
            changed += o->role == ROLE_UPDATED ? 2 * bytes : bytes;
    }
    if (size > (double)ceilings->cache_bytes)
        rates = &ceilings->memory;
    return read / rates->read + changed / rates->update;
}

/* Or for its products: without those of bfloat16 they can be done in float32. */
static double computing_seconds(const struct ceilings *ceilings, const struct op_case *c,
                                enum dtype real)
{
    const bool is_bfloat16 = real == DTYPE_BF16 && ceilings->bfloat16 > 0;

    return c->flops / (is_bfloat16 ? ceilings->bfloat16 : ceilings->float32);
}

static enum status run_case(struct bench *b, struct block *block, int index)
{
    const struct op_case *c = &block->cases[index];
    const double moving = moving_seconds(&b->ceilings, c);
    const double computing = computing_seconds(&b->ceilings, c, block->real);
    const bool computes = computing > moving;
    const double floor = computes ? computing : moving;
    const double work = computes ? c->flops : case_bytes(c);
    struct device *dev = block->versions[0].dev;
    const size_t bytes = case_memory(c);
    struct tensor tensors[MAX_OPERANDS];
    enum status status = OK;
    void *memory;

    TRY(device_alloc(dev, bytes, &memory));
    place_operands(c, b->shape.config.vocab_size, memory, tensors);
    printf("%-35s %-31s %s", c->name, c->sizes, computes ? "GF/s" : "GB/s");
    for (int i = 0; i < block->n_versions; i++) {
        double seconds;
        TRY_GOTO(status, time_case(&block->versions[i], c, tensors, &seconds), done);
        printf(" | %9.4f %7.1f %4.0f%%", 1e3 * seconds, work / seconds / 1e9,
               100 * floor / seconds);
        fflush(stdout);
        if (i == 0)
            block->shares[index] = floor / seconds;
    }
done:
    printf("\n");
    device_free(dev, memory, bytes);
    return status;
}

static enum status run_block(struct bench *b, struct block *block)
{
    printf("\n%-72s", block->name);
    for (int i = 0; i < block->n_versions; i++)
        printf(" | %-23s", block->versions[i].name);
    printf("\n%-72s", "");
    for (int i = 0; i < block->n_versions; i++)
        printf(" | %9s %7s %5s", "ms", "rate", "share");
    printf("\n");
    for (int i = 0; i < block->n_cases; i++)
        if (is_wanted(b, &block->cases[i]))
            TRY(run_case(b, block, i));
    return OK;
}

/* Operations of which some case is far from its ceiling, with the lowest share of each. */
static void print_low(const struct block *block)
{
    int n_low = 0;

    printf("below %.0f%% with %s, %s:", 100 * LOW_SHARE, block->versions[0].name, block->name);
    for (int i = 0; i < block->n_cases; i++) {
        const char *name = block->cases[i].name;
        double lowest = LOW_SHARE;
        int first = block->n_cases;
        for (int k = block->n_cases - 1; k >= 0; k--) {
            const double share = block->shares[k];
            if (strcmp(block->cases[k].name, name) != 0 || share <= 0 || share >= LOW_SHARE)
                continue;
            first = k;
            lowest = share < lowest ? share : lowest;
        }
        if (first == i)
            printf("%s %s %.0f%%", n_low++ ? ";" : "", name, 100 * lowest);
    }
    printf("%s\n", n_low ? "" : " none");
}

/* ---- the whole ---- */

static enum status open_versions(struct block *block, int n_threads, const struct op_limits *limits)
{
    struct cpu_variant variants[CPU_MAX_VARIANTS];
    const int n_variants = cpu_variants(variants, block->real);

    for (int i = 0; i < n_variants; i++) {
        struct version *v = &block->versions[block->n_versions];
        if (!variants[i].usable) {
            printf("%s, %s: left out, this machine lacks the instructions\n", variants[i].name,
                   block->name);
            continue;
        }
        block->n_versions++;
        v->name = variants[i].name;
        variants[i].fill(&v->table);
        TRY(cpu_device_create_with(&v->dev, 0, n_threads, &v->table, block->real, v->name));
        TRY(device_reserve(v->dev, limits));
    }
    return OK;
}

static enum status bench_open(struct bench *b)
{
    const struct model_config *m = &b->shape.config;
    const int64_t qkv = 3 * (int64_t)m->dim;
    const int n_threads = b->settings.threads ? (int)b->settings.threads : team_cores();
    struct op_limits limits = {
        .rows = (int64_t)b->shape.op_windows * m->max_seq_len,
        .width = qkv > m->mlp_dim ? qkv : m->mlp_dim, .max_seq_len = m->max_seq_len,
        .heads = m->heads, .head_size = m->dim / m->heads, .vocab_size = m->vocab_size,
    };

    printf("model %d/%d/%d/%d, vocabulary %d, %d windows of %d tokens; %d threads\n", m->dim,
           m->depth, m->heads, m->mlp_dim, m->vocab_size, b->shape.op_windows, m->max_seq_len,
           n_threads);
    b->blocks[0] = (struct block){.name = "float32", .real = DTYPE_F32};
    b->blocks[1] = (struct block){.name = "bfloat16", .real = DTYPE_BF16};
    for (int i = 0; i < N_BLOCKS; i++) {
        struct block *block = &b->blocks[i];
        add_cases(block, &b->shape);
        for (int k = 0; k < block->n_cases; k++)
            if (block->cases[k].op == OP_ADAMW)
                limits.params = tensor_count(&block->cases[k].operands[0].shape);
        TRY(open_versions(block, n_threads, &limits));
    }
    return check_wanted(b);
}

static void bench_close(struct bench *b)
{
    for (int i = 0; i < N_BLOCKS; i++)
        for (int k = 0; k < b->blocks[i].n_versions; k++)
            device_destroy(b->blocks[i].versions[k].dev);
}

static void print_ceilings(const struct ceilings *c)
{
    printf("products: float32 %.1f GF/s, ", c->float32 / 1e9);
    if (c->bfloat16 > 0)
        printf("bfloat16 %.1f GF/s\n", c->bfloat16 / 1e9);
    else
        printf("none of bfloat16 by oneDNN\n");
    printf("memory: read %.1f GB/s, update %.1f GB/s\n", c->memory.read / 1e9,
           c->memory.update / 1e9);
    printf("cache, 1 MiB a thread: read %.1f GB/s, update %.1f GB/s; the last level has %.0f MiB\n",
           c->cache.read / 1e9, c->cache.update / 1e9, (double)c->cache_bytes / (1 << 20));
}

static enum status run_bench(struct bench *b)
{
    TRY(bench_open(b));
    TRY(ceilings_measure(&b->ceilings, b->blocks[0].versions[0].dev));
    print_ceilings(&b->ceilings);
    for (int i = 0; i < N_BLOCKS; i++)
        TRY(run_block(b, &b->blocks[i]));
    printf("\n");
    for (int i = 0; i < N_BLOCKS; i++)
        print_low(&b->blocks[i]);
    return OK;
}

static enum status read_settings(struct bench *b, const struct command_line *line)
{
    const struct run_options options = {.line = line};
    struct run run = {.locks = {-1, -1}};
    enum status status;

    options_default(&bench_options, &b->settings);
    TRY(command_line_apply(line, &bench_options, &b->settings));
    TRY_GOTO(status, run_read_settings(&run, &options), done);
    b->shape.op_windows = (int)run.config.training.batch_size;
    status = plan_model(&b->shape.config, &run.config,
                        run.config.model.vocab_size ? 0 : BYTE_VOCABULARY);
done:
    run_free(&run);
    return status;
}

static void print_help(void)
{
    printf("usage: ops [CONFIG.ini] [FLAGS]\n"
           "Time each operation of the CPU at the sizes of CONFIG.ini (config/default.ini).\n\n");
    options_print_flags(tables, 2, stdout);
}

int main(int argc, char **argv)
{
    struct bench bench = {0};
    struct command_line line = {0};
    enum status status;

    TRY_GOTO(status, options_read_flags(&line, tables, 2, argc, argv, 1), done);
    if (line.wants_help) {
        print_help();
        goto done;
    }
    TRY_GOTO(status, read_settings(&bench, &line), done);
    status = run_bench(&bench);
done:
    if (status != OK)
        fprintf(stderr, "ops: %s\n", status_message());
    bench_close(&bench);
    command_line_free(&line);
    return status_exit_code(status);
}
