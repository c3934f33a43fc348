/* test_save_crash.c - a save that ends at each of its system calls, in every way: the call fails, or
 * the process dies before, in or behind it. Linked with --wrap for each call (meson.build). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <regex.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "device/cpu.h"
#include "test/check.h"
#include "test/temp_folder.h"
#include "train/saves.h"

/* ---- the system calls of the process that saves ---- */

enum way {
    UNTOUCHED,
    DIES_BEFORE,
    DIES_AFTER,
    FAILS,
    FAILS_FROM_HERE,        /* as does every later call */
    DONE_BUT_FAILS,
    WRITES_HALF,
    DIES_IN_WRITE,
};

/* Exit codes. */
enum { SAVED = 10, NOT_SAVED, DIED };

/* What is done to which call, from 1. */
static struct {
    int call;
    enum way way;
    int error;
} trial;

/* What came of it. Calls, in order: o w t a f c open, write, cut, reserve, fsync and close the
 * temporary file; O F C open, fsync and close a folder; r rename over the checkpoint; m another
 * rename; u U unlink a temporary or another file; k mkdir; d e opendir, readdir; i what only reads. */
static struct {
    int n_calls;
    char calls[1000];
    bool renamed;
} *seen;

static bool is_armed;
static int file_fd = -1, folder_fd = -1;

static void die_at(enum way way)
{
    if (trial.way == way && seen->n_calls == trial.call)
        _exit(DIED);
}

/* False: it fails, and errno says why. */
static bool call_begins(char what)
{
    if (!is_armed)
        return true;
    if (seen->n_calls + 1 < (int)sizeof seen->calls)
        seen->calls[seen->n_calls] = what;
    seen->n_calls++;
    die_at(DIES_BEFORE);
    if (!(trial.way == FAILS && seen->n_calls == trial.call) &&
        !(trial.way == FAILS_FROM_HERE && seen->n_calls >= trial.call))
        return true;
    errno = trial.error;
    return false;
}

/* The same of a call that was made. */
static bool call_ends(void)
{
    if (!is_armed)
        return true;
    die_at(DIES_AFTER);
    if (trial.way != DONE_BUT_FAILS || seen->n_calls != trial.call)
        return true;
    errno = trial.error;
    return false;
}

#define WRAP(result, name, parameters, arguments, what, failure)    \
    result __real_##name parameters;                                \
    result __wrap_##name parameters;                                \
    result __wrap_##name parameters                                 \
    {                                                               \
        if (!call_begins(what))                                     \
            return failure;                                         \
        result value = __real_##name arguments;                     \
        return call_ends() ? value : failure;                       \
    }

static bool is_temporary(const char *path)
{
    return strstr(path, ".safetensors.tmp.") != NULL;
}

/* No power fails here: what is written is there as soon as the call returns. */
static int do_nothing(int fd)
{
    (void)fd;
    return 0;
}
#define __real_fsync do_nothing

struct stat64;
WRAP(int, stat64, (const char *path, struct stat64 *info), (path, info), 'i', -1)
WRAP(int, fstat64, (int fd, struct stat64 *info), (fd, info), 'i', -1)
WRAP(DIR *, opendir, (const char *path), (path), 'd', NULL)
WRAP(struct dirent64 *, readdir64, (DIR *dir), (dir), 'e', NULL)
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode), 'k', -1)
WRAP(int, unlink, (const char *path), (path), is_temporary(path) ? 'u' : 'U', -1)
WRAP(int, posix_fallocate64, (int fd, off64_t offset, off64_t size), (fd, offset, size), 'a',
     trial.error)
WRAP(int, ftruncate64, (int fd, off64_t size), (fd, size), 't', -1)
WRAP(int, fsync, (int fd), (fd), fd == file_fd ? 'f' : 'F', -1)

int __real_open64(const char *path, int flags, mode_t mode);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...)
{
    va_list rest;

    va_start(rest, flags);
    const mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (!call_begins(is_temporary(path) ? 'o' : flags & O_DIRECTORY ? 'O' : 'i'))
        return -1;
    const int fd = __real_open64(path, flags, mode);
    if (is_temporary(path))
        file_fd = fd;
    else if (flags & O_DIRECTORY)
        folder_fd = fd;
    return call_ends() ? fd : -1;
}

