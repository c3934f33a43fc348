/* test_dataset.c - token files of any integer type, whole and damaged; the order of samples. */
#include <inttypes.h>
#include <pthread.h>
#include <unistd.h>

#include "base/bus_error.h"
#include "check.h"
#include "data/dataset.h"
#include "data/sample_order.h"
#include "data/token_writer.h"
#include "temp_folder.h"

#define BYTE_JSON "{\"type\":\"byte\",\"vocab_size\":256}"
#define NONE_10_JSON "{\"type\":\"none\",\"vocab_size\":10}"

/* ---- Token files ---- */

struct part {
    const char *name;
    enum dtype dtype;
    int64_t count;
    const void *ids;
};

static enum status write_parts(struct safetensors_writer *w, const struct part *parts, int n_parts,
                               const char *tokenizer, const char *digest, const char *path)
{
    if (tokenizer)
        TRY(safetensors_writer_metadata(w, "tokenizer", tokenizer, strlen(tokenizer)));
    if (digest)
        TRY(safetensors_writer_metadata(w, "digest", digest, strlen(digest)));
    for (int i = 0; i < n_parts; i++)
        TRY(safetensors_writer_tensor(w, parts[i].name, parts[i].dtype, 1, &parts[i].count));
    TRY(safetensors_writer_begin(w, path));
    for (int i = 0; i < n_parts; i++)
        TRY(safetensors_writer_data(w, parts[i].ids,
                                    (size_t)parts[i].count * dtype_size(parts[i].dtype)));
    return safetensors_writer_commit(w);
}

/* A token file of these tensors; its path. */
static const char *make_file(const struct part *parts, int n_parts, const char *tokenizer,
                             const char *digest)
{
    const char *path = temp_path("tokens.safetensors");
    struct safetensors_writer *w = NULL;

    CHECK_OK(safetensors_writer_create(&w));
    CHECK_OK(write_parts(w, parts, n_parts, tokenizer, digest, path));
    safetensors_writer_destroy(w);
    return path;
}

/* A file as another program might write it: no checksums, and a header of any length. */
static const char *make_raw_file(const char *header, const void *data, size_t size)
{
    const char *path = temp_path("raw.safetensors");
    const uint64_t length = strlen(header);
    char bytes[2048];

    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    memcpy(bytes + 8 + length, data, size);
    CHECK(temp_put(path, bytes, 8 + length + size));
    return path;
}

static void check_window(const struct dataset *ds, enum split split, int64_t window, int length,
                         const int32_t *expected)
{
    int32_t ids[16], targets[16];

    CHECK_OK(dataset_window(ds, split, window, length, ids, targets));
    CHECK(memcmp(ids, expected, (size_t)length * sizeof *ids) == 0);
    CHECK(memcmp(targets, expected + 1, (size_t)length * sizeof *ids) == 0);
}

static void windows(void)
{
    static const uint8_t train[] = {0, 1, 2, 3, 4, 5, 6}, val[] = {9, 8, 7};
    static const int32_t first[] = {0, 1, 2, 3}, second[] = {3, 4, 5, 6}, last[] = {8, 7};
    const struct part parts[] = {{"train", DTYPE_U8, 7, train}, {"val", DTYPE_U8, 3, val}};
    struct dataset ds;

    CHECK_OK(dataset_open(&ds, make_file(parts, 2, NONE_10_JSON, NULL)));
    CHECK(dataset_windows(&ds, SPLIT_TRAIN, 1) == 6);
    CHECK(dataset_windows(&ds, SPLIT_TRAIN, 2) == 3);
    CHECK(dataset_windows(&ds, SPLIT_TRAIN, 3) == 2);
    CHECK(dataset_windows(&ds, SPLIT_TRAIN, 4) == 1);
    CHECK(dataset_windows(&ds, SPLIT_TRAIN, 6) == 1);
    CHECK(dataset_windows(&ds, SPLIT_TRAIN, 7) == 0);
    CHECK(dataset_windows(&ds, SPLIT_TRAIN, INT32_MAX) == 0);
    CHECK(dataset_windows(&ds, SPLIT_VAL, 1) == 2);
    check_window(&ds, SPLIT_TRAIN, 0, 3, first);
    check_window(&ds, SPLIT_TRAIN, 1, 3, second);
    check_window(&ds, SPLIT_VAL, 1, 1, last);
    dataset_close(&ds);
    CHECK(!ds.path && !ds.streams[SPLIT_TRAIN].ids);
    dataset_close(&ds);
}

