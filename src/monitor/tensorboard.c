#include "monitor/tensorboard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/file.h"
#include "base/log.h"

enum { HEADER_SIZE = 12 };      /* of a record: length and its checksum */

/* Field numbers, MESSAGE_FIELD. */
enum {
    EVENT_WALL_TIME = 1,
    EVENT_STEP = 2,
    EVENT_FILE_VERSION = 3,
    EVENT_SUMMARY = 5,
    EVENT_SESSION_LOG = 7,
    SESSION_LOG_STATUS = 1,
    SUMMARY_VALUE = 1,
    VALUE_TAG = 1,
    VALUE_SIMPLE_VALUE = 2,
    VALUE_TENSOR = 8,
    VALUE_METADATA = 9,
    METADATA_PLUGIN_DATA = 1,
    PLUGIN_DATA_PLUGIN_NAME = 1,
    TENSOR_DTYPE = 1,
    TENSOR_SHAPE = 2,
    TENSOR_STRING_VAL = 8,
    SHAPE_DIM = 2,
    DIM_SIZE = 1,
};

/* Values of enumerations. */
enum {
    SESSION_START = 1,
    DT_STRING = 7,
};

/* How a field's value is encoded (protobuf.dev/programming-guides/encoding). */
enum wire_type {
    WIRE_VARINT = 0,
    WIRE_FIXED64 = 1,
    WIRE_BYTES = 2,             /* a length and so many bytes: text, messages */
    WIRE_FIXED32 = 5,
};

static void put(struct tensorboard *tb, const void *data, size_t size)
{
    if (tb->record.capacity - tb->record.size < size) {
        const size_t capacity = 2 * (tb->record.size + size);
        unsigned char *grown = realloc(tb->record.data, capacity);
        if (!grown) {
            tb->record.is_broken = true;
            return;
        }
        tb->record.data = grown;
        tb->record.capacity = capacity;
    }
    memcpy(tb->record.data + tb->record.size, data, size);
    tb->record.size += size;
}

static void store_little_endian(unsigned char *to, uint64_t value, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++)
        to[i] = (unsigned char)(value >> 8 * i);
}

static void put_fixed(struct tensorboard *tb, uint64_t value, int n_bytes)
{
    unsigned char bytes[8];

    store_little_endian(bytes, value, n_bytes);
    put(tb, bytes, (size_t)n_bytes);
}

static size_t encode_varint(unsigned char bytes[10], uint64_t value)
{
    size_t size = 0;

    for (; value >= 0x80; value >>= 7)
        bytes[size++] = (unsigned char)(value | 0x80);
    bytes[size++] = (unsigned char)value;
    return size;
}

static void put_varint(struct tensorboard *tb, uint64_t value)
{
    unsigned char bytes[10];

    put(tb, bytes, encode_varint(bytes, value));
}

static void put_key(struct tensorboard *tb, int field, enum wire_type type)
{
    put_varint(tb, (uint64_t)field << 3 | type);
}

static void put_integer(struct tensorboard *tb, int field, int64_t value)
{
    put_key(tb, field, WIRE_VARINT);
    put_varint(tb, (uint64_t)value);
}

static void put_double(struct tensorboard *tb, int field, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    put_key(tb, field, WIRE_FIXED64);
    put_fixed(tb, bits, 8);
}

static void put_float(struct tensorboard *tb, int field, float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    put_key(tb, field, WIRE_FIXED32);
    put_fixed(tb, bits, 4);
}

/* Start a field of bytes whose length is known at its end only; message_end() takes the result. */
static size_t message_begin(struct tensorboard *tb, int field)
{
    put_key(tb, field, WIRE_BYTES);
    return tb->record.size;
}

static void message_end(struct tensorboard *tb, size_t start)
{
    const size_t size = tb->record.size - start;
    unsigned char length[10];
    const size_t length_size = encode_varint(length, size);

    put(tb, length, length_size);
    if (tb->record.is_broken)
        return;
    memmove(tb->record.data + start + length_size, tb->record.data + start, size);
    memcpy(tb->record.data + start, length, length_size);
}

/* Bytes of the UTF-8 sequence at `s` (Unicode, table 3-7), 0 if it is none. */
static size_t utf8_length(const unsigned char *s)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length;
    uint32_t code;

    if (s[0] < 0x80)
        return 1;
    if ((s[0] & 0xe0) == 0xc0) {
        length = 2;
        code = s[0] & 0x1f;
    } else if ((s[0] & 0xf0) == 0xe0) {
        length = 3;
        code = s[0] & 0x0f;
    } else if ((s[0] & 0xf8) == 0xf0) {
        length = 4;
        code = s[0] & 0x07;
    } else {
        return 0;
    }
    /* The NUL at the end is no continuation byte, so nothing behind it is read. */
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (s[i] & 0x3f);
    }
    const bool is_surrogate = code >= 0xd800 && code <= 0xdfff;
    return code >= smallest[length] && code <= 0x10ffff && !is_surrogate ? length : 0;
}

static void put_text(struct tensorboard *tb, int field, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    const size_t start = message_begin(tb, field);

    while (*s) {
        const size_t length = utf8_length(s);
        if (length > 0)
            put(tb, s, length);
        else
            put(tb, "\xef\xbf\xbd", 3);
        s += length > 0 ? length : 1;
    }
    message_end(tb, start);
}

