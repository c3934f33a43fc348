/* prepare - turns a text into the token file that `trainer` reads. */
#include <signal.h>
#include <stdio.h>

#include "base/log.h"
#include "base/resource.h"
#include "base/status.h"
#include "data/prepare.h"
#include "options/option.h"

static const char program[] = "prepare";

static const struct option_table *const tables[] = {&prepare_options};

static volatile sig_atomic_t stop_signal;

static void stop(int signal_number)
{
    stop_signal = signal_number;
}

/* A signal ends the work where the unfinished file can be removed. No SA_RESTART: a wait for input
 * ends too. */
static void catch_signals(void)
{
    const struct sigaction action = {.sa_handler = stop};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    /* The report may go to a program that has ended; the file is written all the same. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);       /* a write beyond ulimit -f is an error like a full disk */
}

static void print_help(void)
{
    printf("usage: %s [--custom-text FILE] [--output PATH] [FLAGS]\n"
           "Turn a text into the token file that trainer reads.\n\n", program);
    options_print_flags(tables, 1, stdout);
}

static enum status run(int argc, char **argv)
{
    struct command_line line = {0};
    struct prepare_settings settings;
    enum status status;

    TRY_GOTO(status, options_read_flags(&line, tables, 1, argc, argv, 0), done);
    if (line.wants_help) {
        print_help();
        goto done;
    }
    if (line.wants_version) {
        printf("%s %s\n", program, OCTET_VERSION);
        goto done;
    }
    options_default(&prepare_options, &settings);
    TRY_GOTO(status, command_line_apply(&line, &prepare_options, &settings), done);
    catch_signals();
    status = prepare_run(&settings, resource_folders(), &stop_signal);

done:
    command_line_free(&line);
    return status;
}

int main(int argc, char **argv)
{
    const enum status status = run(argc, argv);

    if (status != OK)
        log_error(program, status_message());
    if (status == ERR_CANCELED)
        return 128 + stop_signal;
    return status_exit_code(status);
}
