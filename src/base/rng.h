/* rng.h - counter-based random numbers: pure functions of (seed, what, where), without state.
 *
 * Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3"
 * (SC11), section 3.3. The 64-bit key is the seed; the 128-bit counter says which number is meant:
 *
 *     words 0,1: position (64 bits)   word 2: step   word 3: domain (8 bits) and site (24 bits)
 *
 * So no run needs to know how many numbers were drawn before, on how many devices. */
#ifndef OCTET_RNG_H
#define OCTET_RNG_H

#include <stdint.h>

#ifdef __CUDACC__
#define RNG_FUNCTION static __host__ __device__ __forceinline__
#else
#define RNG_FUNCTION static inline
#endif

enum rng_domain {
    RNG_INIT = 1,   /* site: parameter; position: element / 4 */
    RNG_ORDER,      /* sample order; site: round; step: epoch */
    RNG_DROPOUT,    /* site: dropout layer; position: see kernels/ops.h */
    RNG_SAMPLE,     /* step: sample number; position: token number */
    RNG_WINDOWS,    /* prepare --split windows */
    RNG_TEST,
};

struct rng_block {
    uint32_t word[4];
};

#define RNG_PHILOX_ROUNDS 10
#define RNG_PHILOX_M0 0xD2511F53u
#define RNG_PHILOX_M1 0xCD9E8D57u
#define RNG_PHILOX_W0 0x9E3779B9u
#define RNG_PHILOX_W1 0xBB67AE85u

/* The bare generator: counter and key, their least significant words first. */
RNG_FUNCTION struct rng_block rng_philox4x32(struct rng_block counter, uint32_t k0, uint32_t k1)
{
    uint32_t c0 = counter.word[0], c1 = counter.word[1];
    uint32_t c2 = counter.word[2], c3 = counter.word[3];

    for (int round = 0; round < RNG_PHILOX_ROUNDS; round++) {
        const uint64_t p0 = (uint64_t)RNG_PHILOX_M0 * c0;
        const uint64_t p1 = (uint64_t)RNG_PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += RNG_PHILOX_W0;
        k1 += RNG_PHILOX_W1;
    }
    return (struct rng_block){{c0, c1, c2, c3}};
}

/* The counter's last word. */
RNG_FUNCTION uint32_t rng_site_word(enum rng_domain domain, uint32_t site)
{
    return (uint32_t)domain << 24 | (site & 0xffffffu);
}

RNG_FUNCTION struct rng_block rng_philox(uint64_t seed, enum rng_domain domain, uint32_t site,
                                         uint32_t step, uint64_t position)
{
    const struct rng_block counter = {{(uint32_t)position, (uint32_t)(position >> 32), step,
                                       rng_site_word(domain, site)}};

    return rng_philox4x32(counter, (uint32_t)seed, (uint32_t)(seed >> 32));
}

/* A uniform number in [0, 1) with 24 random bits. */
RNG_FUNCTION float rng_uniform(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

/* A uniform number in [0, 1) with 53 random bits. */
RNG_FUNCTION double rng_uniform_double(uint32_t high, uint32_t low)
{
    return (double)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53;
}

#endif
