#include "options/option_value.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static enum status fail_expected(const struct option *row)
{
    const bool is_number = row->type == OPTION_INT || row->type == OPTION_FLOAT;
    char expected[OPTION_EXPECTED_SIZE];

    option_value_expected(row, expected);
    return fail(ERR_INVALID, "expected %s%s", is_number ? "a " : "", expected);
}

static enum status set_bool(const struct option *row, bool *field, const char *text)
{
    static const char *const spellings[][2] = {
        {"false", "true"}, {"no", "yes"}, {"off", "on"}, {"0", "1"},
    };

    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++) {
        for (int value = 0; value < 2; value++) {
            if (strcasecmp(text, spellings[i][value]) == 0) {
                *field = value;
                return OK;
            }
        }
    }
    return fail_expected(row);
}

static bool is_within(const struct option *row, double value)
{
    return (row->above_min ? value > row->min : value >= row->min) &&
           (row->below_max ? value < row->max : value <= row->max);
}

static enum status set_int(const struct option *row, int64_t *field, const char *text)
{
    const char *digits = text + (*text == '-');
    char *end;

    if (!isdigit((unsigned char)*digits))
        return fail_expected(row);
    /* What is too large becomes the largest integer, which no row allows. */
    const long long value = strtoll(text, &end, 10);
    if (*end || !is_within(row, (double)value))
        return fail_expected(row);
    *field = value;
    return OK;
}

static enum status set_float(const struct option *row, double *field, const char *text)
{
    char *end;

    /* strtod by itself would also take blanks, hexadecimal digits, "inf" and "nan". */
    if (text[strspn(text, "0123456789.eE+-")] != '\0')
        return fail_expected(row);
    const double value = strtod(text, &end);
    if (end == text || *end || !is_within(row, value))  /* infinite: within no row's bounds */
        return fail_expected(row);
    *field = value;
    return OK;
}

static bool begins_comment(char c)
{
    return c == ';' || c == '#';
}

/* A string that an INI file can't hold would be lost in the text that a checkpoint keeps. */
static enum status check_ini_string(const char *text)
{
    const size_t length = strlen(text);

    if (length == 0)
        return OK;
    const char first = text[0], last = text[length - 1];
    if (first == ' ' || last == ' ')
        return fail(ERR_INVALID, "expected text without blanks around it");
    if (length > 1 && first == last && (first == '"' || first == '\''))
        return fail(ERR_INVALID, "expected text without quotation marks around it");
    if (begins_comment(first))
        return fail(ERR_INVALID, "expected text that begins with neither ; nor #, which begin a "
                                 "comment");
    for (size_t i = 1; i < length; i++) {
        if (begins_comment(text[i]) && text[i - 1] == ' ')
            return fail(ERR_INVALID, "expected text without ; or # after a blank, which begin a "
                                     "comment");
    }
    return OK;
}

static enum status set_string(const struct option *row, char *field, const char *text)
{
    const size_t length = strlen(text);

    if (length >= OPTION_STRING_SIZE)
        return fail_expected(row);
    for (const char *c = text; *c; c++) {
        if (iscntrl((unsigned char)*c))
            return fail(ERR_INVALID, "expected text without control characters");
    }
    if (row->key)
        TRY(check_ini_string(text));
    memcpy(field, text, length + 1);
    return OK;
}

static enum status set_choice(const struct option *row, char *field, const char *text)
{
    const size_t length = strlen(text);

    for (const char *choice = row->choices; *choice;) {
        const size_t size = strcspn(choice, "|");
        if (size == length && memcmp(choice, text, size) == 0) {
            memcpy(field, text, length + 1);
            return OK;
        }
        choice += size + (choice[size] == '|');
    }
    return fail_expected(row);
}

enum status option_value_set(const struct option *row, void *settings, const char *text)
{
    void *field = (char *)settings + row->offset;

