/* option_print.c - the rows for a reader: the flags of --help and the Markdown table of keys. */
#include <string.h>

#include "options/option.h"
#include "options/option_find.h"
#include "options/option_value.h"

enum { HELP_WIDTH = 100, HELP_MAX_COLUMN = 34 };

static void flag_text(const struct option *row, char *text, size_t size)
{
    if (row->type != OPTION_BOOL)
        snprintf(text, size, "  --%s %s", row->flag, row->placeholder);
    else if (strcmp(row->default_value, "true") == 0)
        snprintf(text, size, "  --[no-]%s", row->flag);
    else
        snprintf(text, size, "  --%s", row->flag);
}

/* Left text, then the help from `column` on, broken at blanks. */
static void print_wrapped(FILE *out, int column, const char *left, const char *help)
{
    int at = fprintf(out, "%s", left);

    if (at + 2 > column) {
        fprintf(out, "\n");
        at = 0;
    }
    fprintf(out, "%*s", column - at, "");
    at = column;
    while (*help) {
        const int length = (int)strcspn(help, " ");
        if (at > column && at + 1 + length > HELP_WIDTH) {
            fprintf(out, "\n%*s", column, "");
            at = column;
        }
        at += fprintf(out, "%s%.*s", at > column ? " " : "", length, help);
        help += length + (help[length] == ' ');
    }
    fprintf(out, "\n");
}

static void print_flag(FILE *out, int column, const struct option *row)
{
    char left[128], help[512];
    const bool has_default = row->type != OPTION_BOOL && row->default_value && *row->default_value;

    flag_text(row, left, sizeof left);
    snprintf(help, sizeof help, "%s%s%s%s", row->help, has_default ? " (default " : "",
             has_default ? row->default_value : "", has_default ? ")" : "");
    print_wrapped(out, column, left, help);
}

void options_print_flags(const struct option_table *const *tables, int n_tables, FILE *out)
{
    static const char set_text[] = "  --set SECTION.KEY=VALUE";
    const bool has_keys = option_ini_table(tables, n_tables) != NULL;
    int column = has_keys ? (int)sizeof set_text + 1 : (int)sizeof "  --version" + 1;
    char left[128];

    for (int t = 0; t < n_tables; t++) {
        for (int i = 0; i < tables[t]->n_rows; i++) {
            if (!tables[t]->rows[i].flag)
                continue;
            flag_text(&tables[t]->rows[i], left, sizeof left);
            const int wanted = (int)strlen(left) + 2;
            if (wanted > column && wanted <= HELP_MAX_COLUMN)
                column = wanted;
        }
    }
    for (int t = 0; t < n_tables; t++) {
        for (int i = 0; i < tables[t]->n_rows; i++) {
            if (tables[t]->rows[i].flag)
                print_flag(out, column, &tables[t]->rows[i]);
        }
    }
    if (has_keys)
        print_wrapped(out, column, set_text, "set a key of the configuration file, over what the "
                                             "file says; any number of times");
    print_wrapped(out, column, "  --help", "show this text");
    print_wrapped(out, column, "  --version", "show the version");
}

void options_print_table(const struct option_table *table, FILE *out)
{
    const char *section = NULL;
    char expected[OPTION_EXPECTED_SIZE];

    for (int i = 0; i < table->n_rows; i++) {
        const struct option *row = &table->rows[i];
        if (!row->key)
            continue;
        if (!section || strcmp(section, row->section) != 0)
            fprintf(out, "%s### [%s]\n\n| Key | Value | Default | Meaning |\n|---|---|---|---|\n",
                    section ? "\n" : "", row->section);
        section = row->section;
        option_value_expected(row, expected);
        fprintf(out, "| `%s` | %s | %s | %s |\n", row->key, expected,
                *row->default_value ? row->default_value : "empty", row->help);
    }
}
