/* ops_ceilings.h - what the machine can do at most, measured: products, and reading and updating
 * memory. */
#ifndef OCTET_BENCH_OPS_CEILINGS_H
#define OCTET_BENCH_OPS_CEILINGS_H

#include "device/device.h"

/* Bytes a second: of what is read alone, and of what is read and written back, counted twice. */
struct memory_rates {
    double read, update;
};

struct ceilings {
    double float32, bfloat16;       /* operations a second; bfloat16 0: oneDNN has none */
    struct memory_rates memory, cache;
    size_t cache_bytes;             /* of the last level; 32 MiB if unknown */
};

/* With all threads of a CPU worker, each on data of its own; the best of many tries. */
enum status ceilings_measure(struct ceilings *out, struct device *dev);

#endif
