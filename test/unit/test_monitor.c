/* What a run writes: event files, metrics.jsonl and what a resume makes of it, and files that can't
 * be written. */
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <time.h>

#include "monitor/monitor.h"
#include "test/check.h"
#include "test/unit/event_file.h"
#include "test/unit/scratch_folder.h"

static struct monitor *open_monitor(int64_t resume_step, bool use_tensorboard)
{
    const struct monitor_config config = {
        .log_dir = folder,
        .use_tensorboard = use_tensorboard,
        .log_every = 1000000,
        .resume_step = resume_step,
        .total_steps = 1000000000,
        .total_epochs = 3,
    };
    struct monitor *m = NULL;

    CHECK_OK(monitor_create(&m, &config));
    if (!m)
        exit(check_finish() + 1);
    return m;
}

static struct monitor_step step_of(int64_t step, double loss)
{
    return (struct monitor_step){.step = step, .epoch = 2, .loss = loss, .grad_norm = 0.75,
                                 .lr = 1e-4, .tokens = 512, .tokens_total = 512 * step,
                                 .seconds = 0.25};
}

static void show_step(struct monitor *m, int64_t step, double loss)
{
    const struct monitor_step s = step_of(step, loss);

    monitor_step(m, &s);
}

static void show_evaluation(struct monitor *m, int64_t step, double loss)
{
    const struct monitor_evaluation e = {.step = step, .epoch = 2, .loss = loss,
                                         .perplexity = exp(loss), .accuracy = 0.375,
                                         .is_best = true, .seconds = 3};

    monitor_evaluation(m, &e);
}

/* ---- event files ---- */

/* The events of the last of `n_expected` files; the caller frees *data. */
static int last_events(struct event *events, int max, int n_expected, char **data)
{
    char paths[MAX_FOUND][2 * PATH_MAX];
    size_t size;
    const int n_files = find_files(paths, "tensorboard", "events.out.tfevents.");

    CHECK(n_files == n_expected);
    *data = read_file(n_files > 0 ? paths[n_files - 1] : "", &size);
    return read_events(events, max, *data, size);
}

static void check_scalar(const struct event *event, int i, const char *tag, double expected)
{
    CHECK(event->values[i].is_scalar && !event->values[i].is_text);
    CHECK_TEXT(event->values[i].tag, tag);
    CHECK_NEAR(event->values[i].scalar, expected, 1e-6 * fabs(expected));
}

static void check_start(const struct event events[2], int64_t step)
{
    CHECK(is_text(events[0].version, "brain.Event:2"));
    CHECK(events[1].session_status == 1 && events[1].step == step);
}

static void events_of_a_run(void)
{
    struct event events[8];
    char *data;
    struct monitor *m = open_monitor(0, true);

    show_step(m, 1, 2.5);
    show_step(m, INT64_MAX / 512, 1.25);
    show_evaluation(m, 300, 0.5);
    monitor_text(m, "samples/1", 300, "first line\nsecond line");

    /* Not closed yet: what is shown is in the file. */
    CHECK(last_events(events, 8, 1, &data) == 6);
    check_start(events, 0);
    /* Seconds since 1970; a machine's clock may be set while the test runs. */
    for (int i = 0; i < 6; i++)
        CHECK(fabs(events[i].wall_time - (double)time(NULL)) < 86400);
    CHECK(events[2].step == 1 && events[2].n_values == 5);
    check_scalar(&events[2], 0, "train/loss", 2.5);
    check_scalar(&events[2], 1, "train/perplexity", exp(2.5));
    check_scalar(&events[2], 2, "train/grad_norm", 0.75);
    check_scalar(&events[2], 3, "train/learning_rate", 1e-4);
    check_scalar(&events[2], 4, "train/tokens_per_second", 2048);
    CHECK(events[3].step == INT64_MAX / 512);
    check_scalar(&events[3], 0, "train/loss", 1.25);
    CHECK(events[4].step == 300 && events[4].n_values == 3);
    check_scalar(&events[4], 0, "val/loss", 0.5);
    check_scalar(&events[4], 1, "val/perplexity", exp(0.5));
    check_scalar(&events[4], 2, "val/accuracy", 0.375);
    CHECK(events[5].step == 300 && events[5].n_values == 1);
    CHECK_TEXT(events[5].values[0].tag, "samples/1");
    CHECK(events[5].values[0].is_text && !events[5].values[0].is_scalar);
    CHECK(is_text(events[5].values[0].text, "first line\nsecond line"));
    free(data);
    monitor_destroy(m);
    CHECK(!strstr(all_said(), "warning"));
}

