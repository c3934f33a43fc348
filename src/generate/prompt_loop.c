#include "generate/prompt_loop.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HISTORY_LINES = 1000 };

struct line_source {
    FILE *input;
    volatile sig_atomic_t *stop;
    EditLine *editor;           /* NULL: the input is no terminal */
    History *history;
    char *line;                 /* of getline() */
    size_t capacity;
};

static char *prompt_text(EditLine *editor)
{
    static char text[] = "> ";

    (void)editor;
    return text;
}

/* The editor reads characters of the locale's encoding. */
static void use_utf8(void)
{
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
}

static enum status open_editor(struct line_source *source)
{
    HistEvent event;

    use_utf8();
    source->editor = el_init("sample", source->input, stderr, stderr);
    source->history = history_init();
    if (!source->editor || !source->history)
        return fail(ERR_NOMEM, "no memory for the line editor");
    history(source->history, &event, H_SETSIZE, HISTORY_LINES);
    history(source->history, &event, H_SETUNIQUE, 1);
    el_set(source->editor, EL_EDITOR, "emacs");
    el_set(source->editor, EL_PROMPT, prompt_text);
    el_set(source->editor, EL_HIST, history, source->history);
    el_source(source->editor, NULL);
    return OK;
}

static void close_source(struct line_source *source)
{
    if (source->editor)
        el_end(source->editor);
    if (source->history)
        history_end(source->history);
    free(source->line);
}

static enum status fail_stopped(void)
{
    return fail(ERR_CANCELED, "stopped while waiting for a prompt");
}

/* *line is NULL at the end of the input. */
static enum status edit_line(struct line_source *source, const char **line, size_t *size)
{
    HistEvent event;
    int count = 0;

    while ((*line = el_gets(source->editor, &count)) == NULL && *source->stop == SIGINT) {
        *source->stop = 0;
        el_reset(source->editor);
        fputs("\n", stderr);
    }
    if (*source->stop == SIGINT)
        *source->stop = 0;      /* it came too late for the answer before */
    if (*source->stop)
        return fail_stopped();
    if (!*line || count <= 0) {
        *line = NULL;
        fputs("\n", stderr);
        return OK;
    }
    *size = (size_t)count;
    if ((*line)[0] != '\n')
        history(source->history, &event, H_ENTER, *line);
    return OK;
}

static enum status get_line(struct line_source *source, const char **line, size_t *size)
{
    errno = 0;
    const ssize_t length = getline(&source->line, &source->capacity, source->input);

    if (*source->stop)
        return fail_stopped();
    if (length < 0 && errno == ENOMEM)
        return fail(ERR_NOMEM, "no memory for a line of the input");
    if (length < 0 && !feof(source->input))
        return fail_errno(ERR_IO, "cannot read prompts");
    *line = length < 0 ? NULL : source->line;
    *size = length < 0 ? 0 : (size_t)length;
    return OK;
}

static bool is_word(const char *line, size_t size, const char *word)
{
    return size == strlen(word) && memcmp(line, word, size) == 0;
}

static enum status answer_lines(struct line_source *source, prompt_answer answer, void *context)
{
    const char *line = NULL;
    size_t size = 0;

    for (;;) {
        if (source->editor)
            TRY(edit_line(source, &line, &size));
        else
            TRY(get_line(source, &line, &size));
        if (!line)
            return OK;
        if (size > 0 && line[size - 1] == '\n')
            size--;
        if (is_word(line, size, "quit") || is_word(line, size, "exit"))
            return OK;
        const enum status status = answer(context, line, size);
        const bool goes_on = status == ERR_CANCELED && source->editor && *source->stop == SIGINT;
        if (status != OK && !goes_on)
            return status;
        if (goes_on)
            *source->stop = 0;
    }
}

enum status prompt_loop_run(FILE *input, volatile sig_atomic_t *stop, prompt_answer answer,
                            void *context)
{
    struct line_source source = {.input = input, .stop = stop};
    enum status status = isatty(fileno(input)) ? open_editor(&source) : OK;

    if (status == OK)
        status = answer_lines(&source, answer, context);
    close_source(&source);
    return status;
}
