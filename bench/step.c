/* step - how fast whole training steps are: tokens/s, model FLOP/s, the share of each kind of
 * operation, and the peak memory against the plan.
 *
 *     build/bench/step [CONFIG.ini] [--gpus N] [--steps N] [--warmup N] [--saves N]
 *                      [--set section.key=value]...
 *
 * The tokens are random ones in a file of its own. A first part runs without clocks in it and gives
 * tokens/s; a second one, with a clock around each operation, gives the shares. With --saves a third
 * one saves checkpoints in /tmp, in the step loop and in the background: how long steps wait. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/rng.h"
#include "gpu/bench.h"
#include "kernels/ops.h"
#include "train/run.h"

struct settings {
    int64_t steps, warmup, saves;
};

static const struct option rows[] = {
    {.flag = "steps", .placeholder = "N", .type = OPTION_INT, .min = 1, .max = 100000,
     .offset = offsetof(struct settings, steps), .default_value = "10",
     .help = "steps that are timed, in each part"},
    {.flag = "warmup", .placeholder = "N", .type = OPTION_INT, .min = 0, .max = 100000,
     .offset = offsetof(struct settings, warmup), .default_value = "2",
     .help = "steps before them"},
    {.flag = "saves", .placeholder = "N", .type = OPTION_INT, .min = 0, .max = 1000,
     .offset = offsetof(struct settings, saves), .default_value = "0",
     .help = "checkpoints that are saved in /tmp, in the step loop and in the background"},
};
static const struct option_table bench_options = {.rows = rows, .n_rows = 3};
static const struct option_table *const tables[] = {&bench_options, &config_options};

/* Medians of one way to save. */
struct saving {
    double wait;                /* seconds that the step loop waits for a save */
    double step;                /* seconds of a step while it is written */
};

struct bench {
    struct run run;
    struct settings settings;
    double *seconds;            /* of each step; rank 0 */
    struct profile profile;     /* of rank 0 */
    double profiled;            /* seconds of the steps it covers */
    double peak;                /* bytes resident at the end of the first part */
    char description[96];
    struct saving in_steps, beside;
};

/* Forward and backward: 6 FLOP for each weight of a product and token (the classifier's too, the
 * embedding's look-up not), and 12 depth T C for full attention, half of it causal: the causal count
 * is used. Kaplan et al. (2020), section 2.1; PaLM (2022), appendix B. */
static double flop_per_token(const struct model_config *m)
{
    const double block = 4.0 * m->dim * m->dim + 2.0 * m->dim * m->mlp_dim;
    const double products = m->depth * block + (double)m->vocab_size * m->dim;
    const double attention = 6.0 * m->depth * m->max_seq_len * m->dim;

    return 6 * products + attention;
}

static enum status step(struct rank *rank)
{
    struct monitor_step record;

    if (rank->progress.position + rank->run->batch.global_batch > rank->run->steps.windows)
        rank->progress.position = 0;
    return rank_step(rank, &record);
}

/* A save, then steps as long as it is written: at least one, from which the next save differs. */
static enum status save_once(struct rank *rank, double *wait, double *per_step)
{
    struct saves *saves = &rank->run->saves;
    const bool first = rank->worker->rank == 0;
    double writing;
    int n = 0;

    TRY(world_barrier(rank->worker));
    const double start = seconds_now();
    if (first) {
        saves_begin(saves, SAVE_LAST, rank_content(rank));
        saves_state_changes(saves);
    }
    *wait = seconds_now() - start;
    do {
        TRY(step(rank));
        n++;
        writing = first && !saves_are_idle(saves);
        TRY(world_agree(rank->worker, &writing));
    } while (writing != 0);
    *per_step = (seconds_now() - start - *wait) / n;
    return OK;
}

static enum status time_saves(struct bench *bench, struct rank *rank, bool background,
                              struct saving *out)
{
    const int n = (int)bench->settings.saves;
    const size_t size = (size_t)checkpoint_copy_size(model_param_table(rank->model));
    double *wait = calloc(2 * (size_t)n, sizeof *wait), *per_step = wait + n;
    enum status status = OK;

