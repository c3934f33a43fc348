/* The lines of progress: what fits which terminal, numbers of every size, when lines appear. */
#include <fcntl.h>
#include <math.h>
#include <sys/ioctl.h>

#include "monitor/progress.h"
#include "test/check.h"
#include "test/unit/scratch_folder.h"

static const struct progress_line typical = {
    .step = 120, .total_steps = 1200, .epoch = 2, .total_epochs = 10, .loss = 2.1034,
    .grad_norm = 0.71, .lr = 9.41e-4, .tokens_per_s = 48130, .seconds_left = 92,
};

static const char *live(const struct progress_line *p, int columns)
{
    static char line[PROGRESS_LINE_SIZE];

    memset(line, 'x', sizeof line);
    progress_format_live(line, p, columns);
    return line;
}

static void live_line(void)
{
    CHECK_TEXT(live(&typical, 140),
               "step  120/1200  epoch 2/10  [===>                                  ]  loss 2.1034"
               "  ppl 8.19  lr 9.41e-04  48.1k tok/s  1m32s left");
    CHECK_TEXT(live(&typical, 79),
               "step  120/1200  epoch 2/10  [=>         ]  loss 2.1034  48.1k tok/s  1m32s left");
    CHECK_TEXT(live(&typical, 60), "step  120/1200  loss 2.1034  48.1k tok/s  1m32s left");
    CHECK_TEXT(live(&typical, 40), "step  120/1200  loss 2.1034  1m32s left");
    CHECK_TEXT(live(&typical, 20), "step  120/1200");
    CHECK_TEXT(live(&typical, 13), "");
    CHECK_TEXT(live(&typical, 0), "");
    CHECK_TEXT(live(&typical, -5), "");
}

/* Each part is whole or absent, and a wider terminal never shows fewer. */
static void live_line_on_every_width(void)
{
    char everything[PROGRESS_LINE_SIZE];
    int n_before = 0;

    strcpy(everything, live(&typical, 200));
    for (int columns = 20; columns <= 200; columns++) {
        char line[PROGRESS_LINE_SIZE];
        int n = 0;

        strcpy(line, live(&typical, columns));
        CHECK((int)strlen(line) <= columns);
        for (char *part = line; part; n++) {
            char *gap = strstr(part + strlen("step  "), "  ");
            if (part[0] == '[')
                gap = strchr(part, ']') + 1;
            if (gap)
                *gap = '\0';
            if (part[0] == '[')
                CHECK(strlen(part) >= 10 && part[strlen(part) - 1] == ']');
            else
                CHECK(strstr(everything, part) != NULL);
            part = gap ? gap + 2 : NULL;
        }
        CHECK(n >= n_before);
        n_before = n;
    }
    CHECK(n_before == 8);
}

static void live_line_of_any_numbers(void)
{
    static const double values[] = {NAN, -NAN, INFINITY, -INFINITY, 0, -1, 1e-300,
                                    1e300, 999999.99};
    static const int64_t steps[] = {0, 1, 50, INT64_MAX, INT64_MIN};

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        for (size_t j = 0; j < 25; j++)
            for (int columns = 1; columns < 700; columns += 9) {
                const double v = values[i];
                const struct progress_line p = {
                    .step = steps[j / 5], .total_steps = steps[j % 5], .epoch = steps[j / 5],
                    .total_epochs = steps[j % 5], .loss = v, .grad_norm = v, .lr = v,
                    .tokens_per_s = v, .seconds_left = v};
                char plain[PROGRESS_LINE_SIZE];

                CHECK((int)strlen(live(&p, columns)) <= columns);
                progress_format_plain(plain, &p);
                CHECK(strlen(plain) < PROGRESS_LINE_SIZE - 1 && !strstr(plain, "-nan"));
            }
}

static void bar(void)
{
    struct progress_line p = typical;

    p.step = 0;
    CHECK(strstr(live(&p, 200), "[>                                     ]") != NULL);
    p.step = 600;
    CHECK(strstr(live(&p, 200), "[===================>                  ]") != NULL);
    p.step = 1200;
    CHECK(strstr(live(&p, 200), "[======================================]") != NULL);
    p.step = 5000;
    CHECK(strstr(live(&p, 200), "[======================================]") != NULL);
    p.total_steps = 0;
    CHECK(strstr(live(&p, 200), "[>                                     ]") != NULL);
}

