#include "train/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/pulse.h"
#include "train/checkpoint_format.h"
#include "train/plan.h"
#include "train/probe.h"

/* Sums and products of counts from a file, of which the steps left of a run are made, stay far from
 * overflow; as do those of epochs and global batches, which are kept within INT32_MAX. */
static const int64_t MAX_COUNT = (int64_t)1 << 53;
enum { MAX_HEALTH = 4096 };     /* bytes of JSON */

static enum status metadata_text(const struct checkpoint *c, const char *key, const char **text)
{
    *text = safetensors_metadata(&c->file, key);
    if (!*text)
        return fail(ERR_INVALID, "%s: not an Octet checkpoint: its metadata has no \"%s\"", c->path,
                    key);
    return OK;
}

static enum status metadata_count(const struct checkpoint *c, const char *key, int64_t most,
                                  int64_t *value)
{
    const char *text;
    char *end;

    TRY(metadata_text(c, key, &text));
    errno = 0;
    *value = strtoll(text, &end, 10);
    if (end == text || *end || errno || *value < 0 || *value > most)
        return fail(ERR_INVALID, "%s: damaged: metadata \"%s\" is \"%.40s\", expected a whole "
                    "number from 0 to %" PRId64, c->path, key, text, most);
    return OK;
}

static enum status metadata_number(const struct checkpoint *c, const char *key, double *value)
{
    const char *text;
    char *end;

    TRY(metadata_text(c, key, &text));
    *value = strtod(text, &end);
    if (end == text || *end || isnan(*value))
        return fail(ERR_INVALID, "%s: damaged: metadata \"%s\" is \"%.40s\", expected a number",
                    c->path, key, text);
    return OK;
}

/* Checkpoints of earlier versions have none: every step was an update then. */
static enum status read_health(const struct checkpoint *c, int64_t step, struct health *h)
{
    const char *text = safetensors_metadata(&c->file, KEY_HEALTH);
    json_int_t updates, skipped, bad_in_row, rollbacks, from, to, n_losses;
    json_t *object;

    *h = (struct health){.updates = step, .barred_to = -1};
    if (!text)
        return OK;
    TRY(json_parse(&object, text, strlen(text), MAX_HEALTH, c->path));
    const int result = json_unpack(
        object, "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:F, s:F}", "updates", &updates, "skipped",
        &skipped, "bad_in_row", &bad_in_row, "rollbacks", &rollbacks, "barred_from", &from,
        "barred_to", &to, "n_losses", &n_losses, "loss_mean", &h->loss_mean, "loss_variance",
        &h->loss_variance);
    json_decref(object);
    const bool counts = result == 0 && updates >= 0 && updates <= MAX_COUNT && skipped >= 0 &&
                        skipped <= MAX_COUNT && bad_in_row >= 0 && bad_in_row <= skipped &&
                        rollbacks >= 0 && rollbacks <= MAX_COUNT && n_losses >= 0 &&
                        n_losses <= MAX_COUNT;
    if (!counts || !isfinite(h->loss_mean) || !(h->loss_variance >= 0))
        return fail(ERR_INVALID, "%s: damaged: metadata \"%s\" is \"%.80s\"", c->path, KEY_HEALTH,
                    text);
    h->updates = updates;
    h->skipped = skipped;
    h->bad_in_row = bad_in_row;
    h->rollbacks = rollbacks;
    h->barred_from = from;
    h->barred_to = to;
    h->n_losses = n_losses;
    return OK;
}

static enum status read_progress(struct checkpoint *c)
{
    struct progress_state *p = &c->progress;
    int64_t finished;
    const char *digest;