/* Also where it fails. */
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
    const bool fails = !call_begins(fd == file_fd ? 'c' : fd == folder_fd ? 'C' : 'i');
    const int error = errno, status = __real_close(fd);

    if (fd == file_fd)
        file_fd = -1;
    errno = error;
    return fails || !call_ends() ? -1 : status;
}

int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to)
{
    if (!call_begins(is_temporary(from) ? 'r' : 'm'))
        return -1;
    const int status = __real_rename(from, to);
    if (is_armed && is_temporary(from) && status == 0)
        seen->renamed = true;
    return call_ends() ? status : -1;
}

ssize_t __real_pwrite64(int fd, const void *data, size_t size, off64_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t size, off64_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    if (!call_begins('w'))
        return -1;
    const bool is_short = is_armed && seen->n_calls == trial.call &&
                          (trial.way == WRITES_HALF || trial.way == DIES_IN_WRITE);
    const ssize_t written = __real_pwrite64(fd, data, is_short ? (size + 1) / 2 : size, offset);
    if (is_armed)
        die_at(DIES_IN_WRITE);
    return call_ends() ? written : -1;
}

/* ---- a run between two steps ---- */

static struct config config;
static struct tokenizer tokenizer;
static struct device *dev;
static struct model *model;
static struct optimizer optimizer;

static bool create_run(void)
{
    const struct model_config tiny = {.vocab_size = 3, .max_seq_len = 4, .dim = 2, .depth = 1,
                                      .heads = 1, .mlp_dim = 1, .use_rotary_emb = true};
    const struct optimizer_config settings = {0.9, 0.95, 1e-8, 0.1, 1};

    options_default(&config_options, &config);
    config.model.vocab_size = tiny.vocab_size;
    config.model.max_seq_len = tiny.max_seq_len;
    config.model.dim = tiny.dim;
    config.model.depth = tiny.depth;
    config.model.heads = tiny.heads;
    config.model.mlp_dim = tiny.mlp_dim;
    config.model.use_rotary_emb = tiny.use_rotary_emb;
    return tokenizer_from_json(&tokenizer, "{\"type\":\"none\",\"vocab_size\":3}", "test") == OK &&
           cpu_device_create(&dev, 0, 1, DTYPE_F32) == OK &&
           model_create(&model, dev, &tiny, 1, MODEL_TRAIN, NULL) == OK &&
           optimizer_create(&optimizer, dev, model, &settings) == OK;
}

static void free_run(void)
{
    optimizer_free(&optimizer);
    model_destroy(model);
    device_destroy(dev);
    tokenizer_free(&tokenizer);
}

static void fill(const struct tensor *flat, double value)
{
    const struct param_table *table = model_param_table(model);

    for (int i = 0; i < table->n_params; i++)
        for (int64_t k = 0; k < table->params[i].count; k++)
            ((float *)flat->data)[table->params[i].offset + k] = (float)value;
}

static bool is_filled(const struct tensor *flat, double value)
{
    const struct param_table *table = model_param_table(model);

    for (int i = 0; i < table->n_params; i++)
        for (int64_t k = 0; k < table->params[i].count; k++)
            if (((float *)flat->data)[table->params[i].offset + k] != (float)value)
                return false;
    return true;
}

/* A step's weights and moments are its number and multiples of it. */
static struct checkpoint_content content_of(int64_t step)
{
    const struct tensor weights = model_weights(model);

    fill(&weights, (double)step);
    fill(&optimizer.m, 10.0 * (double)step);
    fill(&optimizer.v, 100.0 * (double)step);
    return (struct checkpoint_content){
        .config = &config, .tokenizer = &tokenizer, .model = model, .optimizer = &optimizer,
        .progress = {.step = step, .epoch = step, .global_batch = 4, .total_steps = 10,
                     .loss_scale = 1, .best_loss = INFINITY},
        .dataset_digest = "0123456789abcdef",
    };
}

