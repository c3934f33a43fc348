/* test_safetensors.c - the reader gets back, bit for bit, what the writer of the container wrote;
 * test_safetensors_read.c has the files of other origin. */
#include <inttypes.h>
#include <pthread.h>

#include "base/checksum.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "check.h"
#include "temp_folder.h"

static char path[sizeof temp_folder + 16];      /* the file of the current case */

struct sample {
    const char *name;
    enum dtype dtype;
    int n_dims;
    int64_t shape[4];
    size_t size;
};

/* All dtypes and ranks, empty ones among them; narrow before wide, odd sizes. */
static const struct sample samples[] = {
    {"bytes", DTYPE_U8, 1, {13}, 13},
    {"empty", DTYPE_F64, 2, {0, 5}, 0},
    {"half", DTYPE_F16, 2, {3, 1}, 6},
    {"brain", DTYPE_BF16, 3, {1, 5, 1}, 10},
    {"scalar", DTYPE_F32, 0, {0}, 4},
    {"blocks.0.attn.to_qkv.weight", DTYPE_F32, 4, {2, 1, 3, 2}, 48},
    {"double \"\\/ \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", DTYPE_F64, 1, {3}, 24},
    {"words", DTYPE_U16, 1, {7}, 14},
    {"ints", DTYPE_I32, 1, {2}, 8},
    {"longs", DTYPE_I64, 2, {1, 2}, 16},
    {"unsigned", DTYPE_U32, 1, {1}, 4},
    {"last and empty", DTYPE_U8, 1, {0}, 0},
};
enum { N_SAMPLES = sizeof samples / sizeof samples[0] };

/* Byte `at` of a sample: every value occurs, no two samples are alike. */
static unsigned char sample_byte(int sample, size_t at)
{
    return (unsigned char)(at * 37 + (size_t)sample * 101 + (at >> 8));
}

static enum status declare_samples(struct safetensors_writer *w)
{
    TRY(safetensors_writer_metadata(w, "config", "replaced", 8));
    TRY(safetensors_writer_metadata(w, "text", "tab\t quote\" \xe2\x82\xac\n", 16));
    TRY(safetensors_writer_metadata(w, "empty", "", 0));
    TRY(safetensors_writer_metadata(w, "config", "[model]\ndim = 8\nand more", 16));
    for (int i = 0; i < N_SAMPLES; i++)
        TRY(safetensors_writer_tensor(w, samples[i].name, samples[i].dtype, samples[i].n_dims,
                                      samples[i].shape));
    return OK;
}

/* All bytes of all samples in their order, in pieces of `piece`. */
static enum status write_samples(struct safetensors_writer *w, size_t piece)
{
    unsigned char bytes[256];
    size_t total = 0;

    for (int i = 0; i < N_SAMPLES; i++)
        for (size_t at = 0; at < samples[i].size; at++)
            bytes[total++] = sample_byte(i, at);
    for (size_t at = 0; at < total; at += piece)
        TRY(safetensors_writer_data(w, bytes + at, total - at < piece ? total - at : piece));
    return OK;
}

static void put_samples(size_t piece)
{
    struct safetensors_writer *w;

    CHECK_OK(safetensors_writer_create(&w));
    if (!w)
        return;
    CHECK_OK(declare_samples(w));
    const uint64_t size = safetensors_writer_size(w);
    CHECK_OK(safetensors_writer_begin(w, path));
    CHECK_OK(write_samples(w, piece));
    CHECK_OK(safetensors_writer_commit(w));
    safetensors_writer_destroy(w);

    struct stat info;
    CHECK(stat(path, &info) == 0 && (uint64_t)info.st_size == size);
}

static void check_sample(const struct safetensors *st, int i)
{
    const struct sample *sample = &samples[i];
    const struct safetensors_entry *entry = safetensors_find(st, sample->name);
    size_t wrong = 0;

    CHECK(entry != NULL);
    if (!entry)
        return;
    CHECK(entry->dtype == sample->dtype && entry->n_dims == sample->n_dims);
    for (int d = 0; d < SAFETENSORS_MAX_DIMS; d++)
        CHECK(entry->shape[d] == (d < sample->n_dims ? sample->shape[d] : 1));
    CHECK(entry->size == sample->size && entry->has_checksum);
    CHECK_OK(safetensors_verify(st, path, entry));
    const unsigned char *data = safetensors_data(st, entry);
    CHECK((uintptr_t)data % dtype_size(entry->dtype) == 0);
    for (size_t at = 0; at < sample->size; at++)
        wrong += data[at] != sample_byte(i, at);
    CHECK(wrong == 0);
    CHECK(entry->checksum == crc32c(0, data, sample->size));
}

