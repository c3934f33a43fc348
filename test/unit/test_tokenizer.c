/* test_tokenizer.c - UTF-8, encoding and decoding, the JSON form, and what it refuses. */
#include <stdlib.h>

#include "check.h"
#include "data/tokenizer.h"

static bool is_surrogate(uint32_t point)
{
    return point >= 0xd800 && point <= 0xdfff;
}

/* Every code point comes back, and its encoding cut short is only incomplete. */
static void utf8_round_trip(void)
{
    int wrong = 0;

    for (uint32_t point = 0; point <= 0x10ffff; point++) {
        char bytes[4];
        uint32_t decoded = UINT32_MAX;
        const int length = utf8_encode(point, bytes);
        const int expected = is_surrogate(point) ? 0 : length;

        wrong += utf8_decode(bytes, 4, &decoded) != expected;
        wrong += expected && decoded != point;
        for (int cut = 0; expected && cut < length; cut++)
            wrong += utf8_decode(bytes, (size_t)cut, &decoded) != -1;
    }
    CHECK(wrong == 0);
}

/* Among all sequences of bytes exactly as many are valid as there are code points. */
static void utf8_counts_valid_sequences(void)
{
    static const unsigned char edges[] = {0x00, 0x7f, 0x80, 0xbf, 0xc0, 0xff};
    long one = 0, two = 0, three = 0, four = 0;
    uint32_t point;

    for (uint32_t i = 0; i < 1u << 24; i++) {
        const char bytes[3] = {(char)(i >> 16), (char)(i >> 8), (char)i};
        const int length = utf8_decode(bytes, 3, &point);

        three += length == 3;
        two += length == 2 && bytes[2] == 0;
        one += length == 1 && bytes[1] == 0 && bytes[2] == 0;
    }
    CHECK(one == 0x80);
    CHECK(two == 0x800 - 0x80);
    CHECK(three == 0x10000 - 0x800 - 0x800);

    for (int first = 0xf0; first <= 0xff; first++)
        for (int second = 0; second <= 0xff; second++)
            for (int i = 0; i < 36; i++) {
                const char bytes[4] = {(char)first, (char)second, (char)edges[i / 6],
                                       (char)edges[i % 6]};
                four += utf8_decode(bytes, 4, &point) == 4;
            }
    /* 256 pairs of first bytes lead to U+10000 .. U+10FFFF, and two edges of each later byte do. */
    CHECK(four == 256 * 2 * 2);
}

static void utf8_hostile(void)
{
    static const struct {
        const char *bytes;
        int length;
    } cases[] = {
        {"\x80", 0},             /* continuation without a start */
        {"\xc0\x80", 0},         /* overlong NUL */
        {"\xc1\xbf", 0},
        {"\xe0\x9f\xbf", 0},     /* overlong */
        {"\xed\xa0\x80", 0},     /* surrogate */
        {"\xf0\x8f\xbf\xbf", 0}, /* overlong */
        {"\xf4\x90\x80\x80", 0}, /* above U+10FFFF */
        {"\xf5\x80\x80\x80", 0},
        {"\xff", 0},
        {"\xc3(", 0},            /* start without continuation */
        {"\xe2\x82(", 0},
        {"\xe0\x9f", 0},         /* cut off, but already impossible */
        {"\xed\xa0", 0},
        {"\xf4\x90", 0},
        {"\xe2\x82", -1},
        {"\xf0\x9f\x98", -1},
        {"\xc3", -1},
    };
    uint32_t point;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int length = utf8_decode(cases[i].bytes, strlen(cases[i].bytes), &point);
        if (length != cases[i].length)
            check_report(__FILE__, __LINE__, "case %zu: %d, expected %d", i, length,
                         cases[i].length);
    }
}

static void byte_tokens(void)
{
    struct tokenizer t = tokenizer_byte();
    char text[256], out[TOKEN_MAX_BYTES];
    int32_t ids[256];
    size_t count;

    for (int i = 0; i < 256; i++)
        text[i] = (char)i;
    CHECK(t.vocab_size == 256);
    CHECK_OK(tokenizer_encode(&t, text, 256, ids, &count));
    CHECK(count == 256);
    for (int i = 0; i < 256; i++) {
        CHECK(ids[i] == i);
        CHECK(tokenizer_decode(&t, i, out) == 1 && out[0] == text[i]);
    }
    CHECK(tokenizer_decode(&t, -1, out) == 0);
    CHECK(tokenizer_decode(&t, 256, out) == 0);
    CHECK_OK(tokenizer_encode(&t, "", 0, ids, &count));
    CHECK(count == 0);
    tokenizer_free(&t);
}

