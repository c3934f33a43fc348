/* philox.h - several Philox blocks (base/rng.h) side by side in vector registers.
 *
 * The generator is all 32 x 32 -> 64 bit products, which compilers do not find by themselves in every
 * loop; so this is the one place of the CPU kernels with intrinsics. */
#ifndef OCTET_CPU_PHILOX_H
#define OCTET_CPU_PHILOX_H

#include "base/rng.h"

enum { PHILOX_LANES = 16 };

#if defined(__AVX512F__)

#include <immintrin.h>

/* 64-bit lanes whose low halves are the numbers; the high halves may hold anything. */
typedef __m512i philox_vector;
enum { PHILOX_WIDTH = 8 };
#define PHILOX_MULTIPLY(a, b) _mm512_mul_epu32(a, b)
#define PHILOX_HIGH(a) _mm512_srli_epi64(a, 32)
#define PHILOX_XOR(a, b) _mm512_xor_si512(a, b)
#define PHILOX_SET(value) _mm512_set1_epi64((int64_t)(value))
#define PHILOX_COUNT _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0)
#define PHILOX_ADD(a, b) _mm512_add_epi64(a, b)
#define PHILOX_STORE(to, a) _mm256_storeu_si256((__m256i *)(to), _mm512_cvtepi64_epi32(a))

#elif defined(__AVX2__)

#include <immintrin.h>

typedef __m256i philox_vector;
enum { PHILOX_WIDTH = 4 };
#define PHILOX_MULTIPLY(a, b) _mm256_mul_epu32(a, b)
#define PHILOX_HIGH(a) _mm256_srli_epi64(a, 32)
#define PHILOX_XOR(a, b) _mm256_xor_si256(a, b)
#define PHILOX_SET(value) _mm256_set1_epi64x((int64_t)(value))
#define PHILOX_COUNT _mm256_set_epi64x(3, 2, 1, 0)
#define PHILOX_ADD(a, b) _mm256_add_epi64(a, b)
#define PHILOX_STORE(to, a)                                                                     \
    _mm_storeu_si128((__m128i *)(to),                                                           \
                     _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(                        \
                         (a), _mm256_set_epi32(0, 0, 0, 0, 6, 4, 2, 0))))

#endif

#ifdef PHILOX_MULTIPLY

/* words[w][i] = word w of the block at position first + i. */
static inline void philox_lanes(uint32_t words[4][PHILOX_LANES], uint64_t seed,
                                enum rng_domain domain, uint32_t site, uint32_t step,
                                uint64_t first)
{
    enum { GROUPS = PHILOX_LANES / PHILOX_WIDTH };
    const philox_vector m0 = PHILOX_SET(RNG_PHILOX_M0), m1 = PHILOX_SET(RNG_PHILOX_M1);
    const uint32_t word3 = rng_site_word(domain, site);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    philox_vector c0[GROUPS], c1[GROUPS], c2[GROUPS], c3[GROUPS];

    for (int g = 0; g < GROUPS; g++) {
        c0[g] = PHILOX_ADD(PHILOX_SET(first + (uint64_t)(g * PHILOX_WIDTH)), PHILOX_COUNT);
        c1[g] = PHILOX_HIGH(c0[g]);
        c2[g] = PHILOX_SET(step);
        c3[g] = PHILOX_SET(word3);
    }
    for (int round = 0; round < RNG_PHILOX_ROUNDS; round++) {
        const philox_vector key0 = PHILOX_SET(k0), key1 = PHILOX_SET(k1);
        for (int g = 0; g < GROUPS; g++) {
            const philox_vector p0 = PHILOX_MULTIPLY(c0[g], m0), p1 = PHILOX_MULTIPLY(c2[g], m1);
            c0[g] = PHILOX_XOR(PHILOX_XOR(PHILOX_HIGH(p1), c1[g]), key0);
            c1[g] = p1;
            c2[g] = PHILOX_XOR(PHILOX_XOR(PHILOX_HIGH(p0), c3[g]), key1);
            c3[g] = p0;
        }
        k0 += RNG_PHILOX_W0;
        k1 += RNG_PHILOX_W1;
    }
    for (int g = 0; g < GROUPS; g++) {
        PHILOX_STORE(&words[0][g * PHILOX_WIDTH], c0[g]);
        PHILOX_STORE(&words[1][g * PHILOX_WIDTH], c1[g]);
        PHILOX_STORE(&words[2][g * PHILOX_WIDTH], c2[g]);
        PHILOX_STORE(&words[3][g * PHILOX_WIDTH], c3[g]);
    }
}

#else

static inline void philox_lanes(uint32_t words[4][PHILOX_LANES], uint64_t seed,
                                enum rng_domain domain, uint32_t site, uint32_t step,
                                uint64_t first)
{
    for (int i = 0; i < PHILOX_LANES; i++) {
        const struct rng_block block = rng_philox(seed, domain, site, step, first + (uint64_t)i);
        for (int w = 0; w < 4; w++)
            words[w][i] = block.word[w];
    }
}

#endif
#endif
