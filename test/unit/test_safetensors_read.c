/* test_safetensors_read.c - the reader of the container, with files that other programs wrote and
 * files that are damaged or hostile. */
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/safetensors.h"
#include "check.h"
#include "temp_folder.h"

static char path[sizeof temp_folder + 16];      /* the file of the current case */

/* Write a container by hand: `length` is what the first eight bytes say. */
static void put_container_of(uint64_t length, const char *json, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");

    CHECK(file != NULL);
    if (!file)
        return;
    for (int i = 0; i < 8; i++)
        fputc((int)(length >> 8 * i & 0xff), file);
    fputs(json, file);
    fwrite(data, 1, size, file);
    fclose(file);
}

static void put_container(const char *json, const void *data, size_t size)
{
    put_container_of(strlen(json), json, data, size);
}

/* As put_container(), with the header checksum filled into the place of its eight digits. */
static void put_checked_container(const char *json, const void *data, size_t size)
{
    const char *key = "{\"__metadata__\":{\"octet.header_checksum\":\"";
    char *copy = strdup(json), digits[9];

    CHECK(copy && strncmp(copy, key, strlen(key)) == 0);
    if (copy && strlen(copy) > strlen(key) + 8) {
        snprintf(digits, sizeof digits, "%08" PRIx32, crc32c(0, json, strlen(json)));
        memcpy(copy + strlen(key), digits, 8);
        put_container(copy, data, size);
    }
    free(copy);
}

/* OK when nothing at all is found wrong with the file of the case. */
static enum status open_and_verify(void)
{
    struct safetensors st;
    enum status status = safetensors_open(&st, path);

    if (status != OK) {
        CHECK(st.file.data == NULL && st.entries == NULL);
        return status;
    }
    for (int i = 0; i < st.n_entries && status == OK; i++)
        status = safetensors_verify(&st, path, &st.entries[i]);
    safetensors_close(&st);
    return status;
}

/* A file with checksums, of three tensors and some metadata; "bytes" comes last in it. */
static void put_sample(void)
{
    const int64_t shape[] = {3, 2};
    struct safetensors_writer *w;

    CHECK_OK(safetensors_writer_create(&w));
    CHECK_OK(safetensors_writer_metadata(w, "step", "12", 2));
    CHECK_OK(safetensors_writer_tensor(w, "bytes", DTYPE_U8, 1, shape));
    CHECK_OK(safetensors_writer_tensor(w, "words", DTYPE_U16, 2, shape));
    CHECK_OK(safetensors_writer_tensor(w, "empty \xc3\xa9", DTYPE_F32, 1, &(int64_t){0}));
    CHECK_OK(safetensors_writer_begin(w, path));
    CHECK_OK(safetensors_writer_data(w, "abcABCDEFGHIJKL", 15));
    CHECK_OK(safetensors_writer_commit(w));
    safetensors_writer_destroy(w);
}

static void every_flipped_bit_is_found(void)
{
    const unsigned char masks[] = {1, 2, 4, 8, 16, 32, 64, 128, 255};
    size_t size;
    int missed = 0;

    put_sample();
    CHECK_OK(open_and_verify());
    char *bytes = temp_get(path, &size);
    const int fd = open(path, O_WRONLY);
    CHECK(bytes && size > 0 && fd >= 0);
    for (size_t at = 0; bytes && at < size; at++) {
        for (size_t i = 0; i < sizeof masks; i++) {
            const char flipped = (char)(bytes[at] ^ masks[i]);
            CHECK(pwrite(fd, &flipped, 1, (off_t)at) == 1);
            if (open_and_verify() != ERR_INVALID && missed++ == 0)
                printf("  byte %zu, mask %02x\n", at, masks[i]);
        }
        CHECK(pwrite(fd, bytes + at, 1, (off_t)at) == 1);
    }
    CHECK(missed == 0);
    CHECK_OK(open_and_verify());
    close(fd);
    free(bytes);
}

static void every_truncation_is_found(void)
{
    size_t size;
    int missed = 0;

    put_sample();
    char *bytes = temp_get(path, &size);
    CHECK(bytes != NULL);
    for (size_t length = 0; bytes && length < size; length++) {
        CHECK(temp_put(path, bytes, length));
        if (open_and_verify() != ERR_INVALID && missed++ == 0)
            printf("  %zu of %zu bytes\n", length, size);
    }
    CHECK(missed == 0);

    /* The NUL behind the bytes makes the file one byte too long. */
    CHECK(bytes && temp_put(path, bytes, size + 1));
    CHECK_FAILS(open_and_verify(), ERR_INVALID, "bytes of data");
    free(bytes);
}