    if (!wait)
        return fail(ERR_NOMEM, "no memory for the bench");
    if (rank->worker->rank == 0)
        status = saves_open(&bench->run.saves, background ? size : 0);
    for (int i = 0; i < n && status == OK; i++)
        status = save_once(rank, &wait[i], &per_step[i]);
    if (rank->worker->rank == 0) {
        saves_close(&bench->run.saves);
        *out = (struct saving){median_of(wait, n), median_of(per_step, n)};
    }
    free(wait);
    return status;
}

static double resident_bytes(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss * 1024;
}

static enum status worker(struct worker *worker, void *context)
{
    struct bench *bench = context;
    struct rank *rank = &bench->run.ranks[worker->rank];
    const bool first = worker->rank == 0;

    TRY(rank_create(rank, &bench->run, worker));
    for (int64_t i = 0; i < bench->settings.warmup; i++)
        TRY(step(rank));
    for (int64_t i = 0; i < bench->settings.steps; i++) {
        const double start = seconds_now();
        TRY(step(rank));
        if (first)
            bench->seconds[i] = seconds_now() - start;
    }
    if (first) {
        snprintf(bench->description, sizeof bench->description, "%s", rank->dev->description);
        bench->peak = resident_bytes();
        rank->dev->profile = &bench->profile;
    }
    const double start = seconds_now();
    for (int64_t i = 0; i < bench->settings.steps; i++)
        TRY(step(rank));
    if (first)
        bench->profiled = seconds_now() - start;
    if (bench->settings.saves == 0)
        return OK;
    if (first)
        rank->dev->profile = NULL;
    TRY(time_saves(bench, rank, false, &bench->in_steps));
    return time_saves(bench, rank, true, &bench->beside);
}

/* The world of workers, with a folder to save in for as long as it lives. */
static enum status run_bench(struct bench *bench)
{
    struct run *run = &bench->run;
    char folder[] = "/tmp/octet_saves_XXXXXX", file[64];

    if (!mkdtemp(folder))
        return fail_errno(ERR_IO, "%s", folder);
    run->saves = (struct saves){.folder = folder, .save_optimizer = true, .start_step = -1};
    const enum status status = world_run(run->devices.n_workers, run->barrier, worker, bench);
    snprintf(file, sizeof file, "%s/" SAVE_LAST, folder);
    (void)unlink(file);
    (void)rmdir(folder);
    return status;
}

/* Random tokens for a few steps, in a file that is gone as soon as it is mapped. */
static enum status open_random_data(struct run *run)
{
    char path[] = "/tmp/octet_bench_XXXXXX";
    char tokenizer[96];
    const int vocab = run->config.model.vocab_size ? (int)run->config.model.vocab_size : 256;
    const int64_t windows = run->config.training.batch_size * run->devices.n_workers *
                            run->config.training.gradient_accumulation_steps * 2;
    const int64_t count = windows * run->config.model.max_seq_len + 1;
    struct safetensors_writer *writer = NULL;
    uint32_t *ids = malloc((size_t)count * sizeof *ids);
    const int fd = mkstemp(path);
    enum status status = OK;

    if (!ids || fd < 0)
        return fail(ERR_NOMEM, "no room for %lld random tokens", (long long)count);
    close(fd);
    for (int64_t i = 0; i < count; i++)
        ids[i] = rng_philox(1, RNG_TEST, 0, 0, (uint64_t)i).word[0] % (uint32_t)vocab;
    snprintf(tokenizer, sizeof tokenizer, "{\"type\":\"none\",\"vocab_size\":%d}", vocab);
    TRY_GOTO(status, safetensors_writer_create(&writer), done);
    TRY_GOTO(status, safetensors_writer_metadata(writer, "tokenizer", tokenizer,
                                                 strlen(tokenizer)), done);
    TRY_GOTO(status, safetensors_writer_tensor(writer, "train", DTYPE_U32, 1, &count), done);
    TRY_GOTO(status, safetensors_writer_begin(writer, path), done);
    TRY_GOTO(status, safetensors_writer_data(writer, ids, (size_t)count * sizeof *ids), done);
    TRY_GOTO(status, safetensors_writer_commit(writer), done);
    snprintf(run->config.data.dataset_path, sizeof run->config.data.dataset_path, "%s", path);
    status = run_open_data(run);
done:
    unlink(path);
    safetensors_writer_destroy(writer);
    free(ids);
    return status;
}

static enum status prepare(struct bench *bench, const struct command_line *line,
                           struct plan_memory *memory)
{
    struct run *run = &bench->run;
    const struct run_options options = {.line = line};