static void events_without_numbers(void)
{
    struct event events[4];
    char *data;
    struct monitor *m = open_monitor(0, true);
    struct monitor_step s = step_of(1, NAN);

    s.grad_norm = INFINITY;
    s.seconds = 0;
    monitor_step(m, &s);
    monitor_destroy(m);
    CHECK(last_events(events, 4, 1, &data) == 3);
    CHECK(isnan(events[2].values[0].scalar) && isnan(events[2].values[1].scalar));
    CHECK(isinf(events[2].values[2].scalar) && events[2].values[2].scalar > 0);
    CHECK(isnan(events[2].values[4].scalar));
    free(data);
}

/* What TensorBoard needs to drop the points that the earlier try made after the checkpoint. */
static void events_of_a_resumed_run(void)
{
    struct event events[4];
    char *first, *second;
    struct monitor *m = open_monitor(0, true);

    show_step(m, 1, 3);
    /* In the same second, by the same process, and both open. */
    struct monitor *resumed = open_monitor(40, true);
    show_step(resumed, 41, 2);
    monitor_destroy(resumed);
    monitor_destroy(m);

    CHECK(last_events(events, 4, 2, &second) == 3);
    check_start(events, 41);
    CHECK(events[2].step == 41);
    char paths[MAX_FOUND][2 * PATH_MAX];
    size_t size;
    find_files(paths, "tensorboard", "");
    first = read_file(paths[0], &size);
    CHECK(read_events(events, 4, first, size) == 3);
    check_start(events, 0);
    CHECK(events[2].step == 1);
    free(first);
    free(second);
}

static void events_of_any_text(void)
{
#define REPLACED "\xef\xbf\xbd"
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"", ""},
        {"\x7f \xc2\x80 \xdf\xbf \xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xf0\x90\x80\x80",
         "\x7f \xc2\x80 \xdf\xbf \xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xf0\x90\x80\x80"},
        {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"},
        {"a\x80z", "a" REPLACED "z"},
        {"\xff\xfe", REPLACED REPLACED},
        {"\xc1\xbf", REPLACED REPLACED},                            /* overlong */
        {"\xe0\x9f\xbf", REPLACED REPLACED REPLACED},
        {"\xed\xa0\x80", REPLACED REPLACED REPLACED},               /* surrogate */
        {"\xf4\x90\x80\x80", REPLACED REPLACED REPLACED REPLACED},  /* above U+10FFFF */
        {"cut \xf0\x9f\x98", "cut " REPLACED REPLACED REPLACED},
        {"\xe2\x82z", REPLACED REPLACED "z"},
    };
    enum { N_CASES = sizeof cases / sizeof cases[0], LONG = 300000 };
    struct event events[N_CASES + 4];
    char *data, *text = malloc(LONG + 1);
    struct monitor *m = open_monitor(0, true);

    for (int i = 0; i < N_CASES; i++)
        monitor_text(m, "t", i, cases[i].text);
    memset(text, 'x', LONG);
    text[LONG] = '\0';
    monitor_text(m, "broken \xff tag", -1, text);
    monitor_destroy(m);

    CHECK(last_events(events, N_CASES + 4, 1, &data) == N_CASES + 3);
    for (int i = 0; i < N_CASES; i++)
        if (!is_text(events[2 + i].values[0].text, cases[i].expected))
            check_report(__FILE__, __LINE__, "text %d", i);
    CHECK(is_text(events[2 + N_CASES].values[0].text, text));
    CHECK(events[2 + N_CASES].step == -1);
    CHECK_TEXT(events[2 + N_CASES].values[0].tag, "broken " REPLACED " tag");
    free(data);
    free(text);
}

