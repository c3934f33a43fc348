#include "base/json.h"

#include <stdbool.h>
#include <string.h>

/* Two bytes of text can make a value of 250 in memory, so the size alone does not limit that. */
enum { MAX_DEPTH = 32, MAX_VALUES = 1 << 20 };

/* Roughly what the parser would allocate; whether it is JSON at all is the parser's business. */
static enum status check_amount(const char *text, size_t size, const char *source)
{
    int depth = 0, n_values = 0;
    bool in_string = false;

    for (size_t i = 0; i < size; i++) {
        const char c = text[i];
        if (c == '"')
            in_string = !in_string;
        else if (in_string && c == '\\')
            i++;
        if (in_string)
            continue;
        n_values += c == ',' || c == '[' || c == '{';
        depth += (c == '[' || c == '{') - (c == ']' || c == '}');
        if (depth > MAX_DEPTH)
            return fail(ERR_INVALID, "%s: JSON with a depth of more than %d levels", source,
                        MAX_DEPTH);
        if (n_values > MAX_VALUES)
            return fail(ERR_INVALID, "%s: JSON of more than %d values", source, MAX_VALUES);
    }
    return OK;
}

enum status json_parse(json_t **out, const char *text, size_t size, size_t max_size,
                       const char *source)
{
    json_error_t error;

    *out = NULL;
    if (size > max_size)
        return fail(ERR_INVALID, "%s: JSON of %zu bytes, at most %zu are accepted", source, size,
                    max_size);
    TRY(check_amount(text, size, source));
    *out = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL,
                      &error);
    if (*out)
        return OK;

    /* Some of the library's failed allocations leave no text. */
    if (json_error_code(&error) == json_error_out_of_memory || error.text[0] == '\0')
        return fail(ERR_NOMEM, "%s: not enough memory to parse %zu bytes of JSON", source, size);
    /* The text quotes the input, whose control characters must not reach a terminal. */
    for (char *c = error.text; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
    return fail(ERR_INVALID, "%s: invalid JSON: %s at byte %d", source, error.text,
                error.position);
}

const char *json_text(const json_t *value)
{
    const char *text = json_string_value(value);

    return text && strlen(text) == json_string_length(value) ? text : NULL;
}