    TRY(run_read_settings(run, &options));
    run->config.evaluation.generate_samples = false;
    run->config.checkpoint.background = false;
    TRY(run_plan_devices(run));
    TRY(open_random_data(run));
    TRY(run_plan_steps(run));
    TRY(run_plan_memory(run, memory));
    TRY(barrier_create(&run->barrier, run->devices.n_workers));
    TRY(comm_group_create(&run->group, run->devices.n_workers, run->barrier));
    run->ranks = calloc((size_t)run->devices.n_workers, sizeof *run->ranks);
    bench->seconds = calloc((size_t)bench->settings.steps, sizeof *bench->seconds);
    return run->ranks && bench->seconds ? OK : fail(ERR_NOMEM, "no memory for the bench");
}

static void print_saving(const char *how, const struct saving *saving, double step)
{
    printf("save %s: steps wait %.1f ms (%.3f of a step), then take %.1f ms until it is written\n",
           how, 1e3 * saving->wait, saving->wait / step, 1e3 * saving->step);
}

static void report(struct bench *bench, const struct plan_memory *memory, double before)
{
    const struct model_config *m = &bench->run.model;
    const int64_t n = bench->settings.steps;
    const double tokens = (double)bench->run.batch.global_batch * m->max_seq_len;
    double known = 0;

    const double median = median_of(bench->seconds, (int)n);
    const double plan = (double)plan_memory_total(memory, bench->run.devices.n_workers);
    printf("model %d/%d/%d/%d, vocabulary %d, %lld windows of %d tokens; %d x %s\n", m->dim,
           m->depth, m->heads, m->mlp_dim, m->vocab_size,
           (long long)bench->run.batch.global_batch, m->max_seq_len,
           bench->run.devices.n_workers, bench->description);
    printf("step %.1f ms (median of %lld; fastest %.1f), %.0f tokens/s, %.1f GFLOP/s\n",
           1e3 * median, (long long)n, 1e3 * bench->seconds[0], tokens / median,
           flop_per_token(m) * tokens / median / 1e9);
    printf("memory: plan %.1f MiB, peak %.1f MiB above the %.1f MiB of the bare program (%+.1f%%)\n",
           plan / (1 << 20), (bench->peak - before) / (1 << 20), before / (1 << 20),
           100 * ((bench->peak - before) / plan - 1));
    for (int i = 0; i < N_OP_FAMILIES; i++) {
        known += bench->profile.seconds[i];
        printf("  %-14s %6.2f ms  %5.1f%%\n", op_family_name((enum op_family)i),
               1e3 * bench->profile.seconds[i] / (double)n,
               100 * bench->profile.seconds[i] / bench->profiled);
    }
    printf("  %-14s %6.2f ms  %5.1f%%\n", "other", 1e3 * (bench->profiled - known) / (double)n,
           100 * (1 - known / bench->profiled));
    if (bench->settings.saves > 0) {
        print_saving("in the step loop", &bench->in_steps, median);
        print_saving("in the background", &bench->beside, median);
    }
}

static void print_help(void)
{
    printf("usage: step [CONFIG.ini] [FLAGS]\n"
           "Time whole training steps at the sizes of CONFIG.ini (config/default.ini).\n\n");
    options_print_flags(tables, 2, stdout);
}

int main(int argc, char **argv)
{
    struct bench bench = {.run = {.locks = {-1, -1}}};
    struct command_line line = {0};
    struct plan_memory memory;
    enum status status;

    TRY_GOTO(status, options_read_flags(&line, tables, 2, argc, argv, 1), done);
    if (line.wants_help) {
        print_help();
        goto done;
    }
    options_default(&bench_options, &bench.settings);
    TRY_GOTO(status, command_line_apply(&line, &bench_options, &bench.settings), done);
    TRY_GOTO(status, prepare(&bench, &line, &memory), done);
    const double before = resident_bytes();
    status = run_bench(&bench);
    for (int i = 0; i < bench.run.devices.n_workers; i++)
        rank_free(&bench.run.ranks[i]);
    if (status == OK)
        report(&bench, &memory, before);
done:
    if (status != OK)
        fprintf(stderr, "step: %s\n", status_message());
    run_free(&bench.run);
    free(bench.seconds);
    command_line_free(&line);
    return status_exit_code(status);
}
