/* check.c - trainer --check: is everything there that a run needs, and does the arithmetic work? */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "base/team.h"
#include "device/cpu.h"
#include "train/check.h"

static enum status check_cpu(const struct run *run)
{
    struct device *dev;

    TRY(plan_open_device(&dev, &run->devices, 0));
    check_tick("devices: %d x %s, %d core%s", run->devices.n_workers, dev->description,
               team_cores(), team_cores() == 1 ? "" : "s");
    device_destroy(dev);
    return OK;
}

static enum status check_data(struct run *run)
{
    TRY(run_open_data(run));
    check_tick("data: %s, %lld tokens to train on, %lld to validate, vocabulary %d", run->data.path,
         (long long)run->data.streams[SPLIT_TRAIN].count,
         (long long)run->data.streams[SPLIT_VAL].count, run->data.tokenizer.vocab_size);
    return OK;
}

static enum status check_steps(struct run *run)
{
    TRY(run_plan_steps(run));
    check_tick("batch: %lld windows of %d tokens a step, %lld steps in %lld epoch%s",
         (long long)run->batch.global_batch, run->model.max_seq_len, (long long)run->steps.total,
         (long long)run->steps.epochs, run->steps.epochs == 1 ? "" : "s");
    return OK;
}

static enum status check_memory(struct run *run)
{
    struct plan_memory memory;

    TRY(run_plan_memory(run, &memory));
    check_tick("memory: %.1f MiB needed%s, %.0f MiB available",
               (double)plan_memory_needed(&memory) / (1 << 20),
               plan_n_gpus(&run->devices) > 1 ? " on each GPU" : "",
               (double)memory.available / (1 << 20));
    return OK;
}

/* Does another run save there? */
static enum status check_lock(const char *folder)
{
    int lock;

    if (!file_exists(folder))
        return OK;
    TRY(folder_lock(folder, &lock));
    folder_unlock(lock);
    return OK;
}

static enum status check_disk(struct run *run, bool force)
{
    struct plan_disk disk;

    TRY(run_check_folders(run));
    TRY(check_lock(run->config.checkpoint.save_dir));
    TRY(run_plan_disk(run, &disk));
    if (plan_disk_check(&disk, force) != OK)
        return fail_prefix(ERR_INVALID, "disk: ");
    check_tick("disk: %lld checkpoint%s of this run need up to %.1f MiB, %s has %.0f MiB free",
               (long long)disk.n_files, disk.n_files == 1 ? "" : "s",
               (double)disk.needed / (1 << 20), disk.folder, (double)disk.available / (1 << 20));
    return OK;
}

static enum status mean_loss(struct model *model, const struct model_batch *batch,
                             struct device *dev, double *loss)
{
    const struct tensor sums = model_sums(model);
    double totals[2];

    TRY(model_begin(model));
    TRY(model_evaluate_batch(model, batch));
    TRY(device_download(dev, totals, sums.data, sizeof totals));
    *loss = totals[0] / ((double)batch->windows * batch->length);
    return OK;
}

/* weights += factor * gradients, on the host: no kernel of the optimizer is trusted here. */
static enum status move_along_gradient(struct model *model, const float *gradients, double factor)
{
    const struct param_table *table = model_param_table(model);
    const struct tensor weights = model_weights(model);
    enum status status = OK;

    for (int i = 0; i < table->n_params && status == OK; i++) {
        const struct param *param = &table->params[i];
        float *values = malloc((size_t)param->count * sizeof *values);
        if (!values)
            return fail(ERR_NOMEM, "no memory for the self-test");
        status = model_get_param(model, &weights, param, values);
        for (int64_t j = 0; j < param->count; j++)
            values[j] += (float)(factor * (double)gradients[param->offset + j]);
        if (status == OK)
            status = model_set_param(model, &weights, param, values);
        free(values);
    }
    return status == OK ? model_weights_changed(model) : status;
}

static enum status read_gradients(struct model *model, float *gradients, double *squares)
{
    const struct param_table *table = model_param_table(model);
    const struct tensor flat = model_gradients(model);

    *squares = 0;
    for (int i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        TRY(model_get_param(model, &flat, param, gradients + param->offset));
        for (int64_t j = param->offset; j < param->offset + param->count; j++)
            *squares += (double)gradients[j] * (double)gradients[j];
    }
    return OK;
}

/* A small move along the gradient g, of length `move` in units of g, must change the loss by
 * 2 move |g|^2 between its two ends; *error says how far it is off, in percent. */
static enum status gradient_error(struct model *model, const struct model_batch *batch,
                                  struct device *dev, const float *gradients, double squares,
                                  double change, double *error)
{
    const double move = change / squares / 2;
    double up, down;

    TRY(move_along_gradient(model, gradients, move));
    TRY(mean_loss(model, batch, dev, &up));
    TRY(move_along_gradient(model, gradients, -2 * move));
    TRY(mean_loss(model, batch, dev, &down));
    TRY(move_along_gradient(model, gradients, move));
    *error = 100 * fabs((up - down) / change - 1);
    return OK;
}

