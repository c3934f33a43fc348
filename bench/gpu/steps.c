/* steps - whole training steps on one GPU: ms, tokens/s, model FLOP utilisation, memory against
 * plan, and where the time goes.
 *
 *     steps [--quick] [--toy] [--models LIST] [--fastest]
 *
 * --fastest: with run.deterministic = false, the algorithms of products are chosen by timing.
 * Weights and tokens are random. A step is what the trainer does on one GPU: copy the batch,
 * forward, backward, AdamW, read back the loss and the gradient's norm. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/gpu.h"
#include "gpu/bench.h"
#include "train/optimizer.h"

enum {
    MAX_RUNS = 2 * MAX_SHAPES,
    MAX_STEPS = 100,
    N_BATCHES = 4,              /* of random tokens, in turn */
};

/* Of an H100 or H200 (SXM) in bfloat16, without sparsity: NVIDIA's data sheets. */
static const double PEAK = 989e12;

/* A model and its data on the GPU. */
struct session {
    struct device *dev;
    struct model_config config;
    struct model *model;
    struct optimizer optimizer;
    int32_t *ids;               /* (N_BATCHES * windows * length + 1): targets are one behind */
    int windows;
    int64_t step;
    double loss;                /* of the latest step, a token's mean */
};

/* What is reported of a model. */
struct result {
    char name[40];
    double parameters;
    int windows;
    double tokens;              /* of a step */
    double median, shortest, longest;       /* seconds */
    double flops, causal_flops; /* of a token */
    double plan, used;          /* bytes */
    double families[N_OP_FAMILIES], profiled;   /* seconds of a step, each operation waited for */
};

/* ---- a step ---- */

/* The trainer's step (src/train/step.c) on one GPU; all that depends on its interfaces is here. */
static enum status train_step(struct session *s)
{
    const int length = s->config.max_seq_len;
    const int64_t tokens = (int64_t)s->windows * length;
    const int32_t *ids = s->ids + s->step % N_BATCHES * tokens;
    const struct model_batch batch = {ids, ids + 1, s->windows, length};
    const struct model_step step = {42, (uint32_t)s->step, 0};
    const struct tensor sums = model_sums(s->model);
    double totals[2], grad_norm;

    TRY(model_begin(s->model));
    TRY(model_load(s->model, &batch, &step));
    TRY(device_section_begin(s->dev, 0));
    TRY(model_train(s->model, 1.0 / (double)tokens, NULL));
    TRY(device_section_end(s->dev));
    TRY(optimizer_norm(&s->optimizer, 1, &grad_norm));
    TRY(optimizer_update(&s->optimizer, s->step + 1, 1e-4, 1));
    TRY(device_download(s->dev, totals, sums.data, sizeof totals));
    s->step++;
    s->loss = totals[0] / (double)tokens;
    if (!isfinite(s->loss) || !isfinite(grad_norm))
        return fail(ERR_DEVICE, "step %" PRId64 ": the loss is %g, the gradient's norm %g", s->step,
                    s->loss, grad_norm);
    return OK;
}

/* ---- set-up ---- */

static uint32_t random_word(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state;
}

/* As model_init(), but uniform and from a cheap generator: 1.5 billion weights in seconds. */
static enum status init_weights(struct model *model)
{
    const struct param_table *table = model_param_table(model);
    const struct tensor weights = model_weights(model);
    const double half_width = 0.02 * sqrt(3);   /* of standard deviation 0.02 */
    uint32_t state = 1;

    for (int i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        float *values = malloc((size_t)param->count * sizeof *values);
        if (!values)
            return fail(ERR_NOMEM, "no memory to initialise %s", param->name);
        for (int64_t k = 0; k < param->count; k++)
            values[k] = param->init != INIT_NORMAL
                            ? (float)(param->init == INIT_ONE)
                            : (float)((double)(int32_t)random_word(&state) * 0x1p-31 * half_width);
        const enum status status = model_set_param(model, &weights, param, values);
        free(values);
        TRY(status);
    }
    return model_weights_changed(model);
}

static enum status make_tokens(struct session *s)
{
    const int64_t count = (int64_t)N_BATCHES * s->windows * s->config.max_seq_len + 1;
    uint32_t state = 2;

    s->ids = malloc((size_t)count * sizeof *s->ids);
    if (!s->ids)
        return fail(ERR_NOMEM, "no memory for %" PRId64 " tokens", count);
    for (int64_t i = 0; i < count; i++)
        s->ids[i] = (int32_t)((random_word(&state) >> 8) % (uint32_t)s->config.vocab_size);
    return OK;
}

