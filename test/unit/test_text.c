/* test_text.c - tokens to whole characters, prompts to tokens, lines from the user, the output. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "generate/prompt.h"
#include "generate/prompt_loop.h"
#include "generate/text_output.h"
#include "generate/text_stream.h"
#include "temp_folder.h"

#define R "\xef\xbf\xbd"    /* U+FFFD */

/* ---- text_stream ---- */

/* Every character must be whole after every token. */
static bool is_whole(const char *text, size_t size)
{
    uint32_t code_point;

    for (size_t at = 0; at < size;) {
        const int length = utf8_decode(text + at, size - at, &code_point);
        if (length <= 0)
            return false;
        at += (size_t)length;
    }
    return true;
}

/* These bytes as tokens of a byte tokenizer, and the end; a NUL follows in `out`. */
static size_t stream_bytes(const char *bytes, size_t size, bool for_terminal, char *out)
{
    const struct tokenizer tokenizer = tokenizer_byte();
    struct text_stream stream;
    size_t length = 0;

    text_stream_start(&stream, &tokenizer, for_terminal);
    for (size_t i = 0; i < size; i++) {
        const size_t added = text_stream_token(&stream, (unsigned char)bytes[i], out + length);
        CHECK(added <= TEXT_STREAM_MAX && is_whole(out + length, added));
        length += added;
    }
    const size_t added = text_stream_end(&stream, out + length);
    CHECK(added <= TEXT_STREAM_MAX && is_whole(out + length, added));
    length += added;
    CHECK(text_stream_end(&stream, out + length) == 0);
    out[length] = '\0';
    return length;
}

static void characters_come_out_when_complete(void)
{
    static const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\n";
    static const size_t expected[] = {1, 0, 2, 0, 0, 3, 0, 0, 0, 4, 1};
    const struct tokenizer tokenizer = tokenizer_byte();
    struct text_stream stream;
    char out[TEXT_STREAM_MAX];
    size_t at = 0;

    text_stream_start(&stream, &tokenizer, false);
    for (size_t i = 0; i < sizeof text - 1; i++) {
        const size_t size = text_stream_token(&stream, (unsigned char)text[i], out);
        CHECK(size == expected[i] && memcmp(out, text + at, size) == 0);
        at += size;
    }
    CHECK(at == sizeof text - 1 && text_stream_end(&stream, out) == 0);
}

static void texts_cut_anywhere(void)
{
    static const char text[] = "x\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf\xed\x9f\xbf";
    char out[256], expected[256];

    for (size_t first = 0; first < sizeof text; first++) {
        for (size_t end = first; end < sizeof text; end++) {
            size_t length = 0;
            /* Bytes of a character whose beginning is missing stand alone. */
            size_t at = first;
            while (at < end && (text[at] & 0xc0) == 0x80) {
                length += (size_t)sprintf(expected + length, R);
                at++;
            }
            while (at < end) {
                size_t next = at + 1;
                while ((text[next] & 0xc0) == 0x80)
                    next++;
                if (next <= end)
                    length += (size_t)sprintf(expected + length, "%.*s", (int)(next - at),
                                              text + at);
                else
                    length += (size_t)sprintf(expected + length, R);
                at = next;
            }
            expected[length] = '\0';
            stream_bytes(text + first, end - first, false, out);
            CHECK_TEXT(out, expected);
        }
    }
}

static void invalid_bytes_are_replaced(void)
{
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"\xff", R}, {"\x80", R}, {"a\x80\x80z", "a" R R "z"}, {"\xc3(", R "("},
        {"\xc3\xc3\xa9", R "\xc3\xa9"}, {"\xf0\x9f\x98" "A", R "A"},
        {"\xf0\x9f\x98\xff", R R}, {"\xe2\x82\xe2\x82\xac", R "\xe2\x82\xac"},
        {"\xc0\xaf", R R}, {"\xe0\x80\x80", R R R}, {"\xed\xa0\x80", R R R},
        {"\xf4\x90\x80\x80", R R R R}, {"\xf8\x88\x80\x80\x80", R R R R R},
        {"\xf0\x9f\x98\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80"},
        /* The example of the Unicode Standard, table 3-8. */
        {"a\xf1\x80\x80\xe1\x80\xc2" "b\x80" "c\x80\xbf" "d", "a" R R R "b" R "c" R R "d"},
    };
    char out[256];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        stream_bytes(cases[i].bytes, strlen(cases[i].bytes), false, out);
        CHECK_TEXT(out, cases[i].text);
    }
}

