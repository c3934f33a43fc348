/* text_stream.h - tokens to text as they come, in whole characters only.
 *
 * A token may be a part of a character (byte tokenizer): such bytes are held back until the
 * character is complete. What can't become one is replaced by U+FFFD, once for each longest valid
 * beginning, as the Unicode Standard advises (section 3.9, "U+FFFD Substitution of Maximal
 * Subparts"). Tokens without text (tokenizer none) become ids in decimal, with blanks between. */
#ifndef OCTET_TEXT_STREAM_H
#define OCTET_TEXT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "data/tokenizer.h"

struct text_stream {
    const struct tokenizer *tokenizer;
    bool for_terminal;          /* control characters but tab and line ends become U+FFFD too */
    char held[4];
    size_t n_held;
    bool has_id;                /* none: the next id needs a blank in front */
};

/* Most bytes that one call can give. */
enum { TEXT_STREAM_MAX = 16 };

/* The tokenizer must outlive the stream. */
void text_stream_start(struct text_stream *stream, const struct tokenizer *tokenizer,
                       bool for_terminal);
/* Returns how many bytes of text this token completes, 0 to TEXT_STREAM_MAX. */
size_t text_stream_token(struct text_stream *stream, int32_t id, char out[TEXT_STREAM_MAX]);
/* What is left at the end: the replacement of an unfinished character, or nothing. */
size_t text_stream_end(struct text_stream *stream, char out[TEXT_STREAM_MAX]);

#endif
