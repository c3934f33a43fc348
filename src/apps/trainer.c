/* trainer - trains a language model on every device of this machine. */
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include "base/bus_error.h"
#include "base/log.h"
#include "base/memory_error.h"
#include "train/run.h"

static const char program[] = "trainer";

/* Flags that are no settings. */
struct settings {
    const char *resume, *init, *verify;
    bool check, force, print_options;
};

static const struct option rows[] = {
    {.flag = "resume", .placeholder = "PATH|auto", .type = OPTION_ARGUMENT,
     .offset = offsetof(struct settings, resume),
     .help = "go on with a run from this checkpoint, or the newest in this folder; auto: the "
             "newest in save_dir, if any"},
    {.flag = "init", .placeholder = "WEIGHTS", .type = OPTION_ARGUMENT,
     .offset = offsetof(struct settings, init),
     .help = "start a new run from the weights in this safetensors file"},
    {.flag = "check", .type = OPTION_BOOL, .offset = offsetof(struct settings, check),
     .default_value = "false", .help = "verify devices, memory, data and disk; train nothing"},
    {.flag = "verify", .placeholder = "CHECKPOINT", .type = OPTION_ARGUMENT,
     .offset = offsetof(struct settings, verify),
     .help = "check this file and replay the step that is recorded in it; train nothing"},
    {.flag = "force", .type = OPTION_BOOL, .offset = offsetof(struct settings, force),
     .default_value = "false", .help = "start even if the disk has too little room for the "
     "checkpoints"},
    {.flag = "print-options", .type = OPTION_BOOL,
     .offset = offsetof(struct settings, print_options), .default_value = "false",
     .help = "print all settings as a Markdown table"},
};

static const struct option_table trainer_options = {
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
};

static const struct option_table *const tables[] = {&trainer_options, &config_options};

static void print_help(void)
{
    printf("usage: %s [CONFIG.ini] [FLAGS]\n"
           "Train a language model as CONFIG.ini (config/default.ini) says.\n\n", program);
    options_print_flags(tables, 2, stdout);
}

static enum status verify(const struct settings *settings, const struct command_line *line,
                          bool *passed)
{
    if (settings->check || settings->resume || settings->init)
        return fail(ERR_INVALID, "--verify excludes --check, --resume and --init: it looks at one "
                    "checkpoint and does nothing else");
    return run_verify(settings->verify, line, passed);
}

static enum status run(int argc, char **argv, int *signal, bool *passed)
{
    struct command_line line = {0};
    struct settings settings = {0};
    enum status status;

    TRY_GOTO(status, options_read_flags(&line, tables, 2, argc, argv, 1), done);
    TRY_GOTO(status, command_line_apply(&line, &trainer_options, &settings), done);
    const struct run_options options = {&line, settings.resume, settings.init, settings.force};
    if (line.wants_help)
        print_help();
    else if (line.wants_version)
        printf("%s %s\n", program, OCTET_VERSION);
    else if (settings.print_options)
        options_print_table(&config_options, stdout);
    else if (settings.verify)
        status = verify(&settings, &line, passed);
    else if (settings.check)
        status = run_check(&options, passed);
    else
        status = run_train(&options, signal);
done:
    command_line_free(&line);
    return status;
}

int main(int argc, char **argv)
{
    int stopped_by = 0;
    bool passed = true;

    /* Progress may go to a program that has ended; the run goes on all the same. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);       /* a write beyond ulimit -f is an error like a full disk */
    bus_error_handle();
    memory_error_handle();
    const enum status status = run(argc, argv, &stopped_by, &passed);
    if (status != OK)
        log_error(program, status_message());
    log_close_file();
    if (status == ERR_DEVICE || status == ERR_COMM || !passed) {
        /* What exit() calls would wait for a GPU that may be lost. */
        fflush(NULL);
        _exit(1);
    }
    if (status == OK && stopped_by)
        return 128 + stopped_by;
    return status_exit_code(status);
}
