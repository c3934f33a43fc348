/* event_file.h - a reader of TensorBoard event files that shares nothing with the writer: it checks
 * each record and refuses every field that Octet has no reason to write. */
#ifndef OCTET_TEST_EVENT_FILE_H
#define OCTET_TEST_EVENT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "test/check.h"

static uint32_t bitwise_crc32c(const unsigned char *data, size_t size)
{
    uint32_t crc = 0xffffffffu;

    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
    }
    return ~crc;
}

static uint32_t masked(const unsigned char *data, size_t size)
{
    const uint64_t crc = bitwise_crc32c(data, size);

    return (uint32_t)((crc >> 15 | crc << 17) + 0xa282ead8u);
}

struct bytes {
    const unsigned char *data;
    size_t size;
};

static uint64_t take_fixed(struct bytes *in, size_t size)
{
    uint64_t value = 0;

    if (in->size < size) {
        check_report(__FILE__, __LINE__, "the message ends within a number");
        in->size = 0;
        return 0;
    }
    for (size_t i = 0; i < size; i++)
        value |= (uint64_t)in->data[i] << 8 * i;
    in->data += size;
    in->size -= size;
    return value;
}

static uint64_t take_varint(struct bytes *in)
{
    uint64_t value = 0;

    for (int shift = 0; shift < 70; shift += 7) {
        const uint64_t byte = take_fixed(in, 1);
        value |= (byte & 0x7f) << (shift < 64 ? shift : 63);
        if (byte < 0x80)
            return value;
    }
    check_report(__FILE__, __LINE__, "a number of more than ten bytes");
    return 0;
}

struct field {
    int key;                    /* number << 3 | wire type, as in the file */
    uint64_t number;
    struct bytes bytes;
};

enum { VARINT, FIXED64, BYTES, FIXED32 = 5 };
#define KEY(number, type) ((number) << 3 | (type))

static bool next_field(struct bytes *in, struct field *field)
{
    if (in->size == 0)
        return false;
    *field = (struct field){.key = (int)take_varint(in)};
    switch (field->key & 7) {
    case VARINT:
        field->number = take_varint(in);
        return true;
    case FIXED64:
        field->number = take_fixed(in, 8);
        return true;
    case FIXED32:
        field->number = take_fixed(in, 4);
        return true;
    case BYTES:
        field->number = take_varint(in);
        if (field->number <= in->size) {
            field->bytes = (struct bytes){in->data, (size_t)field->number};
            in->data += field->number;
            in->size -= (size_t)field->number;
            return true;
        }
    }
    check_report(__FILE__, __LINE__, "a field of key %d that can't be read", field->key);
    return false;
}

/* The only field of a message, which must have this key. */
static struct field only_field(struct bytes in, int key)
{
    struct field field = {0};

    CHECK(next_field(&in, &field) && field.key == key && in.size == 0);
    return field.key == key ? field : (struct field){0};
}

struct value {
    char tag[64];
    bool is_scalar, is_text;
    float scalar;
    struct bytes text;          /* in the file's data */
};

struct event {
    double wall_time;
    int64_t step;
    struct bytes version;
    int session_status;
    int n_values;
    struct value values[8];
};

static bool is_text(struct bytes bytes, const char *text)
{
    return bytes.size == strlen(text) && memcmp(bytes.data, text, bytes.size) == 0;
}

static void read_tensor(struct value *value, struct bytes in)
{
    struct field field;
    int n_strings = 0;

    while (next_field(&in, &field)) {
        if (field.key == KEY(1, VARINT)) {
            CHECK(field.number == 7);       /* DT_STRING */
        } else if (field.key == KEY(2, BYTES)) {
            const struct field dim = only_field(field.bytes, KEY(2, BYTES));
            CHECK(only_field(dim.bytes, KEY(1, VARINT)).number == 1);
        } else if (field.key == KEY(8, BYTES)) {
            value->text = field.bytes;
            n_strings++;
        } else {
            check_report(__FILE__, __LINE__, "key %d in a tensor", field.key);
        }
    }
    CHECK(n_strings == 1);
}