static void check_plain(const struct progress_line *p, const char *expected)
{
    char line[PROGRESS_LINE_SIZE];

    progress_format_plain(line, p);
    CHECK_TEXT(line, expected);
}

static void plain_line(void)
{
    struct progress_line p = typical;

    check_plain(&p, "step  120/1200  epoch 2  loss 2.1034  ppl 8.19  lr 9.41e-04  grad 0.71"
                    "  48.1k tok/s  1m32s left");
    p.loss = NAN;
    p.grad_norm = INFINITY;
    p.lr = 0;
    p.tokens_per_s = NAN;
    p.seconds_left = NAN;
    check_plain(&p, "step  120/1200  epoch 2  loss nan  ppl nan  lr 0.00e+00  grad inf"
                    "  ? tok/s  ? left");
    p.loss = -INFINITY;
    p.grad_norm = 0.0012;
    check_plain(&p, "step  120/1200  epoch 2  loss -inf  ppl 0.00  lr 0.00e+00  grad 1.20e-03"
                    "  ? tok/s  ? left");
    p.loss = 1000;
    p.grad_norm = 1e6;
    check_plain(&p, "step  120/1200  epoch 2  loss 1000.0000  ppl inf  lr 0.00e+00  grad 1.00e+06"
                    "  ? tok/s  ? left");
}

