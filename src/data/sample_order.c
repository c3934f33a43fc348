#include "data/sample_order.h"

#include "base/rng.h"

/* Four make a Feistel network pseudorandom (Luby and Rackoff, 1988); the small domains here need
 * more before all permutations of a few items are equally frequent. */
enum { ROUNDS = 8 };

static uint64_t permute(uint64_t value, int half_bits, uint64_t seed, uint32_t epoch)
{
    const uint64_t mask = (1ull << half_bits) - 1;
    uint64_t left = value >> half_bits, right = value & mask;

    for (uint32_t round = 0; round < ROUNDS; round++) {
        const struct rng_block random = rng_philox(seed, RNG_ORDER, round, epoch, right);
        const uint64_t next = left ^ (random.word[0] & mask);
        left = right;
        right = next;
    }
    return left << half_bits | right;
}

int64_t sample_order(uint64_t seed, uint32_t epoch, int64_t i, int64_t n)
{
    int half_bits = 1;

    while (half_bits < 32 && 1ull << 2 * half_bits < (uint64_t)n)
        half_bits++;
    /* The walk stays on the cycle that i lies on, and i is inside the range, so it ends; the domain
     * is at most four times the range, so it ends soon. */
    uint64_t value = (uint64_t)i;
    do
        value = permute(value, half_bits, seed, epoch);
    while (value >= (uint64_t)n);
    return (int64_t)value;
}