static void no_tensorboard(void)
{
    struct monitor *m = open_monitor(0, false);

    show_step(m, 1, 2);
    monitor_text(m, "samples/1", 1, "text");
    monitor_destroy(m);
    CHECK(access(in_folder("tensorboard"), F_OK) != 0);
    monitor_destroy(NULL);
}

/* ---- metrics.jsonl ---- */

static void rows(void)
{
    struct monitor *m = open_monitor(0, false);
    struct monitor_step s = {.step = 1, .epoch = 1, .loss = 10.123456789012, .grad_norm = INFINITY,
                             .lr = 1.0 / 3, .tokens = 100, .tokens_total = 1LL << 40};

    monitor_step(m, &s);
    s = step_of(2, NAN);
    monitor_step(m, &s);
    show_evaluation(m, 2, 1);
    show_evaluation(m, 3, 1e9);
    check_file("metrics.jsonl",
               "{\"step\":1,\"epoch\":1,\"loss\":10.1234568,\"grad_norm\":null,\"lr\":0.333333333,"
               "\"tokens\":1099511627776,\"tokens_per_s\":null}\n"
               "{\"step\":2,\"epoch\":2,\"loss\":null,\"grad_norm\":0.75,\"lr\":0.0001,"
               "\"tokens\":1024,\"tokens_per_s\":2048}\n"
               "{\"step\":2,\"val_loss\":1,\"val_perplexity\":2.71828183,\"val_accuracy\":0.375}\n"
               "{\"step\":3,\"val_loss\":1e+09,\"val_perplexity\":null,\"val_accuracy\":0.375}\n");
    monitor_destroy(m);
}

/* Resume at step 3 over a file of `size` bytes; `expected` is what stays, before the new rows. */
static void check_resume(const char *old, size_t size, const char *expected, size_t expected_size)
{
    char *data;
    size_t data_size;

    write_file(in_folder("metrics.jsonl"), old, size);
    monitor_destroy(open_monitor(3, false));
    data = read_file(in_folder("metrics.jsonl"), &data_size);
    if (data_size != expected_size || memcmp(data, expected, data_size) != 0)
        check_report(__FILE__, __LINE__, "\"%s\" left \"%s\", expected \"%s\"", old, data,
                     expected);
    free(data);
    CHECK_TEXT(all_said(), "");
}

#define CHECK_RESUME(old, expected) \
    check_resume(old, sizeof(old) - 1, expected, sizeof(expected) - 1)
#define ROW(step) "{\"step\":" #step ",\"epoch\":1,\"loss\":2,\"lr\":0.1}\n"
#define EVALUATION(step) "{\"step\":" #step ",\"val_loss\":null}\n"

static void rows_of_an_earlier_try(void)
{
    CHECK_RESUME("", "");
    CHECK_RESUME(ROW(1) ROW(2) ROW(3), ROW(1) ROW(2) ROW(3));
    CHECK_RESUME(ROW(1) ROW(3) EVALUATION(3) ROW(4) EVALUATION(4), ROW(1) ROW(3) EVALUATION(3));
    CHECK_RESUME(ROW(4) ROW(2) ROW(5) EVALUATION(5) ROW(3) ROW(9223372036854775807),
                 ROW(2) ROW(3));
    CHECK_RESUME(ROW(4) ROW(5), "");
    /* A crash within a row, before and after the resumed step. */
    CHECK_RESUME(ROW(1) "{\"step\":2,\"lo", ROW(1));
    CHECK_RESUME(ROW(1) ROW(4) "{\"step\":5", ROW(1));
    CHECK_RESUME("{\"step\":1", "");
    CHECK_RESUME(ROW(1) "\0\0\0\0", ROW(1));
}

