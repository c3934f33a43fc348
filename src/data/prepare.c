#include "data/prepare.h"

#include <inttypes.h>
#include <libgen.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/resource.h"
#include "base/rng.h"
#include "data/byte_progress.h"
#include "data/source_text.h"
#include "data/token_writer.h"
#include "data/tokenizer.h"

#define DEFAULT_OUTPUT "datasets/toy.safetensors"
#define SAMPLE "datasets/sample.txt"

enum { BLOCK_SIZE = 1 << 20, N_CODE_POINTS = 0x110000 };

#define FIELD(name) offsetof(struct prepare_settings, name)

static const struct option rows[] = {
    {.flag = "output", .placeholder = "PATH", .type = OPTION_ARGUMENT, .offset = FIELD(output),
     .default_value = DEFAULT_OUTPUT, .help = "the token file to write"},
    {.flag = "custom-text", .placeholder = "FILE", .type = OPTION_ARGUMENT,
     .offset = FIELD(custom_text),
     .help = "the text to read, - for standard input; without it " SAMPLE},
    {.flag = "repeat", .placeholder = "N", .type = OPTION_INT, .offset = FIELD(repeat),
     .default_value = "1", .min = 1, .max = 1e9, .help = "how often the text goes into the file"},
    {.flag = "tokenizer", .placeholder = "TYPE", .type = OPTION_CHOICE, .offset = FIELD(tokenizer),
     .default_value = "byte", .choices = "byte|char",
     .help = "a token is a byte, or a character of UTF-8 text"},
    {.flag = "train-split", .placeholder = "X", .type = OPTION_FLOAT, .offset = FIELD(train_split),
     .default_value = "0.9", .min = 0, .max = 1, .above_min = true,
     .help = "fraction for training; the rest is for validation"},
    {.flag = "split", .placeholder = "HOW", .type = OPTION_CHOICE, .offset = FIELD(split),
     .default_value = "text", .choices = "text|windows",
     .help = "validate on the end of the text, cut off before it is repeated, or on windows drawn "
             "at random from the repeated text"},
    {.flag = "window", .placeholder = "N", .type = OPTION_INT, .offset = FIELD(window),
     .default_value = "256", .min = 2, .max = 1 << 30,
     .help = "tokens per window of --split windows"},
    {.flag = "seed", .placeholder = "N", .type = OPTION_INT, .offset = FIELD(seed),
     .default_value = "42", .min = 0, .max = 0x1p53 - 1, .help = "seed of --split windows"},
};

const struct option_table prepare_options = {rows, sizeof rows / sizeof rows[0], NULL};

struct preparation {
    const struct prepare_settings *settings;
    bool by_windows;                /* split windows */
    struct source_text source;
    char *text;                     /* a block of the source, BLOCK_SIZE bytes */
    int32_t *ids;                   /* its tokens, at most as many */
    bool *seen;                     /* code points of the text, during the survey; NULL for bytes */
    struct tokenizer tokenizer;
    int64_t text_tokens;            /* of the text, once */
    int64_t counts[2];              /* tokens of the file by enum split */
    struct token_writer writer;
    enum split pass;                /* of split windows: what is written now, */
    int64_t position;               /* and the next token's place in the repeated text */
    struct byte_progress progress;
};

/* The name without folders. */
static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* ---- The source ---- */

static enum status open_source(struct preparation *p, const char *const *folders,
                               const volatile sig_atomic_t *stop)
{
    const struct prepare_settings *settings = p->settings;
    enum status status;
    char *sample = NULL;

    char *output = strdup(settings->output);
    if (!output)
        return fail(ERR_NOMEM, "out of memory for a file name");
    const char *folder = dirname(output);
    if (!settings->custom_text)
        TRY_GOTO(status, resource_find(SAMPLE, folders, &sample), done);
    TRY_GOTO(status, source_text_open(&p->source, sample ? sample : settings->custom_text, folder,
                                      stop), done);
    if (source_text_is_file(&p->source, settings->output)) {
        status = fail(ERR_INVALID, "--output %s is the text itself: choose another name",
                      settings->output);
        goto done;
    }
    status = folder_create(folder);

done:
    free(sample);
    free(output);
    return status;
}

/* ---- The survey: check the text, count its tokens, collect its characters ---- */

/* Mark and count the characters of a block. *size becomes smaller where the block's end cuts one in
 * two, unless the text ends there. */
static enum status take_characters(struct preparation *p, int64_t offset, size_t *size, bool last)
{
    size_t at = 0;