    switch (row->type) {
    case OPTION_BOOL:
        return set_bool(row, field, text);
    case OPTION_INT:
        return set_int(row, field, text);
    case OPTION_FLOAT:
        return set_float(row, field, text);
    case OPTION_STRING:
        return set_string(row, field, text);
    case OPTION_CHOICE:
        return set_choice(row, field, text);
    case OPTION_ARGUMENT:
        *(const char **)field = text;
        return OK;
    }
    return OK;
}

static void format_float(double value, char out[OPTION_STRING_SIZE])
{
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(out, OPTION_STRING_SIZE, "%.*g", digits, value);
        if (strtod(out, NULL) == value)
            return;
    }
}

void option_value_format(const struct option *row, const void *settings,
                         char out[OPTION_STRING_SIZE])
{
    const void *field = (const char *)settings + row->offset;

    switch (row->type) {
    case OPTION_BOOL:
        snprintf(out, OPTION_STRING_SIZE, "%s", *(const bool *)field ? "true" : "false");
        break;
    case OPTION_INT:
        snprintf(out, OPTION_STRING_SIZE, "%" PRId64, *(const int64_t *)field);
        break;
    case OPTION_FLOAT:
        format_float(*(const double *)field, out);
        break;
    case OPTION_STRING:
    case OPTION_CHOICE:
        snprintf(out, OPTION_STRING_SIZE, "%s", (const char *)field);
        break;
    case OPTION_ARGUMENT:
        out[0] = '\0';
        break;
    }
}

static void expected_float(const struct option *row, char out[OPTION_EXPECTED_SIZE])
{
    if (!row->above_min && !row->below_max)
        snprintf(out, OPTION_EXPECTED_SIZE, "number from %g to %g", row->min, row->max);
    else
        snprintf(out, OPTION_EXPECTED_SIZE, "number %s %g and %s %g",
                 row->above_min ? "above" : "of at least", row->min,
                 row->below_max ? "below" : "at most", row->max);
}

static void expected_choice(const struct option *row, char out[OPTION_EXPECTED_SIZE])
{
    const char *last_bar = strrchr(row->choices, '|');
    size_t length = 0;

    for (const char *c = row->choices; *c && length + sizeof " or " < OPTION_EXPECTED_SIZE; c++) {
        const char *text = c == last_bar ? " or " : ", ";
        if (*c == '|')
            length += (size_t)snprintf(out + length, OPTION_EXPECTED_SIZE - length, "%s", text);
        else
            out[length++] = *c;
    }
    out[length] = '\0';
}

void option_value_expected(const struct option *row, char out[OPTION_EXPECTED_SIZE])
{
    switch (row->type) {
    case OPTION_BOOL:
        snprintf(out, OPTION_EXPECTED_SIZE, "true or false");
        break;
    case OPTION_INT:
        snprintf(out, OPTION_EXPECTED_SIZE, "whole number from %.0f to %.0f", row->min, row->max);
        break;
    case OPTION_FLOAT:
        expected_float(row, out);
        break;
    case OPTION_STRING:
        snprintf(out, OPTION_EXPECTED_SIZE, "text of at most %d bytes", OPTION_STRING_SIZE - 1);
        break;
    case OPTION_CHOICE:
        expected_choice(row, out);
        break;
    case OPTION_ARGUMENT:
        snprintf(out, OPTION_EXPECTED_SIZE, "text");
        break;
    }
}

const char *option_value_shown(const char *text, char out[OPTION_SHOWN_SIZE])
{
    static const char more[] = "...";
    size_t length = strlen(text);
    const bool is_cut = length >= OPTION_SHOWN_SIZE;

    if (length == 0)
        return "\"\"";
    if (is_cut) {
        length = OPTION_SHOWN_SIZE - sizeof more;
        while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80)
            length--;   /* not within a UTF-8 character */
    }
    for (size_t i = 0; i < length; i++)
        out[i] = text[i];
    for (size_t i = 0; i < length; i++) {
        if (iscntrl((unsigned char)out[i]))
            out[i] = '?';
    }
    memcpy(out + length, is_cut ? more : "", is_cut ? sizeof more : 1);
    return out;
}
