#include "data/tokenizer.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

/* Room for every code point, escaped as a pair of surrogates: twelve bytes. */
enum { JSON_MAX_SIZE = 16 << 20 };

enum { CODE_POINT_MAX = 0x10ffff };

int utf8_decode(const char *text, size_t size, uint32_t *code_point)
{
    const unsigned char *bytes = (const unsigned char *)text;

    if (size == 0)
        return -1;
    const unsigned char first = bytes[0];
    if (first < 0x80) {
        *code_point = first;
        return 1;
    }
    if (first < 0xc2 || first > 0xf4)
        return 0;

    /* Some first bytes narrow the range of the second one (RFC 3629, section 4): that excludes
     * overlong forms, surrogates and what lies above U+10FFFF. */
    unsigned char low = 0x80, high = 0xbf;
    if (first == 0xe0)
        low = 0xa0;
    else if (first == 0xed)
        high = 0x9f;
    else if (first == 0xf0)
        low = 0x90;
    else if (first == 0xf4)
        high = 0x8f;

    const int length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    uint32_t value = first & (0x7fu >> length);
    for (int i = 1; i < length; i++) {
        if ((size_t)i == size)
            return -1;
        if (bytes[i] < low || bytes[i] > high)
            return 0;
        value = value << 6 | (bytes[i] & 0x3fu);
        low = 0x80;
        high = 0xbf;
    }
    *code_point = value;
    return length;
}

