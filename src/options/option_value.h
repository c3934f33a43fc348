/* option_value.h - one row's value: from text to its field and back, and what a row accepts. */
#ifndef OCTET_OPTION_VALUE_H
#define OCTET_OPTION_VALUE_H

#include "options/option.h"

enum { OPTION_SHOWN_SIZE = 64, OPTION_EXPECTED_SIZE = 160 };

/* Read `text` into the row's field, which keeps its value on an error. ERR_INVALID says only
 * "expected ...": the caller puts in front where the text stands. */
enum status option_value_set(const struct option *row, void *settings, const char *text);

/* The value in INI spelling: numbers as the shortest text that reads back to the same bits. Not
 * for OPTION_ARGUMENT. */
void option_value_format(const struct option *row, const void *settings,
                         char out[OPTION_STRING_SIZE]);

/* What the row accepts: "whole number from 1 to 64", "auto, cpu or cuda". */
void option_value_expected(const struct option *row, char out[OPTION_EXPECTED_SIZE]);

/* The user's text made fit for a message: without control characters and not too long. */
const char *option_value_shown(const char *text, char out[OPTION_SHOWN_SIZE]);

#endif