static void any_three_bytes_give_whole_characters(void)
{
    char out[8 * TEXT_STREAM_MAX];

    for (int i = 0; i < 256 * 256; i++) {
        const char bytes[3] = {(char)(i >> 8), (char)i, (char)(i >> 4)};
        const size_t size = stream_bytes(bytes, 3, i % 2, out);
        CHECK(size >= 3 && size <= 9);
    }
}

static void terminals_are_spared_control_characters(void)
{
    char out[64];

    stream_bytes("\x1b[2J\x7f\t\r\n\xc2\x9b\xc3\xa9", 12, true, out);
    CHECK_TEXT(out, R "[2J" R "\t\r\n" R "\xc3\xa9");
    CHECK(stream_bytes("\0", 1, true, out) == 3);
    CHECK_TEXT(out, R);
    stream_bytes("\x1b[2J\x7f\xc2\x9b", 7, false, out);
    CHECK_TEXT(out, "\x1b[2J\x7f\xc2\x9b");
    CHECK(stream_bytes("\0", 1, false, out) == 1 && out[0] == '\0');
}

/* The vocabulary \n a e-acute euro emoji: ids 0 to 4. */
static void make_char_tokenizer(struct tokenizer *tokenizer)
{
    static const uint32_t points[] = {'\n', 'a', 0xe9, 0x20ac, 0x1f600};

    CHECK_OK(tokenizer_from_code_points(tokenizer, points, 5));
}

static void character_tokens(void)
{
    static const int32_t ids[] = {4, 1, 2, 0, 3, 5, -1};
    struct tokenizer tokenizer;
    struct text_stream stream;
    char out[128];
    size_t length = 0;

    make_char_tokenizer(&tokenizer);
    text_stream_start(&stream, &tokenizer, false);
    for (size_t i = 0; i < 7; i++)
        length += text_stream_token(&stream, ids[i], out + length);
    length += text_stream_end(&stream, out + length);
    out[length] = '\0';
    CHECK_TEXT(out, "\xf0\x9f\x98\x80" "a\xc3\xa9\n\xe2\x82\xac");
    tokenizer_free(&tokenizer);
}

static void ids_without_text(void)
{
    const struct tokenizer tokenizer = {.type = TOKENIZER_NONE, .vocab_size = INT32_MAX};
    struct text_stream stream;
    char out[128];
    size_t length = 0;

    for (int again = 0; again < 2; again++) {
        length = 0;
        text_stream_start(&stream, &tokenizer, again);
        length += text_stream_token(&stream, 0, out + length);
        length += text_stream_token(&stream, INT32_MAX - 1, out + length);
        length += text_stream_token(&stream, 7, out + length);
        length += text_stream_end(&stream, out + length);
        out[length] = '\0';
        CHECK_TEXT(out, "0 2147483646 7");
    }
}

/* ---- prompt ---- */

/* The ids of a prompt as a text, "h:" in front if it is hidden. */
static const char *prompt_ids(const struct tokenizer *tokenizer, const char *text, size_t size)
{
    static char out[256];
    struct prompt prompt;
    int length = 0;

    out[0] = '\0';
    if (prompt_create(&prompt, tokenizer, text, size) != OK)
        return status_message();
    if (prompt.is_hidden)
        length += sprintf(out, "h:");
    for (size_t i = 0; i < prompt.count; i++)
        length += sprintf(out + length, "%s%d", i > 0 ? " " : "", prompt.ids[i]);
    prompt_free(&prompt);
    prompt_free(&prompt);
    return out;
}

static void prompts_of_bytes(void)
{
    const struct tokenizer tokenizer = tokenizer_byte();

    CHECK_TEXT(prompt_ids(&tokenizer, "a\xff\0z", 4), "97 255 0 122");
    CHECK_TEXT(prompt_ids(&tokenizer, "", 0), "h:10");
    CHECK_TEXT(prompt_ids(&tokenizer, "\n", 1), "10");
}

static void prompts_of_characters(void)
{
    static const uint32_t without_line_end[] = {'a', 'b'};
    struct tokenizer tokenizer;

    make_char_tokenizer(&tokenizer);
    CHECK_TEXT(prompt_ids(&tokenizer, "\xe2\x82\xac" "a\n", 5), "3 1 0");
    CHECK_TEXT(prompt_ids(&tokenizer, "", 0), "h:0");
    CHECK_TEXT(prompt_ids(&tokenizer, "aab", 3),
               "prompt, byte 2: the vocabulary has no b, U+0062");
    CHECK_TEXT(prompt_ids(&tokenizer, "a\xc3\xa8", 3),
               "prompt, byte 1: the vocabulary has no \xc3\xa8, U+00E8");
    CHECK_TEXT(prompt_ids(&tokenizer, "aa\xc3", 3),
               "prompt, byte 2: the text is not valid UTF-8");
    tokenizer_free(&tokenizer);

    CHECK_OK(tokenizer_from_code_points(&tokenizer, without_line_end, 2));
    CHECK_TEXT(prompt_ids(&tokenizer, "", 0), "h:0");
    tokenizer_free(&tokenizer);
}

