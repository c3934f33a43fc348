/* progress.h - how far a run is: the live line on a terminal, plain lines for everything else. */
#ifndef OCTET_PROGRESS_H
#define OCTET_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "monitor/monitor.h"

enum { PROGRESS_LINE_SIZE = 512 };

/* What a line can show. NaN and infinite numbers print as such. */
struct progress_line {
    int64_t step, total_steps;
    int64_t epoch, total_epochs;
    double loss, grad_norm, lr;
    double tokens_per_s;
    double seconds_left;
};

/* "step  120/1200  epoch 2/10  [==>     ]  loss 2.1034  48.1k tok/s  1m32s left", in at most
 * `columns` columns: the bar takes what is left over, and where that is not enough whole parts are
 * left out, the least important ones first. */
void progress_format_live(char line[PROGRESS_LINE_SIZE], const struct progress_line *p,
                          int columns);
/* The same with a text in the place of the numbers, cut where it does not fit. */
void progress_format_activity(char line[PROGRESS_LINE_SIZE], const struct progress_line *p,
                              const char *text, int columns);
void progress_format_plain(char line[PROGRESS_LINE_SIZE], const struct progress_line *p);
void progress_format_evaluation(char line[PROGRESS_LINE_SIZE], int64_t total_steps,
                                const struct monitor_evaluation *evaluation);

struct progress_mean {
    double sum;
    int64_t count;
};

struct progress {
    int64_t log_every;
    bool is_on_terminal;
    struct progress_line line;      /* as of the latest step; its loss is set for each line */
    struct progress_mean plain_loss, live_loss;     /* since the line before */
    double recent_steps, recent_tokens, recent_seconds;     /* sums in which older steps fade */
    double next_draw;
    char activity[PROGRESS_LINE_SIZE];      /* "" for none */
};

void progress_init(struct progress *p, const struct monitor_config *config);
/* `now` is any clock in seconds that does not go back. */
void progress_step(struct progress *p, const struct monitor_step *step, double now);
void progress_activity(struct progress *p, const char *text, double now);
void progress_evaluation(const struct progress *p, const struct monitor_evaluation *evaluation);
/* Take the live line away. */
void progress_end(void);

#endif
