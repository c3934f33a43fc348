#include "options/option_find.h"

#include <string.h>

#include "base/log.h"
#include "options/option_value.h"

/* No known name is longer; what is cut to it matches none. */
enum { NAME_SIZE = 64 };

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* How many letters to insert, delete or replace to get from one name to the other. */
static int edit_distance(const char *a, const char *b)
{
    const int n = (int)strnlen(b, NAME_SIZE - 1);
    int row[NAME_SIZE];     /* distances of a's first letters to each beginning of b */

    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 1; a[i - 1] && i < NAME_SIZE; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            const int replaced = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = smaller(replaced, smaller(row[j], row[j - 1]) + 1);
        }
    }
    return row[n];
}

/* A guess is worth saying if it leaves most of the word as it is. */
static int guess_limit(const char *name)
{
    const int length = (int)strnlen(name, NAME_SIZE);
    return length < 3 ? 0 : smaller(1 + length / 4, 3);
}

static bool is_key(const struct option *row, const char *section, const char *key)
{
    return row->key && strcmp(row->section, section) == 0 && strcmp(row->key, key) == 0;
}

/* The nearest key by its own name; another section counts as a small difference, because a right
 * key under a wrong heading is as likely as a slip of the finger. NULL if none is near. */
static const struct option *nearest_key(const struct option_table *table, const char *section,
                                        const char *key)
{
    const struct option *nearest = NULL;
    const int limit = guess_limit(key);
    int least = limit + 3;

    for (int i = 0; i < table->n_rows; i++) {
        const struct option *row = &table->rows[i];
        if (!row->key)
            continue;
        const int distance = edit_distance(key, row->key);
        const int total = distance + smaller(edit_distance(section, row->section), 2);
        if (distance <= limit && total < least) {
            nearest = row;
            least = total;
        }
    }
    return nearest;
}

static void append_name(char *list, size_t size, const char *name)
{
    const size_t length = strlen(list);
    snprintf(list + length, size - length, "%s%s", length > 0 ? ", " : "", name);
}

static void list_sections(const struct option_table *table, char *list, size_t size)
{
    const char *previous = "";

    list[0] = '\0';
    for (int i = 0; i < table->n_rows; i++) {
        const struct option *row = &table->rows[i];
        if (!row->key || strcmp(row->section, previous) == 0)
            continue;
        append_name(list, size, row->section);
        previous = row->section;
    }
}

static void list_keys(const struct option_table *table, const char *section, char *list,
                      size_t size)
{
    list[0] = '\0';
    for (int i = 0; i < table->n_rows; i++) {
        const struct option *row = &table->rows[i];
        if (row->key && strcmp(row->section, section) == 0)
            append_name(list, size, row->key);
    }
}

static enum status fail_unknown_key(const struct option_table *table, const char *section,
                                    const char *key)
{
    char section_buffer[OPTION_SHOWN_SIZE], key_buffer[OPTION_SHOWN_SIZE], list[512];
    const char *shown_section = option_value_shown(section, section_buffer);
    const char *shown_key = option_value_shown(key, key_buffer);
    const struct option *nearest = nearest_key(table, section, key);

    if (nearest && !*section)
        return fail(ERR_INVALID, "key %s without a section: did you mean %s.%s?", shown_key,
                    nearest->section, nearest->key);
    if (nearest)
        return fail(ERR_INVALID, "unknown key %s.%s: did you mean %s.%s?", shown_section, shown_key,
                    nearest->section, nearest->key);
    list_keys(table, section, list, sizeof list);
    if (*list)
        return fail(ERR_INVALID, "unknown key %s.%s: the keys of [%s] are %s", shown_section,
                    shown_key, section, list);
    list_sections(table, list, sizeof list);
    if (!*section)
        return fail(ERR_INVALID, "key %s without a section: the sections are %s", shown_key, list);
    return fail(ERR_INVALID, "unknown section [%s]: the sections are %s", shown_section, list);
}