static void damaged_tensor_is_named(void)
{
    struct safetensors st;
    size_t size;

    put_sample();
    char *bytes = temp_get(path, &size);
    CHECK(bytes && size > 0);
    if (!bytes || size == 0)
        return;
    bytes[size - 1] ^= 1;
    CHECK(temp_put(path, bytes, size));
    free(bytes);
    CHECK_OK(safetensors_open(&st, path));
    const struct safetensors_entry *damaged = safetensors_find(&st, "bytes");
    const struct safetensors_entry *whole = safetensors_find(&st, "words");
    CHECK(damaged && whole);
    if (damaged && whole) {
        CHECK_FAILS(safetensors_verify(&st, path, damaged), ERR_INVALID, "\"bytes\" is damaged");
        CHECK(strstr(status_message(), path) != NULL);
        CHECK_OK(safetensors_verify(&st, path, whole));
    }
    safetensors_close(&st);
}

static void files_of_other_programs(void)
{
    struct safetensors st;

    /* Unaligned, spaces, keys and tensors in any order, unknown keys, escapes, blanks behind. */
    put_container("{ \"b\":{\"data_offsets\":[3, 7], \"shape\" : [2,1],\"dtype\":\"U16\","
                  "\"x\":[{}]},\n"
                  "\"\\u0061\":{\"shape\":[3],\"dtype\":\"U8\",\"data_offsets\":[0,3]},"
                  "\"none\":{\"shape\":[0,4],\"dtype\":\"F32\",\"data_offsets\":[3,3]},"
                  "\"__metadata__\":{\"format\":\"pt\\n\"}}   ", "abcdefg", 7);
    CHECK_OK(safetensors_open(&st, path));
    CHECK(st.n_entries == 3 && st.n_metadata == 1);
    if (st.n_entries == 3) {
        CHECK_TEXT(st.entries[0].name, "a");
        CHECK_TEXT(st.entries[1].name, "none");
        CHECK_TEXT(st.entries[2].name, "b");
        const struct safetensors_entry *b = safetensors_find(&st, "b");
        CHECK(b == &st.entries[2] && b->dtype == DTYPE_U16 && b->n_dims == 2);
        CHECK(b->shape[0] == 2 && b->shape[1] == 1 && b->shape[2] == 1 && !b->has_checksum);
        CHECK(memcmp(safetensors_data(&st, b), "defg", 4) == 0);
        CHECK_OK(safetensors_verify(&st, path, b));
    }
    const char *format = safetensors_metadata(&st, "format");
    CHECK_TEXT(format ? format : "(absent)", "pt\n");
    safetensors_close(&st);

    put_container("{}", "", 0);
    CHECK_OK(safetensors_open(&st, path));
    CHECK(st.n_entries == 0 && st.n_metadata == 0 && !safetensors_metadata(&st, "format"));
    safetensors_close(&st);

    put_container("{\"s\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]}}", "12345678", 8);
    CHECK_OK(safetensors_open(&st, path));
    CHECK(st.n_entries == 1 && st.entries[0].n_dims == 0 && st.entries[0].size == 8);
    safetensors_close(&st);
}

/* A header with one tensor "t" of these properties, over eight bytes of data. */
#define ONE(properties) "{\"t\":{" properties "}}"

