/* option_flags.c - the command line: words become assignments to rows, applied when their turn
 * comes. */
#include <stdlib.h>
#include <string.h>

#include "options/option.h"
#include "options/option_find.h"
#include "options/option_value.h"

/* The words still to be read, and the tables that know them. */
struct words {
    const struct option_table *const *tables;
    int n_tables;
    char **next;
    char **end;
};

static void add_assignment(struct command_line *line, struct option_assignment assignment)
{
    line->assignments[line->n_assignments++] = assignment;
}

static enum status fail_no_argument(const char *flag, const char *placeholder)
{
    return fail(ERR_INVALID, "--%s needs a value: --%s %s (--%s=VALUE if it begins with --)", flag,
                flag, placeholder, flag);
}

/* What follows the flag: `attached` after "=", else the next word. */
static enum status take_argument(struct words *words, const char *flag, const char *placeholder,
                                 const char *attached, const char **argument)
{
    if (attached) {
        *argument = attached;
        return OK;
    }
    if (words->next == words->end || strncmp(*words->next, "--", 2) == 0)
        return fail_no_argument(flag, placeholder);
    *argument = *words->next++;
    return OK;
}

static enum status read_set(struct command_line *line, struct words *words,
                            const struct option_table *table, const char *attached)
{
    struct option_assignment set = {.table = table, .flag = "set"};
    char shown[OPTION_SHOWN_SIZE];

    TRY(take_argument(words, "set", "section.key=value", attached, &set.argument));
    const enum status status = option_find_assignment(table, set.argument, &set.row, &set.value);
    if (status != OK)
        return fail_prefix(status, "--set %s: ", option_value_shown(set.argument, shown));
    if (set.row)
        add_assignment(line, set);
    return OK;
}

static enum status read_row_flag(struct command_line *line, struct words *words,
                                 const struct option_table *table, const struct option *row,
                                 const char *attached)
{
    struct option_assignment flag = {.table = table, .row = row, .flag = row->flag};

    if (row->type == OPTION_BOOL)
        flag.argument = attached ? attached : "true";
    else
        TRY(take_argument(words, row->flag, row->placeholder, attached, &flag.argument));
    flag.value = flag.argument;
    add_assignment(line, flag);
    return OK;
}

static enum status read_no_flag(struct command_line *line, const struct words *words,
                                const char *name, const char *attached)
{
    struct option_assignment flag = {.argument = "false", .value = "false"};

    flag.row = option_find_flag(words->tables, words->n_tables, name + strlen("no-"), &flag.table);
    if (!flag.row)
        return option_unknown_flag(words->tables, words->n_tables, name);
    if (flag.row->type != OPTION_BOOL)
        return fail(ERR_INVALID, "unknown flag --%s: --%s takes a value", name, flag.row->flag);
    if (attached)
        return fail(ERR_INVALID, "--%s takes no value", name);
    flag.flag = flag.row->flag;
    add_assignment(line, flag);
    return OK;
}

/* `name` is the flag without dashes and without what is attached by "=". */
static enum status read_flag(struct command_line *line, struct words *words, const char *name,
                             const char *attached)
{
    const struct option_table *table, *ini_table = option_ini_table(words->tables, words->n_tables);
    const struct option *row = option_find_flag(words->tables, words->n_tables, name, &table);
    const bool is_help = strcmp(name, "help") == 0, is_version = strcmp(name, "version") == 0;

    if (row)
        return read_row_flag(line, words, table, row, attached);
    if (ini_table && strcmp(name, "set") == 0)
        return read_set(line, words, ini_table, attached);
    if (strncmp(name, "no-", 3) == 0)
        return read_no_flag(line, words, name, attached);
    if (!is_help && !is_version)
        return option_unknown_flag(words->tables, words->n_tables, name);
    if (attached)
        return fail(ERR_INVALID, "--%s takes no value", name);
    line->wants_help |= is_help;
    line->wants_version |= is_version;
    return OK;
}

/* One word, and with a flag the word that belongs to it. */
static enum status read_word(struct command_line *line, struct words *words, int max_positional,
                             bool *flags_ended)
{
    const char *word = *words->next++;
    const size_t length = strcspn(word, "=");
    char name[OPTION_SHOWN_SIZE], shown[OPTION_SHOWN_SIZE];

    if (!*flags_ended && strcmp(word, "--") == 0) {
        *flags_ended = true;
        return OK;
    }
    if (!*flags_ended && strncmp(word, "--", 2) == 0) {
        snprintf(name, sizeof name, "%.*s", (int)length - 2, word + 2);
        return read_flag(line, words, name, word[length] ? word + length + 1 : NULL);
    }
    if (!*flags_ended && word[0] == '-' && word[1])
        return fail(ERR_INVALID, "unknown flag %s: flags begin with two dashes, --help lists them",
                    option_value_shown(word, shown));
    if (line->n_positional == max_positional)
        return fail(ERR_INVALID, "unexpected argument %s: --help shows the usage",
                    option_value_shown(word, shown));
    line->positional[line->n_positional++] = word;
    return OK;
}

enum status options_read_flags(struct command_line *line, const struct option_table *const *tables,
                               int n_tables, int argc, char **argv, int max_positional)
{
    const int first = argc > 0;     /* after the program's name */
    struct words words = {tables, n_tables, argv + first, argv + argc};
    bool flags_ended = false;

    memset(line, 0, sizeof *line);
    line->assignments = calloc((size_t)argc + 1, sizeof *line->assignments);
    if (!line->assignments)
        return fail(ERR_NOMEM, "no memory for the command line");
    while (words.next < words.end)
        TRY(read_word(line, &words, max_positional, &flags_ended));
    return OK;
}

enum status command_line_apply(const struct command_line *line, const struct option_table *table,
                               void *settings)
{
    char shown[OPTION_SHOWN_SIZE];

    for (int i = 0; i < line->n_assignments; i++) {
        const struct option_assignment *assignment = &line->assignments[i];
        if (assignment->table != table)
            continue;
        const enum status status = option_value_set(assignment->row, settings, assignment->value);
        if (status != OK)
            return fail_prefix(status, "--%s %s: ", assignment->flag,
                               option_value_shown(assignment->argument, shown));
    }
    return OK;
}

void command_line_free(struct command_line *line)
{
    free(line->assignments);
    memset(line, 0, sizeof *line);
}
