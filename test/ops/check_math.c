/* check_math.c - the random generator against its authors' known answers, and the CPU's exp and
 * normal distribution against the C library over their whole range. */
#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define CPU_VARIANT test
#include "kernels/cpu/vector_math.h"
#include "ops/checks.h"

/* From tests/kat_vectors of github.com/DEShawResearch/random123, "philox4x32 10". */
static void check_philox(void)
{
    static const struct {
        struct rng_block counter;
        uint32_t key[2];
        struct rng_block answer;
    } known[] = {
        {{{0, 0, 0, 0}}, {0, 0}, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
        {{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}}, {0xffffffff, 0xffffffff},
         {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
        {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, {0xa4093822, 0x299f31d0},
         {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
    };

    for (size_t i = 0; i < COUNT_OF(known); i++) {
        const struct rng_block block = rng_philox4x32(known[i].counter, known[i].key[0],
                                                      known[i].key[1]);
        if (memcmp(&block, &known[i].answer, sizeof block) != 0)
            trials_fail("philox4x32-10: known answer %zu begins %08" PRIx32 ", not %08" PRIx32, i,
                        known[i].answer.word[0], block.word[0]);
    }
    /* Seed, domain, site, step and position to key and counter; the site has 24 bits. */
    const struct rng_block counter = {{0x89abcdef, 0x01234567, 0xdeadbeef, 0x03ffeedd}};
    const struct rng_block expected = rng_philox4x32(counter, 0x55667788, 0x11223344);
    const struct rng_block block = rng_philox(0x1122334455667788, RNG_DROPOUT, 0xaaffeedd,
                                              0xdeadbeef, 0x0123456789abcdef);
    if (memcmp(&block, &expected, sizeof block) != 0)
        trials_fail("rng_philox: the counter or key is put together otherwise than rng.h says");
}

static float float_of(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The promises of vector_math.h; returns the relative error. */
static double check_exp_at(float x)
{
    const double value = (double)real_exp(x), expected = exp((double)x);
    double error = fabs(value - expected) / expected;
    bool ok = error < 2e-7;

    if (isnan(x) || x < -87.3f || expected > (double)FLT_MAX) {
        error = 0;
        ok = isnan(x) ? isnan(value) : x < 0 ? value == 0 : isinf(value);
        /* The last numbers below the limits may round to either side of them. */
        ok = ok || (x > 88.7f && x < 88.8f && value > 3.3e38);
    }
    if (!ok)
        trials_fail("real_exp(%.9g) is %.9g, expected %.9g", (double)x, value, expected);
    return error;
}

static double check_normal_at(float x)
{
    float cumulative, density;

    real_normal(x, &cumulative, &density);
    if (isnan(x)) {
        if (!isnan(cumulative) || !isnan(density))
            trials_fail("real_normal(NaN) is %g, %g", (double)cumulative, (double)density);
        return 0;
    }
    const double error = fabs((double)cumulative - 0.5 * erfc(-(double)x * 0.7071067811865476));
    const double density_error =
        fabs((double)density - 0.3989422804014327 * exp(-0.5 * (double)x * (double)x));
    if (!(error < 4e-7 && density_error < 1e-7 && cumulative >= 0 && cumulative <= 1))
        trials_fail("real_normal(%.9g): errors %g, %g", (double)x, error, density_error);
    return fmax(error, density_error);
}

void check_math(void)
{
    double exp_error = 0, normal_error = 0;

    check_philox();
    /* All bit patterns, in strides. */
    for (uint64_t bits = trials.seed % 2003; bits <= UINT32_MAX; bits += 2003) {
        const float x = float_of((uint32_t)bits);
        exp_error = fmax(exp_error, check_exp_at(x));
        normal_error = fmax(normal_error, check_normal_at(x));
    }
    for (int i = -100000; i <= 100000; i++) {
        exp_error = fmax(exp_error, check_exp_at((float)i * 9e-4f));
        normal_error = fmax(normal_error, check_normal_at((float)i * 1.5e-4f));
    }
    static const float special[] = {0, -0.0f, INFINITY, -INFINITY, NAN, -NAN, FLT_MAX, -FLT_MAX,
                                    FLT_MIN, FLT_TRUE_MIN, 88.72283f, 88.72284f, -87.3f, -87.31f};
    for (size_t i = 0; i < COUNT_OF(special); i++) {
        check_exp_at(special[i]);
        check_normal_at(special[i]);
    }
    printf("real_exp: relative error up to %.2g; real_normal: error up to %.2g\n", exp_error,
           normal_error);
}
