/* verify.c - trainer --verify: is a checkpoint whole, and does it still do what it did when it was
 * saved? */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "train/check_line.h"
#include "train/checkpoint_format.h"
#include "train/probe.h"
#include "train/run.h"

static enum status check_usage(const char *path, const struct command_line *line)
{
    struct stat info;

    if (line->n_positional)
        return fail(ERR_INVALID, "--verify takes no configuration (%s): the checkpoint has its "
                    "own", line->positional[0]);
    if (stat(path, &info) != 0)
        return fail_errno(ERR_INVALID, "--verify: %s", path);
    if (S_ISDIR(info.st_mode))
        return fail(ERR_INVALID, "--verify: %s is a folder: name one of the checkpoints in it",
                    path);
    return OK;
}

/* ---- what the file says of itself ---- */

static void check_checksums(const struct checkpoint *c, bool *passed)
{
    int n_right = 0, n_damaged = 0;

    for (int i = 0; i < c->file.n_entries; i++) {
        const struct safetensors_entry *entry = &c->file.entries[i];
        if (safetensors_verify(&c->file, c->path, entry) != OK) {
            check_cross(passed);
            n_damaged++;
        } else if (entry->has_checksum) {
            n_right++;
        }
    }
    if (n_right + n_damaged == 0)
        log_notice("%s holds no checksums: whether it is damaged cannot be told", c->path);
    else if (n_damaged == 0)
        check_tick("checksums of %d tensor%s", n_right, n_right == 1 ? "" : "s");
}

static enum status check_metadata(struct checkpoint *c)
{
    const struct progress_state *p = &c->progress;
    char best[48] = "";

    TRY(checkpoint_read_metadata(c));
    if (isfinite(p->best_loss))
        snprintf(best, sizeof best, ", best validation loss %.4f", p->best_loss);
    check_tick("metadata: step %" PRId64 " of %" PRId64 ", %" PRId64 " epoch%s done, %" PRId64
               " tokens%s%s", p->step, p->total_steps, p->epoch, p->epoch == 1 ? "" : "s",
               p->tokens, best, p->finished ? ", finished" : "");
    return OK;
}

static bool is_known(const struct checkpoint *c, const struct param_table *table, const char *name)
{
    const bool is_moment = strncmp(name, MOMENT_M, strlen(MOMENT_M)) == 0 ||
                           strncmp(name, MOMENT_V, strlen(MOMENT_V)) == 0;

    if (strcmp(name, PROBE_TOKENS) == 0)
        return true;
    if (is_moment && c->has_optimizer)
        name += strlen(MOMENT_M);
    return param_find(table, name) != NULL;
}

/* No tensor may be missing, and none too many. */
static enum status check_sizes(struct checkpoint *c)
{
    struct param_table table;

    TRY(checkpoint_check_tensors(c));
    enum status status = param_table_create(&table, &c->model);
    for (int i = 0; i < c->file.n_entries && status == OK; i++)
        if (!is_known(c, &table, c->file.entries[i].name))
            status = fail(ERR_INVALID, "%s: tensor %s does not belong to the model that its "
                          "configuration describes", c->path, c->file.entries[i].name);
    if (status == OK)
        check_tick("sizes: %d tensors of %" PRId64 " weights, %s, fit the configuration",
                   table.n_params, table.n_parameters,
                   c->has_optimizer ? "and both moments of each" : "without moments");
    param_table_free(&table);
    return status;
}

/* Only weights take part in the recorded step; this is all there is to say of moments. */
static enum status check_numbers(const struct checkpoint *c)
{
    TRY(checkpoint_check_numbers(c));
    check_tick("numbers: none is NaN%s", c->has_optimizer ? ", no second moment below 0" : "");
    return OK;
}

/* ---- the recorded step ---- */

/* One device of those that a run with these settings would have. */
static enum status open_device(struct device **dev, const struct checkpoint *c,
                               const struct command_line *line)
{
    struct config config = c->config;
    struct plan_devices devices;

    /* Those were for the machine that it was made on. */
    snprintf(config.distributed.device, sizeof config.distributed.device, "auto");
    config.distributed.share_gpu = false;
    TRY(command_line_apply(line, &config_options, &config));
    TRY(config_check(&config));
    config.distributed.gpus = 1;
    TRY(plan_devices(&devices, &config));
    return plan_open_device(dev, &devices, 0);
}

