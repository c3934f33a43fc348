/* setup.c - from the command line to a run that is ready to start. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/resource.h"
#include "train/run.h"

enum { FIRST_LOSS_SCALE = 65536 };

static enum status read_file(struct config *config, const char *path)
{
    char *found;

    TRY(resource_find(path, resource_folders(), &found));
    const enum status status = options_read_file(&config_options, config, found);
    free(found);
    return status;
}

/* Settings of a new run: defaults, file, flags. config/default.ini says nothing but the defaults, so a
 * program that was copied away from it does without. */
static enum status read_new(struct config *config, const struct command_line *line)
{
    options_default(&config_options, config);
    if (line->n_positional) {
        TRY(read_file(config, line->positional[0]));
    } else {
        char *found;
        if (resource_find("config/default.ini", resource_folders(), &found) == OK) {
            const enum status status = options_read_file(&config_options, config, found);
            free(found);
            TRY(status);
        }
    }
    return command_line_apply(line, &config_options, config);
}

static void report_change(void *context, const char *key, const char *saved, const char *now)
{
    (void)context;
    log_notice("%s is %s here and was %s in the checkpoint", key, now, saved);
}

/* Settings of a resumed run: the checkpoint's, then what the user names. */
static enum status read_resumed(struct run *run, const struct command_line *line)
{
    run->config = run->resume.config;
    run->config.distributed.share_gpu = false;      /* that was for the machine it ran on */
    if (line->n_positional)
        TRY(read_file(&run->config, line->positional[0]));
    TRY(command_line_apply(line, &config_options, &run->config));
    options_diff(&config_options, &run->resume.config, &run->config, report_change, NULL);
    return OK;
}

/* The checkpoint to go on from: the one that was given, or the newest in a folder; NULL if there is none
 * yet. The caller frees it. */
static enum status find_resume(const struct run *run, const char *resume, char **path)
{
    const bool is_auto = strcmp(resume, "auto") == 0;
    const char *folder = is_auto ? run->config.checkpoint.save_dir : resume;
    struct stat info;

    *path = NULL;
    if (!is_auto && (stat(resume, &info) != 0 || !S_ISDIR(info.st_mode))) {
        *path = strdup(resume);
        return *path ? OK : fail(ERR_NOMEM, "no memory to resume %s", resume);
    }
    TRY(saves_find_newest(folder, path));
    if (!*path && !is_auto)
        return fail(ERR_INVALID, "--resume %s: there are no checkpoints in this folder", resume);
    if (!*path)
        log_notice("nothing to resume in %s: starting a new run", folder);
    return OK;
}

enum status run_read_settings(struct run *run, const struct run_options *options)
{
    char *path = NULL;

    run->init_path = options->init;
    if (options->resume && options->init)
        return fail(ERR_INVALID, "--resume and --init exclude each other: --resume goes on with a "
                    "run, --init starts a new one from weights");
    /* A checkpoint that is named brings its own settings; to find one takes those of a new run. */
    if (!options->resume || strcmp(options->resume, "auto") == 0)
        TRY(read_new(&run->config, options->line));
    if (options->resume)
        TRY(find_resume(run, options->resume, &path));
    if (path) {
        enum status status = checkpoint_open(&run->resume, path);
        if (status == OK)
            status = checkpoint_check_numbers(&run->resume);
        if (status == OK)
            status = read_resumed(run, options->line);
        free(path);
        TRY(status);
    }
    return config_check(&run->config);
}

enum status run_plan_devices(struct run *run)
{
    return plan_devices(&run->devices, &run->config);
}

enum status run_open_data(struct run *run)
{
    TRY(dataset_open(&run->data, run->config.data.dataset_path));
    TRY(plan_model(&run->model, &run->config, run->data.tokenizer.vocab_size));
    if (run->init_path)
        return weights_check(run->init_path, &run->model);
    return run->resume.path ? checkpoint_check_model(&run->resume, &run->model) : OK;
}

/* The global batch that a resumed run keeps: only the user's own change of batch_size or accumulation
 * lets it go. */
static int64_t kept_global_batch(const struct run *run)
{
    const struct config *saved = &run->resume.config, *now = &run->config;

    if (!run->resume.path || saved->training.batch_size != now->training.batch_size ||
        saved->training.gradient_accumulation_steps != now->training.gradient_accumulation_steps)
        return 0;
    return run->resume.progress.global_batch;
}

