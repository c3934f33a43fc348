/* option_file.c - INI files and texts: inih takes the lines apart, fed by a reader that counts
 * them, removes comments and refuses what inih would silently split or drop. */
#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>

#include "options/option.h"
#include "options/option_find.h"
#include "options/option_value.h"

struct ini_source {
    const struct option_table *table;
    void *settings;
    const char *name;           /* of the file, for messages */
    FILE *stream;
    int line_number;            /* of the line read last, from 1 */
    int *seen_at;               /* per row: the line that gave it, 0 for none yet */
    enum status status;         /* of the first line that failed; nothing is read after it */
};

static bool is_blank(int c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* Read one line without its indentation, which inih would take for a continued value, and without
 * its comment, so that comments may be of any length. Returns how many bytes of `line` it fills; -1
 * at the end of the stream, or with source->status set. */
static int read_text(struct ini_source *source, char *line, int size)
{
    bool in_comment = false;
    int c, length = 0;

    while ((c = getc(source->stream)) != EOF && c != '\n') {
        if ((c < ' ' && !is_blank(c)) || c == 0x7f) {
            source->status = fail(ERR_INVALID, "control character 0x%02x: expected a text file", c);
            return -1;
        }
        if ((c == ';' || c == '#') && (length == 0 || is_blank(line[length - 1])))
            in_comment = true;
        if (in_comment || (length == 0 && is_blank(c)))
            continue;
        if (length == size) {
            source->status = fail(ERR_INVALID, "line too long: expected at most %d bytes", size);
            return -1;
        }
        line[length++] = (char)c;
    }
    if (ferror(source->stream)) {
        source->status = fail_errno(ERR_INVALID, "cannot read the file");
        return -1;
    }
    while (length > 0 && is_blank(line[length - 1]))
        length--;
    return c == EOF && length == 0 ? -1 : length;
}

/* What inih calls for each line, in the manner of fgets. */
static char *read_line(char *line, int size, void *context)
{
    struct ini_source *source = context;

    if (source->status != OK)
        return NULL;
    source->line_number++;
    const int length = read_text(source, line, size - 2);
    if (length < 0)
        return NULL;
    if (length > 0 && line[0] == '[' && line[length - 1] != ']') {
        source->status = fail(ERR_INVALID, "expected [section] alone on its line");
        return NULL;
    }
    memcpy(line + length, "\n", 2);
    return line;
}

static enum status read_key(struct ini_source *source, const char *section, const char *key,
                            const char *value)
{
    const struct option *row;
    char shown[OPTION_SHOWN_SIZE];

    TRY(option_find_key(source->table, section, key, &row));
    if (!row)
        return OK;
    int *seen_at = &source->seen_at[row - source->table->rows];
    if (*seen_at)
        return fail(ERR_INVALID, "%s.%s is given twice: line %d has it already", section, key,
                    *seen_at);
    *seen_at = source->line_number;
    const enum status status = option_value_set(row, source->settings, value);
    if (status != OK)
        return fail_prefix(status, "%s.%s = %s: ", section, key, option_value_shown(value, shown));
    return OK;
}

/* What inih calls for each key; 0 counts as an error there. */
static int handle_key(void *context, const char *section, const char *key, const char *value)
{
    struct ini_source *source = context;

    if (source->status == OK)
        source->status = read_key(source, section, key, value);
    return source->status == OK;
}

static enum status read_stream(const struct option_table *table, void *settings, FILE *stream,
                               const char *name)
{
    struct ini_source source = {table, settings, name, stream, 0, NULL, OK};

    source.seen_at = calloc((size_t)table->n_rows + 1, sizeof *source.seen_at);
    if (!source.seen_at)
        return fail(ERR_NOMEM, "no memory to read %s", name);
    const int error_line = ini_parse_stream(read_line, &source, handle_key, &source);
    free(source.seen_at);

    /* A line without "=" is known to inih alone, which reads on after it. */
    if (error_line > 0 && (source.status == OK || error_line < source.line_number))
        return fail(ERR_INVALID, "%s:%d: expected [section], key = value or a comment", name,
                    error_line);
    if (source.status != OK)
        return fail_prefix(source.status, "%s:%d: ", name, source.line_number);
    if (error_line < 0)
        return fail(ERR_NOMEM, "no memory to read %s", name);
    return OK;
}

enum status options_read_file(const struct option_table *table, void *settings, const char *path)
{
    FILE *stream = fopen(path, "re");

    if (!stream)
        return fail_errno(ERR_INVALID, "%s: cannot open the configuration file", path);
    const enum status status = read_stream(table, settings, stream, path);
    fclose(stream);
    return status;
}

enum status options_read_text(const struct option_table *table, void *settings, const char *text,
                              const char *name)
{
    if (!*text)
        return OK;  /* fmemopen may refuse an empty buffer */
    FILE *stream = fmemopen((char *)text, strlen(text), "r");
    if (!stream)
        return fail(ERR_NOMEM, "no memory to read %s", name);
    const enum status status = read_stream(table, settings, stream, name);
    fclose(stream);
    return status;
}
