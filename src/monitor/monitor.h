/* monitor.h - what a run shows: a progress line, metrics.jsonl and TensorBoard curves.
 *
 * One thread (rank 0's) calls these functions. Failures to write here never end a run: the first
 * one of each file is a warning, with the file's name. */
#ifndef OCTET_MONITOR_H
#define OCTET_MONITOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct monitor_config {
    const char *log_dir;        /* metrics.jsonl and tensorboard/ go here; it exists */
    bool use_tensorboard;
    int64_t log_every;          /* steps between plain lines */
    int64_t resume_step;        /* 0: a new run. Else rows of an earlier try after it are cut */
    bool resume_evaluates;      /* it begins with the evaluation of resume_step: that row, too */
    int64_t total_steps;
    int64_t total_epochs;
};

/* The n-th optimizer step, counted from 1. */
struct monitor_step {
    int64_t step, epoch;
    double loss;                /* of the step's global batch, before the update */
    double grad_norm;           /* before clipping */
    double lr;
    int64_t tokens;             /* of this step, all devices */
    int64_t tokens_total;       /* of the whole run so far, also before a resume */
    double seconds;             /* of this step */
    bool is_skipped;            /* it changed no weights */
};

struct monitor_evaluation {
    int64_t step, epoch;
    double loss, perplexity;
    double accuracy;            /* 0 .. 1 */
    bool is_best;               /* the lowest loss so far */
    double seconds;
};

struct monitor;

/* A new run moves an older metrics.jsonl aside (metrics_TIMESTAMP.jsonl, its own time); TensorBoard
 * files get a name of their own. ERR_INVALID or ERR_IO if nothing can be written into log_dir; one file that can't
 * be opened is a warning. */
enum status monitor_create(struct monitor **out, const struct monitor_config *config);
/* The first step seen, every log_every-th and the last get a plain line: in the log file, and where
 * there is no terminal also on the stream. A terminal shows the live line instead. */
void monitor_step(struct monitor *m, const struct monitor_step *step);
/* Always a line of its own. */
void monitor_evaluation(struct monitor *m, const struct monitor_evaluation *evaluation);
/* A line of what goes on beside the steps ("evaluating 3/12"), live only; NULL to take it away. */
void monitor_activity(struct monitor *m, const char *text);
/* Generated text; to TensorBoard as text (UTF-8; invalid bytes are replaced). */
void monitor_text(struct monitor *m, const char *tag, int64_t step, const char *text);
/* Flush and close; prints nothing. NULL is fine. */
void monitor_destroy(struct monitor *m);

#endif