    TRY(metadata_count(c, KEY_STEP, MAX_COUNT, &p->step));
    TRY(metadata_count(c, KEY_EPOCH, INT32_MAX, &p->epoch));
    TRY(metadata_count(c, KEY_POSITION, MAX_COUNT, &p->position));
    TRY(metadata_count(c, KEY_TOKENS, MAX_COUNT, &p->tokens));
    TRY(metadata_count(c, KEY_GLOBAL_BATCH, INT32_MAX, &p->global_batch));
    TRY(metadata_count(c, KEY_TOTAL_STEPS, MAX_COUNT, &p->total_steps));
    TRY(metadata_number(c, KEY_LOSS_SCALE, &p->loss_scale));
    TRY(metadata_count(c, KEY_SCALE_STEPS, MAX_COUNT, &p->scale_steps));
    TRY(metadata_count(c, KEY_FINISHED, 1, &finished));
    TRY(metadata_number(c, KEY_BEST_LOSS, &p->best_loss));
    TRY(read_health(c, p->step, &p->health));
    TRY(metadata_text(c, KEY_DATASET_DIGEST, &digest));
    if (!isfinite(p->loss_scale) || p->loss_scale <= 0)
        return fail(ERR_INVALID, "%s: damaged: metadata \"%s\" is %g, expected a number above 0",
                    c->path, KEY_LOSS_SCALE, p->loss_scale);
    if (isnan(p->best_loss) || p->best_loss < 0)
        return fail(ERR_INVALID, "%s: damaged: metadata \"%s\" is %g, expected a loss", c->path,
                    KEY_BEST_LOSS, p->best_loss);
    if (p->global_batch == 0)
        return fail(ERR_INVALID, "%s: damaged: metadata \"%s\" is 0", c->path, KEY_GLOBAL_BATCH);
    p->finished = finished != 0;
    snprintf(c->dataset_digest, sizeof c->dataset_digest, "%s", digest);
    return OK;
}

static enum status read_settings(struct checkpoint *c)
{
    char name[1024];
    const char *text;

    TRY(metadata_text(c, KEY_FORMAT, &text));
    if (strcmp(text, CHECKPOINT_FORMAT) != 0)
        return fail(ERR_INVALID, "%s: checkpoint format \"%.40s\"; this version reads \"%s\"",
                    c->path, text, CHECKPOINT_FORMAT);
    TRY(metadata_text(c, KEY_TOKENIZER, &text));
    TRY(tokenizer_from_json(&c->tokenizer, text, c->path));
    TRY(metadata_text(c, KEY_CONFIG, &text));
    snprintf(name, sizeof name, "%s: its configuration", c->path);
    options_default(&config_options, &c->config);
    TRY(options_read_text(&config_options, &c->config, text, name));
    if (config_check(&c->config) != OK)
        return fail_prefix(ERR_INVALID, "%s: ", name);
    return plan_model(&c->model, &c->config, c->tokenizer.vocab_size);
}

enum status checkpoint_read_metadata(struct checkpoint *c)
{
    TRY(read_settings(c));
    return read_progress(c);
}

/* One tensor that must be there with this parameter's shape. */
static enum status check_entry(const struct checkpoint *c, const char *prefix,
                               const struct param *param)
{
    char name[96];

    snprintf(name, sizeof name, "%s%s", prefix, param->name);
    const struct safetensors_entry *entry = safetensors_find(&c->file, name);
    if (!entry)
        return fail(ERR_INVALID, "%s: tensor %s is missing", c->path, name);
    const int64_t columns = entry->n_dims > 1 ? entry->shape[1] : 1;
    if (entry->n_dims != param->n_dims || entry->shape[0] != param->shape[0] ||
        columns != param->shape[1] || entry->dtype != DTYPE_F32)
        return fail(ERR_INVALID, "%s: tensor %s does not fit the model that its configuration "
                    "describes", c->path, name);
    return OK;
}

enum status checkpoint_check_tensors(struct checkpoint *c)
{
    struct param_table table;
    enum status status = param_table_create(&table, &c->model);