    while (at < *size) {
        uint32_t code_point = (unsigned char)p->text[at];
        int length = 1;

        if (code_point >= 0x80)
            length = utf8_decode(p->text + at, *size - at, &code_point);
        if (length < 0 && !last)
            break;
        if (length <= 0)
            return fail(ERR_INVALID, "%s: invalid UTF-8 at byte %" PRId64 ": --tokenizer char "
                        "reads UTF-8 only; convert the text or use --tokenizer byte",
                        p->source.name, offset + (int64_t)at);
        p->seen[code_point] = true;
        p->text_tokens++;
        at += (size_t)length;
    }
    *size = at;
    return OK;
}

static enum status read_to_end(struct preparation *p)
{
    int64_t offset = 0;

    for (bool last = false; !last;) {
        size_t size;

        TRY(source_text_read(&p->source, offset, p->text, BLOCK_SIZE, &size));
        last = size < BLOCK_SIZE;
        if (p->seen)
            TRY(take_characters(p, offset, &size, last));
        else
            p->text_tokens += (int64_t)size;
        offset += (int64_t)size;
        byte_progress_add(&p->progress, size);
    }
    return OK;
}

static enum status make_char_tokenizer(struct preparation *p)
{
    uint32_t *points = calloc(N_CODE_POINTS, sizeof *points);
    size_t count = 0;

    if (!points)
        return fail(ERR_NOMEM, "out of memory for the characters of the text");
    for (uint32_t point = 0; point < N_CODE_POINTS; point++)
        if (p->seen[point])
            points[count++] = point;
    const enum status status = tokenizer_from_code_points(&p->tokenizer, points, count);
    free(points);
    return status;
}

static enum status survey(struct preparation *p)
{
    const bool is_char = strcmp(p->settings->tokenizer, "char") == 0;
    const bool is_stream = p->source.stream >= 0;
    char what[128];

    p->tokenizer = tokenizer_byte();
    p->text_tokens = 0;
    if (is_char) {
        p->seen = calloc(N_CODE_POINTS, sizeof *p->seen);
        if (!p->seen)
            return fail(ERR_NOMEM, "out of memory for the characters of the text");
    }
    if (is_char || is_stream) {
        snprintf(what, sizeof what, "reading %s", base_name(p->source.name));
        byte_progress_begin(&p->progress, what, is_stream ? 0 : (uint64_t)p->source.size);
        const enum status status = read_to_end(p);
        byte_progress_end();
        TRY(status);
    } else {
        p->text_tokens = p->source.size;
    }
    if (p->text_tokens == 0)
        return fail(ERR_INVALID, "%s is empty: there is nothing to learn from", p->source.name);
    return is_char ? make_char_tokenizer(p) : OK;
}

/* ---- The split ---- */

static enum split draw_split(const struct prepare_settings *settings, int64_t window)
{
    const struct rng_block random = rng_philox((uint64_t)settings->seed, RNG_WINDOWS, 0, 0,
                                               (uint64_t)window);
    return rng_uniform_double(random.word[0], random.word[1]) < settings->train_split ? SPLIT_TRAIN
                                                                                      : SPLIT_VAL;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How many tokens train and val get. */
static enum status plan_split(struct preparation *p)
{
    const struct prepare_settings *settings = p->settings;
    int64_t *counts = p->counts, total;

    if (__builtin_mul_overflow(p->text_tokens, settings->repeat, &total))
        return fail(ERR_INVALID, "--repeat %" PRId64 " of %" PRId64 " tokens is more than any file "
                    "holds", settings->repeat, p->text_tokens);
    if (p->by_windows) {
        for (int64_t start = 0; start < total; start += smaller(settings->window, total - start))
            counts[draw_split(settings, start / settings->window)] +=
                smaller(settings->window, total - start);
    } else {
        const int64_t train = llround((double)p->text_tokens * settings->train_split);
        counts[SPLIT_TRAIN] = train * settings->repeat;
        counts[SPLIT_VAL] = p->text_tokens - train;
    }
    if (counts[SPLIT_TRAIN] == 0)
        return fail(ERR_INVALID, "%s: of its %" PRId64 " tokens none is left for training: give a "
                    "longer text or a larger --train-split", p->source.name, p->text_tokens);
    if (counts[SPLIT_VAL] == 0 && settings->train_split < 1)
        log_notice("the text is so short that nothing of it is left for validation");
    return OK;
}

/* ---- Writing ---- */

/* Hand the first `count` of p->ids to the file: all of them, or those in windows of this pass. */
static enum status write_ids(struct preparation *p, int64_t count)
{
    const int64_t window_size = p->settings->window;