enum status option_find_key(const struct option_table *table, const char *section, const char *key,
                            const struct option **row)
{
    *row = NULL;
    for (int i = 0; i < table->n_rows; i++) {
        if (is_key(&table->rows[i], section, key)) {
            *row = &table->rows[i];
            return OK;
        }
    }
    for (const char *const *ignored = table->ignored_keys; ignored && *ignored; ignored += 2) {
        if (strcmp(ignored[0], key) == 0) {
            log_notice("%s is not needed: %s", ignored[0], ignored[1]);
            return OK;
        }
    }
    return fail_unknown_key(table, section, key);
}

enum status option_find_assignment(const struct option_table *table, const char *assignment,
                                   const struct option **row, const char **value)
{
    const char *dot = strchr(assignment, '.'), *equals = strchr(assignment, '=');
    char section[NAME_SIZE], key[NAME_SIZE];

    if (!dot || !equals || dot > equals)
        return fail(ERR_INVALID, "expected section.key=value");
    snprintf(section, sizeof section, "%.*s", (int)(dot - assignment), assignment);
    snprintf(key, sizeof key, "%.*s", (int)(equals - dot - 1), dot + 1);
    *value = equals + 1;
    return option_find_key(table, section, key, row);
}

const struct option *option_find_flag(const struct option_table *const *tables, int n_tables,
                                      const char *flag, const struct option_table **table)
{
    for (int t = 0; t < n_tables; t++) {
        for (int i = 0; i < tables[t]->n_rows; i++) {
            const struct option *row = &tables[t]->rows[i];
            if (row->flag && strcmp(row->flag, flag) == 0) {
                *table = tables[t];
                return row;
            }
        }
    }
    return NULL;
}

const struct option_table *option_ini_table(const struct option_table *const *tables, int n_tables)
{
    for (int t = 0; t < n_tables; t++) {
        for (int i = 0; i < tables[t]->n_rows; i++) {
            if (tables[t]->rows[i].key)
                return tables[t];
        }
    }
    return NULL;
}

static void keep_nearer(const char *flag, const char *candidate, const char **nearest, int *least)
{
    const int distance = edit_distance(flag, candidate);

    if (distance < *least) {
        *nearest = candidate;
        *least = distance;
    }
}

/* The INI key that the flag spells, as in --batch_size or --training.batch-size. */
static const struct option *key_of_flag(const struct option_table *table, const char *flag)
{
    char name[NAME_SIZE], dotted[2 * NAME_SIZE];

    snprintf(name, sizeof name, "%s", flag);
    for (char *c = name; *c; c++) {
        if (*c == '-')
            *c = '_';
    }
    for (int i = 0; i < table->n_rows; i++) {
        const struct option *row = &table->rows[i];
        if (!row->key)
            continue;
        snprintf(dotted, sizeof dotted, "%s.%s", row->section, row->key);
        if (strcmp(name, row->key) == 0 || strcmp(name, dotted) == 0)
            return row;
    }
    return NULL;
}

enum status option_unknown_flag(const struct option_table *const *tables, int n_tables,
                                const char *flag)
{
    const struct option_table *ini_table = option_ini_table(tables, n_tables);
    const struct option *key = ini_table ? key_of_flag(ini_table, flag) : NULL;
    const char *nearest = NULL;
    char buffer[OPTION_SHOWN_SIZE];
    const char *shown = option_value_shown(flag, buffer);
    int least = guess_limit(flag) + 1;

    if (key)
        return fail(ERR_INVALID, "unknown flag --%s: use --set %s.%s=VALUE", shown, key->section,
                    key->key);
    for (int t = 0; t < n_tables; t++) {
        for (int i = 0; i < tables[t]->n_rows; i++) {
            if (tables[t]->rows[i].flag)
                keep_nearer(flag, tables[t]->rows[i].flag, &nearest, &least);
        }
    }
    if (ini_table)
        keep_nearer(flag, "set", &nearest, &least);
    keep_nearer(flag, "help", &nearest, &least);
    keep_nearer(flag, "version", &nearest, &least);
    if (nearest)
        return fail(ERR_INVALID, "unknown flag --%s: did you mean --%s?", shown, nearest);
    return fail(ERR_INVALID, "unknown flag --%s: --help lists the flags", shown);
}
