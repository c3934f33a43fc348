/* test_oracle.c - the model and its training against numbers that PyTorch computed: logits and
 * gradients of the first batch, then 20 optimizer steps; with every compiled variant of the
 * kernels. In bfloat16 the losses of these steps. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/safetensors.h"
#include "check.h"
#include "device/cpu.h"
#include "model/model.h"
#include "train/optimizer.h"
#include "train/schedule.h"

/* Of a tensor's largest element, but for the losses, which are compared as they are, and norms,
 * which are compared relatively. */
static const double FORWARD_TOLERANCE = 2e-5;
static const double LOSS_TOLERANCE = 1e-5;
static const double NORM_TOLERANCE = 1e-4;
static const double WEIGHT_TOLERANCE = 1e-4;
/* In bfloat16, relatively. All 20 losses lie within 2% of each other, so it takes this much to tell
 * that their model learns as it should. */
static const double ROUNDED_LOSS_TOLERANCE = 0.001;

static const char *const files[] = {
    OCTET_SOURCE_DIR "/test/data/rope_tiny.safetensors",
    OCTET_SOURCE_DIR "/test/data/learned_tiny.safetensors",
};

/* One file, and the model that follows it. */
struct oracle {
    struct safetensors file;
    struct model_config config;
    struct optimizer_config optimizer;
    struct schedule schedule;
    int batch, steps;
    struct device *dev;
    struct model *model;
    float *values;                  /* room for the largest tensor */
};

/* What the case in progress runs on. */
static struct cpu_variant variant;
static enum dtype real;
static int n_threads;

/* The largest errors met, for the end of the output. */
static double worst_logit, worst_gradient, worst_loss, worst_norm, worst_weight;
static double worst_rounded_loss;

static double number_of(const struct oracle *o, const char *key)
{
    const char *text = safetensors_metadata(&o->file, key);

    CHECK(text);
    return text ? strtod(text, NULL) : NAN;
}

/* The data of `count` elements, NULL if the file has no such tensor. */
static const void *data_of(const struct oracle *o, const char *name, enum dtype dtype,
                           int64_t count)
{
    const struct safetensors_entry *entry = safetensors_find(&o->file, name);

    if (!entry || entry->dtype != dtype || entry->size != (size_t)count * dtype_size(dtype)) {
        check_report(__FILE__, __LINE__, "%s is not in the file as expected", name);
        return NULL;
    }
    return safetensors_data(&o->file, entry);
}

/* The tensor PREFIX.NAME of a parameter. */
static const void *param_data(const struct oracle *o, const char *prefix, const struct param *param)
{
    char name[96];

    snprintf(name, sizeof name, "%s.%s", prefix, param->name);
    return data_of(o, name, DTYPE_F32, param->count);
}

/* The file may be aligned to nothing. */
static float float_at(const void *data, int64_t i)
{
    float value;

    memcpy(&value, (const char *)data + (size_t)i * sizeof value, sizeof value);
    return value;
}

static double double_at(const void *data, int64_t i)
{
    double value;

    memcpy(&value, (const char *)data + (size_t)i * sizeof value, sizeof value);
    return value;
}

/* The largest difference, as a part of the largest expected element; NaN and infinity stay. */
static double tensor_error(const float *values, const void *expected, int64_t count)
{
    double largest = 0, difference = 0;

    for (int64_t i = 0; i < count; i++) {
        const double error = fabs((double)values[i] - (double)float_at(expected, i));
        largest = fmax(largest, fabs((double)float_at(expected, i)));
        difference = isnan(difference) || error <= difference ? difference : error;
    }
    return difference / largest;
}

static void check_tensor(const char *name, const float *values, const void *expected,
                         int64_t count, double tolerance, double *worst)
{
    const double error = expected ? tensor_error(values, expected, count) : NAN;

    if (!(error <= tolerance))
        check_report(__FILE__, __LINE__, "%s is off by %g of its largest element", name, error);
    else
        *worst = fmax(*worst, error);
}

/* Compare all parameters, or their gradients. */
static void check_params(struct oracle *o, const struct tensor *flat, const char *prefix,
                         double tolerance, double *worst)
{
    const struct param_table *table = model_param_table(o->model);

    for (int i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        CHECK_OK(model_get_param(o->model, flat, param, o->values));
        check_tensor(param->name, o->values, param_data(o, prefix, param), param->count, tolerance,
                     worst);
    }
}

static enum status load_weights(struct oracle *o)
{
    const struct param_table *table = model_param_table(o->model);
    const struct tensor weights = model_weights(o->model);

    for (int i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        const void *data = param_data(o, "init", param);
        if (!data)
            return fail(ERR_INVALID, "no init.%s", param->name);
        memcpy(o->values, data, (size_t)param->count * sizeof(float));
        TRY(model_set_param(o->model, &weights, param, o->values));
    }
    return model_weights_changed(o->model);
}

