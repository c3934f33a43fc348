/* element.h - the elements of tensors in memory, of every type, as doubles. */
#ifndef OCTET_TEST_ELEMENT_H
#define OCTET_TEST_ELEMENT_H

#include "base/tensor.h"

/* Element i of an array at `memory`, which may be aligned to nothing. */
double read_element(const unsigned char *memory, enum dtype dtype, int64_t i);
/* Rounded to nearest, ties to even. */
void write_element(unsigned char *memory, enum dtype dtype, int64_t i, double value);

/* What is read after `value` was written. */
double rounded_to(double value, enum dtype dtype);

#endif