static enum status planned_bytes(const struct session *s, double *bytes)
{
    struct model_memory memory;
    struct param_table table;

    TRY(model_memory_plan(&memory, s->dev, &s->config, s->windows, MODEL_TRAIN, false));
    TRY(param_table_create(&table, &s->config));
    *bytes = (double)(memory.weights + memory.gradients + memory.activations + memory.scratch) +
             (double)optimizer_memory_plan(table.flat_count, device_master(s->dev));
    param_table_free(&table);
    return OK;
}

/* Half the windows until the plan fits, with something left over. */
static enum status choose_windows(struct session *s, int wanted, uint64_t free_bytes, double *plan)
{
    const double available = 0.95 * (double)free_bytes;

    for (s->windows = wanted;; s->windows /= 2) {
        TRY(planned_bytes(s, plan));
        if (*plan < available)
            return OK;
        if (s->windows == 1)
            return fail(ERR_NOMEM, "%s: %.0f MiB are needed and %.0f MiB available",
                        s->dev->description, *plan / (1 << 20), available / (1 << 20));
    }
}

static enum status session_create(struct session *s, bool deterministic,
                                  const struct shape *shape, struct result *r)
{
    const struct optimizer_config optimizer = {0.9, 0.95, 1e-8, 0.1, 1.0};
    uint64_t before, after;

    TRY(gpu_open(&s->dev, 0, DTYPE_BF16, deterministic));
    TRY(gpu_free_memory(&before, 0));
    TRY(choose_windows(s, shape->step_windows, before, &r->plan));
    TRY(model_create(&s->model, s->dev, &s->config, s->windows, MODEL_TRAIN, NULL));
    TRY(optimizer_create(&s->optimizer, s->dev, s->model, &optimizer));
    TRY(init_weights(s->model));
    TRY(make_tokens(s));
    TRY(train_step(s));
    TRY(gpu_free_memory(&after, 0));
    r->used = (double)before - (double)after;
    return OK;
}

static void session_free(struct session *s)
{
    free(s->ids);
    optimizer_free(&s->optimizer);
    model_destroy(s->model);
    device_destroy(s->dev);
}

/* ---- measuring ---- */

/* Chowdhery et al., PaLM (2022), appendix B: 6 N + 12 L T C a token, N parameters without the
 * learned positions. Causal attention needs half of the second term. */
static void count_flops(struct result *r, const struct model_config *m,
                        const struct param_table *table)
{
    const double positions = m->use_rotary_emb ? 0 : (double)m->max_seq_len * m->dim;
    const double attention = 12.0 * m->depth * m->max_seq_len * m->dim;

    r->parameters = (double)table->n_parameters;
    r->flops = 6 * (r->parameters - positions) + attention;
    r->causal_flops = r->flops - attention / 2;
}

static enum status measure(struct session *s, const struct bench_flags *flags, struct result *r)
{
    const int warm_up = flags->toy ? 2 : 5;
    const int n_steps = flags->toy ? 2 : flags->quick ? 10 : s->config.dim < 512 ? MAX_STEPS : 20;
    double seconds[MAX_STEPS];

    for (int i = 0; i < warm_up; i++)
        TRY(train_step(s));
    for (int i = 0; i < n_steps; i++) {
        const double start = seconds_now();
        TRY(train_step(s));
        TRY(device_sync(s->dev));
        seconds[i] = seconds_now() - start;
    }
    r->median = median_of(seconds, n_steps);
    r->shortest = seconds[0];
    r->longest = seconds[n_steps - 1];
    return OK;
}

static enum status measure_families(struct session *s, const struct bench_flags *flags,
                                    struct result *r)
{
    const int n_steps = flags->toy ? 1 : 5;
    struct profile profile = {0};

    TRY(device_sections_forget(s->dev));
    s->dev->profile = &profile;
    const double start = seconds_now();
    for (int i = 0; i < n_steps; i++)
        TRY(train_step(s));
    r->profiled = (seconds_now() - start) / n_steps;
    s->dev->profile = NULL;
    for (int i = 0; i < N_OP_FAMILIES; i++)
        r->families[i] = profile.seconds[i] / n_steps;
    return OK;
}

static enum status run_model(const struct bench_flags *flags, const struct shape *shape,
                             double dropout, struct result *r)
{
    struct session s = {.config = shape->config};
    enum status status;

    s.config.dropout = dropout;
    if (dropout > 0)
        snprintf(r->name, sizeof r->name, "%s, dropout %g", shape->name, dropout);
    else
        snprintf(r->name, sizeof r->name, "%s", shape->name);
    TRY_GOTO(status, session_create(&s, !flags->fastest, shape, r), done);
    r->windows = s.windows;
    r->tokens = (double)s.windows * s.config.max_seq_len;
    count_flops(r, &s.config, model_param_table(s.model));
    TRY_GOTO(status, measure(&s, flags, r), done);
    status = measure_families(&s, flags, r);
done:
    session_free(&s);
    return status;
}

