#include "generate/text_stream.h"

#include <stdio.h>
#include <string.h>

static const char replacement[] = "\xef\xbf\xbd";   /* U+FFFD */

void text_stream_start(struct text_stream *s, const struct tokenizer *tokenizer, bool for_terminal)
{
    *s = (struct text_stream){.tokenizer = tokenizer, .for_terminal = for_terminal};
}

static size_t put(char *out, const char *bytes, size_t size)
{
    memcpy(out, bytes, size);
    return size;
}

static size_t put_replacement(char *out)
{
    return put(out, replacement, sizeof replacement - 1);
}

/* Those that could move the cursor, change colours or lock up the terminal. */
static bool is_harmful(uint32_t code_point)
{
    const bool is_control = code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0);

    return is_control && code_point != '\t' && code_point != '\n' && code_point != '\r';
}

/* Let go of the held bytes if they are a character, or can't become one any more. */
static size_t release(struct text_stream *s, char *out)
{
    uint32_t code_point;
    const int length = utf8_decode(s->held, s->n_held, &code_point);
    size_t size = 0;

    if (length < 0)
        return 0;
    if (length == 0 || (s->for_terminal && is_harmful(code_point)))
        size = put_replacement(out);
    else
        size = put(out, s->held, s->n_held);
    s->n_held = 0;
    return size;
}

static size_t take_byte(struct text_stream *s, char byte, char *out)
{
    uint32_t code_point;
    size_t size = 0;

    s->held[s->n_held++] = byte;
    /* A byte that does not continue what is held ends it, and begins anew. */
    if (s->n_held > 1 && utf8_decode(s->held, s->n_held, &code_point) == 0) {
        size = put_replacement(out);
        s->held[0] = byte;
        s->n_held = 1;
    }
    return size + release(s, out + size);
}

size_t text_stream_token(struct text_stream *s, int32_t id, char out[TEXT_STREAM_MAX])
{
    char bytes[TOKEN_MAX_BYTES];
    size_t size = 0;

    if (s->tokenizer->type == TOKENIZER_NONE) {
        size = (size_t)snprintf(out, TEXT_STREAM_MAX, "%s%d", s->has_id ? " " : "", id);
        s->has_id = true;
        return size;
    }
    const int length = tokenizer_decode(s->tokenizer, id, bytes);
    for (int i = 0; i < length; i++)
        size += take_byte(s, bytes[i], out + size);
    return size;
}

size_t text_stream_end(struct text_stream *s, char out[TEXT_STREAM_MAX])
{
    const size_t size = s->n_held > 0 ? put_replacement(out) : 0;

    s->n_held = 0;
    return size;
}