int utf8_encode(uint32_t code_point, char out[4])
{
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        out[0] = (char)(0xc0 | code_point >> 6);
        out[1] = (char)(0x80 | (code_point & 0x3f));
        return 2;
    }
    if (code_point < 0x10000) {
        out[0] = (char)(0xe0 | code_point >> 12);
        out[1] = (char)(0x80 | (code_point >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code_point & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code_point >> 18);
    out[1] = (char)(0x80 | (code_point >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code_point >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code_point & 0x3f));
    return 4;
}

static bool is_code_point(uint32_t value)
{
    return value <= CODE_POINT_MAX && !(value >= 0xd800 && value <= 0xdfff);
}

/* A char tokenizer of strictly ascending code points, which it takes over even if it fails. */
static enum status adopt_code_points(struct tokenizer *t, uint32_t *points, size_t count)
{
    const size_t n_ids = (size_t)points[count - 1] + 1;
    int32_t *ids = malloc(n_ids * sizeof *ids);

    if (!ids) {
        free(points);
        return fail(ERR_NOMEM, "out of memory for a vocabulary of %zu characters", count);
    }
    for (size_t i = 0; i < n_ids; i++)
        ids[i] = -1;
    for (size_t i = 0; i < count; i++)
        ids[points[i]] = (int32_t)i;
    *t = (struct tokenizer){.type = TOKENIZER_CHAR, .vocab_size = (int)count,
                            .code_points = points, .ids = ids};
    return OK;
}

static int compare_code_points(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

enum status tokenizer_from_code_points(struct tokenizer *t, const uint32_t *points, size_t count)
{
    *t = (struct tokenizer){0};
    if (count == 0)
        return fail(ERR_INVALID, "a char tokenizer needs at least one character");
    for (size_t i = 0; i < count; i++)
        if (!is_code_point(points[i]))
            return fail(ERR_INVALID, "0x%X is no Unicode character", points[i]);

    uint32_t *sorted = calloc(count, sizeof *sorted);
    if (!sorted)
        return fail(ERR_NOMEM, "out of memory for a vocabulary of %zu characters", count);
    memcpy(sorted, points, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare_code_points);
    size_t unique = 1;
    for (size_t i = 1; i < count; i++)
        if (sorted[i] != sorted[unique - 1])
            sorted[unique++] = sorted[i];
    return adopt_code_points(t, sorted, unique);
}

struct tokenizer tokenizer_byte(void)
{
    return (struct tokenizer){.type = TOKENIZER_BYTE, .vocab_size = 256};
}

void tokenizer_free(struct tokenizer *t)
{
    free(t->code_points);
    free(t->ids);
    *t = (struct tokenizer){0};
}

/* "characters" of the JSON text: as many as vocab_size says, ascending. */
static enum status read_characters(struct tokenizer *t, const json_t *value, size_t vocab_size,
                                   const char *source)
{
    if (!json_is_string(value))
        return fail(ERR_INVALID, "%s: type char needs \"characters\", a string", source);

    const char *text = json_string_value(value);
    const size_t size = json_string_length(value);
    uint32_t *points = calloc(size + 1, sizeof *points);
    size_t count = 0;

    if (!points)
        return fail(ERR_NOMEM, "%s: out of memory for %zu bytes of characters", source, size);
    for (size_t at = 0; at < size; count++) {
        const int length = utf8_decode(text + at, size - at, &points[count]);
        if (length <= 0) {
            free(points);
            return fail(ERR_INVALID, "%s: \"characters\" is not UTF-8 at byte %zu", source, at);
        }
        if (count > 0 && points[count] <= points[count - 1]) {
            fail(ERR_INVALID, "%s: \"characters\" has U+%04X behind U+%04X: expected ascending "
                 "code points, each once", source, points[count], points[count - 1]);
            free(points);
            return ERR_INVALID;
        }
        at += (size_t)length;
    }
    if (count != vocab_size) {
        free(points);
        return fail(ERR_INVALID, "%s: vocab_size is %zu, but \"characters\" has %zu", source,
                    vocab_size, count);
    }
    return adopt_code_points(t, points, count);
}

static enum status read_object(struct tokenizer *t, const json_t *root, const char *source)
{
    const char *type = json_text(json_object_get(root, "type"));
    const json_t *size = json_object_get(root, "vocab_size");

    if (!json_is_object(root))
        return fail(ERR_INVALID, "%s: expected a JSON object", source);
    if (!type)
        return fail(ERR_INVALID, "%s: \"type\" is missing: expected byte, char or none", source);
    if (!json_is_integer(size) || json_integer_value(size) < 1 ||
        json_integer_value(size) > INT32_MAX)
        return fail(ERR_INVALID, "%s: \"vocab_size\" must be a whole number from 1 to %d", source,
                    INT32_MAX);

    const int vocab_size = (int)json_integer_value(size);
    if (strcmp(type, "char") == 0)
        return read_characters(t, json_object_get(root, "characters"), (size_t)vocab_size, source);
    if (strcmp(type, "byte") == 0) {
        if (vocab_size != 256)
            return fail(ERR_INVALID, "%s: vocab_size is %d, but type byte has 256", source,
                        vocab_size);
        *t = tokenizer_byte();
        return OK;
    }
    if (strcmp(type, "none") == 0) {
        *t = (struct tokenizer){.type = TOKENIZER_NONE, .vocab_size = vocab_size};
        return OK;
    }
    return fail(ERR_INVALID, "%s: type \"%.40s\" is unknown: expected byte, char or none", source,
                type);
}

enum status tokenizer_from_json(struct tokenizer *t, const char *text, const char *source)
{
    json_t *root = NULL;

    *t = (struct tokenizer){0};
    enum status status = json_parse(&root, text, strlen(text), JSON_MAX_SIZE, source);
    if (status == OK)
        status = read_object(t, root, source);
    json_decref(root);
    return status == OK ? OK : fail_prefix(status, "tokenizer of ");
}

static json_t *char_to_json(const struct tokenizer *t)
{
    char *characters = malloc((size_t)t->vocab_size * 4);
    size_t size = 0;

    if (!characters)
        return NULL;
    for (int id = 0; id < t->vocab_size; id++)
        size += (size_t)utf8_encode(t->code_points[id], characters + size);
    json_t *root = json_pack("{s:s, s:i, s:s%}", "type", "char", "vocab_size", t->vocab_size,
                             "characters", characters, size);
    free(characters);
    return root;
}

enum status tokenizer_to_json(const struct tokenizer *t, char **text)
{
    json_t *root;

    if (t->type == TOKENIZER_CHAR)
        root = char_to_json(t);
    else
        root = json_pack("{s:s, s:i}", "type", t->type == TOKENIZER_BYTE ? "byte" : "none",
                         "vocab_size", t->vocab_size);
    *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    return *text ? OK : fail(ERR_NOMEM, "out of memory for the tokenizer's text");
}

static enum status fail_unknown(uint32_t code_point, size_t at)
{
    char glyph[5] = "";

    if (code_point > 0x20 && !(code_point >= 0x7f && code_point <= 0xa0))
        utf8_encode(code_point, glyph);
    return fail(ERR_INVALID, "byte %zu: the vocabulary has no %s%sU+%04X", at, glyph,
                glyph[0] ? ", " : "", code_point);
}

static enum status encode_char(const struct tokenizer *t, const char *text, size_t size,
                               int32_t *ids, size_t *count)
{
    const uint32_t largest = t->code_points[t->vocab_size - 1];
    size_t n = 0;

    for (size_t at = 0; at < size;) {
        uint32_t code_point = (unsigned char)text[at];
        int length = 1;

        if (code_point >= 0x80)
            length = utf8_decode(text + at, size - at, &code_point);
        if (length <= 0)
            return fail(ERR_INVALID, "byte %zu: the text is not valid UTF-8", at);
        if (code_point > largest || t->ids[code_point] < 0)
            return fail_unknown(code_point, at);
        ids[n++] = t->ids[code_point];
        at += (size_t)length;
    }
    *count = n;
    return OK;
}

enum status tokenizer_encode(const struct tokenizer *t, const char *text, size_t size, int32_t *ids,
                             size_t *count)
{
    *count = 0;
    switch (t->type) {
    case TOKENIZER_BYTE:
        for (size_t i = 0; i < size; i++)
            ids[i] = (unsigned char)text[i];
        *count = size;
        return OK;
    case TOKENIZER_CHAR:
        return encode_char(t, text, size, ids, count);
    default:
        return fail(ERR_INVALID, "the tokenizer has type none: text can't be turned into tokens");
    }
}

int tokenizer_decode(const struct tokenizer *t, int32_t id, char out[TOKEN_MAX_BYTES])
{
    if (id < 0 || id >= t->vocab_size || t->type == TOKENIZER_NONE)
        return 0;
    if (t->type == TOKENIZER_CHAR)
        return utf8_encode(t->code_points[id], out);
    out[0] = (char)id;
    return 1;
}
