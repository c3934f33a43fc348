/* test_prepare.c - text to token file: both tokenizers, both splits, and every refusal. */
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "base/log.h"
#include "check.h"
#include "data/dataset.h"
#include "data/prepare.h"
#include "temp_folder.h"

enum { BLOCK = 1 << 20 };

static const char *const no_folders[] = {NULL};
static volatile sig_atomic_t stop;
static FILE *messages;          /* what the program says goes here */
static char *text_path, *output_path;

/* Settings as the command line gives them: these flags, this source and a fixed output. */
static struct prepare_settings settings_of(const char *text, const char *const *flags, int n_flags)
{
    const struct option_table *const tables[] = {&prepare_options};
    struct prepare_settings settings;
    struct command_line line;
    char *argv[16] = {(char *)"prepare"};

    for (int i = 0; i < n_flags; i++)
        argv[i + 1] = (char *)flags[i];
    options_default(&prepare_options, &settings);
    CHECK_OK(options_read_flags(&line, tables, 1, n_flags + 1, argv, 0));
    CHECK_OK(command_line_apply(&line, &prepare_options, &settings));
    command_line_free(&line);
    settings.custom_text = text;
    settings.output = output_path;
    return settings;
}

#define FLAGS(...)                                                              \
    (const char *const[]){__VA_ARGS__},                                         \
        (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static enum status run(const struct prepare_settings *settings)
{
    rewind(messages);
    CHECK(ftruncate(fileno(messages), 0) == 0);
    return prepare_run(settings, no_folders, &stop);
}

/* Did the last run say this? */
static bool said(const char *text)
{
    static char all[4096];

    rewind(messages);
    all[fread(all, 1, sizeof all - 1, messages)] = '\0';
    return strstr(all, text) != NULL;
}

static const char *put_text(const char *text, size_t size)
{
    CHECK(temp_put(text_path, text, size));
    return text_path;
}

/* The text that a stream's tokens stand for; the caller frees. */
static char *decode(const struct dataset *ds, enum split split, size_t *size)
{
    const struct token_stream *stream = &ds->streams[split];
    const size_t id_size = dtype_size(stream->dtype);
    char *text = malloc((size_t)stream->count * TOKEN_MAX_BYTES + 1);

    *size = 0;
    for (int64_t i = 0; text && i < stream->count; i++) {
        int32_t id = 0;
        memcpy(&id, (const char *)stream->ids + (size_t)i * id_size, id_size);
        *size += (size_t)tokenizer_decode(&ds->tokenizer, id, text + *size);
    }
    return text;
}

static void check_stream(const struct dataset *ds, enum split split, const char *expected,
                         size_t expected_size)
{
    size_t size;
    char *text = decode(ds, split, &size);

    CHECK(text && size == expected_size && memcmp(text, expected, size) == 0);
    free(text);
}

static void check_file(const char *train, const char *val)
{
    struct dataset ds;

    CHECK_OK(dataset_open(&ds, output_path));
    if (ds.path) {
        check_stream(&ds, SPLIT_TRAIN, train, strlen(train));
        check_stream(&ds, SPLIT_VAL, val, strlen(val));
    }
    dataset_close(&ds);
}

static void check_metadata(const char *key, const char *expected)
{
    struct dataset ds;

    CHECK_OK(dataset_open(&ds, output_path));
    const char *value = safetensors_metadata(&ds.file, key);
    CHECK_TEXT(value ? value : "(none)", expected);
    dataset_close(&ds);
}

/* ---- What is written ---- */

static void text_split(void)
{
    const char *text = put_text("abcdefghij", 10);
    struct prepare_settings s = settings_of(text, FLAGS("--train-split", "0.9"));

    CHECK_OK(run(&s));
    check_file("abcdefghi", "j");
    CHECK(said("9 train, 1 val"));
    CHECK(said("next: trainer --set data.dataset_path="));
    CHECK(!said("memory"));

    s = settings_of(text, FLAGS("--train-split", "0.5", "--repeat", "3"));
    CHECK_OK(run(&s));
    check_file("abcdeabcdeabcde", "fghij");

    /* 9.6 tokens round to all. */
    s = settings_of(text, FLAGS("--train-split", "0.96"));
    CHECK_OK(run(&s));
    check_file("abcdefghij", "");
    CHECK(said("notice"));
    CHECK(temp_folder_count() == 2);
}

static void metadata(void)
{
    const char *path = temp_path("na\xffme \xc3\xa9.txt");
    struct prepare_settings s = settings_of(path, FLAGS("--repeat", "7", "--tokenizer", "char"));
    struct dataset ds;

    CHECK(temp_put(path, "hello hello\n", 12));
    CHECK_OK(run(&s));
    check_metadata("source", "na?me \xc3\xa9.txt");
    check_metadata("source_bytes", "12");
    check_metadata("repeat", "7");
    check_metadata("split", "text");
    check_metadata("tokenizer",
                   "{\"type\":\"char\",\"vocab_size\":6,\"characters\":\"\\n ehlo\"}");
    CHECK(said("\"\\n ehlo\""));
    CHECK_OK(dataset_open(&ds, s.output));
    CHECK(strcmp(ds.digest, "0000000000000000") != 0);
    check_metadata("digest", ds.digest);
    dataset_close(&ds);
}

static void default_flags(void)
{
    struct prepare_settings s;

    options_default(&prepare_options, &s);
    CHECK_TEXT(s.output, "datasets/toy.safetensors");
    CHECK(s.custom_text == NULL);
    CHECK(s.repeat == 1 && s.train_split == 0.9 && s.window == 256);
    CHECK_TEXT(s.tokenizer, "byte");
    CHECK_TEXT(s.split, "text");
}

/* Characters of two to four bytes, so that every cut of a block falls inside one somewhere. */
static char *long_text(size_t *size)
{
    static const char *const words[] = {"a", "\xc3\xa9", "\xe6\x97\xa5", "\xf0\x9f\x98\x80", "\n"};
    const size_t wanted = 3 * BLOCK + 12345;
    char *text = malloc(wanted + 8);
    uint32_t random = 1;

    for (*size = 0; text && *size < wanted;) {
        random = random * 1664525 + 1013904223;
        const char *word = words[(random >> 16) % 5];
        memcpy(text + *size, word, strlen(word) + 1);
        *size += strlen(word);
    }
    return text;
}

/* Repeated text in characters: train and val decode to the text's parts. */
static void check_long(const char *text, size_t size, int repeat)
{
    size_t train_size, val_size;
    struct dataset ds;

    CHECK_OK(dataset_open(&ds, output_path));
    CHECK(ds.tokenizer.vocab_size == 5);
    char *train = decode(&ds, SPLIT_TRAIN, &train_size);
    char *val = decode(&ds, SPLIT_VAL, &val_size);
    const size_t part = train_size / (size_t)repeat;

    CHECK(part * (size_t)repeat == train_size && part + val_size == size);
    for (int i = 0; i < repeat && part + val_size == size; i++)
        CHECK(memcmp(train + (size_t)i * part, text, part) == 0);
    CHECK(part + val_size == size && memcmp(val, text + part, val_size) == 0);
    const int64_t tokens = ds.streams[SPLIT_TRAIN].count / repeat + ds.streams[SPLIT_VAL].count;
    CHECK(ds.streams[SPLIT_VAL].count == tokens - (tokens * 9 + 5) / 10);
    free(train);
    free(val);
    dataset_close(&ds);
}

static void characters_across_blocks(void)
{
    size_t size;
    char *text = long_text(&size);
    struct prepare_settings s = settings_of(put_text(text, size),
                                            FLAGS("--tokenizer", "char", "--repeat", "2"));

    CHECK_OK(run(&s));
    check_long(text, size, 2);

    /* All four places at which the first block can cut a character of four bytes. */
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'a', 2 * BLOCK);
        memcpy(text + BLOCK - shift, "\xf0\x9f\x98\x80", 4);
        s = settings_of(put_text(text, BLOCK + 10),
                        FLAGS("--tokenizer", "char", "--train-split", "1"));
        CHECK_OK(run(&s));
        text[BLOCK + 10] = '\0';
        check_file(text, "");
    }
    free(text);
}