static void val_may_be_absent(void)
{
    const struct part parts[] = {{"train", DTYPE_U8, 9, "123456789"}, {"val", DTYPE_U8, 0, ""}};
    struct dataset ds;

    for (int n_parts = 1; n_parts <= 2; n_parts++) {
        CHECK_OK(dataset_open(&ds, make_file(parts, n_parts, BYTE_JSON, NULL)));
        CHECK(ds.streams[SPLIT_VAL].count == 0);
        CHECK(dataset_windows(&ds, SPLIT_VAL, 1) == 0);
        CHECK(dataset_windows(&ds, SPLIT_VAL, 5) == 0);
        /* The check value of CRC-32C. */
        CHECK_TEXT(ds.digest, "e306928300000000");
        dataset_close(&ds);
    }
}

/* The same ids in each type, up to the largest allowed. */
static void integer_types(void)
{
    static const uint8_t u8[] = {3, 0, 9};
    static const uint16_t u16[] = {3, 0, 299};
    static const uint32_t u32[] = {3, 0, 299};
    static const int32_t i32[] = {3, 0, 299};
    static const int64_t i64[] = {3, 0, 299};
    static const char none_300[] = "{\"type\":\"none\",\"vocab_size\":300}";
    const struct part parts[] = {{"train", DTYPE_U8, 3, u8},   {"train", DTYPE_U16, 3, u16},
                                 {"train", DTYPE_U32, 3, u32}, {"train", DTYPE_I32, 3, i32},
                                 {"train", DTYPE_I64, 3, i64}};

    for (int i = 0; i < 5; i++) {
        struct dataset ds;
        CHECK_OK(dataset_open(&ds, make_file(&parts[i], 1, i == 0 ? NONE_10_JSON : none_300,
                                             NULL)));
        check_window(&ds, SPLIT_TRAIN, 0, 2, i == 0 ? (int32_t[]){3, 0, 9} : i32);
        CHECK(ds.streams[SPLIT_TRAIN].dtype == parts[i].dtype);
        dataset_close(&ds);
    }
}

/* Each file has one id that is too large or negative, at the end of train or of val. */
static void foreign_ids(void)
{
    static const uint8_t u8[] = {1, 2, 10};
    static const uint16_t u16[] = {1, 2, 10};
    static const uint32_t u32[] = {1, 2, UINT32_MAX};
    static const int32_t i32[] = {1, 2, -1};
    static const int64_t i64[] = {1, 2, INT64_C(1) << 32}, negative[] = {1, 2, INT64_MIN};
    const struct part parts[] = {{"train", DTYPE_U8, 3, u8},   {"train", DTYPE_U16, 3, u16},
                                 {"train", DTYPE_U32, 3, u32}, {"train", DTYPE_I32, 3, i32},
                                 {"train", DTYPE_I64, 3, i64}, {"train", DTYPE_I64, 3, negative}};
    const struct part good_then_bad[] = {{"train", DTYPE_U8, 2, u8}, {"val", DTYPE_U8, 3, u8}};
    struct dataset ds;

    for (int i = 0; i < 6; i++) {
        CHECK_FAILS(dataset_open(&ds, make_file(&parts[i], 1, NONE_10_JSON, NULL)), ERR_INVALID,
                    "token 2 of \"train\" is outside the vocabulary of 10 ids");
        CHECK(!ds.path && !ds.file.entries);
    }
    CHECK_FAILS(dataset_open(&ds, make_file(good_then_bad, 2, NONE_10_JSON, NULL)), ERR_INVALID,
                "token 2 of \"val\"");
}