static void prompts_of_ids(void)
{
    const struct tokenizer tokenizer = {.type = TOKENIZER_NONE, .vocab_size = 50};
    static const char *const bad[] = {"50", "-1", "x", "1,2", "99999999999999999999999", "0x1",
                                      "1.5", "+3"};

    CHECK_TEXT(prompt_ids(&tokenizer, "0 49 007", 8), "0 49 7");
    CHECK_TEXT(prompt_ids(&tokenizer, " \t1\n\n2 ", 7), "1 2");
    CHECK_TEXT(prompt_ids(&tokenizer, "", 0), "h:0");
    CHECK_TEXT(prompt_ids(&tokenizer, "  ", 2), "h:0");
    CHECK_TEXT(prompt_ids(&tokenizer, "1 2\0 3", 6),
               "prompt, byte 2: expected token ids from 0 to 49 with blanks between them: this "
               "model's tokens have no text");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(strstr(prompt_ids(&tokenizer, bad[i], strlen(bad[i])),
                     "prompt, byte 0: expected token ids from 0 to 49"));
}

/* ---- prompt_loop ---- */

static volatile sig_atomic_t stop;

struct answers {
    char text[256];             /* the lines, each as "<line>" */
    size_t length;
    enum status status;         /* what the answer to "fail" returns */
};

static enum status answer(void *context, const char *line, size_t size)
{
    struct answers *answers = context;

    answers->text[answers->length++] = '<';
    memcpy(answers->text + answers->length, line, size);
    answers->length += size;
    answers->text[answers->length++] = '>';
    if (size == 4 && memcmp(line, "fail", 4) == 0)
        return fail(answers->status, "no answer");
    if (size == 4 && memcmp(line, "stop", 4) == 0)
        stop = SIGINT;
    return OK;
}

static enum status loop_over(const char *input, size_t size, struct answers *answers)
{
    FILE *file = tmpfile();

    if (!file)
        return fail_errno(ERR_IO, "temporary file");
    fwrite(input, 1, size, file);
    rewind(file);
    stop = 0;
    memset(answers->text, 0, sizeof answers->text);
    answers->length = 0;
    const enum status status = prompt_loop_run(file, &stop, answer, answers);
    fclose(file);
    return status;
}

static void lines_are_answered_until_the_end(void)
{
    struct answers answers = {.status = ERR_IO};

    CHECK_OK(loop_over("one\n\ntwo words\n", 15, &answers));
    CHECK_TEXT(answers.text, "<one><><two words>");
    CHECK_OK(loop_over("no line end", 11, &answers));
    CHECK_TEXT(answers.text, "<no line end>");
    CHECK_OK(loop_over("a\nquit\nb\n", 9, &answers));
    CHECK_TEXT(answers.text, "<a>");
    CHECK_OK(loop_over("quit \nquitter\nexit", 18, &answers));
    CHECK_TEXT(answers.text, "<quit ><quitter>");
    CHECK_OK(loop_over("", 0, &answers));
    CHECK_TEXT(answers.text, "");
    CHECK_OK(loop_over("a\0b\xff\n", 5, &answers));
    CHECK(answers.length == 6 && memcmp(answers.text, "<a\0b\xff>", 6) == 0);
}

static void errors_and_signals_end_the_loop(void)
{
    struct answers answers = {.status = ERR_IO};

    CHECK_FAILS(loop_over("a\nfail\nb\n", 9, &answers), ERR_IO, "no answer");
    CHECK_TEXT(answers.text, "<a><fail>");
    /* Nobody waits for another prompt where the input is no terminal. */
    answers.status = ERR_CANCELED;
    CHECK_FAILS(loop_over("fail\nb\n", 7, &answers), ERR_CANCELED, "no answer");
    CHECK_TEXT(answers.text, "<fail>");
    CHECK_FAILS(loop_over("stop\nb\n", 7, &answers), ERR_CANCELED, "stopped");
    CHECK_TEXT(answers.text, "<stop>");
}

/* ---- text_output ---- */

static bool holds(const char *path, const char *expected)
{
    size_t size;
    char *text = temp_get(path, &size);
    const bool same = text && strcmp(text, expected) == 0;

    free(text);
    return same;
}