static void wide_vocabulary(void)
{
    static const struct {
        uint32_t first, count;
        enum dtype dtype;
    } cases[] = {{0x20, 256, DTYPE_U8}, {0x20, 257, DTYPE_U16}, {0x10000, 70000, DTYPE_U32}};
    static char text[4 * 70000 + 1];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *end = text;
        for (uint32_t n = 0; n < cases[i].count; n++)
            end += utf8_encode(cases[i].first + n, end);
        *end = '\0';
        struct prepare_settings s = settings_of(put_text(text, (size_t)(end - text)),
                                                FLAGS("--tokenizer", "char", "--train-split", "1"));
        struct dataset ds;
        CHECK_OK(run(&s));
        CHECK(!said("notice"));
        check_file(text, "");
        CHECK_OK(dataset_open(&ds, s.output));
        CHECK(ds.streams[SPLIT_TRAIN].dtype == cases[i].dtype);
        CHECK(ds.tokenizer.vocab_size == (int)cases[i].count);
        dataset_close(&ds);
    }
}

/* ---- Windows ---- */

/* A text of which each window of 4 is another number, "0000" to "0499", and a short last one. */
static const char *numbers_text(size_t *size)
{
    static char text[2048];

    *size = 0;
    for (int i = 0; i < 500; i++)
        *size += (size_t)sprintf(text + *size, "%04d", i);
    *size += (size_t)sprintf(text + *size, "zz");
    return put_text(text, *size);
}

