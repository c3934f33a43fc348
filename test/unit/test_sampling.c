/* test_sampling.c - tokens drawn from logits: against exact probabilities and a plain reference. */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "check.h"
#include "generate/generate.h"

enum { MAX_TOKENS = 1000, DRAWS = 40000 };

static const struct sampling plain = {.temperature = 1, .top_k = 0, .top_p = 1, .seed = 7};

static int compare_candidates(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* All n candidates, in order. */
static void sort_candidates(struct candidate *all, const float *logits, int n)
{
    for (int i = 0; i < n; i++)
        all[i] = (struct candidate){logits[i], i};
    qsort(all, (size_t)n, sizeof *all, compare_candidates);
}

/* The token drawn when only those candidates are known that the settings leave; or -1 where all of
 * them are needed. */
static int32_t draw_likeliest(const struct sampling *sampling, const float *logits, int n,
                              uint32_t number, uint64_t position)
{
    struct candidate all[MAX_TOKENS];
    const int k = sampling->temperature == 0 ? 1 : sampling->top_k;
    int32_t id = -1;

    if (k == 0 || k >= n)
        return -1;
    sort_candidates(all, logits, n);
    CHECK_OK(sample_likeliest(sampling, all, k, number, position, &id));
    return id;
}

static int32_t draw(const struct sampling *sampling, const float *logits, int n, uint64_t position)
{
    static struct candidate scratch[MAX_TOKENS];
    int32_t id = -1;

    /* What an earlier call left there must not matter. */
    memset(scratch, 0xff, sizeof scratch);
    CHECK_OK(sample_token(sampling, logits, n, 3, position, scratch, &id));
    CHECK(id >= 0 && id < n);
    const int32_t likeliest = draw_likeliest(sampling, logits, n, 3, position);
    CHECK(likeliest == id || likeliest == -1);
    return id;
}

/* How often each token comes in DRAWS draws. */
static void count_draws(const struct sampling *sampling, const float *logits, int n, int *counts)
{
    memset(counts, 0, (size_t)n * sizeof *counts);
    for (uint64_t i = 0; i < DRAWS; i++)
        counts[draw(sampling, logits, n, i)]++;
}

/* Pearson's statistic against these probabilities; tokens of probability 0 must not have come. */
static double chi_square(const int *counts, const double *probabilities, int n)
{
    double sum = 0;

    for (int i = 0; i < n; i++) {
        const double expected = DRAWS * probabilities[i];
        if (probabilities[i] == 0)
            CHECK(counts[i] == 0);
        else
            sum += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    return sum;
}

/* Draws of these settings from logits log(weights) must have the probabilities `kept`. */
static void check_distribution(const struct sampling *sampling, const double *weights,
                               const double *kept, int n)
{
    float logits[16];
    int counts[16];

    for (int i = 0; i < n; i++)
        logits[i] = (float)log(weights[i]) + 5;
    count_draws(sampling, logits, n, counts);
    /* At most 7 degrees of freedom: a right sampler exceeds 40 once in a million seeds. */
    CHECK_NEAR(chi_square(counts, kept, n), 0, 40);
}

static const double eight[8] = {0.05, 0.3, 0.02, 0.2, 0.13, 0.1, 0.15, 0.05};

static void all_tokens_by_their_probability(void)
{
    check_distribution(&plain, eight, eight, 8);
}

static void temperature_flattens(void)
{
    struct sampling sampling = plain;
    double kept[8], sum = 0;

    sampling.temperature = 2;
    for (int i = 0; i < 8; i++)
        sum += sqrt(eight[i]);
    for (int i = 0; i < 8; i++)
        kept[i] = sqrt(eight[i]) / sum;
    check_distribution(&sampling, eight, kept, 8);
}

static void top_k_keeps_the_likeliest(void)
{
    struct sampling sampling = plain;
    const double kept[8] = {[1] = 0.3 / 0.65, [3] = 0.2 / 0.65, [6] = 0.15 / 0.65};

    sampling.top_k = 3;
    check_distribution(&sampling, eight, kept, 8);
}

static void top_p_keeps_the_likeliest(void)
{
    struct sampling sampling = plain;
    const double kept[8] = {[1] = 0.3 / 0.65, [3] = 0.2 / 0.65, [6] = 0.15 / 0.65};

    sampling.top_p = 0.6;
    check_distribution(&sampling, eight, kept, 8);
}

/* Which of n tokens ever come, as a text of 0 and 1. */
static const char *tokens_drawn(const struct sampling *sampling, const float *logits, int n)
{
    static char text[32];

    memset(text, 0, sizeof text);
    memset(text, '0', (size_t)n);
    for (uint64_t i = 0; i < 500; i++)
        text[draw(sampling, logits, n, i)] = '1';
    return text;
}

static void top_k_borders(void)
{
    const float logits[5] = {1, 2, 2, 2, 0};
    struct sampling sampling = plain;

    sampling.top_k = 1;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "01000");
    sampling.top_k = 2;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "01100");
    sampling.top_k = 4;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "11110");
    sampling.top_k = 5;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "11111");
    sampling.top_k = 1 << 24;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "11111");
    sampling.top_k = 0;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "11111");
}