static void rates_and_times(void)
{
    static const struct {
        double tokens_per_s, seconds;
        const char *expected;
    } cases[] = {
        {0, 0, "0 tok/s  0s left"},
        {812.4, 59.4, "812 tok/s  59s left"},
        {999.4, 59.6, "999 tok/s  1m00s left"},
        {999.6, 3599, "1.0k tok/s  59m59s left"},
        {999940, 3600, "999.9k tok/s  1h00m left"},
        {999960, 86399, "1.0M tok/s  23h59m left"},
        {1.25e9, 86400, "1.2G tok/s  1d00h left"},
        {9.9e14, 86400 * 400 + 7200, "990.0T tok/s  400d02h left"},
        {1e15, 1e12, "? tok/s  ? left"},
        {-1, -1, "? tok/s  ? left"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct progress_line p = typical;
        p.tokens_per_s = cases[i].tokens_per_s;
        p.seconds_left = cases[i].seconds;
        const char *line = live(&p, 200);
        CHECK_TEXT(strstr(line, "9.41e-04") + 10, cases[i].expected);
    }
}

static void evaluation_line(void)
{
    char line[PROGRESS_LINE_SIZE];
    struct monitor_evaluation e = {.step = 600, .epoch = 5, .loss = 1.5, .perplexity = 4.48,
                                   .accuracy = 0.4321, .is_best = true, .seconds = 61};

    progress_format_evaluation(line, 1200, &e);
    CHECK_TEXT(line, "step  600/1200  epoch 5  val loss 1.5000  ppl 4.48  accuracy 0.4321"
                     "  in 1m01s  best so far");
    e.is_best = false;
    e.loss = NAN;
    progress_format_evaluation(line, 1200, &e);
    CHECK_TEXT(line, "step  600/1200  epoch 5  val loss nan  ppl 4.48  accuracy 0.4321  in 1m01s");
}

static void activity_line(void)
{
    static const struct progress_line none = {.total_steps = 1200};
    char line[PROGRESS_LINE_SIZE], text[2 * PROGRESS_LINE_SIZE];

    progress_format_activity(line, &typical, "evaluating 3/12", 79);
    CHECK_TEXT(line, "step  120/1200  evaluating 3/12");
    progress_format_activity(line, &typical, "evaluating 3/12", 31);
    CHECK_TEXT(line, "step  120/1200  evaluating 3/12");
    progress_format_activity(line, &typical, "evaluating 3/12", 30);
    CHECK_TEXT(line, "evaluating 3/12");
    progress_format_activity(line, &typical, "evaluating 3/12", 10);
    CHECK_TEXT(line, "evaluating");
    progress_format_activity(line, &none, "evaluating 3/12", 79);
    CHECK_TEXT(line, "evaluating 3/12");
    progress_format_activity(line, &none, "a\nb\tc\x1b[2J\x7f", 79);
    CHECK_TEXT(line, "a?b?c?[2J?");
    progress_format_activity(line, &none, "caf\xc3\xa9", 4);
    CHECK_TEXT(line, "caf");
    progress_format_activity(line, &none, "caf\xc3\xa9", 5);
    CHECK_TEXT(line, "caf\xc3\xa9");
    progress_format_activity(line, &none, "\x80\x80\x80", 2);
    CHECK_TEXT(line, "");
    progress_format_activity(line, &none, "text", -1);
    CHECK_TEXT(line, "");
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    progress_format_activity(line, &typical, text, 5000);
    CHECK(strlen(line) == PROGRESS_LINE_SIZE - 1);
}

/* ---- when lines appear ---- */

static void run_step(struct progress *p, int64_t step, double loss, double now)
{
    const struct monitor_step s = {.step = step, .epoch = 1, .loss = loss, .grad_norm = 1,
                                   .lr = 1e-3, .tokens = 1000, .tokens_total = 1000 * step,
                                   .seconds = 0.5};

    progress_step(p, &s, now);
}

static void plain_lines(void)
{
    const struct monitor_config config = {.log_every = 4, .total_steps = 10};
    static const double losses[10] = {8, 1, 2, 6, 1, 1, NAN, 1, 3, 5};
    struct progress p;

    progress_init(&p, &config);
    for (int i = 0; i < 10; i++)
        run_step(&p, i + 1, losses[i], i);
    progress_activity(&p, "evaluating 1/2", 20);
    progress_end();
#define TAIL(left) "  lr 1.00e-03  grad 1.00  2.0k tok/s  " left " left\n"
    CHECK_TEXT(all_said(), "step  1/10  epoch 1  loss 8.0000  ppl 2980.96" TAIL("5s")
                           "step  4/10  epoch 1  loss 3.0000  ppl 20.09" TAIL("3s")
                           "step  8/10  epoch 1  loss nan  ppl nan" TAIL("1s")
                           "step 10/10  epoch 1  loss 4.0000  ppl 54.60" TAIL("0s"));
}

static void plain_lines_after_a_resume(void)
{
    const struct monitor_config config = {.log_every = 100, .total_steps = 1000};
    struct progress p;

    progress_init(&p, &config);
    for (int step = 150; step < 310; step++)
        run_step(&p, step, 1, 0);
    CHECK(count_in(all_said(), "\n") == 3);
    CHECK(count_in(all_said(), "step  150/1000  ") == 1);
    CHECK(count_in(all_said(), "step  200/1000  ") == 1);
    CHECK(count_in(all_said(), "step  300/1000  ") == 1);
}

/* A slow first step is soon forgotten, and one odd step does not change much. */
static void rates_are_smooth(void)
{
    const struct monitor_config config = {.log_every = 1000000, .total_steps = 2000};
    struct monitor_step s = {.step = 1, .epoch = 1, .tokens = 1000, .seconds = 30};
    struct progress p;

    progress_init(&p, &config);
    progress_step(&p, &s, 0);
    CHECK_NEAR(p.line.tokens_per_s, 1000.0 / 30, 1e-9);
    s.seconds = 0.1;
    for (s.step = 2; s.step <= 1000; s.step++)
        progress_step(&p, &s, 0);
    CHECK_NEAR(p.line.tokens_per_s, 10000, 10);
    CHECK_NEAR(p.line.seconds_left, 100, 1);
    s.seconds = 1;
    progress_step(&p, &s, 0);
    CHECK(p.line.tokens_per_s > 8500 && p.line.tokens_per_s < 9999);

    progress_init(&p, &config);
    s.seconds = 0;
    progress_step(&p, &s, 0);
    CHECK(isnan(p.line.tokens_per_s) && p.line.seconds_left == 0);
}

/* ---- on a terminal ---- */

static int screen = -1;             /* what the terminal shows is read here */
static char shown[1 << 16];

static FILE *open_terminal(unsigned short columns)
{
    const struct winsize size = {.ws_row = 24, .ws_col = columns};

    setenv("TERM", "xterm", 1);
    screen = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (screen < 0 || grantpt(screen) != 0 || unlockpt(screen) != 0)
        return NULL;
    FILE *terminal = fopen(ptsname(screen), "w");
    if (terminal)
        ioctl(fileno(terminal), TIOCSWINSZ, &size);
    shown[0] = '\0';
    return terminal;
}

/* Take what was written, before the terminal's buffer is full. */
static void take_shown(void)
{
    size_t size = strlen(shown);

    for (ssize_t n = 1; n > 0; size += (size_t)(n > 0 ? n : 0)) {
        n = read(screen, shown + size, sizeof shown - 1 - size);
        if (n <= 0)
            break;
    }
    shown[size] = '\0';
}

/* Columns of the widest line ever on the screen. */
static size_t widest_shown(void)
{
    size_t widest = 0;

    for (const char *c = shown; *c;) {
        const size_t width = strcspn(c, "\r\n\x1b");
        widest = width > widest ? width : widest;
        c += width;
        c += strncmp(c, "\x1b[K", 3) == 0 ? 3 : *c != '\0';
    }
    return widest;
}

static void terminal(void)
{
    const struct monitor_config config = {.log_every = 100, .total_steps = 1000};
    FILE *stream = open_terminal(60);
    struct progress p;
    size_t size;

    CHECK(stream != NULL);
    if (!stream)
        return;
    log_set_stream(stream);
    CHECK_OK(log_open_file(in_folder("run.log")));
    progress_init(&p, &config);
    for (int step = 1; step <= 1000; step++) {
        run_step(&p, step, step <= 11 ? step : 1, step * 0.01);
        take_shown();
    }
    /* 10 seconds; the first step, then every tenth or eleventh, and the last one. */
    const int n_draws = count_in(shown, "step ");
    CHECK(n_draws > 85 && n_draws <= 101);
    CHECK(widest_shown() <= 59);
    CHECK(!strstr(shown, "grad "));
    /* The mean since the line before: of step 1, then of 2 to 11. */
    CHECK(strstr(shown, "step    1/1000  loss 1.0000") != NULL);
    CHECK(strstr(shown, "step   11/1000  loss 6.5000") != NULL);
    CHECK(strstr(shown, "step 1000/1000  ") != NULL);

    const size_t before = strlen(shown);
    progress_activity(&p, "evaluating 1/3", 10.00);
    progress_activity(&p, "evaluating 2/3", 10.01);
    progress_activity(&p, "evaluating 3/3", 10.20);
    progress_activity(&p, NULL, 10.21);
    progress_end();
    take_shown();
    CHECK_TEXT(shown + before,
               "\r\x1b[Kstep 1000/1000  evaluating 1/3" "\r\x1b[Kstep 1000/1000  evaluating 3/3"
               "\r\x1b[Kstep 1000/1000  loss 1.0000  2.0k tok/s  0s left" "\r\x1b[K");

    log_close_file();
    log_set_stream(said);
    fclose(stream);
    close(screen);
    char *log = read_file(in_folder("run.log"), &size);
    CHECK(count_in(log, "\n") == 11 && count_in(log, "  grad 1.00  2.0k tok/s  ") == 11);
    CHECK(!strstr(log, "evaluating"));
    free(log);
}

/* Through monitor.h, on terminals of any width. */
static void terminals_of_every_width(void)
{
    for (unsigned short columns = 20; columns <= 200; columns += 9) {
        FILE *stream = open_terminal(columns);
        struct monitor *m;

        CHECK(stream != NULL);
        if (!stream)
            return;
        log_set_stream(stream);
        const struct monitor_config config = {.log_dir = folder, .log_every = 1, .total_steps = 3};
        CHECK_OK(monitor_create(&m, &config));
        for (int step = 1; step <= 3; step++) {
            const struct monitor_step s = {.step = step, .epoch = 1, .loss = 1e5 * step,
                                           .tokens = 1 << 20, .seconds = 1};
            monitor_step(m, &s);
        }
        monitor_activity(m, "a text that is longer than many a terminal is wide, as a path may be");
        monitor_activity(m, NULL);
        monitor_destroy(m);
        take_shown();
        CHECK(widest_shown() < columns && strstr(shown, "step 3/3") && strstr(shown, "a text"));
        CHECK(strlen(shown) > 4 && strcmp(shown + strlen(shown) - 4, "\r\x1b[K") == 0);
        log_set_stream(said);
        fclose(stream);
        close(screen);
    }
}

int main(void)
{
    CASE(live_line);
    CASE(live_line_on_every_width);
    CASE(live_line_of_any_numbers);
    CASE(bar);
    CASE(plain_line);
    CASE(rates_and_times);
    CASE(evaluation_line);
    CASE(activity_line);
    IN_FOLDER(plain_lines);
    IN_FOLDER(plain_lines_after_a_resume);
    IN_FOLDER(rates_are_smooth);
    IN_FOLDER(terminal);
    IN_FOLDER(terminals_of_every_width);
    return check_finish();
}
