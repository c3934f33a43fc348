/* fuzz.h - readers under hostile input: what the harnesses share.
 *
 * A harness, fuzz_NAME.c, defines fuzz_read(). libFuzzer calls it with inputs of its own making (by
 * scripts/fuzz.sh), replay.c with those in corpus/NAME, former findings among them. */
#ifndef OCTET_TEST_FUZZ_H
#define OCTET_TEST_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"

/* Give the input to the reader; where it is accepted, use all that was read and check what the
 * reader promises of it. */
enum status fuzz_read(const uint8_t *data, size_t size);

/* fuzz_read() with its status checked. */
enum status fuzz_run(const uint8_t *data, size_t size);

/* The input must be accepted, or refused in one printable line. */
void fuzz_check_status(enum status status);

/* The path of a file that holds the input, in memory; valid until the next call. */
const char *fuzz_file(const uint8_t *data, size_t size);

/* Ends the program, which is how a fuzzer notices. */
#define FUZZ_CHECK(condition)                                                               \
    do {                                                                                    \
        if (!(condition)) {                                                                 \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);         \
            abort();                                                                        \
        }                                                                                   \
    } while (0)

#endif