static void close_oracle(struct oracle *o)
{
    model_destroy(o->model);
    device_destroy(o->dev);
    safetensors_close(&o->file);
    free(o->values);
}

static enum status open_oracle(struct oracle *o, const char *path)
{
    static struct op_table table;

    *o = (struct oracle){0};
    TRY(safetensors_open(&o->file, path));
    o->config = (struct model_config){
        .vocab_size = (int)number_of(o, "vocab_size"),
        .max_seq_len = (int)number_of(o, "max_seq_len"),
        .dim = (int)number_of(o, "dim"),
        .depth = (int)number_of(o, "depth"),
        .heads = (int)number_of(o, "heads"),
        .mlp_dim = (int)number_of(o, "mlp_dim"),
        .use_rotary_emb = number_of(o, "use_rotary_emb") != 0,
    };
    o->optimizer = (struct optimizer_config){
        .beta1 = number_of(o, "adam_beta1"),
        .beta2 = number_of(o, "adam_beta2"),
        .epsilon = number_of(o, "adam_epsilon"),
        .weight_decay = number_of(o, "weight_decay"),
        .max_grad_norm = number_of(o, "max_grad_norm"),
    };
    o->batch = (int)number_of(o, "batch");
    o->steps = (int)number_of(o, "steps");
    o->schedule = (struct schedule){SCHEDULE_COSINE, number_of(o, "learning_rate"),
                                    number_of(o, "min_lr_ratio"),
                                    (int64_t)number_of(o, "warmup_steps"), o->steps};

    variant.fill(&table);
    TRY(cpu_device_create_with(&o->dev, 0, n_threads, &table, real, variant.name));
    TRY(model_create(&o->model, o->dev, &o->config, o->batch, MODEL_TRAIN, NULL));
    o->values = calloc((size_t)model_param_table(o->model)->flat_count, sizeof *o->values);
    if (!o->values)
        return fail(ERR_NOMEM, "no memory for the values of a tensor");
    return load_weights(o);
}

/* Windows step * batch and on: window i is stream[i*T .. i*T+T], its targets one further. */
static void fill_batch(const struct oracle *o, int step, int32_t *ids, int32_t *targets)
{
    const int64_t length = o->config.max_seq_len, n = o->batch * length;
    const int64_t first = step * n;
    const char *stream = data_of(o, "stream", DTYPE_I32, o->steps * n + 1);

    if (!stream)
        return;
    memcpy(ids, stream + first * 4, (size_t)n * sizeof *ids);
    memcpy(targets, stream + (first + 1) * 4, (size_t)n * sizeof *targets);
}

enum { MOST_TOKENS = 256 };

/* Forward and backward of step s's batch; returns the mean loss. */
static double train_batch(struct oracle *o, int s)
{
    int32_t ids[MOST_TOKENS] = {0}, targets[MOST_TOKENS] = {0};
    const struct model_batch batch = {ids, targets, o->batch, o->config.max_seq_len};
    const struct model_step step = {.step = (uint32_t)s};
    const int n = o->batch * o->config.max_seq_len;
    double sums[2] = {NAN, NAN};

    fill_batch(o, s, ids, targets);
    CHECK_OK(model_begin(o->model));
    CHECK_OK(model_train_batch(o->model, &batch, &step, 1.0 / n, NULL));
    CHECK_OK(device_download(o->dev, sums, model_sums(o->model).data, sizeof sums));
    return sums[0] / n;
}

static void check_first_batch(struct oracle *o)
{
    int32_t ids[MOST_TOKENS] = {0}, targets[MOST_TOKENS] = {0};
    const struct model_batch batch = {ids, targets, o->batch, o->config.max_seq_len};
    const int64_t count = (int64_t)o->batch * o->config.max_seq_len * o->config.vocab_size;
    const struct tensor gradients = model_gradients(o->model);
    float *logits = calloc((size_t)count, sizeof *logits);

    CHECK(logits);
    if (!logits)
        return;
    fill_batch(o, 0, ids, targets);
    CHECK_OK(model_logits(o->model, &batch, logits));
    check_tensor("logits", logits, data_of(o, "logits", DTYPE_F32, count), count,
                 FORWARD_TOLERANCE, &worst_logit);
    free(logits);
    train_batch(o, 0);
    check_params(o, &gradients, "grad", FORWARD_TOLERANCE, &worst_gradient);
}