static void char_tokens(void)
{
    static const uint32_t points[] = {0x1f600, 'b', 0xe9, 'a', 'b', 0x65e5};
    static const char text[] = "ab\xc3\xa9\xe6\x97\xa5\xf0\x9f\x98\x80""a";
    static const int32_t expected[] = {0, 1, 2, 3, 4, 0};
    struct tokenizer t;
    int32_t ids[32];
    char back[32], *end = back;
    size_t count;

    CHECK_OK(tokenizer_from_code_points(&t, points, 6));
    CHECK(t.type == TOKENIZER_CHAR && t.vocab_size == 5);
    for (int i = 1; i < t.vocab_size; i++)
        CHECK(t.code_points[i] > t.code_points[i - 1]);

    CHECK_OK(tokenizer_encode(&t, text, sizeof text - 1, ids, &count));
    CHECK(count == 6 && memcmp(ids, expected, sizeof expected) == 0);
    for (size_t i = 0; i < count; i++)
        end += tokenizer_decode(&t, ids[i], end);
    CHECK((size_t)(end - back) == sizeof text - 1 && memcmp(back, text, sizeof text - 1) == 0);
    CHECK(tokenizer_decode(&t, 5, back) == 0);
    CHECK(tokenizer_decode(&t, -1, back) == 0);

    CHECK_FAILS(tokenizer_encode(&t, "abc", 3, ids, &count), ERR_INVALID, "byte 2: ");
    CHECK_FAILS(tokenizer_encode(&t, "abc", 3, ids, &count), ERR_INVALID, "U+0063");
    CHECK_FAILS(tokenizer_encode(&t, "a\n", 2, ids, &count), ERR_INVALID, "U+000A");
    CHECK(!strchr(status_message(), '\n'));
    CHECK_FAILS(tokenizer_encode(&t, "a\xf0\x9f\x98\x81", 5, ids, &count), ERR_INVALID, "U+1F601");
    CHECK_FAILS(tokenizer_encode(&t, "ab\xff", 3, ids, &count), ERR_INVALID, "byte 2: ");
    CHECK_FAILS(tokenizer_encode(&t, "ab\xff", 3, ids, &count), ERR_INVALID, "UTF-8");
    CHECK_FAILS(tokenizer_encode(&t, "\xc3\xa9\xe6\x97", 4, ids, &count), ERR_INVALID, "byte 2: ");
    CHECK(count == 0);
    tokenizer_free(&t);
    CHECK(!t.code_points && !t.ids);
}

static void bad_code_points(void)
{
    struct tokenizer t;

    CHECK_FAILS(tokenizer_from_code_points(&t, NULL, 0), ERR_INVALID, "at least one");
    CHECK_FAILS(tokenizer_from_code_points(&t, (uint32_t[]){'a', 0xd800}, 2), ERR_INVALID, "D800");
    CHECK_FAILS(tokenizer_from_code_points(&t, (uint32_t[]){0x110000}, 1), ERR_INVALID, "110000");
    tokenizer_free(&t);
}

/* The text reads back as the same tokenizer; it is freed here, with both tokenizers. */
static void check_json_round_trip(struct tokenizer *t)
{
    struct tokenizer again = {0};
    char *text = NULL;

    CHECK_OK(tokenizer_to_json(t, &text));
    CHECK_OK(tokenizer_from_json(&again, text ? text : "", "test"));
    CHECK(again.type == t->type && again.vocab_size == t->vocab_size);
    CHECK(!again.code_points == !t->code_points);
    if (again.code_points && t->code_points && again.vocab_size == t->vocab_size)
        CHECK(memcmp(again.code_points, t->code_points,
                     (size_t)t->vocab_size * sizeof *t->code_points) == 0);
    free(text);
    tokenizer_free(&again);
    tokenizer_free(t);
}

static void json_round_trip(void)
{
    static const uint32_t points[] = {0, '\n', '"', '\\', '/', 'a', 0x7f, 0x2028, 0xfffe, 0x10ffff};
    struct tokenizer t = tokenizer_byte();
    char *text = NULL;

    CHECK_OK(tokenizer_to_json(&t, &text));
    CHECK_TEXT(text ? text : "", "{\"type\":\"byte\",\"vocab_size\":256}");
    free(text);
    check_json_round_trip(&t);

    CHECK_OK(tokenizer_from_code_points(&t, (uint32_t[]){'b', 'a'}, 2));
    CHECK_OK(tokenizer_to_json(&t, &text));
    CHECK_TEXT(text ? text : "", "{\"type\":\"char\",\"vocab_size\":2,\"characters\":\"ab\"}");
    free(text);
    check_json_round_trip(&t);

    CHECK_OK(tokenizer_from_code_points(&t, points, sizeof points / sizeof points[0]));
    check_json_round_trip(&t);
    CHECK_OK(tokenizer_from_json(&t, "{\"type\":\"none\",\"vocab_size\":50257}", "test"));
    CHECK(t.type == TOKENIZER_NONE && t.vocab_size == 50257);
    check_json_round_trip(&t);
}