    c->has_optimizer = safetensors_find(&c->file, MOMENT_M "token_emb.weight") != NULL;
    for (int i = 0; i < table.n_params && status == OK; i++) {
        status = check_entry(c, "", &table.params[i]);
        if (status == OK && c->has_optimizer)
            status = check_entry(c, MOMENT_M, &table.params[i]);
        if (status == OK && c->has_optimizer)
            status = check_entry(c, MOMENT_V, &table.params[i]);
    }
    param_table_free(&table);
    return status;
}

enum status checkpoint_check_values(const char *path, const struct safetensors *file,
                                    const struct safetensors_entry *entry)
{
    const unsigned char *data = safetensors_data(file, entry);
    const bool is_square = strncmp(entry->name, MOMENT_V, strlen(MOMENT_V)) == 0;

    for (size_t i = 0; i < entry->size / sizeof(float) && entry->dtype == DTYPE_F32; i++) {
        float value;

        memcpy(&value, data + i * sizeof value, sizeof value);
        /* The square of a large gradient may be beyond all numbers: its weight then stays as it is. */
        if (is_square ? !(value >= 0) : !isfinite(value))
            return fail(ERR_INVALID, "%s: tensor %s: value %zu is %g, expected a %s", path,
                        entry->name, i, (double)value,
                        is_square ? "number from 0" : "finite number");
    }
    return OK;
}

enum status checkpoint_check_numbers(const struct checkpoint *c)
{
    for (int i = 0; i < c->file.n_entries; i++) {
        pulse_beat();
        TRY(checkpoint_check_values(c->path, &c->file, &c->file.entries[i]));
    }
    return OK;
}

enum status checkpoint_map(struct checkpoint *c, const char *path)
{
    *c = (struct checkpoint){.path = strdup(path)};
    if (!c->path)
        return fail(ERR_NOMEM, "no memory to open %s", path);
    const enum status status = safetensors_open(&c->file, path);
    if (status != OK)
        checkpoint_close(c);
    return status;
}

enum status checkpoint_open(struct checkpoint *c, const char *path)
{
    enum status status;

    TRY(checkpoint_map(c, path));
    TRY_GOTO(status, checkpoint_read_metadata(c), failed);
    TRY_GOTO(status, checkpoint_check_tensors(c), failed);
    for (int i = 0; i < c->file.n_entries; i++)
        TRY_GOTO(status, safetensors_verify(&c->file, path, &c->file.entries[i]), failed);
    return OK;
failed:
    checkpoint_close(c);
    return status;
}

enum status checkpoint_peek(const char *path, int64_t *step, bool *finished)
{
    struct checkpoint c = {.path = (char *)path};
    int64_t number = 0;

    TRY(safetensors_open(&c.file, path));
    enum status status = metadata_count(&c, KEY_STEP, MAX_COUNT, step);
    if (status == OK)
        status = metadata_count(&c, KEY_FINISHED, 1, &number);
    *finished = number != 0;
    safetensors_close(&c.file);
    return status;
}

void checkpoint_close(struct checkpoint *c)
{
    if (!c->path)
        return;
    safetensors_close(&c->file);
    tokenizer_free(&c->tokenizer);
    free(c->path);
    *c = (struct checkpoint){0};
}

/* Tensors were checked when the file was opened; what can differ is the model they go into. */
static enum status load_flat(const struct checkpoint *c, const char *prefix, struct model *model,
                             const struct tensor *flat)
{
    const struct param_table *table = model_param_table(model);

    for (int i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        char name[96];
        snprintf(name, sizeof name, "%s%s", prefix, param->name);
        const struct safetensors_entry *entry = safetensors_find(&c->file, name);
        if (!entry || entry->size != (uint64_t)param->count * sizeof(float))
            return fail(ERR_INVALID, "%s: tensor %s has not the size that this model needs",
                        c->path, name);
        pulse_beat();
        TRY(model_set_param(model, flat, param, safetensors_data(&c->file, entry)));
    }
    return OK;
}