/* ---- the tables ---- */

static void print_heads(void)
{
    printf("| %-18s | %9s | %-9s | %9s | %19s | %9s | %6s | %6s | %22s |\n", "model", "params, M",
           "batch", "ms/step", "shortest..longest", "tokens/s", "MFU", "causal",
           "memory used/plan, MiB");
    printf("|---|---|---|---|---|---|---|---|---|\n");
    fflush(stdout);
}

static void print_steps(const struct result *r)
{
    const double rate = r->tokens / r->median;
    char batch[24], range[32], memory[32];

    snprintf(batch, sizeof batch, "%d x %d", r->windows, (int)(r->tokens / r->windows));
    snprintf(range, sizeof range, "%.3f..%.3f", 1e3 * r->shortest, 1e3 * r->longest);
    snprintf(memory, sizeof memory, "%.0f / %.0f", r->used / (1 << 20), r->plan / (1 << 20));
    printf("| %-18s | %9.2f | %-9s | %9.3f | %19s | %9.0f | %5.1f%% | %5.1f%% | %22s |\n", r->name,
           r->parameters / 1e6, batch, 1e3 * r->median, range, rate, 100 * rate * r->flops / PEAK,
           100 * rate * r->causal_flops / PEAK, memory);
    fflush(stdout);
}

static void print_row(const char *name, const struct result *results, int n, int family)
{
    printf("| %-14s |", name);
    for (int i = 0; i < n; i++) {
        const struct result *r = &results[i];
        double seconds = family < N_OP_FAMILIES ? r->families[family] : r->profiled;
        for (int k = 0; family == N_OP_FAMILIES && k < N_OP_FAMILIES; k++)
            seconds -= r->families[k];
        printf(" %10.3f %4.1f%% |", 1e3 * seconds, 100 * seconds / r->profiled);
    }
    printf("\n");
}

static void print_families(const struct result *results, int n)
{
    printf("\nThe same steps, with each operation waited for (the whole takes longer): ms, share."
           "\n\n| %-14s |", "operations");
    for (int i = 0; i < n; i++)
        printf(" %16s |", results[i].name);
    printf("\n|---|");
    for (int i = 0; i < n; i++)
        printf("---|");
    printf("\n");
    for (int family = 0; family < N_OP_FAMILIES; family++)
        print_row(op_family_name((enum op_family)family), results, n, family);
    print_row("other", results, n, N_OP_FAMILIES);
    print_row("whole step", results, n, N_OP_FAMILIES + 1);
}

static void print_legend(void)
{
    printf("\nMedians. MFU: (6 N + 12 L T C) FLOP a token (PaLM, appendix B; N parameters without\n"
           "learned positions) against %.0f TFLOP/s, the dense bfloat16 peak of an H100 or H200;\n"
           "causal: with 6 L T C, the half of attention that is needed. Memory plan: weights,\n"
           "gradients, optimizer, activations, scratch; used: what the driver says is gone.\n",
           PEAK / 1e12);
}

/* A model that fails leaves the others their turn. */
static int run_all(const struct bench_flags *flags)
{
    struct result results[MAX_RUNS] = {0};
    int n = 0, n_failed = 0;

    print_heads();
    for (int i = 0; i < flags->n_shapes; i++) {
        const struct shape *shape = &flags->shapes[i];
        for (int drops = 0; drops <= (shape->config.dropout > 0); drops++) {
            struct result *r = &results[n];
            if (run_model(flags, shape, drops ? shape->config.dropout : 0, r) == OK) {
                print_steps(r);
                n++;
            } else {
                printf("| %-18s | FAILED: %s ||||||||\n", r->name, status_message());
                *r = (struct result){0};
                n_failed++;
            }
        }
    }
    if (n > 0)
        print_families(results, n);
    print_legend();
    return n_failed;
}

int main(int argc, char **argv)
{
    struct bench_flags flags;
    enum status status;

    TRY_GOTO(status, bench_flags_read(&flags, argc, argv), done);
    if (gpu_count() == 0)
        TRY_GOTO(status, fail(ERR_DEVICE, "%s", gpu_support()), done);
    if (run_all(&flags) > 0)
        return 1;
done:
    if (status != OK)
        fprintf(stderr, "steps: %s\n", status_message());
    return status_exit_code(status);
}
