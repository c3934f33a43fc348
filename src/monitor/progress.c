#include "monitor/progress.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

#define DRAW_INTERVAL 0.1           /* seconds between two live lines at least */
#define FADE_SECONDS 10.0           /* after this much training a step counts 1/e in the rates */

enum {
    GAP = 2,                        /* blanks between the parts of a line */
    MIN_BAR = 10,                   /* columns, with the brackets */
    MAX_BAR = 40,
};

/* A number as text, returned by value so that one printf can take several. */
struct short_text {
    char s[48];
};

static struct short_text number(double value, int decimals)
{
    struct short_text text;
    const double size = fabs(value);

    if (isnan(value))               /* printf may write its sign */
        snprintf(text.s, sizeof text.s, "nan");
    else if (isfinite(value) && size != 0 && (size < pow(10, -decimals) || size >= 1e6))
        snprintf(text.s, sizeof text.s, "%.2e", value);
    else
        snprintf(text.s, sizeof text.s, "%.*f", decimals, value);
    return text;
}

static struct short_text learning_rate(double value)
{
    struct short_text text = number(value, 4);

    if (isfinite(value))
        snprintf(text.s, sizeof text.s, "%.2e", value);
    return text;
}

/* 812, 48.1k, 1.2M */
static struct short_text count(double value)
{
    static const char *const units[] = {"", "k", "M", "G", "T"};
    struct short_text text = {"?"};
    int unit = 0;

    if (!(value >= 0 && value < 1e15))
        return text;
    /* From these on the printed digits would be 1000. */
    for (double limit = 999.5; value >= limit; limit = 999.95) {
        value /= 1000;
        unit++;
    }
    snprintf(text.s, sizeof text.s, "%.*f%s", unit > 0 ? 1 : 0, value, units[unit]);
    return text;
}

/* 45s, 1m32s, 2h05m, 3d04h */
static struct short_text duration(double seconds)
{
    struct short_text text = {"?"};

    if (!(seconds >= 0 && seconds < 1e12))
        return text;
    const long long s = llround(seconds);
    if (s < 60)
        snprintf(text.s, sizeof text.s, "%llds", s);
    else if (s < 3600)
        snprintf(text.s, sizeof text.s, "%lldm%02llds", s / 60, s % 60);
    else if (s < 86400)
        snprintf(text.s, sizeof text.s, "%lldh%02lldm", s / 3600, s / 60 % 60);
    else
        snprintf(text.s, sizeof text.s, "%lldd%02lldh", s / 86400, s / 3600 % 24);
    return text;
}

/* "  120/1200": as wide for every step, so that the rest of the line stands still. */
static struct short_text step_of_total(int64_t step, int64_t total)
{
    struct short_text text;
    const int width = snprintf(text.s, sizeof text.s, "%" PRId64, total);

    snprintf(text.s, sizeof text.s, "%*" PRId64 "/%" PRId64, width, step, total);
    return text;
}

/* The parts of the live line, from left to right. */
enum part {
    STEP,
    EPOCH,
    BAR,
    LOSS,
    PERPLEXITY,
    LR,
    RATE,
    LEFT,
    N_PARTS,
};

/* The order in which they go where the terminal is narrow. */
static const enum part drop_order[N_PARTS] = {LR, PERPLEXITY, EPOCH, BAR, RATE, LEFT, LOSS, STEP};

static int line_width(char parts[N_PARTS][64])
{
    int width = -GAP;

    for (int i = 0; i < N_PARTS; i++)
        if (parts[i][0])
            width += (int)strlen(parts[i]) + GAP;
    return width;
}

/* "[====>     ]" */
static void format_bar(char bar[64], const struct progress_line *p, int width)
{
    const int inside = width - 2;
    const double share = p->total_steps > 0 ? (double)p->step / (double)p->total_steps : 0;
    const int done = (int)(fmin(fmax(share, 0), 1) * inside);

    memset(bar, ' ', (size_t)width);
    memset(bar + 1, '=', (size_t)done);
    if (done < inside)
        bar[1 + done] = '>';
    bar[0] = '[';
    bar[width - 1] = ']';
    bar[width] = '\0';
}

