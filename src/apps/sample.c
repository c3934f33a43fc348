/* sample - writes text with a trained model. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bus_error.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory_error.h"
#include "base/status.h"
#include "device/gpu.h"
#include "generate/generate.h"
#include "generate/prompt_loop.h"
#include "generate/text_output.h"
#include "generate/text_writer.h"
#include "options/option.h"
#include "train/checkpoint.h"
#include "train/plan.h"
#include "train/save_folder.h"

static const char program[] = "sample";

/* ---- options ---- */

struct settings {
    const char *checkpoint, *prompt, *output;
    bool interactive;
    int64_t max_length, num_samples;
    char device[OPTION_STRING_SIZE];
};

#define FIELD(name) offsetof(struct settings, name)

static const struct option rows[] = {
    {.flag = "checkpoint", .placeholder = "PATH", .type = OPTION_ARGUMENT,
     .offset = FIELD(checkpoint), .default_value = "checkpoints",
     .help = "a checkpoint, or a folder: its best model, else the final, else the newest one"},
    {.flag = "prompt", .placeholder = "TEXT", .type = OPTION_ARGUMENT, .offset = FIELD(prompt),
     .help = "what the text begins with; without it a new line"},
    {.flag = "interactive", .type = OPTION_BOOL, .offset = FIELD(interactive),
     .default_value = "false",
     .help = "read prompts, one a line; Ctrl-C stops a text, quit or Ctrl-D ends"},
    {.flag = "max-length", .placeholder = "N", .type = OPTION_INT, .offset = FIELD(max_length),
     .default_value = "200", .min = 1, .max = 1e9, .help = "tokens to add to the prompt"},
    {.flag = "num-samples", .placeholder = "N", .type = OPTION_INT, .offset = FIELD(num_samples),
     .default_value = "1", .min = 1, .max = 1e6,
     .help = "texts for each prompt, with a line --- between them"},
    {.flag = "output", .placeholder = "FILE", .type = OPTION_ARGUMENT, .offset = FIELD(output),
     .help = "write the text to this file instead of standard output"},
    {.flag = "device", .placeholder = "NAME", .type = OPTION_CHOICE, .offset = FIELD(device),
     .default_value = "auto", .choices = "auto|cpu|cuda",
     .help = "auto, cpu or cuda; auto: the GPU, or the CPU where there is none"},
};

/* These stand over settings of the checkpoint, and have no other defaults. */
#define CONFIG_FIELD(name) offsetof(struct config, name)

static const struct option config_rows[] = {
    {.flag = "temperature", .placeholder = "X", .type = OPTION_FLOAT,
     .offset = CONFIG_FIELD(generation.temperature), .min = 0, .max = 100,
     .help = "below 1 safer, above 1 wilder; 0: always the likeliest token"},
    {.flag = "top-k", .placeholder = "K", .type = OPTION_INT,
     .offset = CONFIG_FIELD(generation.top_k), .min = 0, .max = 1 << 24,
     .help = "draw from the k likeliest tokens only; 0: off"},
    {.flag = "top-p", .placeholder = "P", .type = OPTION_FLOAT,
     .offset = CONFIG_FIELD(generation.top_p), .min = 0, .max = 1, .above_min = true,
     .help = "draw from the likeliest tokens that reach this probability; 1: off"},
    {.flag = "seed", .placeholder = "S", .type = OPTION_INT, .offset = CONFIG_FIELD(run.seed),
     .min = 0, .max = 4294967295.0, .help = "the same seed gives the same text"},
};

static const struct option_table own_options = {rows, sizeof rows / sizeof rows[0], NULL};
static const struct option_table generation_options = {
    config_rows, sizeof config_rows / sizeof config_rows[0], NULL};
static const struct option_table *const tables[] = {&own_options, &generation_options};
enum { N_TABLES = sizeof tables / sizeof tables[0] };

static void print_help(void)
{
    printf("usage: %s [--checkpoint PATH] [--prompt TEXT | --interactive] [FLAGS]\n"
           "Write text with a trained model.\n\n", program);
    options_print_flags(tables, N_TABLES, stdout);
    printf("\nWithout --temperature, --top-k, --top-p and --seed the checkpoint's own settings\n"
           "hold; equal commands write equal texts.\n");
}

