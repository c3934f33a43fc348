/* prompt.h - what a text begins with, as tokens. */
#ifndef OCTET_PROMPT_H
#define OCTET_PROMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "data/tokenizer.h"

struct prompt {
    int32_t *ids;
    size_t count;               /* at least 1 */
    bool is_hidden;             /* stands in for an empty prompt: no part of the text */
};

/* `text` as the tokenizer reads it; for tokenizer none, ids in decimal with blanks between them. A
 * text without tokens becomes a line end, or token 0 where the vocabulary has none. ERR_INVALID
 * names what can't be read and its place. */
enum status prompt_create(struct prompt *prompt, const struct tokenizer *tokenizer,
                          const char *text, size_t size);
/* Safe on a zeroed struct. */
void prompt_free(struct prompt *prompt);

#endif