static void lines_of_others(void)
{
#define OTHERS "# a note\n" "\n" "{\"step\":9,\"note\":\"lr changed\"}\n" "[1,2,3]\n" "7\n" \
    "{\"step\":\"9\",\"loss\":1}\n" "{\"step\":9.5,\"loss\":1}\n" "{\"loss\":1}\n" \
    "{\"step\":9,\"loss\":1} trailing\n" "{\"step\":99999999999999999999,\"loss\":1}\n" \
    "\xff\xfe\n" "zero \0 inside\n" "{\"step\":9,\"loss\":\n"
    static const char deep[] = "{\"step\":9,\"loss\":";
    enum { LONG = 100000 };
    char *old = calloc(1, LONG + 64);
    char *kept = calloc(1, LONG + 64);

    CHECK_RESUME(ROW(1) OTHERS ROW(7) OTHERS, ROW(1) OTHERS OTHERS);

    /* A line that is far too long, of brackets that would nest too deep. */
    memset(kept, '[', LONG);
    memcpy(kept, deep, sizeof deep - 1);
    kept[LONG] = '\n';
    memcpy(old, kept, LONG + 1);
    memcpy(old + LONG + 1, ROW(8), sizeof ROW(8) - 1);
    check_resume(old, LONG + sizeof ROW(8), kept, LONG + 1);
    free(old);
    free(kept);
}

static void rows_behind_a_cut(void)
{
    write_file(in_folder("metrics.jsonl"), ROW(3) ROW(4) "{\"st", sizeof(ROW(3) ROW(4)) - 1 + 4);
    struct monitor *m = open_monitor(3, false);
    show_evaluation(m, 4, 0);
    monitor_destroy(m);
    check_file("metrics.jsonl",
               ROW(3) "{\"step\":4,\"val_loss\":0,\"val_perplexity\":1,\"val_accuracy\":0.375}\n");

    /* Without an earlier file a resumed run starts one. */
    unlink(in_folder("metrics.jsonl"));
    monitor_destroy(open_monitor(3, false));
    check_file("metrics.jsonl", "");
}

static void older_files_are_kept(void)
{
    static const char *const names[] = {"metrics_20240229-123456.jsonl",
                                        "metrics_20240229-123456-2.jsonl",
                                        "metrics_20240229-123456-3.jsonl"};
    const struct timespec noon[2] = {{.tv_sec = 1709210096}, {.tv_sec = 1709210096}};
    char content[] = "run 0, with a torn en";

    setenv("TZ", "UTC", 1);
    tzset();
    for (int i = 0; i < 3; i++) {
        content[4] = (char)('0' + i);
        write_file(in_folder("metrics.jsonl"), content, strlen(content));
        CHECK(utimensat(AT_FDCWD, in_folder("metrics.jsonl"), noon, 0) == 0);
        monitor_destroy(open_monitor(0, false));
        check_file("metrics.jsonl", "");
        check_file(names[i], content);
    }
    content[4] = '0';
    check_file(names[0], content);

    /* One without content is used again. */
    monitor_destroy(open_monitor(0, false));
    char paths[MAX_FOUND][2 * PATH_MAX];
    CHECK(find_files(paths, ".", "") == 4);
    CHECK_TEXT(all_said(), "");
}

/* ---- files that can't be written ---- */

static void no_folder(void)
{
    const struct monitor_config config = {.log_dir = in_folder("absent"), .total_steps = 1};
    struct monitor *m = NULL;

    CHECK_FAILS(monitor_create(&m, &config), ERR_INVALID, "absent");
    CHECK(m == NULL);
}

/* Each file that can't be opened is one warning, and the other one is written. */
static void names_that_are_taken(void)
{
    char *data;
    struct event events[4];

    CHECK(mkdir(in_folder("metrics.jsonl"), 0777) == 0);
    struct monitor *m = open_monitor(0, true);
    for (int i = 1; i < 3; i++)
        show_step(m, i, 2);
    monitor_destroy(m);
    CHECK(last_events(events, 4, 1, &data) == 4);
    free(data);
    CHECK(count_in(all_said(), "warning: ") == 1 && strstr(all_said(), "/metrics.jsonl"));

    CHECK(rmdir(in_folder("metrics.jsonl")) == 0);
    CHECK(rename(in_folder("tensorboard"), in_folder("elsewhere")) == 0);
    write_file(in_folder("tensorboard"), "mine", 4);
    m = open_monitor(0, true);
    show_evaluation(m, 1, 0);
    monitor_text(m, "samples/1", 1, "text");
    monitor_destroy(m);
    check_file("metrics.jsonl",
               "{\"step\":1,\"val_loss\":0,\"val_perplexity\":1,\"val_accuracy\":0.375}\n");
    check_file("tensorboard", "mine");
    CHECK(count_in(all_said(), "warning: ") == 2 && strstr(all_said(), "/tensorboard"));
}

