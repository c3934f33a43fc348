#include "generate/prompt.h"

#include <stdlib.h>
#include <string.h>

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* A word of digits below `limit`. */
static bool read_id(const char *word, size_t size, int limit, int32_t *id)
{
    int64_t value = 0;

    for (size_t i = 0; i < size; i++) {
        if (word[i] < '0' || word[i] > '9')
            return false;
        value = 10 * value + (word[i] - '0');
        if (value >= limit)
            return false;
    }
    *id = (int32_t)value;
    return true;
}

static enum status read_ids(const struct tokenizer *tokenizer, const char *text, size_t size,
                            int32_t *ids, size_t *count)
{
    size_t at = 0;

    *count = 0;
    for (;;) {
        while (at < size && is_blank(text[at]))
            at++;
        if (at == size)
            return OK;
        const size_t start = at;
        while (at < size && !is_blank(text[at]))
            at++;
        if (!read_id(text + start, at - start, tokenizer->vocab_size, &ids[*count]))
            return fail(ERR_INVALID, "byte %zu: expected token ids from 0 to %d with blanks "
                        "between them: this model's tokens have no text", start,
                        tokenizer->vocab_size - 1);
        ++*count;
    }
}

static int32_t first_token(const struct tokenizer *tokenizer)
{
    int32_t id;
    size_t count;

    return tokenizer_encode(tokenizer, "\n", 1, &id, &count) == OK ? id : 0;
}

enum status prompt_create(struct prompt *prompt, const struct tokenizer *tokenizer,
                          const char *text, size_t size)
{
    enum status status;

    /* Each token has a byte at least; one more for an empty text. */
    *prompt = (struct prompt){.ids = calloc(size + 1, sizeof *prompt->ids)};
    if (!prompt->ids)
        return fail(ERR_NOMEM, "no memory for a prompt of %zu bytes", size);
    if (tokenizer->type == TOKENIZER_NONE)
        status = read_ids(tokenizer, text, size, prompt->ids, &prompt->count);
    else
        status = tokenizer_encode(tokenizer, text, size, prompt->ids, &prompt->count);
    if (status != OK) {
        prompt_free(prompt);
        return fail_prefix(status, "prompt, ");
    }
    if (prompt->count == 0) {
        prompt->ids[0] = first_token(tokenizer);
        prompt->count = 1;
        prompt->is_hidden = true;
    }
    return OK;
}

void prompt_free(struct prompt *prompt)
{
    free(prompt->ids);
    *prompt = (struct prompt){0};
}