/* The step of a checkpoint; 0 if it does not hold all of one. */
static int64_t step_in(const char *path)
{
    const struct tensor weights = model_weights(model);
    struct checkpoint c;

    if (checkpoint_open(&c, path) != OK)
        return 0;
    int64_t step = c.progress.step;
    if (checkpoint_load_weights(&c, model) != OK ||
        checkpoint_load_optimizer(&c, &optimizer) != OK || !is_filled(&weights, (double)step) ||
        !is_filled(&optimizer.m, 10.0 * (double)step) ||
        !is_filled(&optimizer.v, 100.0 * (double)step))
        step = 0;
    checkpoint_close(&c);
    return step;
}

/* ---- the saves that are tried ---- */

struct scenario {
    const char *name;
    const char *before[3];      /* files that are there, of the steps 1, 2, ... */
    int64_t start_step, step;   /* of the run, and of the save */
    int64_t epoch, keep_last;   /* 0: last_checkpoint */
    bool sets_aside;            /* what was there is of another run */
};

enum { FIRST, REPLACING, AFTER_BAD_STEPS, EPOCH, NEW_RUN };
static const struct scenario scenarios[] = {
    [FIRST] = {.name = "a first save", .start_step = -1, .step = 1},
    [REPLACING] = {.name = "one in place of another", .before = {SAVE_LAST}, .start_step = 1, .step = 2},
    [AFTER_BAD_STEPS] = {.name = "the first one after a stop in bad steps",
     .before = {SAVE_LAST, SAVE_STOPPED}, .start_step = 2, .step = 3},
    [EPOCH] = {.name = "an epoch's, for which two go",
     .before = {"checkpoint_epoch_1.safetensors", "checkpoint_epoch_2.safetensors"},
     .start_step = 2, .step = 3, .epoch = 3, .keep_last = 1},
    [NEW_RUN] = {.name = "a new run's, where another run's is", .before = {SAVE_LAST},
     .start_step = -1, .step = 2, .sets_aside = true},
};

static const char *save_dir;
static struct {
    char *data;
    size_t size;
} images[3];

