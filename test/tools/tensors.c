/* tensors - looks into safetensors files and makes some, for the end-to-end tests. */
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/safetensors.h"

/* ---- values ---- */

static double float_at(const unsigned char *bytes)
{
    float value;

    memcpy(&value, bytes, sizeof value);
    return (double)value;
}

static double double_at(const unsigned char *bytes)
{
    double value;

    memcpy(&value, bytes, sizeof value);
    return value;
}

static double integer_at(const unsigned char *bytes, size_t size, bool is_signed)
{
    uint64_t value = 0;

    for (size_t i = 0; i < size; i++)
        value |= (uint64_t)bytes[i] << 8 * i;
    if (is_signed && bytes[size - 1] & 0x80)
        return (double)(int64_t)(size < 8 ? value | ~0ull << 8 * size : value);
    return (double)value;
}

/* Half-precision types are not needed here and count as NaN, which no comparison accepts. */
static double value_at(const struct safetensors *st, const struct safetensors_entry *entry,
                       uint64_t i)
{
    const size_t size = dtype_size(entry->dtype);
    const unsigned char *bytes = (const unsigned char *)safetensors_data(st, entry) + i * size;

    switch (entry->dtype) {
    case DTYPE_F32:
        return float_at(bytes);
    case DTYPE_F64:
        return double_at(bytes);
    case DTYPE_I32:
    case DTYPE_I64:
        return integer_at(bytes, size, true);
    case DTYPE_U8:
    case DTYPE_U16:
    case DTYPE_U32:
        return integer_at(bytes, size, false);
    default:
        return NAN;
    }
}

static uint64_t value_count(const struct safetensors_entry *entry)
{
    return entry->size / dtype_size(entry->dtype);
}

static enum status find(const struct safetensors *st, const char *path, const char *name,
                        const struct safetensors_entry **entry)
{
    *entry = safetensors_find(st, name);
    return *entry ? OK : fail(ERR_INVALID, "%s: no tensor %s", path, name);
}

/* ---- looking ---- */

static enum status list(char **args)
{
    struct safetensors st;
    enum status status = OK;

    TRY(safetensors_open(&st, args[0]));
    for (int i = 0; i < st.n_entries && status == OK; i++) {
        const struct safetensors_entry *entry = &st.entries[i];
        printf("%s %s", entry->name, dtype_name(entry->dtype));
        for (int dim = 0; dim < entry->n_dims; dim++)
            printf(" %" PRId64, entry->shape[dim]);
        printf("\n");
        status = safetensors_verify(&st, args[0], entry);
    }
    safetensors_close(&st);
    return status;
}

static enum status metadata(char **args)
{
    struct safetensors st;
    enum status status = OK;

    TRY(safetensors_open(&st, args[0]));
    const char *text = safetensors_metadata(&st, args[1]);
    if (text)
        printf("%s\n", text);
    else
        status = fail(ERR_INVALID, "%s: no metadata %s", args[0], args[1]);
    safetensors_close(&st);
    return status;
}

static enum status values(char **args)
{
    struct safetensors st;
    const struct safetensors_entry *entry;

    TRY(safetensors_open(&st, args[0]));
    const enum status status = find(&st, args[0], args[1], &entry);
    for (uint64_t i = 0; status == OK && i < value_count(entry); i++)
        printf("%.9g\n", value_at(&st, entry, i));
    safetensors_close(&st);
    return status;
}

/* Where the data section begins, as an offset for `flip`. */
static enum status data_offset(char **args)
{
    struct safetensors st;

    TRY(safetensors_open(&st, args[0]));
    printf("%td\n", st.data - st.file.data);
    safetensors_close(&st);
    return OK;
}

/* ---- comparing ---- */