enum status checkpoint_check_model(const struct checkpoint *c, const struct model_config *model)
{
    const struct {
        const char *key;
        int saved, wanted;
    } rows[] = {
        {"vocab_size", c->model.vocab_size, model->vocab_size},
        {"max_seq_len", c->model.max_seq_len, model->max_seq_len},
        {"dim", c->model.dim, model->dim},
        {"depth", c->model.depth, model->depth},
        {"heads", c->model.heads, model->heads},
        {"mlp_dim", c->model.mlp_dim, model->mlp_dim},
        {"use_rotary_emb", c->model.use_rotary_emb, model->use_rotary_emb},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].saved != rows[i].wanted)
            return fail(ERR_INVALID, "%s: a checkpoint of another model: model.%s is %d there and "
                        "%d here; leave the [model] keys as they were, or start a new run", c->path,
                        rows[i].key, rows[i].saved, rows[i].wanted);
    return OK;
}

enum status checkpoint_load_weights(const struct checkpoint *c, struct model *model)
{
    const struct tensor weights = model_weights(model);

    TRY(checkpoint_check_model(c, model_config(model)));
    TRY(load_flat(c, "", model, &weights));
    return model_weights_changed(model);
}

enum status checkpoint_load_optimizer(const struct checkpoint *c, struct optimizer *optimizer)
{
    if (!c->has_optimizer)
        return fail(ERR_INVALID, "%s: holds no optimizer state, so the run cannot go on exactly; "
                    "use --init to start a new one from its weights", c->path);
    TRY(load_flat(c, MOMENT_M, optimizer->model, &optimizer->m));
    return load_flat(c, MOMENT_V, optimizer->model, &optimizer->v);
}

/* The tensor's elements may lie unaligned. */
static enum status copy_probe_tokens(const struct checkpoint *c, int32_t *tokens, int64_t count)
{
    const struct safetensors_entry *entry = safetensors_find(&c->file, PROBE_TOKENS);

    if (!entry || entry->dtype != DTYPE_I32 || entry->n_dims != 1 || entry->shape[0] != count)
        return fail(ERR_INVALID, "%s: damaged: tensor " PROBE_TOKENS " is not there, or not I32 "
                    "(%" PRId64 ")", c->path, count);
    memcpy(tokens, safetensors_data(&c->file, entry), entry->size);
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= c->model.vocab_size)
            return fail(ERR_INVALID, "%s: damaged: number %" PRId64 " of " PROBE_TOKENS " is %d, "
                        "outside the vocabulary of %d ids", c->path, i, tokens[i],
                        c->model.vocab_size);
    return OK;
}

static enum status read_probe_numbers(const struct checkpoint *c, struct probe *probe)
{
    const char *type;

    TRY(metadata_number(c, KEY_PROBE_LOSS, &probe->loss));
    TRY(metadata_number(c, KEY_PROBE_GRAD_NORM, &probe->grad_norm));
    TRY(metadata_text(c, KEY_PROBE_TYPE, &type));
    probe->real = probe_type_from_name(type);
    if (!isfinite(probe->loss) || !isfinite(probe->grad_norm) || probe->real == N_DTYPES)
        return fail(ERR_INVALID, "%s: damaged: a recorded step with loss %g and gradient norm %g in "
                    "\"%.40s\"; expected finite numbers in float32, bfloat16 or float16", c->path,
                    probe->loss, probe->grad_norm, type);
    return OK;
}

enum status checkpoint_read_probe(const struct checkpoint *c, struct probe *probe,
                                  int32_t **tokens)
{
    const int64_t count = (int64_t)c->model.max_seq_len + 1;

    *probe = (struct probe){0};
    *tokens = NULL;
    if (!safetensors_metadata(&c->file, KEY_PROBE_LOSS) &&
        !safetensors_find(&c->file, PROBE_TOKENS))
        return OK;
    TRY(read_probe_numbers(c, probe));
    *tokens = malloc((size_t)count * sizeof **tokens);
    if (!*tokens)
        return fail(ERR_NOMEM, "no memory for %" PRId64 " tokens", count);
    probe->tokens = *tokens;
    return copy_probe_tokens(c, *tokens, count);
}