/* Save in a process of its own; its exit code, -1 after a signal. */
static int save_in_child(const struct scenario *s, int64_t start_step, int64_t step)
{
    struct saves saves = {.folder = save_dir, .keep_last = s->keep_last, .save_optimizer = true,
                          .start_step = start_step};
    int status;

    const pid_t pid = fork();
    if (pid == 0) {
        const struct checkpoint_content content = content_of(step);
        const size_t copy_size = checkpoint_copy_size(model_param_table(content.model));
        /* Where failures are reported. */
        if (!freopen("/dev/null", "w", stderr) || saves_open(&saves, copy_size) != OK)
            _exit(NOT_SAVED);
        is_armed = true;
        if (s->epoch > 0)
            saves_begin_epoch(&saves, s->epoch + step - s->step, content);
        else
            saves_begin(&saves, SAVE_LAST, content);
        saves_wait(&saves);
        _exit(saves.failed ? NOT_SAVED : SAVED);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

static bool make_images(void)
{
    const struct scenario plain = {.start_step = -1};

    trial.way = UNTOUCHED;
    for (size_t i = 0; i < sizeof images / sizeof images[0]; i++) {
        if (save_in_child(&plain, -1, (int64_t)i + 1) != SAVED)
            return false;
        images[i].data = temp_get(temp_path("a/b/" SAVE_LAST), &images[i].size);
        if (!images[i].data)
            return false;
        temp_folder_empty();
    }
    return true;
}

static bool set_up(const struct scenario *s)
{
    char name[256];

    temp_folder_empty();
    if (!s->before[0])
        return true;
    if (mkdir(temp_path("a"), 0700) != 0 || mkdir(save_dir, 0700) != 0)
        return false;
    for (int i = 0; i < 3 && s->before[i]; i++) {
        snprintf(name, sizeof name, "a/b/%s", s->before[i]);
        if (!temp_put(temp_path(name), images[i].data, images[i].size))
            return false;
    }
    return true;
}

static int n_points;
static char point[200];

#define CHECK_HERE(condition)                                                       \
    do {                                                                            \
        if (!(condition))                                                           \
            check_report(__FILE__, __LINE__, "%s: %s", point, #condition);          \
    } while (0)

static enum status count_whole(void *context, const char *path, const char *name)
{
    (void)name;
    CHECK_HERE(step_in(path) > 0);
    ++*(int *)context;
    return OK;
}

/* The step that --resume auto goes on from; 0 if there is none. */
static int64_t newest_step(void)
{
    char *path;

    CHECK_HERE(saves_find_newest(save_dir, &path) == OK);
    const int64_t step = path ? step_in(path) : 0;
    free(path);
    return step;
}

/* What a new run moved away is whole. */
static bool earlier_is_whole(void)
{
    DIR *dir = opendir(save_dir);
    struct dirent *entry;
    char name[200];
    int64_t step = 0;

    while (dir && step == 0 && (entry = readdir(dir))) {
        if (strncmp(entry->d_name, "earlier_", 8) != 0)
            continue;
        snprintf(name, sizeof name, "a/b/%.100s/%s", entry->d_name, SAVE_LAST);
        step = step_in(temp_path(name));
    }
    if (dir)
        closedir(dir);
    return step == 1;
}

static bool is_torn_there(void)
{
    DIR *dir = opendir(save_dir);
    struct dirent *entry;
    bool found = false;

    while (dir && (entry = readdir(dir)))
        found |= is_temporary(entry->d_name);
    if (dir)
        closedir(dir);
    return found;
}

/* What is there now, and that the next save works and cleans up. */
static void check_after(const struct scenario *s, bool renamed)
{
    const int64_t before = s->step - 1, newest = newest_step();
    int n_files = 0;

    CHECK_HERE(saves_each(save_dir, count_whole, &n_files) == OK);
    if (renamed)
        CHECK_HERE(newest == s->step);
    else if (!s->sets_aside)
        CHECK_HERE(newest == before);
    else
        CHECK_HERE(newest == before || newest == 0);
    if (s->sets_aside && newest != before)
        CHECK_HERE(earlier_is_whole());

    trial.way = UNTOUCHED;
    CHECK_HERE(save_in_child(s, newest > 0 ? newest : -1, s->step + 1) == SAVED);
    CHECK_HERE(newest_step() == s->step + 1);
    CHECK_HERE(!is_torn_there());
    n_files = 0;
    CHECK_HERE(saves_each(save_dir, count_whole, &n_files) == OK);
    CHECK_HERE(n_files == 1);
}

static void try_point(const struct scenario *s, int call, char what, enum way way, int error)
{
    snprintf(point, sizeof point, "%s: call %d (%c), way %d, errno %d", s->name, call, what, way,
             error);
    n_points++;
    CHECK_HERE(set_up(s));
    trial.call = call;
    trial.way = way;
    trial.error = error;
    memset(seen, 0, sizeof *seen);
    const int result = save_in_child(s, s->start_step, s->step);
    const bool renamed = seen->renamed;
    CHECK_HERE(seen->n_calls >= call);
    if (way == DIES_BEFORE || way == DIES_AFTER || way == DIES_IN_WRITE)
        CHECK_HERE(result == DIED);
    else if (way == WRITES_HALF || error == EINTR)
        CHECK_HERE(result == SAVED);
    else
        CHECK_HERE(result == SAVED || result == NOT_SAVED);
    if (result == SAVED)
        CHECK_HERE(renamed);
    check_after(s, renamed);
}

/* All ways of one call. */
static void try_call(const struct scenario *s, int call, char what)
{
    try_point(s, call, what, DIES_BEFORE, 0);
    try_point(s, call, what, DIES_AFTER, 0);
    try_point(s, call, what, FAILS, EIO);
    try_point(s, call, what, FAILS_FROM_HERE, EIO);
    if (strchr("tfcFCrmuUk", what))
        try_point(s, call, what, DONE_BUT_FAILS, EIO);
    if (strchr("owtafcOFC", what))
        try_point(s, call, what, FAILS, EINTR);
    if (strchr("wak", what)) {
        try_point(s, call, what, FAILS, ENOSPC);
        try_point(s, call, what, FAILS, EDQUOT);
    }
    if (what == 'w') {
        try_point(s, call, what, WRITES_HALF, 0);
        try_point(s, call, what, DIES_IN_WRITE, 0);
    }
}

/* Nothing is renamed before it is on the disk; nothing is removed before its successor's name is; and
 * a new folder, or what was moved to one, is durable before the first save. */
static void check_order(const char *calls, bool is_epoch)
{
    const char *pattern = is_epoch ? "^[^wfrU]*o[^frFU]*w[^rFU]*f[^wtaU]*r[^wfU]*F[^wfrF]*U[^wfrF]*U"
                                   : "^[^wfrU]*o[^frFU]*w[^rFU]*f[^wtaU]*r[^wfU]*F[^wfrFU]*U$";
    regex_t expression;

    CHECK(regcomp(&expression, pattern, REG_EXTENDED | REG_NOSUB) == 0);
    if (regexec(&expression, calls, 0, NULL, 0) != 0)
        check_report(__FILE__, __LINE__, "calls in this order: %s", calls);
    regfree(&expression);
    CHECK(regcomp(&expression, "[km][^Fkr]*[kr]", REG_EXTENDED | REG_NOSUB) == 0);
    if (regexec(&expression, calls, 0, NULL, 0) == 0)
        check_report(__FILE__, __LINE__, "a folder that is not durable yet: %s", calls);
    regfree(&expression);
}

static void try_scenario(const struct scenario *s)
{
    char calls[sizeof seen->calls];

    trial.way = UNTOUCHED;
    memset(seen, 0, sizeof *seen);
    CHECK(set_up(s));
    CHECK(save_in_child(s, s->start_step, s->step) == SAVED);
    CHECK(seen->n_calls > 40 && seen->n_calls < (int)sizeof calls);
    memcpy(calls, seen->calls, sizeof calls);
    check_order(calls, s->epoch > 0);
    for (int n = 0; calls[n]; n++)
        try_call(s, n + 1, calls[n]);
}

static void first_save(void)
{
    try_scenario(&scenarios[FIRST]);
}

static void replacing_save(void)
{
    try_scenario(&scenarios[REPLACING]);
}

static void save_after_bad_steps(void)
{
    try_scenario(&scenarios[AFTER_BAD_STEPS]);
}

static void epoch_save(void)
{
    try_scenario(&scenarios[EPOCH]);
}

static void save_of_a_new_run(void)
{
    try_scenario(&scenarios[NEW_RUN]);
}

/* A folder that cannot be read is not one without checkpoints, which would begin a new run. */
static void unreadable_folder(void)
{
    char *path = NULL;

    memset(seen, 0, sizeof *seen);
    trial.way = FAILS;
    trial.error = EIO;
    CHECK(set_up(&scenarios[REPLACING]));
    for (trial.call = 1; trial.call == 1 || seen->n_calls >= trial.call - 1; trial.call++) {
        snprintf(point, sizeof point, "finding the newest: call %d", trial.call);
        n_points++;
        seen->n_calls = 0;
        is_armed = true;
        const enum status status = saves_find_newest(save_dir, &path);
        is_armed = false;
        CHECK_HERE(status != OK || path);
        free(path);
    }
    CHECK(trial.call > 3);
}

int main(void)
{
    FILE *nowhere = fopen("/dev/null", "w");
    char path[sizeof temp_folder + 8];

    seen = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!nowhere || seen == MAP_FAILED || !temp_folder_create("test_save_crash"))
        return 1;
    log_set_stream(nowhere);
    snprintf(path, sizeof path, "%s/a/b", temp_folder);
    save_dir = path;
    if (!create_run() || !make_images()) {
        printf("cannot make checkpoints: %s\n", status_message());
        return 1;
    }
    CASE(first_save);
    CASE(replacing_save);
    CASE(save_after_bad_steps);
    CASE(epoch_save);
    CASE(save_of_a_new_run);
    CASE(unreadable_folder);
    printf("%d points\n", n_points);
    for (size_t i = 0; i < sizeof images / sizeof images[0]; i++)
        free(images[i].data);
    free_run();
    temp_folder_remove();
    log_set_stream(NULL);
    fclose(nowhere);
    return check_finish();
}