/* Fresh weights must give a loss near ln V, and the backward pass must agree with the forward pass
 * along its own gradient: over a short way only, where the loss bends a lot. */
static enum status self_test(struct run *run, struct device *dev, struct model *model,
                             const struct model_batch *batch, float *gradients)
{
    static const double changes[] = {1e-2, 1e-3, 1e-4};
    const double tolerance = 10;
    const double uniform = log((double)run->model.vocab_size);
    const struct model_step step = {.seed = 1};
    const double tokens = (double)batch->windows * batch->length;
    const struct tensor sums = model_sums(model);
    double squares, totals[2], error = INFINITY;

    TRY(model_init(model, (uint64_t)run->config.run.seed));
    TRY(model_begin(model));
    TRY(model_train_batch(model, batch, &step, 1 / tokens, NULL));
    TRY(device_download(dev, totals, sums.data, sizeof totals));
    const double loss = totals[0] / tokens;
    if (!(fabs(loss - uniform) < 0.2 * uniform + 0.1))
        return fail(ERR_DEVICE, "self-test: the loss of fresh weights is %.4f, expected about "
                    "ln(vocabulary) = %.4f", loss, uniform);
    TRY(read_gradients(model, gradients, &squares));
    if (squares == 0 && run->model.vocab_size == 1)
        error = 0;              /* there is nothing to learn about one token */
    for (size_t i = 0; i < sizeof changes / sizeof *changes && !(error < tolerance); i++)
        TRY(gradient_error(model, batch, dev, gradients, squares, changes[i], &error));
    if (!(error < tolerance))
        return fail(ERR_DEVICE, "self-test: forward and backward pass disagree by %.1f%% along the "
                    "gradient", error);
    check_tick("self-test: loss %.4f of fresh weights (uniform %.4f), gradient right within %.2f%%",
               loss, uniform, error);
    return OK;
}

/* In float32: where numbers have few digits, small moves are lost in them. */
static enum status check_arithmetic(struct run *run)
{
    struct model_config config = run->model;
    const int length = config.max_seq_len;
    struct device *dev = NULL;
    struct model *model = NULL;
    int32_t *tokens = NULL;
    float *gradients = NULL;
    enum status status;

    config.dropout = 0;
    TRY_GOTO(status, cpu_device_create(&dev, 0, run->devices.threads, DTYPE_F32), done);
    TRY_GOTO(status, model_create(&model, dev, &config, 1, MODEL_TRAIN, NULL), done);
    tokens = malloc(2 * (size_t)length * sizeof *tokens);
    gradients = malloc((size_t)model_param_table(model)->flat_count * sizeof *gradients);
    if (!tokens || !gradients) {
        status = fail(ERR_NOMEM, "no memory for the self-test");
        goto done;
    }
    TRY_GOTO(status, dataset_window(&run->data, SPLIT_TRAIN, 0, length, tokens, tokens + length),
             done);
    const struct model_batch batch = {tokens, tokens + length, 1, length};
    status = self_test(run, dev, model, &batch, gradients);
done:
    free(gradients);
    free(tokens);
    model_destroy(model);
    device_destroy(dev);
    return status;
}

/* *planned: there are devices to go on with. An error: there is no going on at all. */
static enum status check_devices(struct run *run, bool *passed, bool *planned)
{
    *planned = run_plan_devices(run) == OK;
    if (!*planned || (!run->devices.on_gpus && check_cpu(run) != OK))
        check_cross(passed);
    if (!*planned || !run->devices.on_gpus)
        return OK;
    check_gpus(run, passed);
    return check_collective(run, passed);
}

static enum status check_all(struct run *run, bool force, bool *passed)
{
    bool has_devices, has_data = false, has_steps = false, has_memory = false;

    TRY(check_devices(run, passed, &has_devices));
    if (!(has_data = check_data(run) == OK))
        check_cross(passed);
    if (has_devices && has_data && !(has_steps = check_steps(run) == OK))
        check_cross(passed);
    if (has_steps && !(has_memory = check_memory(run) == OK))
        check_cross(passed);
    if (has_steps && check_disk(run, force) != OK)
        check_cross(passed);
    if (has_memory && !run->devices.on_gpus && check_arithmetic(run) != OK)
        check_cross(passed);
    if (has_memory && (run->devices.on_gpus || run->devices.real != DTYPE_F32))
        check_device_steps(run, passed);
    log_info(*passed ? "ready to train" : "not ready: see the lines marked ✗");
    return OK;
}

enum status run_check(const struct run_options *options, bool *passed)
{
    struct run run = {.locks = {-1, -1}};
    enum status status = run_read_settings(&run, options);

    *passed = true;
    if (status == OK)
        status = check_all(&run, options->force, passed);
    run_free(&run);
    return status;
}