/* Metadata that is not there reads differently from any that is. */
static const char *text_of(const struct safetensors *st, const char *key)
{
    const char *text = safetensors_metadata(st, key);

    return text ? text : "(absent)";
}

static void round_trip(void)
{
    struct safetensors st;

    put_samples(64);
    CHECK(temp_folder_count() == 1);
    CHECK_OK(safetensors_open(&st, path));
    CHECK(st.n_entries == N_SAMPLES);
    for (int i = 0; i < N_SAMPLES; i++)
        check_sample(&st, i);
    CHECK(safetensors_find(&st, "absent") == NULL);

    CHECK(st.n_metadata == 3);
    for (int i = 0; i < st.n_metadata; i++)
        CHECK_TEXT(text_of(&st, st.metadata[2 * i]), st.metadata[2 * i + 1]);
    CHECK_TEXT(text_of(&st, "config"), "[model]\ndim = 8\n");
    CHECK_TEXT(text_of(&st, "text"), "tab\t quote\" \xe2\x82\xac\n");
    CHECK_TEXT(text_of(&st, "empty"), "");
    CHECK(safetensors_metadata(&st, "absent") == NULL);
    CHECK(safetensors_metadata(&st, "octet.checksums") == NULL);
    CHECK(safetensors_metadata(&st, "octet.header_checksum") == NULL);
    safetensors_close(&st);
    safetensors_close(&st);
}

static void pieces_leave_no_trace(void)
{
    const size_t pieces[] = {1, 3, 1000};
    size_t size, again_size;

    put_samples(64);
    char *bytes = temp_get(path, &size);
    for (int i = 0; i < 3; i++) {
        put_samples(pieces[i]);
        char *again = temp_get(path, &again_size);
        CHECK(bytes && again && again_size == size && memcmp(again, bytes, size) == 0);
        free(again);
    }
    free(bytes);
}

/* One sample's entry in a header read by hand; `data` is the data section. */
static void check_layout(int i, const json_t *header, const json_t *checksums,
                         const unsigned char *data, size_t data_size, size_t *covered)
{
    const json_t *entry = json_object_get(header, samples[i].name);
    const json_t *range = json_object_get(entry, "data_offsets");
    const size_t begin = (size_t)json_integer_value(json_array_get(range, 0));
    const size_t end = (size_t)json_integer_value(json_array_get(range, 1));
    const char *checksum = json_string_value(json_object_get(checksums, samples[i].name));
    char expected[9];

    CHECK(json_array_size(json_object_get(entry, "shape")) == (size_t)samples[i].n_dims);
    CHECK(begin % dtype_size(samples[i].dtype) == 0);
    CHECK(end - begin == samples[i].size && end <= data_size);
    if (end > data_size || begin > end)
        return;
    for (size_t at = begin; at < end; at++)
        CHECK(data[at] == sample_byte(i, at - begin));
    snprintf(expected, sizeof expected, "%08" PRIx32, crc32c(0, data + begin, end - begin));
    CHECK_TEXT(checksum ? checksum : "(absent)", expected);
    *covered += end - begin;
}

