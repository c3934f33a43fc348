/* weights_load.c - weights alone, from any safetensors file. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/checkpoint.h"

static float bf16_to_float(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;

    memcpy(&value, &wide, sizeof value);
    return value;
}

static float f16_to_float(uint16_t bits)
{
    const int exponent = bits >> 10 & 31;
    const float fraction = (float)(bits & 1023);
    float magnitude;

    if (exponent == 31)
        magnitude = fraction > 0 ? NAN : INFINITY;
    else if (exponent == 0)
        magnitude = ldexpf(fraction, -24);
    else
        magnitude = ldexpf(1024 + fraction, exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

/* The data section's tensors need not be aligned in files of other programs. */
static void convert(float *out, const unsigned char *data, enum dtype dtype, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t half;
        double wide;
        switch (dtype) {
        case DTYPE_F64:
            memcpy(&wide, data + 8 * i, sizeof wide);
            out[i] = (float)wide;
            break;
        case DTYPE_F32:
            memcpy(&out[i], data + 4 * i, sizeof *out);
            break;
        default:
            memcpy(&half, data + 2 * i, sizeof half);
            out[i] = dtype == DTYPE_BF16 ? bf16_to_float(half) : f16_to_float(half);
        }
    }
}

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
    convert(values, safetensors_data(file, entry), entry->dtype, param->count);
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
    for (int i = 0; i < table.n_params && status == OK; i++)
        status = find_tensor(&file, path, &table.params[i], &entry);
    param_table_free(&table);
    safetensors_close(&file);
    return status;
}