static void format_epoch(char text[64], const struct progress_line *p)
{
    const int length = snprintf(text, 64, "epoch %" PRId64, p->epoch);

    if (p->total_epochs > 0)
        snprintf(text + length, 64 - (size_t)length, "/%" PRId64, p->total_epochs);
}

static int usable_columns(int columns)
{
    return columns < PROGRESS_LINE_SIZE ? columns : PROGRESS_LINE_SIZE - 1;
}

void progress_format_live(char line[PROGRESS_LINE_SIZE], const struct progress_line *p, int columns)
{
    char parts[N_PARTS][64];

    columns = usable_columns(columns);
    snprintf(parts[STEP], 64, "step %s", step_of_total(p->step, p->total_steps).s);
    format_epoch(parts[EPOCH], p);
    format_bar(parts[BAR], p, MIN_BAR);
    snprintf(parts[LOSS], 64, "loss %s", number(p->loss, 4).s);
    snprintf(parts[PERPLEXITY], 64, "ppl %s", number(exp(p->loss), 2).s);
    snprintf(parts[LR], 64, "lr %s", learning_rate(p->lr).s);
    snprintf(parts[RATE], 64, "%s tok/s", count(p->tokens_per_s).s);
    snprintf(parts[LEFT], 64, "%s left", duration(p->seconds_left).s);

    for (int i = 0; i < N_PARTS && line_width(parts) > columns; i++)
        parts[drop_order[i]][0] = '\0';
    if (parts[BAR][0]) {
        const int width = MIN_BAR + columns - line_width(parts);
        format_bar(parts[BAR], p, width < MAX_BAR ? width : MAX_BAR);
    }

    char *end = line;
    *end = '\0';
    for (int i = 0; i < N_PARTS; i++)
        if (parts[i][0])
            end += sprintf(end, "%*s%s", end > line ? GAP : 0, "", parts[i]);
}

/* Cut the text to so many bytes, which are at least as many columns, between two characters. */
static void cut_text(char *text, int size)
{
    if ((int)strlen(text) <= size)
        return;
    size = size > 0 ? size : 0;
    while (size > 0 && ((unsigned char)text[size] & 0xc0) == 0x80)
        size--;
    text[size] = '\0';
}

void progress_format_activity(char line[PROGRESS_LINE_SIZE], const struct progress_line *p,
                              const char *text, int columns)
{
    char step[64] = "";

    columns = usable_columns(columns);
    if (p->step > 0)
        snprintf(step, sizeof step, "step %s%*s",
                 step_of_total(p->step, p->total_steps).s, GAP, "");
    if ((int)(strlen(step) + strlen(text)) > columns)
        step[0] = '\0';
    snprintf(line, PROGRESS_LINE_SIZE, "%s%s", step, text);
    /* A control character, as a file's name may hold one, would end the line. */
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    cut_text(line, columns);
}

void progress_format_plain(char line[PROGRESS_LINE_SIZE], const struct progress_line *p)
{
    snprintf(line, PROGRESS_LINE_SIZE,
             "step %s  epoch %" PRId64 "  loss %s  ppl %s  lr %s  grad %s  %s tok/s  %s left",
             step_of_total(p->step, p->total_steps).s, p->epoch, number(p->loss, 4).s,
             number(exp(p->loss), 2).s, learning_rate(p->lr).s, number(p->grad_norm, 2).s,
             count(p->tokens_per_s).s, duration(p->seconds_left).s);
}

void progress_format_evaluation(char line[PROGRESS_LINE_SIZE], int64_t total_steps,
                                const struct monitor_evaluation *evaluation)
{
    snprintf(line, PROGRESS_LINE_SIZE,
             "step %s  epoch %" PRId64 "  val loss %s  ppl %s  accuracy %s  in %s%s",
             step_of_total(evaluation->step, total_steps).s, evaluation->epoch,
             number(evaluation->loss, 4).s, number(evaluation->perplexity, 2).s,
             number(evaluation->accuracy, 4).s, duration(evaluation->seconds).s,
             evaluation->is_best ? "  best so far" : "");
}