/* A resumed run needs its optimizer, and may find its schedule changed. */
static enum status check_can_go_on(const struct run *run)
{
    const int64_t step = run->start.step, total = run->start.total_steps;
    struct schedule before = run->schedule;

    if (!run->resume.has_optimizer)
        return fail(ERR_INVALID, "%s: holds no optimizer state, so the run cannot go on; --init "
                    "starts a new one from its weights", run->resume.path);
    before.total = total;
    if (run->steps.total != total)
        log_notice("the schedule now ends at step %lld, not %lld: the next learning rate is %.3g "
                   "instead of %.3g", (long long)run->steps.total, (long long)total,
                   schedule_lr(&run->schedule, step), schedule_lr(&before, step));
    return OK;
}

enum status run_plan_steps(struct run *run)
{
    const struct config *config = &run->config;

    run->start = (struct progress_state){.best_loss = INFINITY, .loss_scale = FIRST_LOSS_SCALE,
                                          .health = {.barred_to = -1}};
    if (run->resume.path)
        run->start = run->resume.progress;
    /* A checkpoint of another number format brings no scale for this one. */
    if (run->devices.real != DTYPE_F16)
        run->start.loss_scale = 1;
    else if (run->start.loss_scale <= 1)
        run->start.loss_scale = FIRST_LOSS_SCALE;
    if (run->resume.path && strcmp(run->resume.dataset_digest, run->data.digest) != 0) {
        log_warning("%s holds other tokens than the checkpoint was trained on; going on at the same "
                    "place in them, and looking for the best validation loss anew",
                    run->data.path);
        run->start.best_loss = INFINITY;
    }
    TRY(plan_batch(&run->batch, config, run->devices.n_workers, kept_global_batch(run)));
    run->start.global_batch = run->batch.global_batch;
    TRY(plan_steps(&run->steps, config, &run->data, run->batch.global_batch, run->start.epoch,
                   run->start.position, run->start.step));
    run->schedule = (struct schedule){schedule_shape_from_name(config->training.lr_schedule),
                                      config->training.learning_rate,
                                      config->training.min_lr_ratio,
                                      config->training.warmup_steps, run->steps.total};
    run->start.finished = run->start.finished && run->start.step >= run->steps.total;
    if (run->resume.path && !run->start.finished)
        TRY(check_can_go_on(run));
    run->start.total_steps = run->steps.total;
    return OK;
}

enum status run_plan_memory(struct run *run, struct plan_memory *memory)
{
    struct device *dev;

    /* A device without memory of its own yet, which knows its scratch. */
    TRY(plan_open_device(&dev, &run->devices, 0));
    enum status status = plan_memory(memory, dev, &run->devices, &run->model, &run->config,
                                     run->batch.micro_batch);
    device_destroy(dev);
    TRY(status);
    status = plan_memory_check(memory);
    if (status != OK)
        plan_memory_print(memory);
    return status;
}

enum status run_check_folders(struct run *run)
{
    const char *const folders[] = {run->config.checkpoint.save_dir, run->config.logging.log_dir};
    static const char *const names[] = {"checkpoint.save_dir", "logging.log_dir"};

    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        if (folder_create(folders[i]) != OK || folder_check_writable(folders[i]) != OK)
            return fail_prefix(ERR_INVALID, "%s: ", names[i]);
    run->saves = (struct saves){
        .folder = run->config.checkpoint.save_dir,
        .lock = &run->locks[0],
        .keep_last = run->config.checkpoint.keep_last,
        .save_optimizer = run->config.checkpoint.save_optimizer,
        .start_step = run->resume.path ? run->start.step : -1,
        .best_loss = run->start.best_loss,
        .waiting_since = seconds_now(),
    };
    return OK;
}

void run_free(struct run *run)
{
    monitor_destroy(run->monitor);
    comm_group_destroy(run->group);
    barrier_destroy(run->barrier);
    free(run->ranks);
    folder_unlock(run->locks[0]);
    folder_unlock(run->locks[1]);
    dataset_close(&run->data);
    checkpoint_close(&run->resume);
    *run = (struct run){.locks = {-1, -1}};
}