static void read_value(struct value *value, struct bytes in)
{
    struct field field;

    while (next_field(&in, &field)) {
        if (field.key == KEY(1, BYTES)) {
            snprintf(value->tag, sizeof value->tag, "%.*s", (int)field.bytes.size,
                     (const char *)field.bytes.data);
        } else if (field.key == KEY(2, FIXED32)) {
            const uint32_t bits = (uint32_t)field.number;
            memcpy(&value->scalar, &bits, 4);
            value->is_scalar = true;
        } else if (field.key == KEY(8, BYTES)) {
            read_tensor(value, field.bytes);
        } else if (field.key == KEY(9, BYTES)) {
            const struct field plugin = only_field(field.bytes, KEY(1, BYTES));
            value->is_text = is_text(only_field(plugin.bytes, KEY(1, BYTES)).bytes, "text");
        } else {
            check_report(__FILE__, __LINE__, "key %d in a value", field.key);
        }
    }
}

static void read_event(struct event *event, struct bytes in)
{
    struct field field, value;

    *event = (struct event){0};
    while (next_field(&in, &field)) {
        if (field.key == KEY(1, FIXED64)) {
            memcpy(&event->wall_time, &field.number, 8);
        } else if (field.key == KEY(2, VARINT)) {
            event->step = (int64_t)field.number;
        } else if (field.key == KEY(3, BYTES)) {
            event->version = field.bytes;
        } else if (field.key == KEY(5, BYTES)) {
            while (next_field(&field.bytes, &value) && event->n_values < 8) {
                CHECK(value.key == KEY(1, BYTES));
                read_value(&event->values[event->n_values++], value.bytes);
            }
        } else if (field.key == KEY(7, BYTES)) {
            event->session_status = (int)only_field(field.bytes, KEY(1, VARINT)).number;
        } else {
            check_report(__FILE__, __LINE__, "key %d in an event", field.key);
        }
    }
}

/* All events of a file's data, whose every record is checked; their number. */
static int read_events(struct event *events, int max, const char *data, size_t size)
{
    struct bytes in = {(const unsigned char *)data, size};
    int n = 0;

    while (in.size > 0 && n < max) {
        const uint32_t length_checksum = in.size >= 8 ? masked(in.data, 8) : 0;
        const uint64_t length = take_fixed(&in, 8);
        CHECK(take_fixed(&in, 4) == length_checksum);
        if (length > in.size) {
            check_report(__FILE__, __LINE__, "record %d is torn", n);
            break;
        }
        const struct bytes event = {in.data, (size_t)length};
        in.data += length;
        in.size -= (size_t)length;
        CHECK(take_fixed(&in, 4) == masked(event.data, event.size));
        read_event(&events[n++], event);
    }
    CHECK(in.size == 0);
    return n;
}

/* The check value in the catalogue of CRCs, and a record that TensorBoard's own writer made. */
static void reader_is_right(void)
{
    static const char record[] =
        "\x35\0\0\0\0\0\0\0" "\xd6\xc5\x5d\xe6"
        "\x09\0\0\0\0\0\0\xf8\x3f" "\x10\xac\x02" "\x2a\x27"
        "\x0a\x08" "\x0a\x01" "t" "\x15\0\0\x20\x40"
        "\x0a\x1b" "\x0a\x01" "s" "\x42\x0c\x08\x07\x12\x04\x12\x02\x08\x01\x42\x02" "hi"
        "\x4a\x08\x0a\x06\x0a\x04" "text" "\xdb\xb7\x86\xb0";
    struct event event;

    CHECK(bitwise_crc32c((const unsigned char *)"123456789", 9) == 0xe3069283u);
    CHECK(read_events(&event, 1, record, sizeof record - 1) == 1);
    CHECK(event.wall_time == 1.5 && event.step == 300 && event.n_values == 2);
    CHECK_TEXT(event.values[0].tag, "t");
    CHECK(event.values[0].is_scalar && event.values[0].scalar == 2.5f);
    CHECK(event.values[1].is_text && is_text(event.values[1].text, "hi"));
}

#endif