static enum status compare_values(const struct safetensors *a, const struct safetensors_entry *left,
                                  const struct safetensors *b,
                                  const struct safetensors_entry *right, double tolerance)
{
    double largest = 0, worst = 0;

    for (uint64_t i = 0; i < value_count(left); i++) {
        const double x = value_at(a, left, i), y = value_at(b, right, i);
        if (!isfinite(x) || !isfinite(y))
            return fail(ERR_INVALID, "%s: value %" PRIu64 " is not finite", left->name, i);
        largest = fmax(largest, fabs(y));
        worst = fmax(worst, fabs(x - y));
    }
    if (worst > tolerance * largest)
        return fail(ERR_INVALID, "%s: differs by %g, and its largest value is %g", left->name,
                    worst, largest);
    return OK;
}

/* A tolerance of 0 asks for equal bytes. */
static enum status compare_entries(const struct safetensors *a,
                                   const struct safetensors_entry *left,
                                   const struct safetensors *b,
                                   const struct safetensors_entry *right, double tolerance)
{
    if (left->dtype != right->dtype || left->n_dims != right->n_dims ||
        memcmp(left->shape, right->shape, sizeof left->shape) != 0)
        return fail(ERR_INVALID, "%s: differs in type or shape", left->name);
    if (tolerance > 0)
        return compare_values(a, left, b, right, tolerance);
    if (memcmp(safetensors_data(a, left), safetensors_data(b, right), left->size) != 0)
        return fail(ERR_INVALID, "%s: the bytes differ", left->name);
    return OK;
}

static const char *without_prefix(const char *name, const char *prefix)
{
    const size_t length = strlen(prefix);

    return strncmp(name, prefix, length) == 0 ? name + length : NULL;
}

/* Each tensor of `a` whose name begins with `prefix` against the one of `b` named like the rest. */
static enum status compare_all(const struct safetensors *a, const struct safetensors *b,
                               const char *prefix, double tolerance, int *n_compared)
{
    *n_compared = 0;
    for (int i = 0; i < a->n_entries; i++) {
        const struct safetensors_entry *entry = &a->entries[i], *other;
        const char *name = without_prefix(entry->name, prefix);
        if (!name)
            continue;
        TRY(find(b, "the second file", name, &other));
        TRY(compare_entries(a, entry, b, other, tolerance));
        ++*n_compared;
    }
    if (*n_compared == 0)
        return fail(ERR_INVALID, "nothing to compare: no tensor begins with \"%s\"", prefix);
    return OK;
}

/* Without a prefix the second file may hold no tensor more. */
static enum status compare(char **args)
{
    const double tolerance = atof(args[2]);
    const char *prefix = args[3] ? args[3] : "";
    struct safetensors a = {0}, b = {0};
    enum status status;
    int n_compared;

    TRY_GOTO(status, safetensors_open(&a, args[0]), done);
    TRY_GOTO(status, safetensors_open(&b, args[1]), done);
    TRY_GOTO(status, compare_all(&a, &b, prefix, tolerance, &n_compared), done);
    if (!args[3] && n_compared != b.n_entries)
        status = fail(ERR_INVALID, "%d tensors against %d", n_compared, b.n_entries);
done:
    safetensors_close(&a);
    safetensors_close(&b);
    return status;
}

/* ---- making ---- */

static enum status declare(struct safetensors_writer *writer, const char *name,
                           const struct safetensors_entry *entry)
{
    return safetensors_writer_tensor(writer, name, entry->dtype, entry->n_dims, entry->shape);
}

static enum status copy_data(struct safetensors_writer *writer, const struct safetensors *st,
                             const struct safetensors_entry *entry)
{
    return safetensors_writer_data(writer, safetensors_data(st, entry), entry->size);
}

static enum status write_tokens(struct safetensors_writer *writer, const struct safetensors *st,
                                const struct safetensors_entry *entry, const char *path,
                                const char *vocab_size)
{
    char tokenizer[80];

    const int length = snprintf(tokenizer, sizeof tokenizer,
                                "{\"type\":\"none\",\"vocab_size\":%.20s}", vocab_size);
    TRY(safetensors_writer_metadata(writer, "tokenizer", tokenizer, (size_t)length));
    TRY(declare(writer, "train", entry));
    TRY(safetensors_writer_begin(writer, path));
    TRY(copy_data(writer, st, entry));
    return safetensors_writer_commit(writer);
}

