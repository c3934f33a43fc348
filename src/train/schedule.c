#include "train/schedule.h"

#include <math.h>
#include <string.h>

enum schedule_shape schedule_shape_from_name(const char *name)
{
    if (strcmp(name, "linear") == 0)
        return SCHEDULE_LINEAR;
    return strcmp(name, "constant") == 0 ? SCHEDULE_CONSTANT : SCHEDULE_COSINE;
}

double schedule_lr(const struct schedule *s, int64_t step)
{
    if (step < s->warmup)
        return s->lr * (double)step / (double)s->warmup;

    const int64_t rest = s->total - s->warmup;
    double p = rest > 0 ? (double)(step - s->warmup) / (double)rest : 1;
    p = p > 1 ? 1 : p;          /* a resumed run may have been shortened */
    switch (s->shape) {
    case SCHEDULE_LINEAR:
        return s->lr * (1 - (1 - s->min_ratio) * p);
    case SCHEDULE_CONSTANT:
        return s->lr;
    default:
        return s->lr * (s->min_ratio + (1 - s->min_ratio) * (1 + cos(3.141592653589793 * p)) / 2);
    }
}