static enum status replay(const struct checkpoint *c, struct device *dev,
                          const struct probe *recorded, struct probe *probe)
{
    /* For float16 in place of a type that needs no scale. */
    const struct progress_state scaled = {.step = c->progress.step, .loss_scale = 1024,
                                          .global_batch = 1};
    const bool needs_scale = dev->real == DTYPE_F16 && recorded->real != DTYPE_F16;
    struct model *model;

    probe->tokens = recorded->tokens;
    TRY(model_create(&model, dev, &c->model, 1, MODEL_TRAIN, NULL));
    enum status status = checkpoint_load_weights(c, model);
    if (status == OK)
        status = probe_take(probe, dev, model, (uint64_t)c->config.run.seed,
                            needs_scale ? &scaled : &c->progress);
    model_destroy(model);
    return status;
}

/* A small number may be made of large ones, with their rounding errors. NaN is near nothing. */
static bool is_near(double value, double recorded, double tolerance)
{
    return fabs(value - recorded) <= tolerance * fmax(fabs(recorded), 0.01);
}

static enum status judge(const struct checkpoint *c, const struct device *dev,
                         const struct probe *recorded, const struct probe *probe)
{
    const double tolerance = probe->real == DTYPE_F32 && recorded->real == DTYPE_F32 ? 1e-4 : 2e-2;
    const bool is_same = probe->loss == recorded->loss && probe->grad_norm == recorded->grad_norm;
    char text[400];

    snprintf(text, sizeof text, "step replayed on %s in %s (recorded in %s): loss %.6f (recorded "
             "%.6f), gradient norm %.6g (recorded %.6g)", dev->description,
             probe_type_name(probe->real), probe_type_name(recorded->real), probe->loss,
             recorded->loss, probe->grad_norm, recorded->grad_norm);
    if (!is_near(probe->loss, recorded->loss, tolerance) ||
        !is_near(probe->grad_norm, recorded->grad_norm, tolerance))
        return fail(ERR_INVALID, "%s: %s: more than %g%% apart", c->path, text, 100 * tolerance);
    check_tick("%s%s", text, is_same ? ", the same bits" : "");
    return OK;
}

static enum status check_step(const struct checkpoint *c, const struct command_line *line,
                              bool *passed)
{
    struct device *dev = NULL;
    struct probe recorded, probe;
    int32_t *tokens;
    enum status status = checkpoint_read_probe(c, &recorded, &tokens);

    if (status == OK && !tokens) {
        log_notice("no step was recorded in %s, so none is replayed", c->path);
        return OK;
    }
    if (status != OK) {
        check_cross(passed);
        status = OK;
        goto done;
    }
    TRY_GOTO(status, open_device(&dev, c, line), done);
    TRY_GOTO(status, replay(c, dev, &recorded, &probe), done);
    if (judge(c, dev, &recorded, &probe) != OK)
        check_cross(passed);
done:
    device_destroy(dev);
    free(tokens);
    return status;
}

/* Each stage needs what the ones before it found out, but for the checksums and the numbers. */
static enum status verify(struct checkpoint *c, const struct command_line *line, bool *passed)
{
    const bool has_checksums = c->file.n_entries > 0 && c->file.entries[0].has_checksum;

    check_tick("container: %d tensors, %.1f MiB%s", c->file.n_entries,
               (double)c->file.file.size / (1 << 20), has_checksums ? ", its header's checksum" : "");
    check_checksums(c, passed);
    if (check_metadata(c) != OK || check_sizes(c) != OK) {
        check_cross(passed);
        return OK;
    }
    if (check_numbers(c) != OK)
        check_cross(passed);
    return check_step(c, line, passed);
}

enum status run_verify(const char *path, const struct command_line *line, bool *passed)
{
    struct checkpoint c;
    enum status status = OK;

    *passed = true;
    TRY(check_usage(path, line));
    if (checkpoint_map(&c, path) == OK)
        status = verify(&c, line, passed);
    else
        check_cross(passed);
    if (status == OK)
        log_info(*passed ? "%s is in order" : "%s is not in order: see the lines marked ✗", path);
    checkpoint_close(&c);
    return status;
}
