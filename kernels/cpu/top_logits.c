/* top_logits.c - the largest logits of a row: what a token is drawn from.
 *
 * A heap keeps the largest so far, with the last of them at its root. Most logits are below that,
 * which is found out for a whole run of them at once. */
#include <math.h>

#include "base/candidate.h"
#include "kernels/cpu/cpu_ops.h"

enum { RUN = 128 };

static struct candidate candidate_at(const real *logits, int64_t i)
{
    const float logit = (float)widen(logits[i]);

    return (struct candidate){logit < INFINITY ? logit : INFINITY, (int32_t)i};
}

/* True for NaN, too. */
static bool any_above(const real *logits, int64_t n, float limit)
{
    int n_above = 0;

    VECTOR_SUM(n_above)
    for (int64_t i = 0; i < n; i++)
        n_above += !((float)widen(logits[i]) <= limit);
    return n_above > 0;
}

/* best (k): the largest of n, in order. */
static void find_largest(struct candidate *best, int64_t k, const real *logits, int64_t n)
{
    for (int64_t i = 0; i < k; i++)
        best[i] = candidate_at(logits, i);
    heap_make(best, k, candidate_is_unlikelier);
    for (int64_t first = k; first < n; first += RUN) {
        const int64_t end = slice_end(first, RUN, n);
        if (!any_above(logits + first, end - first, best[0].logit))
            continue;
        for (int64_t i = first; i < end; i++) {
            const struct candidate next = candidate_at(logits, i);
            if (candidate_is_unlikelier(&next, &best[0]))
                continue;
            best[0] = next;
            heap_sift_down(best, k, 0, candidate_is_unlikelier);
        }
    }
    for (int64_t left = k; left > 1; left--)
        heap_pop(best, left, candidate_is_unlikelier);
}

static enum status top_logits(struct device *dev, const struct tensor *values,
                              const struct tensor *ids, const struct tensor *logits, int64_t n)
{
    struct candidate best[OPS_TOP_MAX];
    const int64_t k = values->shape[0];

    (void)dev;
    find_largest(best, k, logits->data, n);
    for (int64_t i = 0; i < k; i++) {
        ((float *)values->data)[i] = best[i].logit < INFINITY ? best[i].logit : NAN;
        ((int32_t *)ids->data)[i] = best[i].id;
    }
    return OK;
}

void CPU_NAME(cpu_top_logits_ops)(struct op_table *table)
{
    table->top_logits = top_logits;
}