/* Long enough for several pieces of the scan; the last token of one piece is the bad one. */
static void foreign_id_far_inside(void)
{
    enum { COUNT = 40000, BAD = 32767 };
    static uint16_t ids[COUNT];
    const struct part part = {"train", DTYPE_U16, COUNT, ids};
    struct dataset ds;

    CHECK_OK(dataset_open(&ds, make_file(&part, 1, NONE_10_JSON, NULL)));
    dataset_close(&ds);
    ids[BAD] = 10;
    CHECK_FAILS(dataset_open(&ds, make_file(&part, 1, NONE_10_JSON, NULL)), ERR_INVALID,
                "token 32767 of");
}

static void unaligned_file(void)
{
    static const uint16_t ids[] = {1, 65535, 2, 40000};
    static const int32_t expected[] = {1, 65535, 2, 40000};
    static const char *const paddings[] = {"", " "};
    char header[512];

    for (int i = 0; i < 2; i++) {
        struct dataset ds;
        snprintf(header, sizeof header, "{\"__metadata__\":{\"tokenizer\":\"{\\\"type\\\":\\\"none"
                 "\\\",\\\"vocab_size\\\":65536}\"},\"train\":{\"dtype\":\"U16\",\"shape\":[4],"
                 "\"data_offsets\":[0,8]}}%s", paddings[i]);
        CHECK_OK(dataset_open(&ds, make_raw_file(header, ids, sizeof ids)));
        check_window(&ds, SPLIT_TRAIN, 0, 3, expected);
        CHECK(strlen(ds.digest) == 16);
        dataset_close(&ds);
    }
}

static void defects(void)
{
    const struct part train = {"train", DTYPE_U8, 4, "abcd"}, val = {"val", DTYPE_U8, 4, "abcd"};
    const struct part empty = {"train", DTYPE_U8, 0, ""};
    const struct part reals = {"train", DTYPE_F32, 1, "abcd"};
    struct dataset ds;

    CHECK_FAILS(dataset_open(&ds, make_file(&train, 1, NULL, NULL)), ERR_INVALID,
                "metadata \"tokenizer\"");
    CHECK(strstr(status_message(), "prepare"));
    CHECK_FAILS(dataset_open(&ds, make_file(&train, 1, "{}", NULL)), ERR_INVALID, "\"type\"");
    CHECK(strstr(status_message(), "tokens.safetensors"));
    CHECK_FAILS(dataset_open(&ds, make_file(&val, 1, BYTE_JSON, NULL)), ERR_INVALID,
                "no tensor \"train\"");
    CHECK_FAILS(dataset_open(&ds, make_file(&empty, 1, BYTE_JSON, NULL)), ERR_INVALID,
                "\"train\" has no tokens");
    CHECK_FAILS(dataset_open(&ds, make_file(&reals, 1, BYTE_JSON, NULL)), ERR_INVALID, "is F32");
    CHECK_FAILS(dataset_open(&ds, make_file(&train, 1, BYTE_JSON, "")), ERR_INVALID, "digest");
    CHECK_FAILS(dataset_open(&ds, make_file(&train, 1, BYTE_JSON, "0123456789abcdef")), ERR_INVALID,
                "0123456789abcdef");
    CHECK_FAILS(dataset_open(&ds, temp_path("none.safetensors")), ERR_INVALID,
                "no such token file: make one with prepare");
    CHECK(temp_put(temp_path("text.txt"), "To be, or not to be.", 20));
    CHECK_FAILS(dataset_open(&ds, temp_path("text.txt")), ERR_INVALID, "text.txt");
    CHECK(strstr(status_message(), "prepare"));
    CHECK(temp_put(temp_path("empty"), "", 0));
    CHECK_FAILS(dataset_open(&ds, temp_path("empty")), ERR_INVALID, "empty");
    CHECK_FAILS(dataset_open(&ds, temp_folder), ERR_INVALID, temp_folder);
}

