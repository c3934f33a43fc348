/* test_json.c - what the JSON parser accepts, and what it says of hostile input. */
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

static void messages_are_printable(void)
{
    const char *texts[] = {"[\x1b[31m]", "[\"a\n\"]", "[nul\xc2\x9bl]", "\x7f", "{\"\xc2\x9b\" 1}",
                           "{\"\xc2\x9b\":1,\"\xc2\x9b\":1}"};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        CHECK_FAILS(parse_text(texts[i], 100), ERR_INVALID, "input: ");
        for (const char *c = status_message(); *c; c++)
            CHECK(*c >= ' ' && *c <= '~');
    }
}

int main(void)
{
    CASE(json_input);
    CASE(messages_are_printable);
    return check_finish();
}