    if (!p->by_windows)
        return token_writer_add(&p->writer, p->ids, count);
    for (int64_t done = 0; done < count;) {
        const int64_t window = p->position / window_size;
        const int64_t run = smaller(count - done, (window + 1) * window_size - p->position);

        if (draw_split(p->settings, window) == p->pass)
            TRY(token_writer_add(&p->writer, p->ids + done, run));
        p->position += run;
        done += run;
    }
    return OK;
}

/* Bytes of a block without the character that its end cuts in two. */
static size_t whole_characters(const char *text, size_t size)
{
    uint32_t code_point;

    for (size_t back = 1; back < TOKEN_MAX_BYTES && back <= size; back++)
        if (((unsigned char)text[size - back] & 0xc0) != 0x80)
            return utf8_decode(text + size - back, back, &code_point) < 0 ? size - back : size;
    return size;
}

/* Write `count` tokens of the text from byte *offset on, which moves behind them. */
static enum status write_text(struct preparation *p, int64_t *offset, int64_t count)
{
    while (count > 0) {
        size_t size, n_ids;
        TRY(source_text_read(&p->source, *offset, p->text, BLOCK_SIZE, &size));
        if (p->tokenizer.type == TOKENIZER_CHAR)
            size = whole_characters(p->text, size);
        /* The survey found the text valid and long enough. */
        if (tokenizer_encode(&p->tokenizer, p->text, size, p->ids, &n_ids) != OK || n_ids == 0)
            return fail(ERR_IO, "%s was changed while it was read: start again", p->source.name);

        const int64_t wanted = smaller((int64_t)n_ids, count);
        if (wanted < (int64_t)n_ids) {
            char bytes[TOKEN_MAX_BYTES];
            size = 0;
            for (int64_t i = 0; i < wanted; i++)
                size += (size_t)tokenizer_decode(&p->tokenizer, p->ids[i], bytes);
        }
        const int64_t before = p->writer.added;
        TRY(write_ids(p, wanted));
        byte_progress_add(&p->progress, (uint64_t)(p->writer.added - before) *
                                        dtype_size(p->writer.dtype));
        *offset += (int64_t)size;
        count -= wanted;
    }
    return OK;
}

static enum status write_tokens(struct preparation *p)
{
    const int64_t repeat = p->settings->repeat;
    int64_t offset = 0;

    if (!p->by_windows) {
        for (int64_t i = 0; i < repeat; i++) {
            offset = 0;
            TRY(write_text(p, &offset, p->counts[SPLIT_TRAIN] / repeat));
        }
        return write_text(p, &offset, p->counts[SPLIT_VAL]);
    }
    for (p->pass = SPLIT_TRAIN; p->pass <= SPLIT_VAL; p->pass++) {
        p->position = 0;
        for (int64_t i = 0; i < repeat; i++) {
            offset = 0;
            TRY(write_text(p, &offset, p->text_tokens));
        }
    }
    return OK;
}

/* Metadata is UTF-8, file names are any bytes: what is invalid becomes '?'. */
static enum status add_source_name(struct preparation *p)
{
    char *name = strdup(base_name(p->source.name));
    uint32_t code_point;

    if (!name)
        return fail(ERR_NOMEM, "out of memory for a file name");
    const size_t size = strlen(name);
    for (size_t at = 0; at < size;) {
        const int length = utf8_decode(name + at, size - at, &code_point);
        if (length <= 0)
            name[at] = '?';
        at += length > 0 ? (size_t)length : 1;
    }
    const enum status status = safetensors_writer_metadata(p->writer.file, "source", name, size);
    free(name);
    return status;
}

static enum status add_number(struct preparation *p, const char *key, int64_t value)
{
    char digits[24];
    const int length = snprintf(digits, sizeof digits, "%" PRId64, value);
    return safetensors_writer_metadata(p->writer.file, key, digits, (size_t)length);
}

static enum status write_file(struct preparation *p)
{
    const struct prepare_settings *settings = p->settings;
    struct token_writer *writer = &p->writer;
    char what[128];

    TRY(token_writer_create(writer, &p->tokenizer, p->counts[SPLIT_TRAIN], p->counts[SPLIT_VAL]));
    TRY(safetensors_writer_metadata(writer->file, "split", settings->split,
                                    strlen(settings->split)));
    TRY(add_source_name(p));
    TRY(add_number(p, "source_bytes", p->source.size));
    TRY(add_number(p, "repeat", settings->repeat));
    TRY(token_writer_begin(writer, settings->output));

