#include "options/option.h"

#include <stdlib.h>
#include <string.h>

#include "options/option_find.h"
#include "options/option_value.h"

void options_default(const struct option_table *table, void *settings)
{
    /* A row that refuses its own default is a fault of the program, which its unit test finds. */
    for (int i = 0; i < table->n_rows; i++)
        if (table->rows[i].default_value || table->rows[i].type == OPTION_ARGUMENT)
            (void)option_value_set(&table->rows[i], settings, table->rows[i].default_value);
}

enum status options_set(const struct option_table *table, void *settings, const char *assignment)
{
    const struct option *row;
    const char *value;
    char shown[OPTION_SHOWN_SIZE];
    enum status status = option_find_assignment(table, assignment, &row, &value);

    if (status == OK && row)
        status = option_value_set(row, settings, value);
    if (status != OK)
        return fail_prefix(status, "%s: ", option_value_shown(assignment, shown));
    return OK;
}

enum status options_dump(const struct option_table *table, const void *settings, char **text)
{
    const char *section = NULL;
    char value[OPTION_STRING_SIZE];
    size_t size;

    *text = NULL;
    FILE *out = open_memstream(text, &size);
    if (!out)
        return fail(ERR_NOMEM, "no memory for the text of the settings");
    for (int i = 0; i < table->n_rows; i++) {
        const struct option *row = &table->rows[i];
        if (!row->key)
            continue;
        if (!section || strcmp(section, row->section) != 0)
            fprintf(out, "%s[%s]\n", section ? "\n" : "", row->section);
        section = row->section;
        option_value_format(row, settings, value);
        fprintf(out, "%s = %s\n", row->key, value);
    }
    const bool failed = ferror(out);
    if (fclose(out) != 0 || failed) {
        free(*text);
        *text = NULL;
        return fail(ERR_NOMEM, "no memory for the text of the settings");
    }
    return OK;
}

void options_diff(const struct option_table *table, const void *a, const void *b,
                  void (*report)(void *context, const char *key, const char *a, const char *b),
                  void *context)
{
    char value_a[OPTION_STRING_SIZE], value_b[OPTION_STRING_SIZE], name[128];

    for (int i = 0; i < table->n_rows; i++) {
        const struct option *row = &table->rows[i];
        if (!row->key)
            continue;
        option_value_format(row, a, value_a);
        option_value_format(row, b, value_b);
        if (strcmp(value_a, value_b) == 0)
            continue;
        snprintf(name, sizeof name, "%s.%s", row->section, row->key);
        report(context, name, value_a, value_b);
    }
}