static void top_p_borders(void)
{
    const float equal[4] = {-3, -3, -3, -3};
    const float halves[4] = {0, (float)-M_LN2, (float)(-2 * M_LN2), (float)(-2 * M_LN2)};
    struct sampling sampling = plain;

    /* Four times 1/4 exactly: two tokens reach one half, and nothing beyond them is needed. */
    sampling.top_p = 0.5;
    CHECK_TEXT(tokens_drawn(&sampling, equal, 4), "1100");
    sampling.top_p = 0.5 + 1e-9;
    CHECK_TEXT(tokens_drawn(&sampling, equal, 4), "1110");
    sampling.top_p = DBL_MIN;
    CHECK_TEXT(tokens_drawn(&sampling, equal, 4), "1000");
    sampling.top_p = 1;
    CHECK_TEXT(tokens_drawn(&sampling, equal, 4), "1111");

    sampling.top_p = 0.74;
    CHECK_TEXT(tokens_drawn(&sampling, halves, 4), "1100");
    sampling.top_p = 0.76;
    CHECK_TEXT(tokens_drawn(&sampling, halves, 4), "1110");
    sampling.top_p = 0.88;
    CHECK_TEXT(tokens_drawn(&sampling, halves, 4), "1111");
}

static void top_p_counts_what_top_k_leaves(void)
{
    const float logits[4] = {(float)log(0.5), (float)log(0.25), (float)log(0.125),
                             (float)log(0.125)};
    struct sampling sampling = plain;

    sampling.top_p = 0.6;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 4), "1100");
    /* Of two tokens the first has 2/3. */
    sampling.top_k = 2;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 4), "1000");
    sampling.top_p = 0.67;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 4), "1100");
}

static void temperature_zero_takes_the_likeliest(void)
{
    const float logits[5] = {-1, 4, 3.9f, 4, -INFINITY};
    struct sampling sampling = plain;

    sampling.temperature = 0;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "01000");
    sampling.top_k = 3;
    sampling.top_p = 0.5;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "01000");
}

static void temperature_tiny_and_huge(void)
{
    const float logits[5] = {-1, 4, 3.9999f, 4, -3e38f};
    const float far[3] = {-3e38f, 3e38f, 0};
    struct sampling sampling = plain;

    sampling.temperature = 5e-324;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "01010");
    CHECK_TEXT(tokens_drawn(&sampling, far, 3), "010");
    sampling.top_p = 0.99;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "01010");
    sampling.temperature = 1e300;
    sampling.top_p = 1;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "11111");
    CHECK_TEXT(tokens_drawn(&sampling, far, 3), "111");
}

static void impossible_tokens_never_come(void)
{
    const float logits[5] = {-INFINITY, 0, -INFINITY, 1, -INFINITY};
    struct sampling sampling = plain;

    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "01010");
    sampling.top_k = 4;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "01010");
    sampling.top_k = 0;
    sampling.top_p = 1 - 1e-16;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "01010");
    sampling.temperature = 100;
    CHECK_TEXT(tokens_drawn(&sampling, logits, 5), "01010");
}

static void one_token(void)
{
    const float logits[1] = {-1000};
    struct sampling sampling = plain;

    CHECK(draw(&sampling, logits, 1, 0) == 0);
    sampling.top_k = 1;
    sampling.top_p = 0.1;
    CHECK(draw(&sampling, logits, 1, 0) == 0);
}

static void not_finite(void)
{
    const float cases[][3] = {{0, NAN, 1},  {NAN, NAN, NAN},       {0, 1, INFINITY},
                              {NAN, 0, -1}, {-INFINITY, -1, NAN},
                              {-INFINITY, -INFINITY, -INFINITY}};
    struct candidate scratch[3];
    int32_t id;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sampling sampling = plain;
        CHECK_FAILS(sample_token(&sampling, cases[i], 3, 0, 0, scratch, &id), ERR_INVALID,
                    "the model's logits are not finite");
        sampling.temperature = 0;
        CHECK_FAILS(sample_token(&sampling, cases[i], 3, 0, 0, scratch, &id), ERR_INVALID,
                    "the model's logits are not finite");
    }
}

static void not_finite_among_the_likeliest(void)
{
    const struct candidate diverged[2] = {{NAN, 5}, {1, 0}}, impossible[1] = {{-INFINITY, 0}};
    struct sampling sampling = plain;
    int32_t id;

    for (int i = 0; i < 2; i++) {
        sampling.temperature = i;
        CHECK_FAILS(sample_likeliest(&sampling, diverged, 2, 0, 0, &id), ERR_INVALID, "diverged");
        CHECK_FAILS(sample_likeliest(&sampling, impossible, 1, 0, 0, &id), ERR_INVALID,
                    "no token is possible");
    }
}

