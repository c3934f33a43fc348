/* checkpoint_save.c - writing a checkpoint. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pulse.h"
#include "train/checkpoint.h"
#include "train/checkpoint_format.h"
#include "train/probe.h"

static enum status add_text(struct safetensors_writer *w, const char *key, const char *text)
{
    return safetensors_writer_metadata(w, key, text, strlen(text));
}

static enum status add_count(struct safetensors_writer *w, const char *key, int64_t value)
{
    char text[32];

    snprintf(text, sizeof text, "%lld", (long long)value);
    return add_text(w, key, text);
}

static enum status add_number(struct safetensors_writer *w, const char *key, double value)
{
    char text[32];

    snprintf(text, sizeof text, "%.17g", value);
    return add_text(w, key, text);
}

/* One JSON object: its names are those of the struct. */
static enum status add_health(struct safetensors_writer *w, const struct health *h)
{
    json_t *object = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "updates", (json_int_t)h->updates,
        "skipped", (json_int_t)h->skipped, "bad_in_row", (json_int_t)h->bad_in_row, "rollbacks",
        (json_int_t)h->rollbacks, "barred_from", (json_int_t)h->barred_from, "barred_to",
        (json_int_t)h->barred_to, "n_losses", (json_int_t)h->n_losses, "loss_mean", h->loss_mean,
        "loss_variance", h->loss_variance);
    char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(17));

    json_decref(object);
    if (!text)
        return fail(ERR_NOMEM, "no memory to save");
    const enum status status = add_text(w, KEY_HEALTH, text);
    free(text);
    return status;
}

static enum status add_metadata(struct safetensors_writer *w, const struct checkpoint_content *c)
{
    char *config = NULL, *tokenizer = NULL;
    enum status status;

    TRY_GOTO(status, options_dump(&config_options, c->config, &config), done);
    TRY_GOTO(status, tokenizer_to_json(c->tokenizer, &tokenizer), done);
    TRY_GOTO(status, add_text(w, KEY_FORMAT, CHECKPOINT_FORMAT), done);
    TRY_GOTO(status, add_text(w, KEY_CONFIG, config), done);
    TRY_GOTO(status, add_text(w, KEY_TOKENIZER, tokenizer), done);
    TRY_GOTO(status, add_count(w, KEY_STEP, c->progress.step), done);
    TRY_GOTO(status, add_count(w, KEY_EPOCH, c->progress.epoch), done);
    TRY_GOTO(status, add_count(w, KEY_POSITION, c->progress.position), done);
    TRY_GOTO(status, add_count(w, KEY_TOKENS, c->progress.tokens), done);
    TRY_GOTO(status, add_count(w, KEY_GLOBAL_BATCH, c->progress.global_batch), done);
    TRY_GOTO(status, add_count(w, KEY_TOTAL_STEPS, c->progress.total_steps), done);
    TRY_GOTO(status, add_count(w, KEY_FINISHED, c->progress.finished), done);
    TRY_GOTO(status, add_number(w, KEY_LOSS_SCALE, c->progress.loss_scale), done);
    TRY_GOTO(status, add_count(w, KEY_SCALE_STEPS, c->progress.scale_steps), done);
    TRY_GOTO(status, add_number(w, KEY_BEST_LOSS, c->progress.best_loss), done);
    TRY_GOTO(status, add_health(w, &c->progress.health), done);
    status = add_text(w, KEY_DATASET_DIGEST, c->dataset_digest);
done:
    free(config);
    free(tokenizer);
    return status;
}

/* The recorded step, which stands behind the groups of tensors. */
static enum status declare_probe(struct safetensors_writer *w, const struct probe *probe,
                                 int64_t count)
{
    if (!probe->tokens)
        return OK;
    TRY(add_number(w, KEY_PROBE_LOSS, probe->loss));
    TRY(add_number(w, KEY_PROBE_GRAD_NORM, probe->grad_norm));
    TRY(add_text(w, KEY_PROBE_TYPE, probe_type_name(probe->real)));
    return safetensors_writer_tensor(w, PROBE_TOKENS, DTYPE_I32, 1, &count);
}

static enum status write_probe(struct safetensors_writer *w, const struct probe *probe,
                               int64_t count)
{
    if (!probe->tokens)
        return OK;
    return safetensors_writer_data(w, probe->tokens, (size_t)count * sizeof *probe->tokens);
}