/* Marks in `seen` which numbers the stream holds, in ascending order; "zz" is number 500. */
static int mark_numbers(const struct dataset *ds, enum split split, int *seen)
{
    size_t size;
    char *text = decode(ds, split, &size);
    int previous = -1, wrong = 0;

    for (size_t at = 0; at < size;) {
        int number = 500;
        if (text[at] != 'z')
            wrong += sscanf(text + at, "%4d", &number) != 1;
        at += number == 500 ? 2 : 4;
        wrong += number <= previous;
        previous = number;
        seen[number]++;
    }
    free(text);
    return wrong;
}

static void window_split(void)
{
    size_t size;
    const char *text = numbers_text(&size);
    struct prepare_settings s = settings_of(text, FLAGS("--split", "windows", "--window", "4",
                                                        "--train-split", "0.7", "--seed", "5"));
    int train[501] = {0}, val[501] = {0}, n_train = 0, wrong = 0;
    char digest[DIGEST_SIZE];
    struct dataset ds;

    CHECK_OK(run(&s));
    CHECK(said("validation measures memory of this text"));
    check_metadata("split", "windows");
    CHECK_OK(dataset_open(&ds, s.output));
    CHECK(mark_numbers(&ds, SPLIT_TRAIN, train) == 0);
    CHECK(mark_numbers(&ds, SPLIT_VAL, val) == 0);
    strcpy(digest, ds.digest);
    dataset_close(&ds);
    for (int i = 0; i <= 500; i++) {
        n_train += train[i];
        wrong += train[i] + val[i] != 1;
    }
    CHECK(wrong == 0);
    CHECK(n_train > 310 && n_train < 390);

    CHECK_OK(run(&s));
    check_metadata("digest", digest);
    s.seed = 6;
    CHECK_OK(run(&s));
    CHECK_OK(dataset_open(&ds, s.output));
    CHECK(strcmp(ds.digest, digest) != 0);
    dataset_close(&ds);
}

/* With --repeat the windows are those of the repeated text. */
static void window_split_repeats_first(void)
{
    struct prepare_settings s = settings_of(put_text("abc", 3),
                                            FLAGS("--split", "windows", "--window", "2", "--repeat",
                                                  "1000", "--train-split", "0.5"));
    size_t sizes[2];
    struct dataset ds;
    int counts[2][3] = {0};

    CHECK_OK(run(&s));
    CHECK_OK(dataset_open(&ds, s.output));
    for (int split = SPLIT_TRAIN; split <= SPLIT_VAL; split++) {
        char *text = decode(&ds, split, &sizes[split]);
        for (size_t i = 0; i + 1 < sizes[split]; i += 2) {
            counts[split][0] += memcmp(text + i, "ab", 2) == 0;
            counts[split][1] += memcmp(text + i, "ca", 2) == 0;
            counts[split][2] += memcmp(text + i, "bc", 2) == 0;
        }
        free(text);
    }
    dataset_close(&ds);
    CHECK(sizes[0] + sizes[1] == 3000 && sizes[0] > 1300 && sizes[1] > 1300);
    for (int i = 0; i < 3; i++)
        CHECK(counts[0][i] + counts[1][i] == 500 && counts[0][i] > 180 && counts[1][i] > 180);
}

/* ---- Sources ---- */

static void sample_text(void)
{
    char *one = strdup(temp_path("one")), *two = strdup(temp_path("two"));
    const char *const folders[] = {one, two, NULL};
    struct prepare_settings s = settings_of(NULL, FLAGS("--train-split", "1"));

    temp_folder_empty();
    CHECK_FAILS(prepare_run(&s, folders, &stop), ERR_INVALID, "one/datasets/sample.txt, ");
    CHECK(strstr(status_message(), "two/datasets/sample.txt"));
    CHECK(!file_exists(output_path));

    CHECK_OK(folder_create(temp_path("two/datasets")));
    CHECK(temp_put(temp_path("two/datasets/sample.txt"), "second", 6));
    CHECK_OK(prepare_run(&s, folders, &stop));
    check_file("second", "");
    CHECK_OK(folder_create(temp_path("one/datasets")));
    CHECK(temp_put(temp_path("one/datasets/sample.txt"), "first", 5));
    CHECK_OK(prepare_run(&s, folders, &stop));
    check_file("first", "");
    free(one);
    free(two);
}

