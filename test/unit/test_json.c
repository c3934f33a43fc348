/* test_json.c - what the JSON parser accepts, and what it says of hostile input. */
#include <stdlib.h>

#include "base/json.h"
#include "check.h"

static enum status parse_text(const char *text, size_t max_size)
{
    json_t *value;
    const enum status status = json_parse(&value, text, strlen(text), max_size, "input");

    CHECK((status == OK) == (value != NULL));
    json_decref(value);
    return status;
}

static void json_input(void)
{
    char deep[8001];

    CHECK_OK(parse_text("{\"a\": [1, 2.5, null, \"\\u0000\"]}", 100));
    CHECK_OK(parse_text(" 7 ", 3));
    CHECK_FAILS(parse_text(" 7 ", 2), ERR_INVALID, "input: JSON of 3 bytes, at most 2");
    CHECK_FAILS(parse_text("[1, 2,, 3]", 100), ERR_INVALID, "at byte 7");
    CHECK_FAILS(parse_text("", 100), ERR_INVALID, "input: ");
    CHECK_FAILS(parse_text("[1] 2", 100), ERR_INVALID, "input: ");
    CHECK_FAILS(parse_text("{\"a\":1,\"a\":2}", 100), ERR_INVALID, "duplicate");
    CHECK_FAILS(parse_text("{\"a\\u0000\":1}", 100), ERR_INVALID, "NUL");
    CHECK_FAILS(parse_text("[99999999999999999999]", 100), ERR_INVALID, "input: ");
    CHECK_FAILS(parse_text("\"\xff\"", 100), ERR_INVALID, "input: ");
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    CHECK_FAILS(parse_text(deep, sizeof deep), ERR_INVALID, "depth");
}

/* `count` times `piece` between two others; the caller frees. */
static char *repeat(const char *start, const char *piece, size_t count, const char *end)
{
    const size_t length = strlen(piece);
    char *text = malloc(strlen(start) + count * length + strlen(end) + 1);
    char *at = text ? stpcpy(text, start) : NULL;

    CHECK(text != NULL);
    if (!text)
        exit(1);
    for (size_t i = 0; i < count; i++, at += length)
        memcpy(at, piece, length);
    strcpy(at, end);
    return text;
}

/* Little text can stand for much memory. */
static void amounts(void)
{
    const size_t million = 1 << 20;
    struct {
        const char *start, *piece;
        size_t count;
        const char *end, *refused;
    } cases[] = {
        {"[", "{},", million / 2 - 1, "0]", NULL},
        {"[", "{},", million / 2, "0]", "input: JSON of more than 1048576 values"},
        {"[", "0,", million, "0]", "values"},
        {"[[],\"\\\"", "[,{", million, "\"]", NULL},
        {"", "[", 33, "", "input: JSON with a depth of more than 32 levels"},
        {"[", "[],{},", 100, "0]", NULL},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text = repeat(cases[i].start, cases[i].piece, cases[i].count, cases[i].end);
        if (cases[i].refused)
            CHECK_FAILS(parse_text(text, 1 << 24), ERR_INVALID, cases[i].refused);
        else
            CHECK_OK(parse_text(text, 1 << 24));
        free(text);
    }
}

static void text_of_strings(void)
{
    static const char list[] = "[\"\", \"ab\", \"a\\u0000\", 1]";
    json_t *value;

    CHECK_OK(json_parse(&value, list, strlen(list), sizeof list, "input"));
    CHECK_TEXT(json_text(json_array_get(value, 0)), "");
    CHECK_TEXT(json_text(json_array_get(value, 1)), "ab");
    CHECK(json_text(json_array_get(value, 2)) == NULL);
    CHECK(json_text(json_array_get(value, 3)) == NULL);
    CHECK(json_text(NULL) == NULL);
    json_decref(value);
}

static void messages_are_printable(void)
{
    const char *texts[] = {"[\x1b[31m]", "[\"a\n\"]", "[nul\xc2\x9bl]", "\x7f", "{\"\xc2\x9b\" 1}",
                           "{\"\xc2\x9b\":1,\"\xc2\x9b\":1}"};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        CHECK_FAILS(parse_text(texts[i], 100), ERR_INVALID, "input: ");
        for (const char *c = status_message(); *c; c++)
            CHECK(*c >= ' ' && *c <= '~');
    }
    fail(ERR_INVALID, "a\x1b\n\x7f\xc2\x9b\xc3\xa9\xc2\xa0");
    CHECK_TEXT(status_message(), "a?????\xc3\xa9\xc2\xa0");
    fail_prefix(ERR_INVALID, "\t");
    CHECK_TEXT(status_message(), "?a?????\xc3\xa9\xc2\xa0");
}

int main(void)
{
    CASE(json_input);
    CASE(amounts);
    CASE(text_of_strings);
    CASE(messages_are_printable);
    return check_finish();
}