static enum status tokens(char **args)
{
    struct safetensors st = {0};
    struct safetensors_writer *writer = NULL;
    const struct safetensors_entry *entry;
    enum status status;

    TRY_GOTO(status, safetensors_open(&st, args[0]), done);
    TRY_GOTO(status, find(&st, args[0], args[1], &entry), done);
    TRY_GOTO(status, safetensors_writer_create(&writer), done);
    status = write_tokens(writer, &st, entry, args[2], args[3]);
done:
    safetensors_writer_destroy(writer);
    safetensors_close(&st);
    return status;
}

static enum status write_prefixed(struct safetensors_writer *writer, const struct safetensors *st,
                                  const char *prefix, const char *path)
{
    for (int i = 0; i < st->n_entries; i++) {
        const char *name = without_prefix(st->entries[i].name, prefix);
        if (name)
            TRY(declare(writer, name, &st->entries[i]));
    }
    TRY(safetensors_writer_begin(writer, path));
    for (int i = 0; i < st->n_entries; i++)
        if (without_prefix(st->entries[i].name, prefix))
            TRY(copy_data(writer, st, &st->entries[i]));
    return safetensors_writer_commit(writer);
}

static enum status extract(char **args)
{
    struct safetensors st = {0};
    struct safetensors_writer *writer = NULL;
    enum status status;

    TRY_GOTO(status, safetensors_open(&st, args[0]), done);
    TRY_GOTO(status, safetensors_writer_create(&writer), done);
    status = write_prefixed(writer, &st, args[1], args[2]);
done:
    safetensors_writer_destroy(writer);
    safetensors_close(&st);
    return status;
}

/* What is different in a copy of a file; a tensor or text that has no new value is left out. */
struct change {
    const char *name;           /* a tensor, or a key of the metadata */
    const char *text;
    bool has_value;             /* of a tensor's element */
    uint64_t index;
    double value;
};

static enum status copy_metadata(struct safetensors_writer *writer, const struct safetensors *st,
                                 const struct change *change)
{
    for (int i = 0; i < st->n_metadata; i++) {
        const char *key = st->metadata[2 * i], *text = st->metadata[2 * i + 1];
        if (strcmp(key, change->name) == 0)
            text = change->text;
        if (text)
            TRY(safetensors_writer_metadata(writer, key, text, strlen(text)));
    }
    return OK;
}

static enum status write_element(struct safetensors_writer *writer, const struct safetensors *st,
                                 const struct safetensors_entry *entry,
                                 const struct change *change)
{
    const uint64_t before = change->index * 4;
    const char *bytes = safetensors_data(st, entry);
    const float number = (float)change->value;
    const int32_t integer = (int32_t)change->value;

    if ((entry->dtype != DTYPE_F32 && entry->dtype != DTYPE_I32) || before >= entry->size)
        return fail(ERR_INVALID, "%s: is not F32 or I32, or has no value %" PRIu64, entry->name,
                    change->index);
    TRY(safetensors_writer_data(writer, bytes, before));
    TRY(safetensors_writer_data(writer, entry->dtype == DTYPE_F32 ? &number : (const void *)&integer,
                                4));
    return safetensors_writer_data(writer, bytes + before + 4, entry->size - before - 4);
}

static enum status write_changed(struct safetensors_writer *writer, const struct safetensors *st,
                                 const char *path, const struct change *change)
{
    TRY(copy_metadata(writer, st, change));
    for (int i = 0; i < st->n_entries; i++)
        if (strcmp(st->entries[i].name, change->name) != 0 || change->has_value)
            TRY(declare(writer, st->entries[i].name, &st->entries[i]));
    TRY(safetensors_writer_begin(writer, path));
    for (int i = 0; i < st->n_entries; i++) {
        const struct safetensors_entry *entry = &st->entries[i];
        if (strcmp(entry->name, change->name) != 0)
            TRY(copy_data(writer, st, entry));
        else if (change->has_value)
            TRY(write_element(writer, st, entry, change));
    }
    return safetensors_writer_commit(writer);
}