    snprintf(what, sizeof what, "writing %s", base_name(settings->output));
    byte_progress_begin(&p->progress, what, (uint64_t)(p->counts[SPLIT_TRAIN] +
                        p->counts[SPLIT_VAL]) * dtype_size(writer->dtype));
    const enum status status = write_tokens(p);
    byte_progress_end();
    TRY(status);
    TRY(source_text_check_unchanged(&p->source));
    return token_writer_commit(writer);
}

/* ---- The report ---- */

/* The vocabulary's characters, in quotes, as far as a line holds them. */
static void report_characters(const struct tokenizer *tokenizer)
{
    enum { WIDTH = 64 };
    char line[WIDTH + 16];
    int length = 0, id = 0;

    for (; id < tokenizer->vocab_size && length < WIDTH; id++) {
        const uint32_t point = tokenizer->code_points[id];

        if (point == '\n')
            length += sprintf(line + length, "\\n");
        else if (point == '\t')
            length += sprintf(line + length, "\\t");
        else if (point < 0x20 || (point >= 0x7f && point < 0xa0))
            length += sprintf(line + length, "\\x%02X", point);
        else
            length += utf8_encode(point, line + length);
    }
    line[length] = '\0';
    log_info("characters  \"%s\"%s", line, id < tokenizer->vocab_size ? " ..." : "");
}

static void report_split(const struct preparation *p)
{
    const struct prepare_settings *settings = p->settings;

    if (p->by_windows) {
        log_info("split       windows of %" PRId64 " tokens, drawn with seed %" PRId64
                 ", train %g%%", settings->window, settings->seed, 100 * settings->train_split);
        log_notice("validation windows lie among those for training: validation measures memory of "
                   "this text, not what was learned of its language");
    } else {
        log_info("split       text: train is its first %g%%, %" PRId64 " time%s; val is the rest",
                 100 * settings->train_split, settings->repeat, settings->repeat == 1 ? "" : "s");
    }
}

static void report(const struct preparation *p, uint64_t file_size)
{
    const struct prepare_settings *settings = p->settings;
    char size[BYTES_TEXT_SIZE];

    log_info("source      %s (%" PRId64 " bytes)", p->source.name, p->source.size);
    log_info("tokens      %" PRId64 " train, %" PRId64 " val", p->counts[SPLIT_TRAIN],
             p->counts[SPLIT_VAL]);
    log_info("vocabulary  %d %s", p->tokenizer.vocab_size,
             p->tokenizer.type == TOKENIZER_CHAR ? "characters" : "bytes");
    if (p->tokenizer.type == TOKENIZER_CHAR)
        report_characters(&p->tokenizer);
    report_split(p);
    log_info("output      %s (%s, %s)", settings->output, bytes_text(size, file_size),
             dtype_name(p->writer.dtype));
    if (strcmp(settings->output, DEFAULT_OUTPUT) == 0) {
        log_info("next: trainer config/quickstart.ini");
    } else {
        const char *quote = strpbrk(settings->output, " \t\"$`\\&|;<>()*?[]~#!") ? "'" : "";
        log_info("next: trainer --set %sdata.dataset_path=%s%s", quote, settings->output, quote);
    }
}

enum status prepare_run(const struct prepare_settings *settings, const char *const *folders,
                        const volatile sig_atomic_t *stop)
{
    struct preparation p = {
        .settings = settings,
        .by_windows = strcmp(settings->split, "windows") == 0,
        .source = {.fd = -1, .stream = -1},
        .text = malloc(BLOCK_SIZE),
        .ids = malloc(BLOCK_SIZE * sizeof *p.ids),
    };
    enum status status;

    if (!p.text || !p.ids) {
        status = fail(ERR_NOMEM, "out of memory for a block of text");
        goto done;
    }
    TRY_GOTO(status, open_source(&p, folders, stop), done);
    TRY_GOTO(status, survey(&p), done);
    TRY_GOTO(status, plan_split(&p), done);
    TRY_GOTO(status, write_file(&p), done);
    report(&p, safetensors_writer_size(p.writer.file));

done:
    token_writer_close(&p.writer);
    tokenizer_free(&p.tokenizer);
    source_text_close(&p.source);
    free(p.seen);
    free(p.ids);
    free(p.text);
    return status;
}