static const struct {
    const char *json, *message;
} hostile[] = {
    {"[]", "no '{'"},
    {" {}", "no '{'"},
    {"{", "invalid JSON"},
    {"{}x", "invalid JSON"},
    {"{} {}", "invalid JSON"},
    {"{\"t\":1}", "tensor \"t\": expected a JSON object"},
    {"{\"t\":[]}", "expected a JSON object"},
    {"{}", "8 bytes of data, but the tensors take 0"},
    {"{\"__metadata__\":[]}", "metadata: expected a JSON object"},
    {"{\"__metadata__\":{\"a\":1}}", "metadata \"a\": expected a text"},
    {"{\"__metadata__\":{\"a\":\"x\\u0000y\"}}", "NUL"},
    {"{\"__metadata__\":{\"\":\"x\"}}", "a key is empty"},
    {"{\"__metadata__\":{\"\\u001b[31m\":\"x\"}}", "control characters"},
    {"{\"\":{}}", "name is empty"},
    {"{\"a\\nb\":{}}", "control characters"},
    {"{\"\\u007f\":{}}", "control characters"},
    {"{\"\\u009b\":{}}", "control characters"},
    {"{\"t\\u0000\":{}}", "invalid JSON"},
    {"{\"t\":{},\"t\":{}}", "duplicate"},
    {ONE(""), "no \"dtype\""},
    {ONE("\"dtype\":8"), "no \"dtype\""},
    {ONE("\"dtype\":\"F8_E4M3\""), "dtype \"F8_E4M3\" is not supported"},
    {ONE("\"dtype\":\"\\u001b[2J\""), "dtype \"?\" is not supported"},
    {ONE("\"dtype\":\"f32\""), "not supported"},
    {ONE("\"dtype\":\"U8\""), "no \"shape\""},
    {ONE("\"dtype\":\"U8\",\"shape\":8"), "no \"shape\""},
    {ONE("\"dtype\":\"U8\",\"shape\":{}"), "no \"shape\""},
    {ONE("\"dtype\":\"U8\",\"shape\":[1,1,1,1,8]"), "5 dimensions, at most 4"},
    {ONE("\"dtype\":\"U8\",\"shape\":[-8]"), "dimension 0"},
    {ONE("\"dtype\":\"U8\",\"shape\":[1,8.0]"), "dimension 1"},
    {ONE("\"dtype\":\"U8\",\"shape\":[\"8\"]"), "dimension 0"},
    {ONE("\"dtype\":\"U8\",\"shape\":[null]"), "dimension 0"},
    {ONE("\"dtype\":\"U8\",\"shape\":[9223372036854775808]"), "invalid JSON"},
    {ONE("\"dtype\":\"U8\",\"shape\":[8]"), "no \"data_offsets\""},
    {ONE("\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":8"), "no \"data_offsets\""},
    {ONE("\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8]"), "no \"data_offsets\""},
    {ONE("\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8,8]"), "no \"data_offsets\""},
    {ONE("\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0.0,8.0]"), "no \"data_offsets\""},
    {ONE("\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[-8,0]"), "no \"data_offsets\""},
    {ONE("\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,-8]"), "no \"data_offsets\""},
    {ONE("\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8,0]"), "ascending"},
    {ONE("\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]"), "cut off"},
    {ONE("\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[8,16]"), "cut off"},
    {ONE("\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[9223372036854775799,"
         "9223372036854775807]"), "cut off"},
    {ONE("\"dtype\":\"U8\",\"shape\":[7],\"data_offsets\":[0,8]"), "needs 7 bytes, but it has 8"},
    {ONE("\"dtype\":\"F32\",\"shape\":[8],\"data_offsets\":[0,8]"), "needs 32 bytes"},
    {ONE("\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,8]"), "needs 0 bytes"},
    {ONE("\"dtype\":\"U8\",\"shape\":[7],\"data_offsets\":[0,7]"), "8 bytes of data"},
    {ONE("\"dtype\":\"U8\",\"shape\":[7],\"data_offsets\":[1,8]"), "leave a hole"},
    {ONE("\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[4,4]"), "leave a hole"},
    /* 2^33 * 2^31, 2^32 * 2^32 and 8 * (2^61 + 1) wrap around to 0, 0 and 8. */
    {ONE("\"dtype\":\"U8\",\"shape\":[8589934592,2147483648],\"data_offsets\":[0,0]"), "too large"},
    {ONE("\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"), "too large"},
    {ONE("\"dtype\":\"F64\",\"shape\":[2305843009213693953],\"data_offsets\":[0,8]"), "too large"},
    {ONE("\"dtype\":\"U8\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]"),
     "too large"},
    {"{\"t\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]},"
     "\"u\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}", "overlap"},
    {"{\"t\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
     "\"u\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", "overlap"},
    {"{\"t\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]},"
     "\"u\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[3,3]}}", "overlap"},
    {"{\"t\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
     "\"u\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}", "leave a hole"},
};

static void hostile_headers(void)
{
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        put_container(hostile[i].json, "12345678", 8);
        if (open_and_verify() == ERR_INVALID && strstr(status_message(), hostile[i].message) &&
            strncmp(status_message(), path, strlen(path)) == 0)
            continue;
        check_report(__FILE__, __LINE__, "%s: \"%s\" instead of \"%s\"", hostile[i].json,
                     status_message(), hostile[i].message);
    }
}