/* Read the file by the words of the format only. */
static void written_layout(void)
{
    size_t size, length = 0, covered = 0;
    json_t *header = NULL, *checksums = NULL;

    put_samples(64);
    unsigned char *bytes = (unsigned char *)temp_get(path, &size);
    CHECK(bytes && size > 8);
    if (!bytes || size <= 8)
        goto done;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | bytes[i];
    CHECK((8 + length) % 64 == 0 && length <= size - 8);
    CHECK_OK(json_parse(&header, (char *)bytes + 8, length, size - 8, "header"));

    const json_t *metadata = json_object_get(header, "__metadata__");
    const char *digits = json_string_value(json_object_get(metadata, "octet.header_checksum"));
    char *found = digits ? memmem(bytes, size, digits, 8) : NULL;
    CHECK(found != NULL);
    if (found) {
        memcpy(found, "00000000", 8);
        CHECK(crc32c(0, bytes + 8, length) == strtoul(digits, NULL, 16));
    }
    const char *text = json_string_value(json_object_get(metadata, "octet.checksums"));
    CHECK_OK(json_parse(&checksums, text ? text : "", text ? strlen(text) : 0, size, "checksums"));
    CHECK(json_object_size(checksums) == N_SAMPLES);
    for (int i = 0; i < N_SAMPLES; i++)
        check_layout(i, header, checksums, bytes + 8 + length, size - 8 - length, &covered);
    CHECK(covered == size - 8 - length);

done:
    json_decref(checksums);
    json_decref(header);
    free(bytes);
}

static void many_tensors_and_none(void)
{
    struct safetensors_writer *w;
    struct safetensors st;
    char name[32];
    int64_t n = 1;

    CHECK_OK(safetensors_writer_create(&w));
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "t%d", i);
        CHECK_OK(safetensors_writer_tensor(w, name, DTYPE_I32, 1, &n));
    }
    CHECK_OK(safetensors_writer_begin(w, path));
    for (int i = 0; i < 1000; i++)
        CHECK_OK(safetensors_writer_data(w, &i, sizeof i));
    CHECK_OK(safetensors_writer_commit(w));
    safetensors_writer_destroy(w);

    CHECK_OK(safetensors_open(&st, path));
    CHECK(st.n_entries == 1000);
    for (int i = 0; i < st.n_entries; i++) {
        snprintf(name, sizeof name, "t%d", i);
        CHECK_TEXT(st.entries[i].name, name);
        CHECK(memcmp(safetensors_data(&st, &st.entries[i]), &i, sizeof i) == 0);
    }
    safetensors_close(&st);

    CHECK_OK(safetensors_writer_create(&w));
    CHECK_OK(safetensors_writer_begin(w, path));
    CHECK_OK(safetensors_writer_commit(w));
    safetensors_writer_destroy(w);
    CHECK_OK(safetensors_open(&st, path));
    CHECK(st.n_entries == 0 && st.n_metadata == 0);
    safetensors_close(&st);
}

static void refused_declarations(void)
{
    const int64_t one[] = {1, 1, 1, 1, 1}, negative[] = {-2, -1};
    const int64_t huge[] = {1ll << 40, 1ll << 40}, large[] = {INT64_MAX / 2};
    struct safetensors_writer *w;

    CHECK_OK(safetensors_writer_create(&w));
    CHECK_OK(safetensors_writer_tensor(w, "t", DTYPE_U8, 1, one));
    CHECK_FAILS(safetensors_writer_tensor(w, "t", DTYPE_F32, 2, one), ERR_INVALID, "twice");
    CHECK_FAILS(safetensors_writer_tensor(w, "", DTYPE_U8, 1, one), ERR_INVALID, "empty");
    CHECK_FAILS(safetensors_writer_tensor(w, "a\tb", DTYPE_U8, 1, one), ERR_INVALID, "control");
    CHECK_FAILS(safetensors_writer_tensor(w, "\xc3", DTYPE_U8, 1, one), ERR_INVALID, "UTF-8");
    CHECK_FAILS(safetensors_writer_tensor(w, "__metadata__", DTYPE_U8, 1, one), ERR_INVALID,
                "keeps this name");
    CHECK_FAILS(safetensors_writer_tensor(w, "u", N_DTYPES, 1, one), ERR_INVALID, "\"u\": unknown");
    CHECK_FAILS(safetensors_writer_tensor(w, "u", DTYPE_U8, 5, one), ERR_INVALID, "5 dimensions");
    CHECK_FAILS(safetensors_writer_tensor(w, "u", DTYPE_U8, -1, one), ERR_INVALID, "-1 dimensions");
    CHECK_FAILS(safetensors_writer_tensor(w, "u", DTYPE_U8, 2, negative), ERR_INVALID, "negative");
    CHECK_FAILS(safetensors_writer_tensor(w, "u", DTYPE_U8, 2, huge), ERR_INVALID, "too large");
    CHECK_FAILS(safetensors_writer_tensor(w, "u", DTYPE_U8, 1, large), ERR_INVALID, "too large");
    CHECK_FAILS(safetensors_writer_metadata(w, "k", "a\0b", 3), ERR_INVALID, "\"k\": holds a NUL");
    CHECK_FAILS(safetensors_writer_metadata(w, "k", "\xed\xa0\x80", 3), ERR_INVALID, "UTF-8");
    CHECK_FAILS(safetensors_writer_metadata(w, "", "v", 1), ERR_INVALID, "empty");
    CHECK_FAILS(safetensors_writer_metadata(w, "\xff", "v", 1), ERR_INVALID, "UTF-8");
    CHECK_FAILS(safetensors_writer_metadata(w, "octet.checksums", "v", 1), ERR_INVALID,
                "filled in by the writer");

    /* None of them left anything behind. */
    CHECK_OK(safetensors_writer_begin(w, path));
    CHECK_OK(safetensors_writer_data(w, "x", 1));
    CHECK_OK(safetensors_writer_commit(w));
    safetensors_writer_destroy(w);

    struct safetensors st;
    CHECK_OK(safetensors_open(&st, path));
    CHECK(st.n_entries == 1 && st.n_metadata == 0);
    safetensors_close(&st);
}

