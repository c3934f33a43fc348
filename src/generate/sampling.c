/* sampling.c - from logits to one token: temperature, top-k, top-p and the draw. */
#include <math.h>
#include <stdbool.h>

#include "base/rng.h"
#include "generate/generate.h"

/* The most likely token; of equals the smallest id. */
static enum status find_best(const float *logits, int n, int32_t *best)
{
    *best = 0;
    for (int i = 0; i < n; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY)
            return fail(ERR_INVALID, "the model's logits are not finite: its training has "
                                     "diverged, use an earlier checkpoint");
        if (logits[i] > logits[*best])
            *best = i;
    }
    if (logits[*best] == -INFINITY)
        return fail(ERR_INVALID, "the model's logits are not finite: no token is possible");
    return OK;
}

static bool is_likelier(const struct candidate *a, const struct candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

/* Restore the heap, whose root is the likeliest, below `at`. */
static void sift_down(struct candidate *heap, int64_t n, int64_t at)
{
    const struct candidate moved = heap[at];

    for (int64_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && is_likelier(&heap[child + 1], &heap[child]))
            child++;
        if (!is_likelier(&heap[child], &moved))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static void make_heap(struct candidate *heap, int64_t n)
{
    for (int64_t at = n / 2 - 1; at >= 0; at--)
        sift_down(heap, n, at);
}

/* Move the likeliest of the first n behind the others. */
static void pop(struct candidate *heap, int64_t n)
{
    const struct candidate likeliest = heap[0];

    heap[0] = heap[n - 1];
    heap[n - 1] = likeliest;
    sift_down(heap, n - 1, 0);
}

/* The candidates, the most likely at the end as far as they are sorted. */
struct ranking {
    struct candidate *all;
    int n, n_sorted;
    double highest, temperature;
};

/* Probability up to a common factor; that of the most likely is 1. */
static double weight(const struct ranking *r, int rank)
{
    const double logit = (double)r->all[r->n - 1 - rank].logit;

    return exp((logit - r->highest) / r->temperature);
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
    pop(r->all, r->n - r->n_sorted);
    r->n_sorted++;
}

/* How many of the most likely tokens top_k and top_p leave; *sum is the sum of their weights. No
 * more than these are sorted, and none where all are left. */
static int select_candidates(struct ranking *r, const struct sampling *sampling, double *sum)
{
    const bool limits_k = sampling->top_k > 0 && sampling->top_k < r->n;
    const int k = limits_k ? sampling->top_k : r->n;
    int count = 0;

    if (limits_k || sampling->top_p < 1)
        make_heap(r->all, r->n);
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

enum status sample_token(const struct sampling *sampling, const float *logits, int n,
                         uint32_t number, uint64_t position, struct candidate *scratch,
                         int32_t *id)
{
    TRY(find_best(logits, n, id));
    if (sampling->temperature == 0)
        return OK;

    struct ranking ranking = {.all = scratch, .n = n, .highest = (double)logits[*id],
                              .temperature = sampling->temperature};
    double sum;
    for (int i = 0; i < n; i++)
        scratch[i] = (struct candidate){logits[i], i};
    const int count = select_candidates(&ranking, sampling, &sum);

    const struct rng_block random = rng_philox(sampling->seed, RNG_SAMPLE, 0, number, position);
    const double drawn = sum * rng_uniform_double(random.word[0], random.word[1]);
    double passed = 0;
    for (int rank = 0; rank < count; rank++) {
        passed += weight(&ranking, rank);
        if (passed > drawn) {
            *id = scratch[n - 1 - rank].id;
            break;
        }
    }
    return OK;
}