static enum status check_settings(const struct settings *settings)
{
    if (settings->prompt && settings->interactive)
        return fail(ERR_INVALID, "--prompt and --interactive exclude each other: give one of them");
    if (settings->output && settings->interactive)
        return fail(ERR_INVALID, "--output and --interactive exclude each other: give one of them");
    if (strcmp(settings->device, "cuda") == 0 && gpu_count() == 0)
        return fail(ERR_INVALID, "--device cuda: %s; use --device cpu", gpu_support());
    return OK;
}

/* ---- signals ---- */

static volatile sig_atomic_t stop_signal;

static void stop(int signal_number)
{
    stop_signal = signal_number;
}

/* No SA_RESTART: a wait for a prompt ends too. On a stack of its own, for this thread computes: see
 * base/thread.h. */
static void catch_signals(void)
{
    static char memory[64 << 10];
    const stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
    const struct sigaction action = {.sa_handler = stop, .sa_flags = SA_ONSTACK};

    sigaltstack(&stack, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* ---- the model ---- */

struct sampler {
    struct checkpoint checkpoint;
    struct device *device;
    struct model *model;
    struct generator *generator;
};

/* The file that --checkpoint means; the caller frees *path. */
static enum status find_checkpoint(const char *given, char **path)
{
    static const char advice[] = "train a model with trainer first, or name one with --checkpoint";
    struct stat info;

    *path = NULL;
    if (stat(given, &info) != 0)
        return fail(ERR_INVALID, "%s: %s: %s", given, strerror(errno), advice);
    if (!S_ISDIR(info.st_mode)) {
        *path = strdup(given);
        return *path ? OK : fail(ERR_NOMEM, "no memory for a file name");
    }
    TRY(saves_find_for_sampling(given, path));
    if (!*path)
        return fail(ERR_INVALID, "%s has no checkpoint (looked for " SAVE_BEST ", " SAVE_FINAL ", "
                    SAVE_LAST ", " SAVE_STOPPED " and checkpoint_epoch_N.safetensors): %s", given,
                    advice);
    return OK;
}

/* The result must not take the place of the model. */
static enum status check_output(const struct settings *settings, const char *checkpoint)
{
    struct stat output, model;

    if (settings->output && stat(settings->output, &output) == 0 && stat(checkpoint, &model) == 0 &&
        output.st_dev == model.st_dev && output.st_ino == model.st_ino)
        return fail(ERR_INVALID, "--output %s is the checkpoint itself: choose another name",
                    settings->output);
    return OK;
}

static enum status open_checkpoint(struct checkpoint *checkpoint, const struct settings *settings)
{
    char *path;
    enum status status = find_checkpoint(settings->checkpoint, &path);

    if (status == OK)
        status = check_output(settings, path);
    if (status == OK)
        status = checkpoint_open(checkpoint, path);
    if (status == OK)
        log_info("%s: step %" PRId64 ", %" PRId64 " tokens trained", path,
                 checkpoint->progress.step, checkpoint->progress.tokens);
    free(path);
    return status;
}

/* One device of the kind asked for, which computes as the trainer would. */
static enum status open_device(struct sampler *s, const char *kind)
{
    struct config config = s->checkpoint.config;
    struct plan_devices plan;

    snprintf(config.distributed.device, sizeof config.distributed.device, "%s", kind);
    config.distributed.gpus = 1;
    TRY(plan_devices(&plan, &config));
    return plan_open_device(&s->device, &plan, 0);
}

static enum status load_model(struct sampler *s, const struct settings *settings)
{
    const struct checkpoint *checkpoint = &s->checkpoint;

    TRY(open_device(s, settings->device));
    TRY(model_create(&s->model, s->device, &checkpoint->model, 1, MODEL_GENERATE, NULL));
    TRY(checkpoint_load_weights(checkpoint, s->model));
    return generator_create(&s->generator, s->model, checkpoint->tokenizer.vocab_size);
}

static struct sampling sampling_of(const struct config *config)
{
    return (struct sampling){
        .temperature = config->generation.temperature,
        .top_k = (int)config->generation.top_k,
        .top_p = config->generation.top_p,
        .seed = (uint64_t)config->run.seed,
    };
}

/* ---- texts ---- */

static enum status answer_prompt(struct text_writer *writer, const char *prompt, size_t size)
{
    const int64_t n_before = writer->n_drawn;
    const double start = seconds_now();
    const enum status status = text_writer_answer(writer, prompt, size);
    const double seconds = seconds_now() - start;
    const int64_t n_drawn = writer->n_drawn - n_before;

    if (n_drawn > 0 && log_is_terminal())
        log_info("%" PRId64 " tokens, %.1f tokens/s", n_drawn, (double)n_drawn / seconds);
    return status;
}

/* A line that can't be answered is no reason to end. */
static enum status answer_line(void *writer, const char *line, size_t size)
{
    const enum status status = answer_prompt(writer, line, size);

    if (status != ERR_INVALID)
        return status;
    log_error(program, status_message());
    return OK;
}

static enum status write_texts(const struct settings *settings, struct text_writer *writer)
{
    const char *prompt = settings->prompt ? settings->prompt : "";

    if (settings->interactive)
        return prompt_loop_run(stdin, &stop_signal, answer_line, writer);
    const enum status status = answer_prompt(writer, prompt, strlen(prompt));
    if (status == ERR_CANCELED && settings->output)
        log_notice("stopped: %s is not written", settings->output);
    TRY(status);
    TRY(text_output_commit(writer->output));
    if (settings->output)
        log_notice("the text is in %s", settings->output);
    return OK;
}

/* ---- the program ---- */

static enum status sample(const struct settings *settings, const struct command_line *line,
                          bool *reader_is_gone)
{
    struct sampler s = {0};
    struct text_output output = {0};
    enum status status;

    TRY_GOTO(status, open_checkpoint(&s.checkpoint, settings), done);
    TRY_GOTO(status, command_line_apply(line, &generation_options, &s.checkpoint.config), done);
    TRY_GOTO(status, load_model(&s, settings), done);
    catch_signals();
    TRY_GOTO(status, text_output_open(&output, settings->output, &stop_signal), done);

    struct text_writer writer = {
        .generator = s.generator,
        .tokenizer = &s.checkpoint.tokenizer,
        .output = &output,
        .sampling = sampling_of(&s.checkpoint.config),
        .max_length = settings->max_length,
        .n_samples = settings->num_samples,
        .stop = &stop_signal,
    };
    status = write_texts(settings, &writer);

done:
    *reader_is_gone = output.reader_is_gone;
    text_output_close(&output);
    generator_destroy(s.generator);
    model_destroy(s.model);
    device_destroy(s.device);
    checkpoint_close(&s.checkpoint);
    return status;
}

static enum status run(int argc, char **argv, bool *reader_is_gone)
{
    struct command_line line = {0};
    struct settings settings;
    struct config config;
    enum status status;

    TRY_GOTO(status, options_read_flags(&line, tables, N_TABLES, argc, argv, 0), done);
    if (line.wants_help) {
        print_help();
        goto done;
    }
    if (line.wants_version) {
        printf("%s %s\n", program, OCTET_VERSION);
        goto done;
    }
    options_default(&own_options, &settings);
    TRY_GOTO(status, command_line_apply(&line, &own_options, &settings), done);
    /* Tried on any configuration, so that a wrong value is told before a checkpoint is read. */
    TRY_GOTO(status, command_line_apply(&line, &generation_options, &config), done);
    TRY_GOTO(status, check_settings(&settings), done);
    status = sample(&settings, &line, reader_is_gone);

done:
    command_line_free(&line);
    return status;
}

int main(int argc, char **argv)
{
    bool reader_is_gone = false;

    log_set_stream(stderr);
    bus_error_handle();
    memory_error_handle();
    const enum status status = run(argc, argv, &reader_is_gone);
    if (status == ERR_CANCELED)
        return 128 + stop_signal;
    if (status != OK && !reader_is_gone)
        log_error(program, status_message());
    return status_exit_code(status);
}