static void writing_out_of_order(void)
{
    const int64_t shape[] = {4};
    struct safetensors_writer *w;
    size_t size;

    CHECK(temp_put(path, "older", 5));
    CHECK_OK(safetensors_writer_create(&w));
    CHECK_OK(safetensors_writer_tensor(w, "first", DTYPE_U8, 1, shape));
    CHECK_OK(safetensors_writer_tensor(w, "second", DTYPE_F32, 1, shape));
    CHECK_FAILS(safetensors_writer_data(w, "x", 1), ERR_INVALID, "before");
    CHECK_FAILS(safetensors_writer_commit(w), ERR_INVALID, "before");
    CHECK_FAILS(safetensors_writer_begin(w, temp_folder), ERR_INVALID, "is a folder");
    CHECK_OK(safetensors_writer_begin(w, path));
    CHECK_FAILS(safetensors_writer_begin(w, path), ERR_INVALID, "after the writing began");
    CHECK_FAILS(safetensors_writer_tensor(w, "third", DTYPE_U8, 1, shape), ERR_INVALID, "began");
    CHECK_FAILS(safetensors_writer_metadata(w, "k", "v", 1), ERR_INVALID, "began");
    CHECK_FAILS(safetensors_writer_commit(w), ERR_INVALID, "\"first\" lacks 4 of its 4 bytes");
    CHECK_OK(safetensors_writer_data(w, "12345678901", 11));
    CHECK_FAILS(safetensors_writer_commit(w), ERR_INVALID, "\"second\" lacks 9 of its 16 bytes");
    CHECK_FAILS(safetensors_writer_data(w, "1234567890", 10), ERR_INVALID, "1 bytes more");
    CHECK(temp_folder_count() == 2);
    safetensors_writer_destroy(w);
    CHECK(temp_folder_count() == 1);
    char *bytes = temp_get(path, &size);
    CHECK_TEXT(bytes ? bytes : "(absent)", "older");
    free(bytes);

    CHECK_OK(safetensors_writer_create(&w));
    CHECK_OK(safetensors_writer_begin(w, path));
    CHECK_OK(safetensors_writer_commit(w));
    CHECK_FAILS(safetensors_writer_commit(w), ERR_INVALID, "before");
    CHECK_FAILS(safetensors_writer_begin(w, path), ERR_INVALID, "began");
    safetensors_writer_destroy(w);
    safetensors_writer_destroy(NULL);
    CHECK(temp_folder_count() == 1);
}

/* The writing of one byte "x" and the metadata "digest", up to the commit. */
static struct safetensors_writer *begin_with_digest(const char *digest)
{
    struct safetensors_writer *w;
    const int64_t n = 1;