static void event_begin(struct tensorboard *tb, int64_t step)
{
    static const unsigned char header[HEADER_SIZE];
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    tb->record.size = 0;
    tb->record.is_broken = false;
    put(tb, header, sizeof header);
    put_double(tb, EVENT_WALL_TIME, (double)now.tv_sec + (double)now.tv_nsec * 1e-9);
    put_integer(tb, EVENT_STEP, step);
}

/* A checksum of data that holds checksums is weak, so those in the file are disguised. */
static uint32_t masked_checksum(const void *data, size_t size)
{
    const uint32_t crc = crc32c(0, data, size);

    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static void event_end(struct tensorboard *tb)
{
    const size_t size = tb->record.size - HEADER_SIZE;

    if (!tb->record.is_broken)
        put_fixed(tb, masked_checksum(tb->record.data + HEADER_SIZE, size), 4);
    if (tb->record.is_broken) {
        if (!tb->file.has_warned)
            log_warning("%s: records are lost: out of memory", tb->file.path);
        tb->file.has_warned = true;
        return;
    }
    store_little_endian(tb->record.data, size, 8);
    store_little_endian(tb->record.data + 8, masked_checksum(tb->record.data, 8), 4);
    append_file_write(&tb->file, tb->record.data, tb->record.size);
}

/* TensorBoard knows event files by "tfevents" and reads them in the order of their names. Where
 * this process has taken a name within the same second, the time is counted up. */
static enum status create_file(struct append_file *file, const char *folder)
{
    char host[256] = "localhost";
    time_t now = time(NULL);
    char *path = NULL;

    if (gethostname(host, sizeof host - 1) != 0 || strchr(host, '/'))
        strcpy(host, "localhost");
    do {
        free(path);
        if (asprintf(&path, "%s/events.out.tfevents.%010lld.%s.%ld", folder, (long long)now++, host,
                     (long)getpid()) < 0)
            return fail(ERR_NOMEM, "%s: out of memory", folder);
    } while (file_exists(path));
    const enum status status = append_file_open(file, path, true);
    free(path);
    return status;
}

enum status tensorboard_open(struct tensorboard *tb, const char *folder, int64_t first_step)
{
    *tb = TENSORBOARD_CLOSED;
    TRY(folder_create(folder));
    TRY(create_file(&tb->file, folder));

    event_begin(tb, 0);
    put_text(tb, EVENT_FILE_VERSION, "brain.Event:2");
    event_end(tb);

    /* The first session start that TensorBoard sees discards nothing, so every run writes one. */
    event_begin(tb, first_step);
    const size_t session = message_begin(tb, EVENT_SESSION_LOG);
    put_integer(tb, SESSION_LOG_STATUS, SESSION_START);
    message_end(tb, session);
    event_end(tb);
    return OK;
}

void tensorboard_scalars(struct tensorboard *tb, int64_t step,
                         const struct tensorboard_scalar *scalars, int n_scalars)
{
    if (tb->file.fd < 0)
        return;
    event_begin(tb, step);
    const size_t summary = message_begin(tb, EVENT_SUMMARY);
    for (int i = 0; i < n_scalars; i++) {
        const size_t value = message_begin(tb, SUMMARY_VALUE);
        put_text(tb, VALUE_TAG, scalars[i].tag);
        put_float(tb, VALUE_SIMPLE_VALUE, (float)scalars[i].value);
        message_end(tb, value);
    }
    message_end(tb, summary);
    event_end(tb);
}

/* The text plugin's name, by which TensorBoard knows what shows this value. */
static void put_text_metadata(struct tensorboard *tb)
{
    const size_t metadata = message_begin(tb, VALUE_METADATA);
    const size_t plugin_data = message_begin(tb, METADATA_PLUGIN_DATA);

    put_text(tb, PLUGIN_DATA_PLUGIN_NAME, "text");
    message_end(tb, plugin_data);
    message_end(tb, metadata);
}

/* A tensor of one text, of shape (1). */
static void put_text_tensor(struct tensorboard *tb, const char *text)
{
    const size_t tensor = message_begin(tb, VALUE_TENSOR);

    put_integer(tb, TENSOR_DTYPE, DT_STRING);
    const size_t shape = message_begin(tb, TENSOR_SHAPE);
    const size_t dim = message_begin(tb, SHAPE_DIM);
    put_integer(tb, DIM_SIZE, 1);
    message_end(tb, dim);
    message_end(tb, shape);
    put_text(tb, TENSOR_STRING_VAL, text);
    message_end(tb, tensor);
}

void tensorboard_text(struct tensorboard *tb, int64_t step, const char *tag, const char *text)
{
    if (tb->file.fd < 0)
        return;
    event_begin(tb, step);
    const size_t summary = message_begin(tb, EVENT_SUMMARY);
    const size_t value = message_begin(tb, SUMMARY_VALUE);
    put_text(tb, VALUE_TAG, tag);
    put_text_metadata(tb);
    put_text_tensor(tb, text);
    message_end(tb, value);
    message_end(tb, summary);
    event_end(tb);
}

void tensorboard_close(struct tensorboard *tb)
{
    append_file_close(&tb->file);
    free(tb->record.data);
    *tb = TENSORBOARD_CLOSED;
}
