/* step - how fast whole training steps are: tokens/s, model FLOP/s, the share of each kind of
 * operation, and the peak memory against the plan.
 *
 *     build/bench/step [CONFIG.ini] [--gpus N] [--steps N] [--warmup N] [--set section.key=value]...
 *
 * The tokens are random ones in a file of its own. A first part runs without clocks in it and gives
 * tokens/s; a second one, with a clock around each operation, gives the shares. */
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
    int64_t steps, warmup;
};

static const struct option rows[] = {
    {.flag = "steps", .placeholder = "N", .type = OPTION_INT, .min = 1, .max = 100000,
     .offset = offsetof(struct settings, steps), .default_value = "10",
     .help = "steps that are timed, in each part"},
    {.flag = "warmup", .placeholder = "N", .type = OPTION_INT, .min = 0, .max = 100000,
     .offset = offsetof(struct settings, warmup), .default_value = "2",
     .help = "steps before them"},
};
static const struct option_table bench_options = {.rows = rows, .n_rows = 2};
static const struct option_table *const tables[] = {&bench_options, &config_options};

struct bench {
    struct run run;
    struct settings settings;
    double *seconds;            /* of each step; rank 0 */
    struct profile profile;     /* of rank 0 */
    double profiled;            /* seconds of the steps it covers */
    double peak;                /* bytes resident at the end of the first part */
    char description[96];
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
    return OK;
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
    status = world_run(bench.run.devices.n_workers, bench.run.barrier, worker, &bench);
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