static void creates_output_folder(void)
{
    struct prepare_settings s = settings_of(put_text("abc", 3), FLAGS("--train-split", "1"));

    s.output = temp_path("deep/er/out.safetensors");
    CHECK_OK(run(&s));
    CHECK(file_exists(s.output));
    s.output = temp_path("text.txt/out.safetensors");
    CHECK_FAILS(run(&s), ERR_INVALID, "text.txt");
}

/* Run with this text as standard input. */
static enum status run_redirected(const struct prepare_settings *s, const char *text, size_t size)
{
    const char *path = temp_path("stdin.txt");
    const int saved = dup(STDIN_FILENO);

    CHECK(temp_put(path, text, size));
    const int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && dup2(fd, STDIN_FILENO) == STDIN_FILENO);
    const enum status status = run(s);
    dup2(saved, STDIN_FILENO);
    close(saved);
    close(fd);
    CHECK(unlink(path) == 0);
    return status;
}

static void standard_input(void)
{
    struct prepare_settings s = settings_of("-", FLAGS("--tokenizer", "char", "--repeat", "3"));
    size_t size;
    char *text = long_text(&size);

    temp_folder_empty();
    s.output = temp_path("new/out.safetensors");
    CHECK_OK(run_redirected(&s, text, size));
    /* The folder and the file: the copy is gone. */
    CHECK(temp_folder_count() == 2);
    s.output = output_path;
    CHECK_OK(run_redirected(&s, text, size));
    check_long(text, size, 3);
    check_metadata("source", "standard input");
    free(text);

    s = settings_of("-", FLAGS("--train-split", "0.5"));
    CHECK_OK(run_redirected(&s, "\xff\xfe""ab", 4));
    check_metadata("source_bytes", "4");
    CHECK_FAILS(run_redirected(&s, "", 0), ERR_INVALID, "standard input is empty");
    check_metadata("source_bytes", "4");
}

/* ---- Refusals ---- */

static const char old_output[] = "an older file";

/* The run fails like this, and the older output and its folder are as they were. */
static void check_refused(const struct prepare_settings *s, enum status status, const char *says)
{
    size_t size;

    CHECK(temp_put(output_path, old_output, sizeof old_output));
    const int n_files = temp_folder_count();
    CHECK_FAILS(run(s), status, says);
    CHECK(!strchr(status_message(), '\n'));
    char *now = temp_get(output_path, &size);
    CHECK(now && size == sizeof old_output && memcmp(now, old_output, size) == 0);
    CHECK(temp_folder_count() == n_files);
    free(now);
}

static void bad_sources(void)
{
    struct prepare_settings s = settings_of(put_text("", 0), NULL, 0);

    check_refused(&s, ERR_INVALID, "text.txt is empty");
    s = settings_of(put_text("", 0), FLAGS("--tokenizer", "char", "--split", "windows"));
    check_refused(&s, ERR_INVALID, "text.txt is empty");
    s.custom_text = temp_path("no-such-file");
    check_refused(&s, ERR_INVALID, "no-such-file");
    CHECK(strstr(status_message(), "No such file"));
    s.custom_text = temp_folder;
    check_refused(&s, ERR_INVALID, "is a folder");
    s.custom_text = "";
    check_refused(&s, ERR_INVALID, "No such file");
}

static void invalid_utf8(void)
{
    struct prepare_settings s = settings_of(put_text("ab\xff""cd", 5),
                                            FLAGS("--tokenizer", "char"));
    char *text = malloc(2 * BLOCK);

    check_refused(&s, ERR_INVALID, "invalid UTF-8 at byte 2:");
    put_text("abc\xc3", 4);
    check_refused(&s, ERR_INVALID, "invalid UTF-8 at byte 3:");
    put_text("\xc3", 1);
    check_refused(&s, ERR_INVALID, "invalid UTF-8 at byte 0:");
    put_text("\xed\xa0\x80", 3);
    check_refused(&s, ERR_INVALID, "invalid UTF-8 at byte 0:");

    /* Around the end of the first block: cut off by the end of the text, and broken behind it. */
    memset(text, 'a', 2 * BLOCK);
    memcpy(text + BLOCK - 2, "\xe6\x97", 2);
    put_text(text, BLOCK);
    check_refused(&s, ERR_INVALID, "invalid UTF-8 at byte 1048574:");
    put_text(text, BLOCK + 5);
    check_refused(&s, ERR_INVALID, "invalid UTF-8 at byte 1048574:");
    text[BLOCK] = '\xff';
    put_text(text, BLOCK + 5);
    check_refused(&s, ERR_INVALID, "invalid UTF-8 at byte 1048574:");
    memcpy(text + BLOCK - 2, "aa\x80", 3);
    put_text(text, BLOCK + 5);
    check_refused(&s, ERR_INVALID, "invalid UTF-8 at byte 1048576:");

    /* Bytes are never wrong. */
    s = settings_of(text_path, NULL, 0);
    CHECK_OK(run(&s));
    free(text);
}

