/* sample_order.h - which window is sample i of epoch e. */
#ifndef OCTET_SAMPLE_ORDER_H
#define OCTET_SAMPLE_ORDER_H

#include <stdint.h>

/* A permutation of 0 .. n-1 keyed by (seed, epoch), evaluated at i without storing it: a balanced
 * Feistel network over the next even power of two of Philox round functions, walked until it falls
 * inside the range (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002,
 * section 3, cycle walking). 0 <= i < n. */
int64_t sample_order(uint64_t seed, uint32_t epoch, int64_t i, int64_t n);

#endif