static void json_of_all_characters(void)
{
    uint32_t *points = malloc(0x110000 * sizeof *points);
    struct tokenizer t = {0};
    size_t count = 0;

    if (!points)
        return check_report(__FILE__, __LINE__, "out of memory");
    for (uint32_t point = 0; point < 0x110000; point++)
        if (!is_surrogate(point))
            points[count++] = point;
    CHECK_OK(tokenizer_from_code_points(&t, points, count));
    CHECK(t.vocab_size == 0x110000 - 0x800);
    check_json_round_trip(&t);
    free(points);
}

static void none_has_no_text(void)
{
    struct tokenizer t;
    char out[TOKEN_MAX_BYTES];
    int32_t id;
    size_t count;

    CHECK_OK(tokenizer_from_json(&t, " {\"vocab_size\" : 10, \"type\" : \"none\"} ", "test"));
    CHECK_FAILS(tokenizer_encode(&t, "a", 1, &id, &count), ERR_INVALID, "none");
    CHECK(tokenizer_decode(&t, 3, out) == 0);
    tokenizer_free(&t);
}

static void json_hostile(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "JSON"},
        {"{", "JSON"},
        {"[]", "object"},
        {"\"byte\"", "object"},
        {"{}", "\"type\""},
        {"{\"type\":1,\"vocab_size\":256}", "\"type\""},
        {"{\"type\":\"bpe\",\"vocab_size\":256}", "\"bpe\""},
        {"{\"type\":\"byte\"}", "vocab_size"},
        {"{\"type\":\"byte\",\"vocab_size\":255}", "256"},
        {"{\"type\":\"byte\",\"vocab_size\":256.0}", "whole number"},
        {"{\"type\":\"byte\",\"vocab_size\":\"256\"}", "whole number"},
        {"{\"type\":\"none\",\"vocab_size\":0}", "whole number"},
        {"{\"type\":\"none\",\"vocab_size\":-5}", "whole number"},
        {"{\"type\":\"none\",\"vocab_size\":2147483648}", "whole number"},
        {"{\"type\":\"none\",\"vocab_size\":99999999999999999999}", "JSON"},
        {"{\"type\":\"none\",\"type\":\"byte\",\"vocab_size\":256}", "JSON"},
        {"{\"type\":\"char\",\"vocab_size\":2}", "characters"},
        {"{\"type\":\"char\",\"vocab_size\":2,\"characters\":[\"a\",\"b\"]}", "characters"},
        {"{\"type\":\"char\",\"vocab_size\":3,\"characters\":\"ab\"}", "has 2"},
        {"{\"type\":\"char\",\"vocab_size\":1,\"characters\":\"ab\"}", "has 2"},
        {"{\"type\":\"char\",\"vocab_size\":1,\"characters\":\"\"}", "has 0"},
        {"{\"type\":\"char\",\"vocab_size\":2,\"characters\":\"ba\"}", "U+0061 behind U+0062"},
        {"{\"type\":\"char\",\"vocab_size\":2,\"characters\":\"aa\"}", "ascending"},
        {"{\"type\":\"char\",\"vocab_size\":1,\"characters\":\"\\ud800\"}", "JSON"},
        {"{\"type\":\"char\",\"vocab_size\":1,\"characters\":\"\xff\"}", "JSON"},
    };
    struct tokenizer t;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_FAILS(tokenizer_from_json(&t, cases[i].text, "toy.file"), ERR_INVALID, cases[i].says);
        CHECK(strstr(status_message(), "toy.file"));
        CHECK(!t.code_points && !t.ids);
    }
}

int main(void)
{
    CASE(utf8_round_trip);
    CASE(utf8_counts_valid_sequences);
    CASE(utf8_hostile);
    CASE(byte_tokens);
    CASE(char_tokens);
    CASE(bad_code_points);
    CASE(json_round_trip);
    CASE(json_of_all_characters);
    CASE(none_has_no_text);
    CASE(json_hostile);
    return check_finish();
}