static void bad_outputs(void)
{
    struct prepare_settings s = settings_of(output_path, NULL, 0);

    check_refused(&s, ERR_INVALID, "is the text itself");
    CHECK(link(s.output, temp_path("hard")) == 0 && symlink(s.output, temp_path("soft")) == 0);
    s.custom_text = temp_path("hard");
    check_refused(&s, ERR_INVALID, "is the text itself");
    s.custom_text = temp_path("soft");
    check_refused(&s, ERR_INVALID, "is the text itself");
    CHECK(unlink(temp_path("hard")) == 0 && unlink(temp_path("soft")) == 0);

    s = settings_of(put_text("abc", 3), NULL, 0);
    s.output = temp_folder;
    check_refused(&s, ERR_INVALID, "is a folder");
    s.output = "";
    check_refused(&s, ERR_INVALID, "without a name");
}

static void too_little_text(void)
{
    struct prepare_settings s = settings_of(put_text("abc", 3), FLAGS("--train-split", "0.1"));

    check_refused(&s, ERR_INVALID, "none is left for training");
    /* One window, which the draw gives to validation. */
    s = settings_of(text_path, FLAGS("--split", "windows", "--train-split", "1e-9"));
    check_refused(&s, ERR_INVALID, "none is left for training");
    s = settings_of(text_path, NULL, 0);
    s.repeat = INT64_MAX / 2;
    check_refused(&s, ERR_INVALID, "--repeat");
}

static void stopped(void)
{
    struct prepare_settings s = settings_of(put_text("abc", 3), NULL, 0);

    stop = 2;
    check_refused(&s, ERR_CANCELED, "stopped");
    s = settings_of(text_path, FLAGS("--tokenizer", "char"));
    check_refused(&s, ERR_CANCELED, "stopped");
    stop = 0;
}

static void bad_flags(void)
{
    static const char *const cases[][2] = {
        {"--repeat", "0"},         {"--repeat", "-1"},       {"--repeat", "1.5"},
        {"--repeat", "x"},         {"--train-split", "0"},   {"--train-split", "1.1"},
        {"--train-split", "-0.5"}, {"--train-split", "nan"}, {"--tokenizer", "bpe"},
        {"--split", "random"},     {"--window", "1"},        {"--window", "99999999999"},
        {"--seed", "-1"},
    };
    const struct option_table *const tables[] = {&prepare_options};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *argv[] = {(char *)"prepare", (char *)cases[i][0], (char *)cases[i][1]};
        struct prepare_settings s;
        struct command_line line;

        options_default(&prepare_options, &s);
        CHECK_OK(options_read_flags(&line, tables, 1, 3, argv, 0));
        CHECK_FAILS(command_line_apply(&line, &prepare_options, &s), ERR_INVALID, cases[i][0]);
        command_line_free(&line);
    }
}

int main(void)
{
    if (!temp_folder_create("test_prepare"))
        return 1;
    text_path = strdup(temp_path("text.txt"));
    output_path = strdup(temp_path("out.safetensors"));
    messages = tmpfile();
    if (!text_path || !output_path || !messages)
        return 1;
    log_set_stream(messages);
    CASE(default_flags);
    CASE(text_split);
    CASE(metadata);
    CASE(characters_across_blocks);
    CASE(wide_vocabulary);
    CASE(window_split);
    CASE(window_split_repeats_first);
    CASE(sample_text);
    CASE(creates_output_folder);
    CASE(standard_input);
    CASE(bad_sources);
    CASE(invalid_utf8);
    CASE(bad_outputs);
    CASE(too_little_text);
    CASE(stopped);
    CASE(bad_flags);
    fclose(messages);
    free(text_path);
    free(output_path);
    temp_folder_remove();
    return check_finish();
}
