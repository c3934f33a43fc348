/* settings.h - what the environment tells the emulator, and how it reports a program's mistake.
 *
 *     OCTET_EMULATED_GPUS      devices; default 1
 *     OCTET_EMULATED_MEMORY    bytes of each device; default 8 GiB
 *     OCTET_EMULATED_CAPABILITY  compute capability times ten; default 90
 *     OCTET_EMULATED_DRIVER    the CUDA version that the driver supports: MAJOR.MINOR, or "none"
 *                              where no driver is installed; default: that of the headers
 *     OCTET_EMULATED_PEERS     so many GPUs in a row reach each other's memory, and no others do;
 *                              default: all
 *     OCTET_EMULATOR_ORDER     the order of blocks and of a block's threads: forward (default),
 *                              reversed, random
 *     OCTET_EMULATOR_STREAMS   at-once (default): each operation as early as it may run;
 *                              random: any order that streams and events allow, as late as possible
 *                              or as early
 *     OCTET_EMULATOR_SEED      of both random orders: a number, default 1, or "any" to take one
 *                              from the clock and print it; printed with every diagnosis
 *     OCTET_EMULATOR_TIMEOUT   seconds in which nothing moves on any device before the ranks that a
 *                              collective waits for are missing; default 5
 *     OCTET_EMULATOR_FAIL      calls that fail: fault.h */
#ifndef OCTET_EMULATOR_SETTINGS_H
#define OCTET_EMULATOR_SETTINGS_H

#include <stddef.h>
#include <stdint.h>

namespace emulator {

enum class order { forward, reversed, random };

struct settings {
    int devices;
    size_t memory;
    int capability;
    int driver;         /* as cudaDriverGetVersion() puts it; 0: none */
    int peers;
    order threads;
    bool random_streams;
    uint64_t seed;
    double timeout;
};

/* Read once, at the first call; a value that makes no sense ends the program with a message. */
const settings &environment();

/* Reproducible, and good enough to shuffle with. */
class random_source {
public:
    explicit random_source(uint64_t seed) : state(seed) {}
    uint64_t next();
    /* Uniform in 0 .. limit-1. */
    size_t below(size_t limit) { return static_cast<size_t>(next() % limit); }

private:
    uint64_t state;
};

/* Print "emulator: ..." and how to get the same order again, and abort: a GPU would go wrong. */
[[noreturn]] void stop(const char *format, ...) __attribute__((format(printf, 1, 2)));

}

#endif