/* Without a digest the container's checksums still tell, and tell before the ids do. */
static void damage(void)
{
    static const uint8_t ids[] = {1, 2, 3};
    const struct part parts[] = {{"train", DTYPE_U8, 3, ids}, {"val", DTYPE_U8, 3, ids}};
    struct dataset ds;
    size_t size;

    const char *path = make_file(parts, 2, NONE_10_JSON, NULL);
    char *bytes = temp_get(path, &size);
    CHECK(bytes);
    if (!bytes)
        return;
    bytes[size - 1] = 4;
    CHECK(temp_put(path, bytes, size));
    CHECK_FAILS(dataset_open(&ds, path), ERR_INVALID, "\"val\" does not match its checksum");
    bytes[size - 1] = 99;
    CHECK(temp_put(path, bytes, size));
    CHECK_FAILS(dataset_open(&ds, path), ERR_INVALID, "\"val\" does not match its checksum");
    free(bytes);
}

static void two_dimensions(void)
{
    static const char header[] = "{\"__metadata__\":{\"tokenizer\":\"{\\\"type\\\":\\\"byte\\\","
                                 "\\\"vocab_size\\\":256}\"},\"train\":{\"dtype\":\"U8\",\"shape\":"
                                 "[2,2],\"data_offsets\":[0,4]}}";
    struct dataset ds;

    CHECK_FAILS(dataset_open(&ds, make_raw_file(header, "abcd", 4)), ERR_INVALID, "2 dimensions");
}

/* ---- Writing ---- */

static void writer_picks_type(void)
{
    static const struct {
        int vocab_size;
        enum dtype dtype;
    } cases[] = {{1, DTYPE_U8}, {256, DTYPE_U8}, {257, DTYPE_U16}, {65536, DTYPE_U16},
                 {65537, DTYPE_U32}, {INT32_MAX, DTYPE_U32}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tokenizer t = {.type = TOKENIZER_NONE, .vocab_size = cases[i].vocab_size};
        const int32_t expected[] = {0, t.vocab_size - 1, 0, t.vocab_size - 1, 0};
        const char *path = temp_path("written.safetensors");
        struct token_writer w;
        struct dataset ds;

        CHECK_OK(token_writer_create(&w, &t, 3, 2));
        CHECK(w.dtype == cases[i].dtype);
        CHECK_OK(token_writer_begin(&w, path));
        /* The piece crosses from train to val. */
        CHECK_OK(token_writer_add(&w, expected, 1));
        CHECK_OK(token_writer_add(&w, expected + 1, 4));
        CHECK_OK(token_writer_commit(&w));
        token_writer_close(&w);

        CHECK_OK(dataset_open(&ds, path));
        CHECK(ds.tokenizer.vocab_size == t.vocab_size && ds.tokenizer.type == TOKENIZER_NONE);
        CHECK(ds.streams[SPLIT_TRAIN].count == 3 && ds.streams[SPLIT_VAL].count == 2);
        check_window(&ds, SPLIT_TRAIN, 0, 2, expected);
        check_window(&ds, SPLIT_VAL, 0, 1, expected + 3);
        const char *digest = safetensors_metadata(&ds.file, "digest");
        CHECK_TEXT(digest ? digest : "none", ds.digest);
        dataset_close(&ds);
    }
}

static void writer_counts(void)
{
    const struct tokenizer t = tokenizer_byte();
    const char *path = temp_path("counted.safetensors");
    const int32_t ids[4] = {0};
    struct token_writer w;

    CHECK_OK(token_writer_create(&w, &t, 2, 1));
    CHECK_OK(token_writer_begin(&w, path));
    CHECK_FAILS(token_writer_add(&w, ids, 4), ERR_INVALID, "more tokens");
    CHECK_OK(token_writer_add(&w, ids, 2));
    CHECK_FAILS(token_writer_commit(&w), ERR_INVALID, "val");
    token_writer_close(&w);
    CHECK(!file_exists(path));

    CHECK_FAILS(token_writer_create(&w, &t, INT64_MAX, INT64_MAX), ERR_INVALID, "large");
    token_writer_close(&w);
}

