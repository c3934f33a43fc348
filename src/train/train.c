/* train.c - a training run from set-up to its end. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "base/file.h"
#include "base/log.h"
#include "train/rescue.h"
#include "train/run.h"
#include "train/stop.h"
#include "train/watchdog.h"

static enum status open_log(const struct run *run)
{
    char path[PATH_MAX], stamp[32], *settings;
    struct tm local;
    const time_t now = time(NULL);

    strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", localtime_r(&now, &local));
    snprintf(path, sizeof path, "%s/train_%s.log", run->config.logging.log_dir, stamp);
    for (int n = 2; file_exists(path); n++)
        snprintf(path, sizeof path, "%s/train_%s-%d.log", run->config.logging.log_dir, stamp, n);
    TRY(log_open_file(path));
    TRY(options_dump(&config_options, &run->config, &settings));
    log_file_only("Octet " OCTET_VERSION ", configuration:");
    log_file_only(settings);
    free(settings);
    return OK;
}

static void print_plan(const struct run *run, const struct plan_memory *memory,
                       int64_t n_parameters)
{
    const struct model_config *m = &run->model;
    const struct dataset *data = &run->data;

    log_info("model: %.2f M parameters (dim %d, depth %d, heads %d, mlp_dim %d, context %d, "
             "vocabulary %d, %s)", (double)n_parameters / 1e6, m->dim, m->depth, m->heads,
             m->mlp_dim, m->max_seq_len, m->vocab_size,
             m->use_rotary_emb ? "rotary embedding" : "learned positions");
    log_info("data: %s, %lld tokens to train on, %lld to validate", data->path,
             (long long)data->streams[SPLIT_TRAIN].count, (long long)data->streams[SPLIT_VAL].count);
    if (dataset_windows(data, SPLIT_VAL, m->max_seq_len) == 0)
        log_notice("no validation: it needs at least %d tokens in the val part of %s",
                   m->max_seq_len + 1, data->path);
    log_info("batch: %lld windows of %d tokens in a step: %d worker%s x %d micro-batch%s of %d",
             (long long)run->batch.global_batch, m->max_seq_len, run->devices.n_workers,
             run->devices.n_workers == 1 ? "" : "s", run->batch.accumulation,
             run->batch.accumulation == 1 ? "" : "es", run->batch.micro_batch);
    log_info("steps: %lld in %lld epoch%s of %lld", (long long)run->steps.total,
             (long long)run->steps.epochs, run->steps.epochs == 1 ? "" : "s",
             (long long)run->steps.per_epoch);
    log_info("computing in %s", run->devices.real == DTYPE_BF16 ? "bfloat16, sums in float32"
                                : run->devices.real == DTYPE_F16 ? "float16, sums in float32"
                                                                 : "float32");
    plan_memory_print(memory);
    if (run->config.training.use_amp && run->devices.real == DTYPE_F32)
        log_notice("use_amp: computing in float32; CPU workers need instructions for bfloat16, and "
                   "amp_dtype = bfloat16");
    if (run->resume.path)
        log_info("resuming %s at step %lld", run->resume.path, (long long)run->start.step);
}

static enum status count_parameters(const struct model_config *model, int64_t *count)
{
    struct param_table table;

    TRY(param_table_create(&table, model));
    *count = table.n_parameters;
    param_table_free(&table);
    return OK;
}

/* save_dir and log_dir belong to one run at a time; they may be the same folder. */
static enum status lock_folders(struct run *run)
{
    struct stat save, log;

    TRY(folder_lock(run->config.checkpoint.save_dir, &run->locks[0]));
    if (fstat(run->locks[0], &save) == 0 && stat(run->config.logging.log_dir, &log) == 0 &&
        save.st_dev == log.st_dev && save.st_ino == log.st_ino)
        return OK;
    return folder_lock(run->config.logging.log_dir, &run->locks[1]);
}

static enum status create_group(struct run *run)
{
    const int n = run->devices.n_workers;

    if (!run->devices.on_gpus)
        return comm_group_create(&run->group, n, run->barrier);
    return n == 1 ? OK : plan_create_group(&run->gpu_group, &run->devices, run->barrier,
                                           run->config.distributed.comm_timeout);
}

/* A complete run saves nothing more. */
static enum status check_disk(const struct run *run, bool force)
{
    struct plan_disk disk;

    if (run->start.finished)
        return OK;
    TRY(run_plan_disk(run, &disk));
    return plan_disk_check(&disk, force);
}

