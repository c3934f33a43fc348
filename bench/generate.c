/* generate - how fast a CPU worker reads a prompt and continues it, against what the machine can do.
 *
 *     build/bench/generate [CONFIG.ini] [--prompt N] [--tokens N] [--threads N]
 *                          [--set section.key=value]...
 *
 * Weights are fresh ones. A prompt of N tokens (default: half of the context) is read in one batch; its
 * rate is compared with the forward pass of training over windows of the same length, without
 * classifier and loss, which a prompt needs for its last token only. Then tokens are drawn greedily,
 * one after the other: each reads all weights and the keys and values so far once, and that traffic is
 * compared with the rate at which all threads together read memory. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/rng.h"
#include "base/team.h"
#include "gpu/bench.h"
#include "model/model.h"
#include "ops_ceilings.h"
#include "train/run.h"

struct settings {
    int64_t prompt, tokens, threads;
};

static const struct option rows[] = {
    {.flag = "prompt", .placeholder = "N", .type = OPTION_INT, .min = 0, .max = 1 << 20,
     .offset = offsetof(struct settings, prompt), .default_value = "0",
     .help = "tokens of the prompt; 0: half of the context"},
    {.flag = "tokens", .placeholder = "N", .type = OPTION_INT, .min = 1, .max = 1 << 20,
     .offset = offsetof(struct settings, tokens), .default_value = "32",
     .help = "tokens to draw"},
    {.flag = "threads", .placeholder = "N", .type = OPTION_INT, .min = 0, .max = 1024,
     .offset = offsetof(struct settings, threads), .default_value = "0",
     .help = "threads to compute with; 0: one for each core"},
};
static const struct option_table bench_options = {.rows = rows, .n_rows = 3};
static const struct option_table *const tables[] = {&bench_options, &config_options};

enum { ROUNDS = 3, BYTE_VOCABULARY = 256 };

struct bench {
    struct settings settings;
    struct run run;             /* its settings alone */
    struct model_config model;
    struct device *dev;
    struct ceilings ceilings;
    int32_t *ids;               /* the prompt */
    double forward, prompt;     /* seconds, the best of ROUNDS */
    double *tokens;             /* seconds of each token drawn */
};

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

/* Of the blocks, in FLOP: products, and the causal half of attention; see bench/step.c. */
static double forward_flop(const struct model_config *m, double tokens)
{
    const double weights = m->depth * (4.0 * m->dim * m->dim + 2.0 * m->dim * m->mlp_dim);

    return 2 * weights * tokens + 2.0 * m->depth * m->dim * tokens * tokens;
}

static enum status time_training_forward(struct bench *b)
{
    struct model_config config = b->model;
    struct profile before, profile = {0};
    struct model *model;
    enum status status = OK;

    config.max_seq_len = (int)b->settings.prompt;
    TRY(model_create(&model, b->dev, &config, 1, MODEL_TRAIN, NULL));
    const struct model_batch batch = {b->ids, b->ids, 1, (int)b->settings.prompt};
    TRY_GOTO(status, model_init(model, 1), done);
    b->dev->profile = &profile;
    for (int i = 0; i <= ROUNDS; i++) {
        before = profile;
        const double start = seconds_now();
        TRY_GOTO(status, model_evaluate_batch(model, &batch), done);
        double seconds = seconds_now() - start;
        seconds -= profile.seconds[OPS_CLASSIFIER] - before.seconds[OPS_CLASSIFIER];
        seconds -= profile.seconds[OPS_CROSS_ENTROPY] - before.seconds[OPS_CROSS_ENTROPY];
        b->forward = i == 0 ? seconds : smaller(b->forward, seconds);
    }
done:
    b->dev->profile = NULL;
    model_destroy(model);
    return status;
}

static enum status time_generation(struct bench *b)
{
    struct model *model;
    struct candidate likeliest;
    enum status status = OK;

    TRY(model_create(&model, b->dev, &b->model, 1, MODEL_GENERATE, NULL));
    TRY_GOTO(status, model_init(model, 1), done);
    for (int i = 0; i <= ROUNDS; i++) {
        const double start = seconds_now();
        TRY_GOTO(status, model_extend(model, b->ids, (int)b->settings.prompt, 0), done);
        const double seconds = seconds_now() - start;
        b->prompt = i == 0 ? seconds : smaller(b->prompt, seconds);
    }
    for (int i = 0; i < (int)b->settings.tokens; i++) {
        const double start = seconds_now();
        TRY_GOTO(status, model_top(model, b->model.vocab_size, 1, &likeliest), done);
        TRY_GOTO(status, model_extend(model, &likeliest.id, 1, (int)b->settings.prompt + i), done);
        b->tokens[i] = seconds_now() - start;
    }
done:
    model_destroy(model);
    return status;
}

