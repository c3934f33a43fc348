/* candidate.h - tokens that may be drawn, by rank; a heap of them has the first, or the last, at
 * its root. */
#ifndef OCTET_CANDIDATE_H
#define OCTET_CANDIDATE_H

#include <stdbool.h>
#include <stdint.h>

struct candidate {
    float logit;                /* not NaN, where it is compared */
    int32_t id;
};

/* Of equal logits the smaller id ranks first. */
static inline bool candidate_is_likelier(const struct candidate *a, const struct candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}
static inline bool candidate_is_unlikelier(const struct candidate *a, const struct candidate *b)
{
    return candidate_is_likelier(b, a);
}

/* One of the two above: whether a belongs above b in the heap. */
typedef bool (*candidate_order)(const struct candidate *a, const struct candidate *b);

/* Restore the heap below `at`. */
static inline void heap_sift_down(struct candidate *heap, int64_t n, int64_t at,
                                  candidate_order is_above)
{
    const struct candidate moved = heap[at];

    for (int64_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && is_above(&heap[child + 1], &heap[child]))
            child++;
        if (!is_above(&heap[child], &moved))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static inline void heap_make(struct candidate *heap, int64_t n, candidate_order is_above)
{
    for (int64_t at = n / 2 - 1; at >= 0; at--)
        heap_sift_down(heap, n, at, is_above);
}

/* Move the root behind the others of n. */
static inline void heap_pop(struct candidate *heap, int64_t n, candidate_order is_above)
{
    const struct candidate root = heap[0];

    heap[0] = heap[n - 1];
    heap[n - 1] = root;
    heap_sift_down(heap, n - 1, 0, is_above);
}

#endif
