/* metrics.h - metrics.jsonl: one JSON object a line for every step and every evaluation. */
#ifndef OCTET_METRICS_H
#define OCTET_METRICS_H

#include "monitor/append_file.h"
#include "monitor/monitor.h"

/* Open LOG_DIR/metrics.jsonl. A new run (resume_step 0) first renames one that has content to
 * metrics_YYYYMMDD-HHMMSS.jsonl, its own time. A resumed run cuts the rows that it writes
 * again and a last line without its end, as a crash leaves it; lines that are no rows of ours stay. Where
 * the cut fails, that is a warning, and the older file is renamed too. */
enum status metrics_open(struct append_file *file, const struct monitor_config *config);

/* Numbers that JSON can't express (NaN, infinity) are null. */
void metrics_step(struct append_file *file, const struct monitor_step *step, double tokens_per_s);
void metrics_evaluation(struct append_file *file, const struct monitor_evaluation *evaluation);

#endif
