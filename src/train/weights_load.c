/* weights_load.c - weights alone, from any safetensors file. */
#include <stdlib.h>

#include "train/checkpoint.h"

/* The tensor of one parameter, checked. */
static enum status find_tensor(const struct safetensors *file, const char *path,
                               const struct param *param, const struct safetensors_entry **out)
{
    const struct safetensors_entry *entry = safetensors_find(file, param->name);

    *out = entry;
    if (!entry)
        return fail(ERR_INVALID, "%s: tensor %s is missing; this model needs it", path,
                    param->name);
    const int64_t columns = entry->n_dims > 1 ? entry->shape[1] : 1;
    if (entry->n_dims != param->n_dims || entry->shape[0] != param->shape[0] ||
        columns != param->shape[1])
        return fail(ERR_INVALID, "%s: tensor %s is (%lld, %lld), this model needs (%lld, %lld)",
                    path, param->name, (long long)entry->shape[0], (long long)columns,
                    (long long)param->shape[0], (long long)param->shape[1]);
    if (entry->dtype != DTYPE_F32 && entry->dtype != DTYPE_F64 && entry->dtype != DTYPE_BF16 &&
        entry->dtype != DTYPE_F16)
        return fail(ERR_INVALID, "%s: tensor %s is of type %s, expected F32, F64, BF16 or F16",
                    path, param->name, dtype_name(entry->dtype));
    return safetensors_verify(file, path, entry);
}

static enum status load_param(const struct safetensors *file, const char *path,
                              struct model *model, const struct param *param)
{
    const struct tensor weights = model_weights(model);
    const struct safetensors_entry *entry;

    TRY(find_tensor(file, path, param, &entry));
    float *values = malloc((size_t)param->count * sizeof *values);
    if (!values)
        return fail(ERR_NOMEM, "no memory to load %s", param->name);
    dtype_to_float(values, safetensors_data(file, entry), entry->dtype, param->count);
    const enum status status = model_set_param(model, &weights, param, values);
    free(values);
    return status;
}

enum status weights_load(const char *path, struct model *model)
{
    const struct param_table *table = model_param_table(model);
    struct safetensors file;
    enum status status = OK;

    TRY(safetensors_open(&file, path));
    for (int i = 0; i < table->n_params && status == OK; i++)
        status = load_param(&file, path, model, &table->params[i]);
    safetensors_close(&file);
    return status == OK ? model_weights_changed(model) : status;
}

enum status weights_check(const char *path, const struct model_config *model)
{
    const struct safetensors_entry *entry;
    struct param_table table;
    struct safetensors file;

    TRY(safetensors_open(&file, path));
    enum status status = param_table_create(&table, model);
    for (int i = 0; i < table.n_params && status == OK; i++) {
        status = find_tensor(&file, path, &table.params[i], &entry);
        if (status == OK)
            status = checkpoint_check_values(path, &file, entry);
    }
    param_table_free(&table);
    safetensors_close(&file);
    return status;
}