/* Any changed byte of a written file is found when it is opened. */
static void every_byte_is_checked(void)
{
    const struct tokenizer t = tokenizer_byte();
    const char *path = temp_path("damaged.safetensors");
    static int32_t ids[300];
    struct token_writer w;
    int missed = 0;
    size_t size;

    for (int i = 0; i < 300; i++)
        ids[i] = i % 256;
    CHECK_OK(token_writer_create(&w, &t, 200, 100));
    CHECK_OK(token_writer_begin(&w, path));
    CHECK_OK(token_writer_add(&w, ids, 300));
    CHECK_OK(token_writer_commit(&w));
    token_writer_close(&w);

    char *bytes = temp_get(path, &size);
    CHECK(bytes && size > 300);
    for (size_t i = 0; bytes && i < size; i++) {
        struct dataset ds;
        bytes[i] ^= 1;
        CHECK(temp_put(path, bytes, size));
        missed += dataset_open(&ds, path) == OK;
        dataset_close(&ds);
        bytes[i] ^= 1;
    }
    for (size_t cut = 0; bytes && cut < size; cut += 7) {
        struct dataset ds;
        CHECK(temp_put(path, bytes, cut));
        missed += dataset_open(&ds, path) == OK;
        dataset_close(&ds);
    }
    CHECK(missed == 0);
    free(bytes);
}

/* ---- Sample order ---- */

/* Every sample once, for all small n and sizes around powers of four. */
static void order_is_permutation(void)
{
    enum { MOST = 4200 };
    static unsigned char seen[MOST];
    int wrong = 0;

    for (int n = 1; n <= MOST; n += n < 300 ? 1 : 97)
        for (uint32_t epoch = 0; epoch < 2; epoch++)
            for (uint64_t seed = 0; seed < 2; seed++) {
                memset(seen, 0, sizeof seen);
                for (int i = 0; i < n; i++) {
                    const int64_t place = sample_order(seed, epoch, i, n);
                    if (place < 0 || place >= n || seen[place]++)
                        wrong++;
                }
            }
    CHECK(wrong == 0);
}

/* How many of the n places hold the same sample in two orders: about one by chance. */
static int fixed_places(uint64_t seed_a, uint32_t epoch_a, uint64_t seed_b, uint32_t epoch_b, int n)
{
    int same = 0;

    for (int i = 0; i < n; i++)
        same += sample_order(seed_a, epoch_a, i, n) == sample_order(seed_b, epoch_b, i, n);
    return same;
}

static void order_depends_on_seed_and_epoch(void)
{
    enum { N = 1000 };
    int identical = 0, in_order = 0;

    for (uint32_t epoch = 0; epoch < 4; epoch++) {
        CHECK(fixed_places(1, epoch, 1, epoch, N) == N);
        CHECK(fixed_places(1, epoch, 1, epoch + 1, N) < 10);
        CHECK(fixed_places(1, epoch, 2, epoch, N) < 10);
        CHECK(fixed_places(1, epoch, UINT64_C(1) << 32 | 1, epoch, N) < 10);
        for (int i = 0; i + 1 < N; i++) {
            const int64_t a = sample_order(1, epoch, i, N), b = sample_order(1, epoch, i + 1, N);
            identical += a == i;
            in_order += b == a + 1;
        }
    }
    CHECK(identical < 20);
    CHECK(in_order < 20);
}

/* All 24 orders of four samples, and all 6 of three, turn up about equally often. */
static void small_orders_are_fair(void)
{
    enum { TRIES = 12000 };
    int seen4[256] = {0}, seen3[64] = {0};
    int n_seen4 = 0, n_seen3 = 0;

    for (uint32_t epoch = 0; epoch < TRIES; epoch++) {
        unsigned code4 = 0, code3 = 0;
        for (int i = 0; i < 4; i++)
            code4 = code4 << 2 | (unsigned)sample_order(7, epoch, i, 4);
        for (int i = 0; i < 3; i++)
            code3 = code3 << 2 | (unsigned)sample_order(7, epoch, i, 3);
        seen4[code4]++;
        seen3[code3]++;
    }
    for (int i = 0; i < 256; i++) {
        n_seen4 += seen4[i] > 0;
        CHECK(seen4[i] == 0 || (seen4[i] > TRIES / 24 - 130 && seen4[i] < TRIES / 24 + 130));
    }
    for (int i = 0; i < 64; i++) {
        n_seen3 += seen3[i] > 0;
        CHECK(seen3[i] == 0 || (seen3[i] > TRIES / 6 - 260 && seen3[i] < TRIES / 6 + 260));
    }
    CHECK(n_seen4 == 24);
    CHECK(n_seen3 == 6);
}