static enum status prepare(struct bench *b, const struct command_line *line)
{
    const struct run_options options = {.line = line};
    struct model_config *m = &b->model;
    const int threads = b->settings.threads ? (int)b->settings.threads : team_cores();

    TRY(run_read_settings(&b->run, &options));
    TRY(plan_model(m, &b->run.config, BYTE_VOCABULARY));
    m->dropout = 0;
    if (b->settings.prompt == 0)
        b->settings.prompt = m->max_seq_len / 2;
    if (b->settings.prompt + b->settings.tokens > m->max_seq_len)
        return fail(ERR_INVALID, "--prompt %lld and --tokens %lld do not fit in max_seq_len = %d; "
                    "make one of them smaller", (long long)b->settings.prompt,
                    (long long)b->settings.tokens, m->max_seq_len);
    b->ids = malloc((size_t)b->settings.prompt * sizeof *b->ids);
    b->tokens = malloc((size_t)b->settings.tokens * sizeof *b->tokens);
    if (!b->ids || !b->tokens)
        return fail(ERR_NOMEM, "no memory for the prompt");
    for (int64_t i = 0; i < b->settings.prompt; i++)
        b->ids[i] = (int32_t)(rng_philox(1, RNG_TEST, 0, 0, (uint64_t)i).word[0] %
                              (uint32_t)m->vocab_size);
    TRY(plan_devices(&b->run.devices, &b->run.config));
    b->run.devices.threads = threads;
    return plan_open_device(&b->dev, &b->run.devices, 0);
}

static void report(struct bench *b)
{
    const struct model_config *m = &b->model;
    const double size = (double)dtype_size(b->dev->real), prompt = (double)b->settings.prompt;
    const double context = prompt + (double)b->settings.tokens / 2;
    const double weights = (m->depth * (4.0 * m->dim * m->dim + 2.0 * m->dim * m->mlp_dim) +
                            (double)m->vocab_size * m->dim) * size;
    const double cache = 2.0 * m->depth * m->dim * context * size;
    const double median = median_of(b->tokens, (int)b->settings.tokens), fastest = b->tokens[0];
    const double traffic = weights + cache, read = b->ceilings.memory.read;
    const double flop = forward_flop(m, prompt);

    printf("model %d/%d/%d/%d, vocabulary %d; %s\n", m->dim, m->depth, m->heads, m->mlp_dim,
           m->vocab_size, b->dev->description);
    printf("prompt of %.0f tokens: %.1f ms, %.0f tokens/s, %.0f GFLOP/s; training's forward pass "
           "%.1f ms: %.0f%% of its speed\n", prompt, 1e3 * b->prompt, prompt / b->prompt,
           flop / b->prompt / 1e9, 1e3 * b->forward, 100 * b->forward / b->prompt);
    printf("each token behind it: median %.2f ms (%.1f tokens/s), fastest %.2f ms: %.1f and %.1f GB/s "
           "of weights (%.0f MB) and keys and values (%.0f MB)\n", 1e3 * median, 1 / median,
           1e3 * fastest, traffic / median / 1e9, traffic / fastest / 1e9, weights / 1e6,
           cache / 1e6);
    printf("reading memory, at best: %.1f GB/s; the tokens reach %.0f%% and %.0f%% of it\n",
           read / 1e9, 100 * traffic / median / read, 100 * traffic / fastest / read);
}

static void print_help(void)
{
    printf("usage: generate [CONFIG.ini] [FLAGS]\n"
           "Time a prompt and the tokens behind it at the sizes of CONFIG.ini.\n\n");
    options_print_flags(tables, 2, stdout);
}

int main(int argc, char **argv)
{
    struct bench bench = {.run = {.locks = {-1, -1}}};
    struct command_line line = {0};
    enum status status;

    TRY_GOTO(status, options_read_flags(&line, tables, 2, argc, argv, 1), done);
    if (line.wants_help) {
        print_help();
        goto done;
    }
    options_default(&bench_options, &bench.settings);
    TRY_GOTO(status, command_line_apply(&line, &bench_options, &bench.settings), done);
    TRY_GOTO(status, prepare(&bench, &line), done);
    TRY_GOTO(status, ceilings_measure(&bench.ceilings, bench.dev), done);
    TRY_GOTO(status, time_training_forward(&bench), done);
    TRY_GOTO(status, time_generation(&bench), done);
    report(&bench);
done:
    if (status != OK)
        fprintf(stderr, "generate: %s\n", status_message());
    if (bench.dev)
        device_destroy(bench.dev);
    free(bench.ids);
    free(bench.tokens);
    run_free(&bench.run);
    command_line_free(&line);
    return status_exit_code(status);
}
