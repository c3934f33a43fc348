/* schedule.h - the learning rate of each step. */
#ifndef OCTET_SCHEDULE_H
#define OCTET_SCHEDULE_H

#include <stdint.h>

enum schedule_shape { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_CONSTANT };

struct schedule {
    enum schedule_shape shape;
    double lr;                  /* the highest */
    double min_ratio;           /* of it, at the end; cosine and linear */
    int64_t warmup, total;      /* steps */
};

/* "cosine", "linear" or "constant", as the option table allows. */
enum schedule_shape schedule_shape_from_name(const char *name);

/* Of step s, counted from 0: lr s / warmup while s < warmup; then, with p from 0 to 1 over the rest,
 * lr (min + (1 - min) (1 + cos(pi p)) / 2), or lr (1 - (1 - min) p), or lr. */
double schedule_lr(const struct schedule *schedule, int64_t step);

#endif
