/* sampling.c - from logits to one token: temperature, top-k, top-p and the draw. */
#include <math.h>
#include <stdbool.h>

#include "base/rng.h"
#include "generate/generate.h"

/* The candidates by rank, as far as they are sorted. */
struct ranking {
    struct candidate best;
    const struct candidate *first;
    int step;                   /* from one rank to the next: 1 or -1 */
    struct candidate *heap;     /* those that are not sorted yet */
    int n, n_sorted;
    double temperature;
};

/* Probability up to a common factor; that of the most likely is 1. */
static double weight(const struct ranking *r, int rank)
{
    const double logit = (double)r->first[rank * r->step].logit;

    return exp((logit - (double)r->best.logit) / r->temperature);
}

static double weight_sum(const struct ranking *r, int count)
{
    double sum = 0;

    for (int rank = 0; rank < count; rank++)
        sum += weight(r, rank);
    return sum;
}

static void sort_next(struct ranking *r)
{
    heap_pop(r->heap, r->n - r->n_sorted, candidate_is_likelier);
    r->n_sorted++;
}

/* How many of the most likely tokens top_k and top_p leave; *sum is the sum of their weights. No
 * more than these are sorted, and none where all are left. */
static int select_candidates(struct ranking *r, const struct sampling *sampling, double *sum)
{
    const bool limits_k = sampling->top_k > 0 && sampling->top_k < r->n;
    const int k = limits_k ? sampling->top_k : r->n;
    int count = 0;

    if (r->n_sorted == 0 && (limits_k || sampling->top_p < 1))
        heap_make(r->heap, r->n, candidate_is_likelier);
    while (limits_k && r->n_sorted < k)
        sort_next(r);
    *sum = weight_sum(r, k);
    if (sampling->top_p >= 1)
        return k;

    const double enough = sampling->top_p * *sum;
    *sum = 0;
    while (count < k && *sum < enough) {
        if (count == r->n_sorted)
            sort_next(r);
        *sum += weight(r, count++);
    }
    return count;
}

static enum status pick(struct ranking *r, const struct sampling *sampling, uint32_t number,
                        uint64_t position, int32_t *id)
{
    double sum, passed = 0;

    if (!(r->best.logit < INFINITY))
        return fail(ERR_INVALID, "the model's logits are not finite: its training has "
                                 "diverged, use an earlier checkpoint");
    if (r->best.logit == -INFINITY)
        return fail(ERR_INVALID, "the model's logits are not finite: no token is possible");
    *id = r->best.id;
    if (sampling->temperature == 0)
        return OK;

    const int count = select_candidates(r, sampling, &sum);
    const struct rng_block random = rng_philox(sampling->seed, RNG_SAMPLE, 0, number, position);
    const double drawn = sum * rng_uniform_double(random.word[0], random.word[1]);
    for (int rank = 0; rank < count; rank++) {
        passed += weight(r, rank);
        if (passed > drawn) {
            *id = r->first[rank * r->step].id;
            break;
        }
    }
    return OK;
}

/* The most likely token, of equals the first; or one whose logit is NaN or infinity. */
static struct candidate find_best(const float *logits, int n)
{
    int best = 0;

    for (int i = 0; i < n && logits[best] < INFINITY; i++)
        if (!(logits[i] <= logits[best]))
            best = i;
    return (struct candidate){logits[best], best};
}

enum status sample_token(const struct sampling *sampling, const float *logits, int n,
                         uint32_t number, uint64_t position, struct candidate *scratch,
                         int32_t *id)
{
    struct ranking ranking = {.best = find_best(logits, n), .first = scratch + n - 1, .step = -1,
                              .heap = scratch, .n = n, .temperature = sampling->temperature};

    for (int i = 0; i < n; i++)
        scratch[i] = (struct candidate){logits[i], i};
    return pick(&ranking, sampling, number, position, id);
}

enum status sample_likeliest(const struct sampling *sampling, const struct candidate *likeliest,
                             int n, uint32_t number, uint64_t position, int32_t *id)
{
    struct ranking ranking = {.best = likeliest[0], .first = likeliest, .step = 1, .n = n,
                              .n_sorted = n, .temperature = sampling->temperature};

    return pick(&ranking, sampling, number, position, id);
}