static void hostile_lengths(void)
{
    struct safetensors st;

    CHECK(temp_put(path, "", 0));
    CHECK_FAILS(safetensors_open(&st, path), ERR_INVALID, "is empty");
    CHECK(temp_put(path, "1234567", 7));
    CHECK_FAILS(safetensors_open(&st, path), ERR_INVALID, "not a safetensors file");
    put_container_of(0, "", "", 0);
    CHECK_FAILS(safetensors_open(&st, path), ERR_INVALID, "not a safetensors file");
    put_container_of(0, "{}", "", 0);
    CHECK_FAILS(safetensors_open(&st, path), ERR_INVALID, "no '{'");
    put_container_of(3, "{}", "", 0);
    CHECK_FAILS(safetensors_open(&st, path), ERR_INVALID, "cut off");
    put_container_of(1, "{}", "", 0);
    CHECK_FAILS(safetensors_open(&st, path), ERR_INVALID, "invalid JSON");
    put_container_of(100000000, "{}", "", 0);
    CHECK_FAILS(safetensors_open(&st, path), ERR_INVALID, "cut off");
    put_container_of(100000001, "{}", "", 0);
    CHECK_FAILS(safetensors_open(&st, path), ERR_INVALID, "at most 100000000");
    put_container_of(UINT64_MAX, "{}", "", 0);
    CHECK_FAILS(safetensors_open(&st, path), ERR_INVALID, "header of 18446744073709551615 bytes");
    put_container_of(UINT64_MAX - 7, "{}", "", 0);
    CHECK_FAILS(safetensors_open(&st, path), ERR_INVALID, "at most 100000000");
    CHECK_FAILS(safetensors_open(&st, temp_folder), ERR_INVALID, "not a regular file");
    safetensors_close(&st);
    CHECK(remove(path) == 0);
    CHECK_FAILS(safetensors_open(&st, path), ERR_INVALID, path);
}

#define TENSOR_T "\"t\":{\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]}"
#define CHECKED(metadata) \
    "{\"__metadata__\":{\"octet.header_checksum\":\"00000000\"" metadata "}," TENSOR_T "}"
#define SUMMED(checksums) CHECKED(",\"octet.checksums\":\"" checksums "\"")

static void checksums_written_by_hand(void)
{
    const char *data = "123456789";

    put_checked_container(CHECKED(""), data, 9);
    CHECK_OK(open_and_verify());
    put_checked_container(SUMMED("{\\\"t\\\":\\\"e3069283\\\"}"), data, 9);
    CHECK_OK(open_and_verify());
    put_checked_container(SUMMED("{\\\"t\\\":\\\"e3069284\\\"}"), data, 9);
    CHECK_FAILS(open_and_verify(), ERR_INVALID, "\"t\" is damaged");

    const char *malformed[] = {
        SUMMED("{\\\"t\\\":\\\"E3069283\\\"}"),
        SUMMED("{\\\"t\\\":\\\"e306928\\\"}"),
        SUMMED("{\\\"t\\\":\\\"0xe306928\\\"}"),
        SUMMED("{\\\"t\\\":3}"),
        SUMMED("{\\\"u\\\":\\\"e3069283\\\"}"),
        SUMMED("[]"),
    };
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        put_checked_container(malformed[i], data, 9);
        CHECK_FAILS(open_and_verify(), ERR_INVALID, "tensor \"t\": no checksum");
    }
    put_checked_container(SUMMED(""), data, 9);
    CHECK_FAILS(open_and_verify(), ERR_INVALID, "tensor checksums: invalid JSON");

    put_container(CHECKED(""), data, 9);
    CHECK_FAILS(open_and_verify(), ERR_INVALID, "header is damaged");
    put_container("{\"__metadata__\":{\"octet.header_checksum\":\"\"}," TENSOR_T "}", data, 9);
    CHECK_FAILS(open_and_verify(), ERR_INVALID, "header is damaged");
    put_container("{\"__metadata__\":{\"octet.header_checksum\":\"\"}}", "", 0);
    CHECK_FAILS(open_and_verify(), ERR_INVALID, "header is damaged");
    put_container("{\"__metadata__\":{\"octet.checksums\":\"{\\\"t\\\":\\\"e3069283\\\"}\"},"
                  TENSOR_T "}", data, 9);
    CHECK_FAILS(open_and_verify(), ERR_INVALID, "its checksum is missing");
    put_container("{" TENSOR_T ",\"__metadata__\":{\"octet.header_checksum\":\"01234567\"}}", data,
                  9);
    CHECK_FAILS(open_and_verify(), ERR_INVALID, "another program");
}

int main(void)
{
    if (!temp_folder_create("test_safetensors_read"))
        return 1;
    snprintf(path, sizeof path, "%s/file", temp_folder);
    CASE(every_flipped_bit_is_found);
    CASE(every_truncation_is_found);
    CASE(damaged_tensor_is_named);
    CASE(files_of_other_programs);
    CASE(hostile_headers);
    CASE(hostile_lengths);
    CASE(checksums_written_by_hand);
    temp_folder_remove();
    return check_finish();
}