static void pipe_without_a_reader(void)
{
    CHECK(mkfifo(in_folder("metrics.jsonl"), 0666) == 0);
    monitor_destroy(open_monitor(0, false));
    CHECK(count_in(all_said(), "warning: ") == 1);
}

static void full_disk(void)
{
    CHECK(symlink("/dev/full", in_folder("metrics.jsonl")) == 0);
    struct monitor *m = open_monitor(0, false);
    for (int i = 1; i < 50; i++)
        show_step(m, i, 2);
    show_evaluation(m, 50, 2);
    monitor_destroy(m);
    CHECK(count_in(all_said(), "warning: ") == 1 && strstr(all_said(), "/metrics.jsonl: "));
    CHECK(strstr(all_said(), "No space left on device") != NULL);
}

/* Where a record fits in part only, that part goes, and later records are whole again. */
static void disk_full_for_a_while(void)
{
    struct rlimit unlimited, limited;
    struct event events[64];
    size_t size;

    getrlimit(RLIMIT_FSIZE, &unlimited);
    limited = (struct rlimit){1500, unlimited.rlim_max};
    struct monitor *m = open_monitor(0, true);
    show_step(m, 1, 2);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limited);
    for (int i = 2; i <= 30; i++)
        show_step(m, i, 2);
    setrlimit(RLIMIT_FSIZE, &unlimited);
    show_step(m, 31, 2);
    monitor_destroy(m);
    CHECK(count_in(all_said(), "warning: ") == 2);

    char *data;
    const int n = last_events(events, 64, 1, &data);
    CHECK(n > 4 && n < 20 && events[n - 1].step == 31 && events[n - 2].step == n - 3);
    free(data);
    data = read_file(in_folder("metrics.jsonl"), &size);
    int n_rows = 0;
    for (char *row = strtok(data, "\n"); row; row = strtok(NULL, "\n")) {
        json_t *json = json_loads(row, 0, NULL);
        const json_int_t step = json_integer_value(json_object_get(json, "step"));
        n_rows++;
        CHECK(step == n_rows || step == 31);
        json_decref(json);
    }
    CHECK(n_rows > 4 && n_rows < 30);
    free(data);
}

/* Rows that can't be cut are not lost, and not mixed with new ones. */
static void cut_that_fails(void)
{
    char temporary[64];
    char paths[MAX_FOUND][2 * PATH_MAX];

    write_file(in_folder("metrics.jsonl"), ROW(3) ROW(4), strlen(ROW(3) ROW(4)));
    snprintf(temporary, sizeof temporary, "metrics.jsonl.tmp.%ld", (long)getpid());
    CHECK(mkdir(in_folder(temporary), 0777) == 0);
    monitor_destroy(open_monitor(3, false));
    check_file("metrics.jsonl", "");
    CHECK(count_in(all_said(), "warning: ") == 1 && strstr(all_said(), "after step 3"));
    CHECK(find_files(paths, ".", "metrics_") == 1);
    check_path(paths[0], ROW(3) ROW(4));
}

int main(void)
{
    CASE(reader_is_right);
    IN_FOLDER(events_of_a_run);
    IN_FOLDER(events_without_numbers);
    IN_FOLDER(events_of_a_resumed_run);
    IN_FOLDER(events_of_any_text);
    IN_FOLDER(no_tensorboard);
    IN_FOLDER(rows);
    IN_FOLDER(rows_of_an_earlier_try);
    IN_FOLDER(lines_of_others);
    IN_FOLDER(rows_behind_a_cut);
    IN_FOLDER(older_files_are_kept);
    IN_FOLDER(no_folder);
    IN_FOLDER(names_that_are_taken);
    IN_FOLDER(pipe_without_a_reader);
    IN_FOLDER(full_disk);
    IN_FOLDER(disk_full_for_a_while);
    IN_FOLDER(cut_that_fails);
    return check_finish();
}
