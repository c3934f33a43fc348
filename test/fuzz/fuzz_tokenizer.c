/* fuzz_tokenizer.c - a tokenizer's JSON text, and behind its NUL a text to encode. */
#include <string.h>

#include "data/tokenizer.h"
#include "fuzz.h"

/* Each token's bytes are that token again. */
static void check_tokens(const struct tokenizer *t)
{
    for (int id = 0; id < t->vocab_size; id++) {
        char bytes[TOKEN_MAX_BYTES];
        int32_t ids[TOKEN_MAX_BYTES];
        size_t count;
        const int length = tokenizer_decode(t, id, bytes);

        FUZZ_CHECK(length > 0);
        FUZZ_CHECK(tokenizer_encode(t, bytes, (size_t)length, ids, &count) == OK);
        FUZZ_CHECK(count == 1 && ids[0] == id);
    }
}

static void check_json(const struct tokenizer *t)
{
    struct tokenizer again;
    char *text;

    FUZZ_CHECK(tokenizer_to_json(t, &text) == OK);
    FUZZ_CHECK(tokenizer_from_json(&again, text, "again") == OK);
    FUZZ_CHECK(again.type == t->type && again.vocab_size == t->vocab_size);
    FUZZ_CHECK(!t->code_points || memcmp(again.code_points, t->code_points,
                                         (size_t)t->vocab_size * sizeof *t->code_points) == 0);
    tokenizer_free(&again);
    free(text);
}

static enum status encode(const struct tokenizer *t, const char *text, size_t size)
{
    int32_t *ids = malloc((size + 1) * sizeof *ids);
    size_t count, n_bytes = 0;

    FUZZ_CHECK(ids);
    const enum status status = tokenizer_encode(t, text, size, ids, &count);
    for (size_t i = 0; status == OK && i < count; i++) {
        char bytes[TOKEN_MAX_BYTES];
        const size_t length = (size_t)tokenizer_decode(t, ids[i], bytes);
        FUZZ_CHECK(length <= size - n_bytes && memcmp(bytes, text + n_bytes, length) == 0);
        n_bytes += length;
    }
    FUZZ_CHECK(status != OK || n_bytes == size);
    free(ids);
    return status;
}

enum status fuzz_read(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    struct tokenizer t;

    FUZZ_CHECK(text);
    memcpy(text, data, size);
    text[size] = '\0';
    enum status status = tokenizer_from_json(&t, text, "input");
    if (status == OK) {
        const size_t json_size = strlen(text);
        if (t.type != TOKENIZER_NONE)
            check_tokens(&t);
        check_json(&t);
        if (json_size < size)
            status = encode(&t, text + json_size + 1, size - json_size - 1);
        tokenizer_free(&t);
    }
    free(text);
    return status;
}