/* The first window again, through the cache of a generating model, a few tokens at a time. */
static void check_generation(struct oracle *o)
{
    static const int pieces[] = {1, 5, 1, 1, 8};
    const int64_t vocab = o->config.vocab_size, rows = (int64_t)o->batch * o->config.max_seq_len;
    const char *expected = data_of(o, "logits", DTYPE_F32, rows * vocab);
    int32_t ids[MOST_TOKENS] = {0}, targets[MOST_TOKENS] = {0};
    struct model *generator;
    int position = 0;

    fill_batch(o, 0, ids, targets);
    if (!expected ||
        model_create(&generator, o->dev, &o->config, 1, MODEL_GENERATE, o->model) != OK) {
        check_report(__FILE__, __LINE__, "%s", status_message());
        return;
    }
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        CHECK_OK(model_extend(generator, ids + position, pieces[i], position));
        CHECK_OK(model_read_logits(generator, o->values));
        position += pieces[i];
        check_tensor("generation's logits", o->values, expected + (position - 1) * vocab * 4,
                     vocab, FORWARD_TOLERANCE, &worst_logit);
    }
    CHECK(position == o->config.max_seq_len);
    model_destroy(generator);
}

static void check_training(struct oracle *o)
{
    const char *losses = data_of(o, "losses", DTYPE_F64, o->steps);
    const char *norms = data_of(o, "norms", DTYPE_F64, o->steps);
    const char *lrs = data_of(o, "lrs", DTYPE_F64, o->steps);
    const struct tensor weights = model_weights(o->model);
    struct optimizer optimizer;

    if (!losses || !norms || !lrs)
        return;
    CHECK_OK(load_weights(o));
    CHECK_OK(optimizer_create(&optimizer, o->dev, o->model, &o->optimizer));
    for (int s = 0; s < o->steps; s++) {
        const double loss = train_batch(o, s), lr = schedule_lr(&o->schedule, s);
        double norm = NAN;
        CHECK_OK(optimizer_norm(&optimizer, 1, &norm));
        CHECK_OK(optimizer_update(&optimizer, s + 1, lr, 1));
        CHECK_NEAR(lr, double_at(lrs, s), 1e-12);
        CHECK_NEAR(loss, double_at(losses, s), LOSS_TOLERANCE);
        CHECK_NEAR(norm / double_at(norms, s), 1, NORM_TOLERANCE);
        worst_loss = fmax(worst_loss, fabs(loss - double_at(losses, s)));
        worst_norm = fmax(worst_norm, fabs(norm / double_at(norms, s) - 1));
    }
    check_params(o, &weights, "final", WEIGHT_TOLERANCE, &worst_weight);
    optimizer_free(&optimizer);
}

static void check_rounded_losses(struct oracle *o)
{
    const char *losses = data_of(o, "losses", DTYPE_F64, o->steps);
    struct optimizer optimizer;

    if (!losses)
        return;
    CHECK_OK(optimizer_create(&optimizer, o->dev, o->model, &o->optimizer));
    for (int s = 0; s < o->steps; s++) {
        const double ratio = train_batch(o, s) / double_at(losses, s);
        double norm = NAN;
        CHECK_OK(optimizer_norm(&optimizer, 1, &norm));
        CHECK_OK(optimizer_update(&optimizer, s + 1, schedule_lr(&o->schedule, s), 1));
        CHECK_NEAR(ratio, 1, ROUNDED_LOSS_TOLERANCE);
        worst_rounded_loss = fmax(worst_rounded_loss, fabs(ratio - 1));
    }
    optimizer_free(&optimizer);
}

static void follow(void)
{
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct oracle o;
        if (open_oracle(&o, files[i]) != OK) {
            check_report(__FILE__, __LINE__, "%s", status_message());
        } else if (o.batch * o.config.max_seq_len > MOST_TOKENS) {
            check_report(__FILE__, __LINE__, "%s: more than %d tokens in a batch", files[i],
                         MOST_TOKENS);
        } else if (real == DTYPE_BF16) {
            check_rounded_losses(&o);
        } else {
            check_first_batch(&o);
            check_generation(&o);
            check_training(&o);
        }
        close_oracle(&o);
    }
}

static void follow_variants(enum dtype dtype, const char *type_name)
{
    struct cpu_variant variants[CPU_MAX_VARIANTS];
    const int n_variants = cpu_variants(variants, dtype);

    real = dtype;
    for (int i = 0; i < n_variants; i++)
        for (n_threads = 1; variants[i].usable && n_threads <= 2; n_threads++) {
            char name[64];
            variant = variants[i];
            snprintf(name, sizeof name, "%s, %s, %d thread%s", type_name, variant.name, n_threads,
                     n_threads == 1 ? "" : "s");
            check_run(name, follow);
        }
}

int main(void)
{
    follow_variants(DTYPE_F32, "float32");
    follow_variants(DTYPE_BF16, "bfloat16");
    printf("largest errors: logits %.2g, gradients %.2g, weights %.2g of the largest element; "
           "losses %.2g; norms %.2g relative\n", worst_logit, worst_gradient, worst_weight,
           worst_loss, worst_norm);
    printf("largest error of the losses in bfloat16: %.2g relative\n", worst_rounded_loss);
    return check_finish();
}
