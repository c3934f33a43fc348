/* option.h - options as rows of a table: reading, checking, help and dump all come from the rows.
 *
 * A program describes a struct of settings by an array of rows. A row can be set by an INI key, by
 * a flag of its own (--name value), or by both; every INI key also by --set section.key=value.
 * Defaults come first, then the file, then the command line, and later ones win. As it is the
 * command line that names the file, it is read first and applied last:
 *
 *     options_read_flags(&line, tables, n_tables, argc, argv, 1);
 *     options_default(&config_options, &config);
 *     options_read_file(&config_options, &config, line.positional[0]);
 *     command_line_apply(&line, &config_options, &config);
 *
 * A resumed run reads the checkpoint's text right after the defaults: what the user's file and
 * flags name then wins over the checkpoint, what they leave out stays, and options_diff tells
 * which settings they changed. On an error the settings are partly filled and must not be used. */
#ifndef OCTET_OPTION_H
#define OCTET_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/status.h"

/* Strings with an INI key must, with their key, fit into a line that inih can hold: 200 bytes. */
enum { OPTION_STRING_SIZE = 180 };

enum option_type {
    OPTION_BOOL,        /* bool: true, false (yes, no, on, off, 1, 0), in any case */
    OPTION_INT,         /* int64_t, within min .. max, in decimal digits */
    OPTION_FLOAT,       /* double, finite, within min .. max */
    OPTION_STRING,      /* char[OPTION_STRING_SIZE]; what an INI line can't hold is refused */
    OPTION_CHOICE,      /* char[OPTION_STRING_SIZE], one of `choices` */
    OPTION_ARGUMENT,    /* const char *, a word of the command line of any length; flags only */
};

struct option {
    const char *section, *key;  /* NULL: no INI key, only a flag */
    const char *flag;           /* long flag without dashes, or NULL */
    const char *placeholder;    /* of the value in the help: "N", "PATH"; NULL for bool flags */
    enum option_type type;
    size_t offset;              /* of the field in the settings struct */
    const char *default_value;  /* in INI spelling; NULL: the field stays as it is */
    double min, max;            /* INT (to 2^53) and FLOAT; finite; inclusive, unless told: */
    bool above_min, below_max;  /* FLOAT: the bound itself is not allowed */
    const char *choices;        /* CHOICE: "a|b|c" */
    const char *help;           /* one short sentence, lower case, no full stop */
};

struct option_table {
    const struct option *rows;          /* those of one section stand together */
    int n_rows;
    const char *const *ignored_keys;    /* "key", "why not needed", ..., NULL; gets a notice */
};

/* Fill the struct with the defaults. */
void options_default(const struct option_table *table, void *settings);

/* Read an INI file over the settings: [section], key = value, and comments, which begin with ; or #
 * at the start of a line or after a blank. ERR_INVALID: "FILE:LINE: ..." with the key or value,
 * what was expected and the nearest known key; also for keys given twice, lines too long, text
 * outside any section. ERR_INVALID too if the file can't be read, with its name. */
enum status options_read_file(const struct option_table *table, void *settings, const char *path);
/* The same from memory (the configuration stored in a checkpoint); `name` stands for the file. */
enum status options_read_text(const struct option_table *table, void *settings, const char *text,
                              const char *name);

/* One "section.key=value". */
enum status options_set(const struct option_table *table, void *settings, const char *assignment);

/* What a flag says, found in its table but not yet applied. All words are those of argv. */
struct option_assignment {
    const struct option_table *table;
    const struct option *row;
    const char *flag;           /* without dashes: the row's, or "set" */
    const char *argument;       /* what followed the flag */
    const char *value;          /* for the row: `argument`, or the end of section.key=value */
};

enum { COMMAND_LINE_MAX_POSITIONAL = 4 };

struct command_line {
    const char *positional[COMMAND_LINE_MAX_POSITIONAL];    /* the rest is NULL */
    int n_positional;
    bool wants_help, wants_version;     /* --help, --version: left to the caller */
    struct option_assignment *assignments;
    int n_assignments;
};

/* Read the command line of a program whose flags are in these tables: --flag VALUE, --flag=VALUE,
 * bool --flag and --no-flag, --set section.key=value for the first table with INI keys, "--" as
 * the end of the flags, and at most `max_positional` (up to 4) other words. ERR_INVALID names the
 * flag and the nearest known one; values are checked by command_line_apply. `argv` must outlive
 * *line. */
enum status options_read_flags(struct command_line *line, const struct option_table *const *tables,
                               int n_tables, int argc, char **argv, int max_positional);
/* Apply the assignments to rows of this table, in their order. ERR_INVALID names flag and value. */
enum status command_line_apply(const struct command_line *line, const struct option_table *table,
                               void *settings);
/* Fine for a zeroed struct and after a failure. */
void command_line_free(struct command_line *line);

/* The flags of these tables for --help, two columns wrapped at 100. */
void options_print_flags(const struct option_table *const *tables, int n_tables, FILE *out);
/* All INI keys in Markdown, a table per section: key, value, default, meaning. */
void options_print_table(const struct option_table *table, FILE *out);

/* The effective settings as an INI text; the caller frees it. Reading it back gives the same
 * settings, bit for bit. */
enum status options_dump(const struct option_table *table, const void *settings, char **text);

/* Compare two settings: calls `report` for each INI key that differs, as "section.key", in table
 * order. */
void options_diff(const struct option_table *table, const void *a, const void *b,
                  void (*report)(void *context, const char *key, const char *a, const char *b),
                  void *context);

#endif