    CHECK_OK(safetensors_writer_create(&w));
    CHECK_OK(safetensors_writer_metadata(w, "digest", digest, strlen(digest)));
    CHECK_OK(safetensors_writer_tensor(w, "t", DTYPE_U8, 1, &n));
    CHECK_OK(safetensors_writer_begin(w, path));
    CHECK_OK(safetensors_writer_data(w, "x", 1));
    return w;
}

static void metadata_known_last(void)
{
    struct safetensors st;
    char blanks[101], controls[101];

    struct safetensors_writer *w = begin_with_digest("00000000");
    CHECK_FAILS(safetensors_writer_metadata(w, "digest", "1234567", 7), ERR_INVALID, "began");
    CHECK_FAILS(safetensors_writer_metadata(w, "other", "12345678", 8), ERR_INVALID, "began");
    CHECK_OK(safetensors_writer_metadata(w, "digest", "12345678", 8));
    CHECK_OK(safetensors_writer_commit(w));
    safetensors_writer_destroy(w);
    CHECK_OK(safetensors_open(&st, path));
    CHECK_TEXT(text_of(&st, "digest"), "12345678");
    safetensors_close(&st);

    /* As long, but six times that in JSON, more than the blanks behind the header can take. */
    memset(blanks, ' ', 100);
    memset(controls, 1, 100);
    blanks[100] = controls[100] = '\0';
    w = begin_with_digest(blanks);
    CHECK_OK(safetensors_writer_metadata(w, "digest", controls, 100));
    CHECK_FAILS(safetensors_writer_commit(w), ERR_INVALID, "needs more room");
    safetensors_writer_destroy(w);
    CHECK_OK(safetensors_open(&st, path));
    CHECK_TEXT(text_of(&st, "digest"), "12345678");
    safetensors_close(&st);
}

static void header_beyond_the_limit(void)
{
    const size_t size = 60 * 1000 * 1000;
    struct safetensors_writer *w;
    char *text = malloc(size);

    CHECK(text != NULL);
    if (!text)
        return;
    memset(text, 'x', size);
    CHECK_OK(safetensors_writer_create(&w));
    CHECK_OK(safetensors_writer_metadata(w, "a", text, size));
    CHECK_OK(safetensors_writer_metadata(w, "b", text, size));
    free(text);
    CHECK(safetensors_writer_size(w) == 0);
    CHECK_FAILS(safetensors_writer_begin(w, path), ERR_INVALID, "the format allows 100000000");
    safetensors_writer_destroy(w);
    CHECK(temp_folder_count() == 0);
}

static void *read_all(void *argument)
{
    const struct safetensors *st = argument;
    intptr_t wrong = 0;

    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < N_SAMPLES; i++) {
            const struct safetensors_entry *entry = safetensors_find(st, samples[i].name);
            wrong += !entry || safetensors_verify(st, path, entry) != OK;
        }
        wrong += safetensors_metadata(st, "config") == NULL;
    }
    return (void *)wrong;
}

static void many_threads_read(void)
{
    struct safetensors st;
    pthread_t threads[4];
    int n_started = 0;

    put_samples(64);
    CHECK_OK(safetensors_open(&st, path));
    while (n_started < 4 && pthread_create(&threads[n_started], NULL, read_all, &st) == 0)
        n_started++;
    CHECK(n_started == 4);
    for (int i = 0; i < n_started; i++) {
        void *wrong;
        CHECK(pthread_join(threads[i], &wrong) == 0 && wrong == NULL);
    }
    safetensors_close(&st);
}

/* Each case starts without a file. */
#define FRESH_CASE(name)        \
    do {                        \
        remove(path);           \
        CASE(name);             \
    } while (0)

int main(void)
{
    if (!temp_folder_create("test_safetensors"))
        return 1;
    snprintf(path, sizeof path, "%s/file", temp_folder);
    FRESH_CASE(round_trip);
    FRESH_CASE(pieces_leave_no_trace);
    FRESH_CASE(written_layout);
    FRESH_CASE(many_tensors_and_none);
    FRESH_CASE(refused_declarations);
    FRESH_CASE(writing_out_of_order);
    FRESH_CASE(metadata_known_last);
    FRESH_CASE(header_beyond_the_limit);
    FRESH_CASE(many_threads_read);
    temp_folder_remove();
    return check_finish();
}