/* Whether the checkpoint of a resumed run is from before the evaluation of an epoch's or the run's end. */
static bool begins_with_evaluation(const struct run *run)
{
    return !run->start.finished &&
           (run->start.step >= run->steps.total ||
            run->start.position + run->batch.global_batch > run->steps.windows);
}

static enum status prepare(struct run *run, const struct run_options *options)
{
    struct plan_memory memory;
    int64_t n_parameters;

    TRY(run_read_settings(run, options));
    TRY(run_plan_devices(run));
    TRY(run_open_data(run));
    TRY(run_plan_steps(run));
    TRY(run_plan_memory(run, &memory));
    TRY(check_disk(run, options->force));
    TRY(run_check_folders(run));
    TRY(lock_folders(run));
    TRY(count_parameters(&run->model, &n_parameters));
    TRY(open_log(run));
    print_plan(run, &memory, n_parameters);

    const struct monitor_config monitor = {
        .log_dir = run->config.logging.log_dir,
        .use_tensorboard = run->config.logging.use_tensorboard,
        .log_every = (int)run->config.logging.log_every,
        .resume_step = run->start.step,
        .resume_evaluates = begins_with_evaluation(run),
        .total_steps = run->steps.total,
        .total_epochs = run->steps.epochs,
    };
    TRY(monitor_create(&run->monitor, &monitor));
    TRY(barrier_create(&run->barrier, run->devices.n_workers));
    TRY(create_group(run));
    run->ranks = calloc((size_t)run->devices.n_workers, sizeof *run->ranks);
    return run->ranks ? OK : fail(ERR_NOMEM, "no memory for %d workers", run->devices.n_workers);
}

/* The status of the run with that of leaving its communicators; the first failure's message is kept. */
static enum status close_group(struct run *run, enum status before)
{
    char message[1024];

    snprintf(message, sizeof message, "%s", status_message());
    const enum status status = cuda_group_destroy(run->gpu_group);
    if (before == OK)
        return status;
    if (status != OK)
        log_warning("%s", status_message());
    return fail(status == OK ? before : ERR_COMM, "%s", message);
}

static enum status open_saves(struct run *run)
{
    struct param_table table;

    TRY(param_table_create(&table, &run->model));
    const size_t size = (size_t)checkpoint_copy_size(&table);
    param_table_free(&table);
    return saves_open(&run->saves, run->config.checkpoint.background ? size : 0);
}

/* The workers' lives, and what is left to do when one failed. *n_lost: threads that hang, which
 * may touch what the run owns until the process ends. */
static enum status run_workers(struct run *run, int *n_lost)
{
    static struct watchdog dog;

    TRY(watchdog_create(&dog, run->config.distributed.watchdog, &run->devices, run->gpu_group));
    enum status status = open_saves(run);
    if (status == OK)
        status = world_run_watched(run->devices.n_workers, run->barrier, run_worker, run,
                                   watchdog_watch(&dog));
    *n_lost = dog.watch.n_lost;
    if (status != OK)
        *n_lost += run_rescue(run, &dog);
    if (*n_lost == 0)
        saves_close(&run->saves);
    watchdog_free(&dog);
    /* Only now may memory go that other ranks could still have been reading; and communicators
     * before it. */
    status = close_group(run, status);
    if (*n_lost > 0)
        watchdog_limit_end();
    return status;
}

enum status run_train(const struct run_options *options, int *signal)
{
    static struct run run = {.locks = {-1, -1}};    /* static: see run_workers() */
    enum status status;
    int n_lost = 0;

    *signal = 0;
    stop_on_signals();
    status = prepare(&run, options);
    if (status == OK && run.start.finished) {
        log_info("the run is complete: %lld of %lld steps; raise num_epochs or max_steps to go on",
                 (long long)run.start.step, (long long)run.steps.total);
    } else if (status == OK) {
        status = run_workers(&run, &n_lost);
        *signal = run.stopped_by;
        /* Freeing waits for all that a GPU does, which after some failures is for ever: then
         * everything is left to the end of the process. */
        if (n_lost > 0 || status == ERR_DEVICE || status == ERR_COMM)
            return n_lost > 0 ? ERR_DEVICE : status;
        for (int i = 0; i < run.devices.n_workers; i++)
            rank_free(&run.ranks[i]);
    }
    run_free(&run);
    return status;
}
