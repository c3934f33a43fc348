/* json.h - the few conveniences over jansson that several rooms share. */
#ifndef OCTET_JSON_H
#define OCTET_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "base/status.h"

/* Parse one JSON value from untrusted bytes: no duplicate keys, NUL in strings allowed, at most
 * `max_size` bytes, 32 levels and a million values. ERR_INVALID: "SOURCE: ...". The caller decrefs
 * *out. */
enum status json_parse(json_t **out, const char *text, size_t size, size_t max_size,
                       const char *source);

/* The text of a JSON string; NULL for any other value, and for strings with a NUL in them, which
 * would pass for what they begin with. */
const char *json_text(const json_t *value);

#endif