/* The three groups of tensors in a checkpoint: weights, m, v. */
struct group {
    const char *prefix;
    struct tensor flat;
    const float *copy;          /* of its parameters one after another, or NULL */
};

static int make_groups(struct group groups[3], const struct checkpoint_content *c)
{
    const int64_t count = model_param_table(c->model)->n_parameters;

    groups[0] = (struct group){"", model_weights(c->model), c->copy};
    if (!c->optimizer)
        return 1;
    groups[1] = (struct group){MOMENT_M, c->optimizer->m, c->copy ? c->copy + count : NULL};
    groups[2] = (struct group){MOMENT_V, c->optimizer->v, c->copy ? c->copy + 2 * count : NULL};
    return 3;
}

static enum status declare_group(struct safetensors_writer *w, const struct group *group,
                                 const struct param_table *table)
{
    for (int i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        char name[96];
        snprintf(name, sizeof name, "%s%s", group->prefix, param->name);
        TRY(safetensors_writer_tensor(w, name, DTYPE_F32, param->n_dims, param->shape));
    }
    return OK;
}

/* Through one host buffer as large as the largest parameter, or from the copy. */
static enum status write_group(struct safetensors_writer *w, const struct group *group,
                               struct model *model, float *buffer)
{
    const struct param_table *table = model_param_table(model);
    const float *copied = group->copy;

    for (int i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        pulse_beat();
        if (!copied)
            TRY(model_get_param(model, &group->flat, param, buffer));
        TRY(safetensors_writer_data(w, copied ? copied : buffer,
                                    (size_t)param->count * sizeof *buffer));
        copied += copied ? param->count : 0;
    }
    return OK;
}

static float *largest_buffer(const struct param_table *table)
{
    int64_t largest = 0;

    for (int i = 0; i < table->n_params; i++)
        if (table->params[i].count > largest)
            largest = table->params[i].count;
    return malloc((size_t)largest * sizeof(float));
}

enum status checkpoint_save(const char *path, const struct checkpoint_content *content)
{
    const struct param_table *table = model_param_table(content->model);
    const int64_t n_tokens = (int64_t)model_config(content->model)->max_seq_len + 1;
    struct safetensors_writer *writer = NULL;
    struct group groups[3];
    const int n_groups = make_groups(groups, content);
    float *buffer = largest_buffer(table);
    enum status status;

    if (!buffer)
        return fail(ERR_NOMEM, "%s: no memory to save", path);
    TRY_GOTO(status, safetensors_writer_create(&writer), done);
    TRY_GOTO(status, add_metadata(writer, content), done);
    for (int i = 0; i < n_groups; i++)
        TRY_GOTO(status, declare_group(writer, &groups[i], table), done);
    TRY_GOTO(status, declare_probe(writer, &content->probe, n_tokens), done);
    TRY_GOTO(status, safetensors_writer_begin(writer, path), done);
    for (int i = 0; i < n_groups; i++)
        TRY_GOTO(status, write_group(writer, &groups[i], content->model, buffer), done);
    TRY_GOTO(status, write_probe(writer, &content->probe, n_tokens), done);
    status = safetensors_writer_commit(writer);
done:
    safetensors_writer_destroy(writer);
    free(buffer);
    return status;
}

uint64_t checkpoint_size(const struct param_table *table, int max_seq_len, bool with_optimizer)
{
    enum { HEADER = 64 << 10 };     /* generous: a few hundred bytes for each tensor */
    const uint64_t tensors = (uint64_t)table->n_parameters * sizeof(float);
    const uint64_t names = (uint64_t)table->n_params * 400;
    const uint64_t probe = ((uint64_t)max_seq_len + 1) * sizeof(int32_t);

    return HEADER + probe + (with_optimizer ? 3 : 1) * (tensors + names);
}

enum status checkpoint_copy(const struct checkpoint_content *content, float *copy)
{
    const struct param_table *table = model_param_table(content->model);
    struct group groups[3];
    const int n_groups = make_groups(groups, content);

    for (int i = 0; i < n_groups; i++)
        for (int j = 0; j < table->n_params; j++) {
            pulse_beat();
            TRY(model_get_param(content->model, &groups[i].flat, &table->params[j], copy));
            copy += table->params[j].count;
        }
    return OK;
}

uint64_t checkpoint_copy_size(const struct param_table *table)
{
    return 3 * (uint64_t)table->n_parameters * sizeof(float);
}