static void files_appear_when_complete(void)
{
    const char *path = temp_path("text");
    struct text_output output = {0};
    char expected[10008] = "";

    text_output_close(&output);
    CHECK_OK(text_output_open(&output, path, &stop));
    CHECK(!text_output_is_terminal(&output));
    for (int i = 0; i < 1000; i++) {
        CHECK_OK(text_output_write(&output, "0123456789", 10));
        if (i % 300 == 0)
            CHECK_OK(text_output_flush(&output));
        memcpy(expected + (size_t)i * 10, "0123456789", 11);
    }
    CHECK(!file_exists(path));
    CHECK_OK(text_output_commit(&output));
    CHECK(holds(path, expected));
    text_output_close(&output);

    CHECK_OK(text_output_open(&output, path, &stop));
    CHECK_OK(text_output_write(&output, "new", 3));
    text_output_close(&output);
    CHECK(holds(path, expected));

    /* More than the buffer at once. */
    CHECK_OK(text_output_open(&output, path, &stop));
    CHECK_OK(text_output_write(&output, expected, 10000));
    CHECK_OK(text_output_write(&output, "more", 4));
    CHECK_OK(text_output_commit(&output));
    text_output_close(&output);
    CHECK(holds(path, strcat(expected, "more")));
    CHECK(temp_folder_count() == 1);

    CHECK_FAILS(text_output_open(&output, temp_folder, &stop), ERR_INVALID, "is a folder");
    text_output_close(&output);
}

/* Standard output, but on another descriptor. */
static void open_on(struct text_output *output, int fd)
{
    CHECK_OK(text_output_open(output, NULL, &stop));
    CHECK(output->fd == STDOUT_FILENO);
    output->fd = fd;
}

static void text_is_visible_after_a_flush(void)
{
    struct text_output output;
    char text[16] = "";
    int ends[2];

    CHECK(pipe2(ends, O_NONBLOCK) == 0);
    open_on(&output, ends[1]);
    CHECK_OK(text_output_write(&output, "abc", 3));
    CHECK(read(ends[0], text, sizeof text) < 0);
    CHECK_OK(text_output_flush(&output));
    CHECK(read(ends[0], text, sizeof text) == 3);
    CHECK_TEXT(text, "abc");
    CHECK_OK(text_output_flush(&output));
    CHECK(read(ends[0], text, sizeof text) < 0);
    text_output_close(&output);
    close(ends[0]);
    close(ends[1]);
}

static void faults_of_standard_output(void)
{
    struct text_output output;
    int ends[2];

    const int full = open("/dev/full", O_WRONLY);
    open_on(&output, full);
    CHECK_OK(text_output_write(&output, "abc", 3));
    CHECK_FAILS(text_output_flush(&output), ERR_IO, "standard output: cannot write: No space");
    CHECK(!output.reader_is_gone);
    text_output_close(&output);
    close(full);

    CHECK(pipe(ends) == 0);
    close(ends[0]);
    open_on(&output, ends[1]);
    CHECK_OK(text_output_write(&output, "abc", 3));
    CHECK_FAILS(text_output_commit(&output), ERR_IO, "standard output: cannot write: Broken pipe");
    CHECK(output.reader_is_gone);
    text_output_close(&output);
    close(ends[1]);
}

static void a_stop_does_not_wait_for_a_reader(void)
{
    static const char block[4096];
    struct text_output output;
    enum status status = OK;
    int ends[2];

    CHECK(pipe2(ends, O_NONBLOCK) == 0);
    open_on(&output, ends[1]);
    stop = SIGTERM;
    for (int i = 0; i < 1000 && status == OK; i++)
        status = text_output_write(&output, block, sizeof block);
    CHECK_FAILS(status, ERR_CANCELED, "stopped while standard output was blocked");
    stop = 0;
    text_output_close(&output);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    if (!temp_folder_create("test_text"))
        return 1;

    CASE(characters_come_out_when_complete);
    CASE(texts_cut_anywhere);
    CASE(invalid_bytes_are_replaced);
    CASE(any_three_bytes_give_whole_characters);
    CASE(terminals_are_spared_control_characters);
    CASE(character_tokens);
    CASE(ids_without_text);
    CASE(prompts_of_bytes);
    CASE(prompts_of_characters);
    CASE(prompts_of_ids);
    CASE(lines_are_answered_until_the_end);
    CASE(errors_and_signals_end_the_loop);
    CASE(files_appear_when_complete);
    CASE(text_is_visible_after_a_flush);
    CASE(faults_of_standard_output);
    CASE(a_stop_does_not_wait_for_a_reader);
    temp_folder_remove();
    return check_finish();
}
