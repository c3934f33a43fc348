/* tokenizer.h - text to token ids and back.
 *
 * Three types, kept as a JSON text in token files and checkpoints:
 *   {"type":"byte","vocab_size":256}                       id = byte
 *   {"type":"char","vocab_size":N,"characters":"..."}      id = place in the sorted code points
 *   {"type":"none","vocab_size":N}                         ids without text */
#ifndef OCTET_TOKENIZER_H
#define OCTET_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum tokenizer_type { TOKENIZER_BYTE, TOKENIZER_CHAR, TOKENIZER_NONE };

struct tokenizer {
    enum tokenizer_type type;
    int vocab_size;
    uint32_t *code_points;      /* char: id to code point, strictly ascending; else NULL */
    int32_t *ids;               /* char: code point, up to the largest, to id or -1; else NULL */
};

/* Longest text of one token, in bytes. */
enum { TOKEN_MAX_BYTES = 4 };

/* `text` is the JSON; `source` names where it came from in messages. ERR_INVALID on any defect. */
enum status tokenizer_from_json(struct tokenizer *t, const char *text, const char *source);
/* A char tokenizer of these code points (any order, duplicates dropped). */
enum status tokenizer_from_code_points(struct tokenizer *t, const uint32_t *points, size_t count);
struct tokenizer tokenizer_byte(void);
/* The JSON text; the caller frees it. */
enum status tokenizer_to_json(const struct tokenizer *t, char **text);
void tokenizer_free(struct tokenizer *t);

/* Encode `size` bytes of text into ids, which holds at least `size` entries; *count says how many.
 * ERR_INVALID names the first character that the vocabulary lacks and its byte offset, or an
 * invalid UTF-8 sequence and its offset (char), or that there is no text at all (none). */
enum status tokenizer_encode(const struct tokenizer *t, const char *text, size_t size, int32_t *ids,
                             size_t *count);
/* Bytes of one token into `out`; returns how many (0 to 4). For "none" the id in decimal digits is
 * the caller's business: returns 0. */
int tokenizer_decode(const struct tokenizer *t, int32_t id, char out[TOKEN_MAX_BYTES]);

/* One code point from the front of `text`. Returns its length in bytes, 1 to 4; 0 when the bytes
 * can never become valid UTF-8 (RFC 3629: no surrogates, no overlong forms); -1 when they are a
 * valid beginning cut off by `size`. */
int utf8_decode(const char *text, size_t size, uint32_t *code_point);
int utf8_encode(uint32_t code_point, char out[4]);

#endif