void progress_init(struct progress *p, const struct monitor_config *config)
{
    *p = (struct progress){
        .log_every = config->log_every > 0 ? config->log_every : 1,
        .is_on_terminal = log_is_terminal(),
        .line = {.total_steps = config->total_steps, .total_epochs = config->total_epochs},
    };
}

static void mean_add(struct progress_mean *mean, double value)
{
    mean->sum += value;
    mean->count++;
}

static double mean_take(struct progress_mean *mean)
{
    const double value = mean->sum / (double)mean->count;

    *mean = (struct progress_mean){0};
    return value;
}

/* Rates over the last seconds of training: sums of which each step takes away a share. */
static void update_rates(struct progress *p, const struct monitor_step *step)
{
    const double seconds = step->seconds > 0 ? step->seconds : 0;
    const double keep = exp(-seconds / FADE_SECONDS);
    const int64_t steps_left = p->line.total_steps - step->step;

    p->recent_steps = p->recent_steps * keep + 1;
    p->recent_tokens = p->recent_tokens * keep + (double)step->tokens;
    p->recent_seconds = p->recent_seconds * keep + seconds;
    p->line.tokens_per_s = p->recent_seconds > 0 ? p->recent_tokens / p->recent_seconds : NAN;
    p->line.seconds_left =
        (double)(steps_left > 0 ? steps_left : 0) * p->recent_seconds / p->recent_steps;
}

static void draw(struct progress *p, double now)
{
    char line[PROGRESS_LINE_SIZE] = "";
    /* With the last column taken, some terminals wrap. */
    const int columns = log_columns() - 1;

    if (p->activity[0]) {
        progress_format_activity(line, &p->line, p->activity, columns);
    } else {
        if (p->live_loss.count > 0)
            p->line.loss = mean_take(&p->live_loss);
        if (p->line.step > 0)
            progress_format_live(line, &p->line, columns);
    }
    log_live(line);
    p->next_draw = now + DRAW_INTERVAL;
}

static void print_plain(struct progress *p)
{
    char text[PROGRESS_LINE_SIZE];
    struct progress_line line = p->line;

    line.loss = mean_take(&p->plain_loss);
    progress_format_plain(text, &line);
    if (p->is_on_terminal)
        log_file_only(text);
    else
        log_info("%s", text);
}

void progress_step(struct progress *p, const struct monitor_step *step, double now)
{
    const bool is_first = p->line.step == 0;
    const bool is_last = step->step == p->line.total_steps;

    p->line.step = step->step;
    p->line.epoch = step->epoch;
    p->line.grad_norm = step->grad_norm;
    p->line.lr = step->lr;
    mean_add(&p->plain_loss, step->loss);
    mean_add(&p->live_loss, step->loss);
    update_rates(p, step);

    if (is_first || is_last || step->step % p->log_every == 0)
        print_plain(p);
    if (p->is_on_terminal && (is_last || now >= p->next_draw))
        draw(p, now);
}

void progress_activity(struct progress *p, const char *text, double now)
{
    /* What begins or ends is shown at once: a save may be silent for long. */
    const bool is_change = (p->activity[0] != '\0') != (text != NULL);

    snprintf(p->activity, sizeof p->activity, "%s", text ? text : "");
    if (p->is_on_terminal && (is_change || now >= p->next_draw))
        draw(p, now);
}

void progress_evaluation(const struct progress *p, const struct monitor_evaluation *evaluation)
{
    char line[PROGRESS_LINE_SIZE];

    progress_format_evaluation(line, p->line.total_steps, evaluation);
    log_info("%s", line);
}

void progress_end(void)
{
    log_live(NULL);
}
