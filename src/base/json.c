#include "base/json.h"

enum status json_parse(json_t **out, const char *text, size_t size, size_t max_size,
                       const char *source)
{
    json_error_t error;

    *out = NULL;
    if (size > max_size)
        return fail(ERR_INVALID, "%s: JSON of %zu bytes, at most %zu are accepted", source, size,
                    max_size);
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