static void fill_logits(float *logits, int n, uint64_t seed)
{
    for (int i = 0; i < n; i++) {
        const struct rng_block random = rng_philox(seed, RNG_TEST, 0, 0, (uint64_t)i);
        /* In steps, so that there are ties. */
        logits[i] = roundf(200 * rng_uniform(random.word[0])) / 16;
    }
}

static void depends_on_all_that_names_a_draw(void)
{
    static const uint32_t numbers[2] = {0, 1};
    float logits[MAX_TOKENS] = {0};
    struct candidate scratch[MAX_TOKENS];
    struct sampling other = plain;
    int32_t first, again, by_number, by_seed, by_position;
    int differ[3] = {0};

    other.seed++;
    for (uint64_t i = 0; i < 20; i++) {
        CHECK_OK(sample_token(&plain, logits, MAX_TOKENS, numbers[0], i, scratch, &first));
        CHECK_OK(sample_token(&plain, logits, MAX_TOKENS, numbers[0], i, scratch, &again));
        CHECK_OK(sample_token(&plain, logits, MAX_TOKENS, numbers[1], i, scratch, &by_number));
        CHECK_OK(sample_token(&other, logits, MAX_TOKENS, numbers[0], i, scratch, &by_seed));
        CHECK_OK(sample_token(&plain, logits, MAX_TOKENS, numbers[0], i + 1, scratch,
                              &by_position));
        CHECK(first == again);
        differ[0] += first != by_number;
        differ[1] += first != by_seed;
        differ[2] += first != by_position;
    }
    for (int i = 0; i < 3; i++)
        CHECK(differ[i] >= 18);
}

/* The same draw with everything sorted. */
static int32_t draw_sorted(const struct sampling *s, const float *logits, int n, uint32_t number,
                           uint64_t position)
{
    struct candidate all[MAX_TOKENS];
    double weights[MAX_TOKENS], sum = 0, kept = 0, passed = 0;
    const int k = s->top_k > 0 && s->top_k < n ? s->top_k : n;
    int count = 0, rank = 0;

    sort_candidates(all, logits, n);
    for (int i = 0; i < k; i++)
        sum += weights[i] = exp(((double)all[i].logit - (double)all[0].logit) / s->temperature);
    while (count < k && kept < s->top_p * sum)
        kept += weights[count++];
    const struct rng_block random = rng_philox(s->seed, RNG_SAMPLE, 0, number, position);
    const double drawn = kept * rng_uniform_double(random.word[0], random.word[1]);
    while (rank < count - 1 && (passed += weights[rank]) <= drawn)
        rank++;
    return all[rank].id;
}

static void same_as_with_everything_sorted(void)
{
    static const int ns[] = {1, 2, 3, 10, 255, MAX_TOKENS}, ks[] = {0, 1, 2, 7, 254, 999};
    static const double ps[] = {0.01, 0.5, 0.9, 0.999}, temperatures[] = {0.3, 1, 3};
    static struct candidate scratch[MAX_TOKENS];
    float logits[MAX_TOKENS];
    int32_t id;

    for (int trial = 0; trial < 6 * 6 * 4 * 3; trial++) {
        const struct sampling sampling = {temperatures[trial % 3], ks[trial / 3 % 6],
                                          ps[trial / 18 % 4], 11};
        const int n = ns[trial / 72];
        fill_logits(logits, n, (uint64_t)trial);
        for (uint64_t position = 0; position < 20; position++) {
            CHECK_OK(sample_token(&sampling, logits, n, 1, position, scratch, &id));
            const int32_t likeliest = draw_likeliest(&sampling, logits, n, 1, position);
            if (id != draw_sorted(&sampling, logits, n, 1, position) ||
                (likeliest != id && likeliest != -1))
                check_report(__FILE__, __LINE__, "n %d, k %d, p %g, temperature %g: %d, %d", n,
                             sampling.top_k, sampling.top_p, sampling.temperature, id, likeliest);
        }
    }
}

int main(void)
{
    CASE(all_tokens_by_their_probability);
    CASE(temperature_flattens);
    CASE(top_k_keeps_the_likeliest);
    CASE(top_p_keeps_the_likeliest);
    CASE(top_k_borders);
    CASE(top_p_borders);
    CASE(top_p_counts_what_top_k_leaves);
    CASE(temperature_zero_takes_the_likeliest);
    CASE(temperature_tiny_and_huge);
    CASE(impossible_tokens_never_come);
    CASE(one_token);
    CASE(not_finite);
    CASE(not_finite_among_the_likeliest);
    CASE(depends_on_all_that_names_a_draw);
    CASE(same_as_with_everything_sorted);
    return check_finish();
}
