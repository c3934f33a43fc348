/* settings.cpp - the environment's settings, random numbers, and the last message. */
#include "emulator/settings.h"

#include <cuda_runtime_api.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

namespace emulator {

static uint64_t read_number(const char *name, uint64_t least, uint64_t most, uint64_t preset)
{
    const char *text = getenv(name);
    char *end;

    if (!text || !*text)
        return preset;
    errno = 0;
    const uint64_t number = strtoull(text, &end, 10);
    if (errno || *end || *text == '-' || number < least || number > most) {
        fprintf(stderr, "emulator: %s=%s: expected a number from %llu to %llu\n", name, text,
                static_cast<unsigned long long>(least), static_cast<unsigned long long>(most));
        exit(2);
    }
    return number;
}

/* The index of the variable's value among `words`; 0 where it is not set. */
static int read_word(const char *name, const char *const *words, int n_words)
{
    const char *text = getenv(name);

    if (!text || !*text)
        return 0;
    for (int i = 0; i < n_words; i++)
        if (strcmp(text, words[i]) == 0)
            return i;
    fprintf(stderr, "emulator: %s=%s: expected one of", name, text);
    for (int i = 0; i < n_words; i++)
        fprintf(stderr, " %s", words[i]);
    fprintf(stderr, "\n");
    exit(2);
}

static int read_driver(void)
{
    const char *text = getenv("OCTET_EMULATED_DRIVER");
    unsigned major, minor;
    char behind;

    if (!text || !*text)
        return CUDART_VERSION;
    if (strcmp(text, "none") == 0)
        return 0;
    if (sscanf(text, "%u.%u%c", &major, &minor, &behind) != 2 || major > 99 || minor > 99) {
        fprintf(stderr, "emulator: OCTET_EMULATED_DRIVER=%s: expected MAJOR.MINOR or none\n", text);
        exit(2);
    }
    return static_cast<int>(1000 * major + 10 * minor);
}

static double read_seconds(const char *name, double preset)
{
    const char *text = getenv(name);
    char *end;

    if (!text || !*text)
        return preset;
    const double seconds = strtod(text, &end);
    if (*end || !(seconds > 0)) {
        fprintf(stderr, "emulator: %s=%s: expected seconds\n", name, text);
        exit(2);
    }
    return seconds;
}

static uint64_t read_seed(void)
{
    const char *text = getenv("OCTET_EMULATOR_SEED");
    struct timespec now;

    if (!text || strcmp(text, "any") != 0)
        return read_number("OCTET_EMULATOR_SEED", 0, UINT64_MAX, 1);
    clock_gettime(CLOCK_REALTIME, &now);
    const uint64_t seed = static_cast<uint64_t>(now.tv_nsec) / 1000;
    fprintf(stderr, "emulator: OCTET_EMULATOR_SEED=%llu\n", static_cast<unsigned long long>(seed));
    return seed;
}

static const char *const orders[] = {"forward", "reversed", "random"};
static const char *const stream_orders[] = {"at-once", "random"};

static settings read_settings(void)
{
    settings read;

    read.devices = static_cast<int>(read_number("OCTET_EMULATED_GPUS", 0, 64, 1));
    read.memory = read_number("OCTET_EMULATED_MEMORY", 0, SIZE_MAX, size_t(8) << 30);
    read.capability = static_cast<int>(read_number("OCTET_EMULATED_CAPABILITY", 10, 200, 90));
    read.driver = read_driver();
    read.peers = static_cast<int>(read_number("OCTET_EMULATED_PEERS", 1, 64, 64));
    read.threads = static_cast<order>(read_word("OCTET_EMULATOR_ORDER", orders, 3));
    read.random_streams = read_word("OCTET_EMULATOR_STREAMS", stream_orders, 2) == 1;
    read.seed = read_seed();
    read.timeout = read_seconds("OCTET_EMULATOR_TIMEOUT", 5);
    return read;
}

const settings &environment()
{
    static const settings once = read_settings();

    return once;
}

/* splitmix64 (Steele, Lea, Flood 2014). */
uint64_t random_source::next()
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void stop(const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fprintf(stderr, "emulator: ");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\nemulator: with OCTET_EMULATOR_ORDER=%s OCTET_EMULATOR_STREAMS=%s "
                    "OCTET_EMULATOR_SEED=%llu\n",
            orders[static_cast<int>(environment().threads)],
            stream_orders[environment().random_streams],
            static_cast<unsigned long long>(environment().seed));
    abort();
}

}