static enum status copy_changed(const char *from, const char *to, const struct change *change)
{
    struct safetensors st = {0};
    struct safetensors_writer *writer = NULL;
    enum status status;

    TRY_GOTO(status, safetensors_open(&st, from), done);
    TRY_GOTO(status, safetensors_writer_create(&writer), done);
    status = write_changed(writer, &st, to, change);
done:
    safetensors_writer_destroy(writer);
    safetensors_close(&st);
    return status;
}

static enum status set(char **args)
{
    const struct change change = {.name = args[2], .has_value = true,
                                  .index = strtoull(args[3], NULL, 10), .value = atof(args[4])};

    return copy_changed(args[0], args[1], &change);
}

static enum status set_metadata(char **args)
{
    const struct change change = {.name = args[2], .text = args[3]};

    return copy_changed(args[0], args[1], &change);
}

static enum status drop(char **args)
{
    const struct change change = {.name = args[2]};

    return copy_changed(args[0], args[1], &change);
}

/* A negative offset counts from the end. */
static enum status flip(char **args)
{
    const long offset = atol(args[1]);
    FILE *file = fopen(args[0], "r+b");

    if (!file)
        return fail_errno(ERR_INVALID, "%s", args[0]);
    bool done = fseek(file, offset, offset < 0 ? SEEK_END : SEEK_SET) == 0;
    const int byte = done ? fgetc(file) : EOF;
    done = byte != EOF && fseek(file, -1, SEEK_CUR) == 0 && fputc(byte ^ 1, file) != EOF;
    done &= fclose(file) == 0;
    return done ? OK : fail(ERR_IO, "%s: cannot change its byte %ld", args[0], offset);
}

/* ---- the program ---- */

static const struct command {
    const char *name;
    int min_args, max_args;
    enum status (*run)(char **args);    /* those left out are NULL */
    const char *usage;
} commands[] = {
    {"list", 1, 1, list, "FILE: name, type and dimensions of each tensor; checksums are verified"},
    {"metadata", 2, 2, metadata, "FILE KEY: one text of the metadata"},
    {"values", 2, 2, values, "FILE NAME: the numbers of a tensor, one a line"},
    {"data-offset", 1, 1, data_offset, "FILE: the first byte of the first tensor"},
    {"compare", 3, 4, compare,
     "FILE FILE TOLERANCE [PREFIX]: all tensors within TOLERANCE of the largest value of each, 0 "
     "for equal bytes; with PREFIX those of the first file that begin with it against what the "
     "second one has under the rest of their names"},
    {"tokens", 4, 4, tokens, "FILE NAME OUT VOCAB_SIZE: a token file from a tensor of ids"},
    {"extract", 3, 3, extract, "FILE PREFIX OUT: the tensors under PREFIX, without it"},
    {"set", 5, 5, set, "FILE OUT NAME INDEX VALUE: a copy with one number of a tensor changed"},
    {"set-metadata", 4, 4, set_metadata, "FILE OUT KEY TEXT: a copy with one text changed"},
    {"drop", 3, 3, drop, "FILE OUT NAME: a copy without this tensor, or text of the metadata"},
    {"flip", 2, 2, flip, "FILE OFFSET: change the lowest bit of one byte"},
};

static int print_usage(void)
{
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        fprintf(stderr, "tensors %s %s\n", commands[i].name, commands[i].usage);
    return 2;
}

int main(int argc, char **argv)
{
    const int n_args = argc - 2;

    for (size_t i = 0; n_args >= 0 && i < sizeof commands / sizeof commands[0]; i++) {
        const struct command *command = &commands[i];
        if (strcmp(argv[1], command->name) != 0)
            continue;
        if (n_args < command->min_args || n_args > command->max_args)
            return print_usage();
        const enum status status = command->run(argv + 2);
        if (status != OK)
            fprintf(stderr, "tensors: %s\n", status_message());
        return status != OK;
    }
    return print_usage();
}
