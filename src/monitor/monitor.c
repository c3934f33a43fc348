#include "monitor/monitor.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/file.h"
#include "base/log.h"
#include "monitor/append_file.h"
#include "monitor/metrics.h"
#include "monitor/progress.h"
#include "monitor/tensorboard.h"

struct monitor {
    struct progress progress;
    struct append_file metrics;
    struct tensorboard tensorboard;
};

#define N_ELEMENTS(array) ((int)(sizeof(array) / sizeof(array)[0]))

static enum status open_tensorboard(struct tensorboard *tb, const struct monitor_config *config)
{
    char *folder;

    if (asprintf(&folder, "%s/tensorboard", config->log_dir) < 0)
        return fail(ERR_NOMEM, "%s: out of memory", config->log_dir);
    const int64_t first_step = config->resume_step > 0 ? config->resume_step + 1 : 0;
    const enum status status = tensorboard_open(tb, folder, first_step);
    free(folder);
    return status;
}

enum status monitor_create(struct monitor **out, const struct monitor_config *config)
{
    TRY(folder_check_writable(config->log_dir));
    struct monitor *m = malloc(sizeof *m);
    if (!m)
        return fail(ERR_NOMEM, "the monitor: out of memory");
    m->metrics = APPEND_FILE_CLOSED;
    m->tensorboard = TENSORBOARD_CLOSED;
    progress_init(&m->progress, config);

    if (metrics_open(&m->metrics, config) != OK)
        log_warning("%s; the run goes on without metrics.jsonl", status_message());
    if (config->use_tensorboard && open_tensorboard(&m->tensorboard, config) != OK)
        log_warning("%s; the run goes on without TensorBoard", status_message());
    *out = m;
    return OK;
}

static double now_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void monitor_step(struct monitor *m, const struct monitor_step *step)
{
    const double tokens_per_s = step->seconds > 0 ? (double)step->tokens / step->seconds : NAN;
    const struct tensorboard_scalar scalars[] = {
        {"train/loss", step->loss},
        {"train/perplexity", exp(step->loss)},
        {"train/grad_norm", step->grad_norm},
        {"train/learning_rate", step->lr},
        {"train/tokens_per_second", tokens_per_s},
    };

    metrics_step(&m->metrics, step, tokens_per_s);
    tensorboard_scalars(&m->tensorboard, step->step, scalars, N_ELEMENTS(scalars));
    progress_step(&m->progress, step, now_seconds());
}

void monitor_evaluation(struct monitor *m, const struct monitor_evaluation *evaluation)
{
    const struct tensorboard_scalar scalars[] = {
        {"val/loss", evaluation->loss},
        {"val/perplexity", evaluation->perplexity},
        {"val/accuracy", evaluation->accuracy},
    };

    metrics_evaluation(&m->metrics, evaluation);
    tensorboard_scalars(&m->tensorboard, evaluation->step, scalars, N_ELEMENTS(scalars));
    progress_evaluation(&m->progress, evaluation);
}

void monitor_activity(struct monitor *m, const char *text)
{
    progress_activity(&m->progress, text, now_seconds());
}

void monitor_text(struct monitor *m, const char *tag, int64_t step, const char *text)
{
    tensorboard_text(&m->tensorboard, step, tag, text);
}

void monitor_destroy(struct monitor *m)
{
    if (!m)
        return;
    progress_end();
    append_file_close(&m->metrics);
    tensorboard_close(&m->tensorboard);
    free(m);
}
