/* json.h - the few conveniences over jansson that several rooms share. */
#ifndef OCTET_JSON_H
#define OCTET_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "base/status.h"

/* Parse one JSON value from untrusted bytes: no duplicate keys, NUL in strings allowed, at most
 * `max_size` bytes. ERR_INVALID: "SOURCE: ... at byte N". The caller decrefs *out. */
enum status json_parse(json_t **out, const char *text, size_t size, size_t max_size,
                       const char *source);

#endif