/* Beyond 32 bits: in range, and no two of many neighbours alike. */
static void order_of_many(void)
{
    static const int64_t sizes[] = {(INT64_C(1) << 32) - 1, INT64_C(1) << 32,
                                    (INT64_C(1) << 32) + 1, INT64_C(5000000000),
                                    INT64_C(1) << 40, INT64_MAX};
    enum { COUNT = 2000 };
    static int64_t places[COUNT];

    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        const int64_t n = sizes[s];
        int wrong = 0, low_half = 0;

        for (int i = 0; i < COUNT; i++) {
            places[i] = sample_order(3, 5, i < COUNT / 2 ? i : n - COUNT + i, n);
            wrong += places[i] < 0 || places[i] >= n;
            low_half += places[i] < n / 2;
            for (int k = 0; k < i; k++)
                wrong += places[k] == places[i];
        }
        CHECK(wrong == 0);
        CHECK(low_half > COUNT / 2 - 150 && low_half < COUNT / 2 + 150);
    }
}

/* ---- A file that is cut short while it is mapped ---- */

enum { CUT_TOKENS = 100000, CUT_WINDOW = 16 };

static void *read_beyond_the_end(void *context)
{
    const struct dataset *ds = context;
    const int64_t n = dataset_windows(ds, SPLIT_TRAIN, CUT_WINDOW);
    int32_t ids[CUT_WINDOW], targets[CUT_WINDOW];
    intptr_t n_failed = 0;

    for (int64_t i = n / 2; i < n; i++)
        n_failed += dataset_window(ds, SPLIT_TRAIN, i, CUT_WINDOW, ids, targets) == ERR_IO &&
                    strstr(status_message(), "was cut short") != NULL;
    return (void *)n_failed;
}

/* Also by several threads at a time. */
static void cut_short(void)
{
    static uint8_t tokens[CUT_TOKENS];
    const struct part part = {"train", DTYPE_U8, CUT_TOKENS, tokens};
    const int32_t zeros[CUT_WINDOW + 1] = {0};
    pthread_t threads[4];
    struct dataset ds;
    struct stat info;

    const char *path = make_file(&part, 1, BYTE_JSON, NULL);
    CHECK_OK(dataset_open(&ds, path));
    CHECK_OK(dataset_check_whole(&ds));
    CHECK(stat(path, &info) == 0 && truncate(path, 5000) == 0);
    check_window(&ds, SPLIT_TRAIN, 0, CUT_WINDOW, zeros);
    CHECK_FAILS(dataset_check_whole(&ds), ERR_IO, "tokens.safetensors: was cut short");
    const int64_t n = dataset_windows(&ds, SPLIT_TRAIN, CUT_WINDOW);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, read_beyond_the_end, &ds) == 0);
    for (int i = 0; i < 4; i++) {
        void *n_failed;
        CHECK(pthread_join(threads[i], &n_failed) == 0);
        CHECK((intptr_t)n_failed == n - n / 2);
    }
    CHECK(truncate(path, info.st_size) == 0);
    check_window(&ds, SPLIT_TRAIN, n - 1, CUT_WINDOW, zeros);
    CHECK_OK(dataset_check_whole(&ds));
    dataset_close(&ds);
}

int main(void)
{
    if (!temp_folder_create("test_dataset"))
        return 1;
    CASE(windows);
    CASE(val_may_be_absent);
    CASE(integer_types);
    CASE(foreign_ids);
    CASE(foreign_id_far_inside);
    CASE(unaligned_file);
    CASE(defects);
    CASE(damage);
    CASE(two_dimensions);
    CASE(writer_picks_type);
    CASE(writer_counts);
    CASE(every_byte_is_checked);
    bus_error_handle();
    CASE(cut_short);
    CASE(order_is_permutation);
    CASE(order_depends_on_seed_and_epoch);
    CASE(small_orders_are_fair);
    CASE(order_of_many);
    temp_folder_remove();
    return check_finish();
}
