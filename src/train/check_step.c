/* check_step.c - trainer --check: a training step on each GPU against the same step on the CPU. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/team.h"
#include "device/cpu.h"
#include "train/check.h"

/* The window is shortened to so many multiplications of weights, seconds of one core, */
static const double MAX_WORK = 1e11;
enum { MIN_LENGTH = 32 };       /* but not below this. */

/* Float16 loses gradients that are small, so the loss is scaled up; for the other types a power of
 * 2 makes no difference. */
static const double LOSS_SCALE = 1024;

/* One step without dropout, and what the CPU makes of it. */
struct reference {
    struct model_config config;
    struct model_batch batch;
    int32_t *tokens;            /* of the batch: ids, then targets */
    uint64_t seed;              /* of the weights */
    double loss;
    float *gradients;           /* as the parameter table lays them out */
    double squares;             /* the sum of theirs */
};

/* How far a GPU may be from that, in parts of the CPU's numbers. Every value rounded to bfloat16 is
 * wrong by up to 0.4%, to float16 by 0.05%, and a gradient is made of many. */
struct tolerance {
    const char *type;
    double loss, gradients, one;        /* all gradients together, those of one parameter */
};

static struct tolerance tolerance_of(enum dtype real)
{
    return real == DTYPE_BF16  ? (struct tolerance){"bfloat16", 5e-3, 3e-2, 0.1}
           : real == DTYPE_F16 ? (struct tolerance){"float16", 1e-3, 1e-2, 0.05}
                               : (struct tolerance){"float32", 1e-5, 1e-4, 1e-3};
}

/* How far it is. */
struct distance {
    double loss, gradients, worst;
    char worst_name[80];
};

/* Sums of squares: of some of the CPU's gradients, and of the distance from them. */
struct squares {
    double size, difference;
};

static struct squares measure_values(const float *values, const float *expected, int64_t count)
{
    struct squares s = {0};

    for (int64_t i = 0; i < count; i++) {
        const double difference = (double)values[i] - (double)expected[i];
        s.size += (double)expected[i] * (double)expected[i];
        s.difference += difference * difference;
    }
    return s;
}

/* Gradients that are next to nothing beside all the others may be nothing but rounding errors. */
static double relative(const struct reference *r, struct squares s)
{
    const double least = 1e-8 * r->squares;

    return s.difference == 0 ? 0 : sqrt(s.difference / (s.size > least ? s.size : least));
}

static enum status do_step(const struct reference *r, struct device *dev, struct model *model,
                           double *loss)
{
    const struct model_step step = {.seed = r->seed};
    const struct tensor sums = model_sums(model);
    const double tokens = r->batch.length;
    double totals[2];

    TRY(model_init(model, r->seed));
    TRY(model_begin(model));
    TRY(model_train_batch(model, &r->batch, &step, LOSS_SCALE / tokens, NULL));
    TRY(device_download(dev, totals, sums.data, sizeof totals));
    *loss = totals[0] / tokens;
    return OK;
}

/* ---- the CPU's step ---- */

static enum status create_reference(struct reference *r, const struct run *run)
{
    struct param_table table;
    int length = run->model.max_seq_len;

    r->config = run->model;
    r->seed = (uint64_t)run->config.run.seed;
    r->config.dropout = 0;
    TRY(param_table_create(&table, &r->config));
    const double most = MAX_WORK / (3 * (double)table.n_parameters);
    param_table_free(&table);
    if (most < length && length > MIN_LENGTH)
        length = most > MIN_LENGTH ? (int)most : MIN_LENGTH;
    r->config.max_seq_len = length;
    r->tokens = malloc(2 * (size_t)length * sizeof *r->tokens);
    if (!r->tokens)
        return fail(ERR_NOMEM, "no memory for %d tokens", length);
    TRY(dataset_window(&run->data, SPLIT_TRAIN, 0, length, r->tokens, r->tokens + length));
    r->batch = (struct model_batch){r->tokens, r->tokens + length, 1, length};
    return OK;
}

static enum status keep_gradients(struct reference *r, struct model *model)
{
    const struct param_table *table = model_param_table(model);
    const struct tensor gradients = model_gradients(model);

    r->gradients = malloc((size_t)table->flat_count * sizeof *r->gradients);
    if (!r->gradients)
        return fail(ERR_NOMEM, "no memory for %lld gradients", (long long)table->flat_count);
    for (int i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        float *values = r->gradients + param->offset;
        TRY(model_get_param(model, &gradients, param, values));
        r->squares += measure_values(values, values, param->count).size;
    }
    return OK;
}

static enum status compute_reference(struct reference *r, const struct run *run)
{
    struct device *dev = NULL;
    struct model *model = NULL;
    enum status status;

    TRY(create_reference(r, run));
    TRY_GOTO(status, cpu_device_create(&dev, 0, team_cores(), DTYPE_F32), done);
    TRY_GOTO(status, model_create(&model, dev, &r->config, 1, MODEL_TRAIN, NULL), done);
    TRY_GOTO(status, do_step(r, dev, model, &r->loss), done);
    status = keep_gradients(r, model);
done:
    model_destroy(model);
    device_destroy(dev);
    return status;
}

/* ---- a device's ---- */

/* Queries and keys of fresh weights have gradients so much smaller than values that one number for
 * all three would hide their errors. */
static enum status measure_param(const struct reference *r, struct model *model,
                                 const struct param *param, struct squares *all,
                                 struct distance *out)
{
    static const char *const thirds[] = {" (q)", " (k)", " (v)"};
    const struct tensor gradients = model_gradients(model);
    const bool has_thirds = strstr(param->name, "to_qkv") != NULL;
    const int64_t count = param->count / (has_thirds ? 3 : 1);
    float *values = malloc((size_t)param->count * sizeof *values);

    if (!values)
        return fail(ERR_NOMEM, "no memory for the gradient of %s", param->name);
    const enum status status = model_get_param(model, &gradients, param, values);
    for (int64_t first = 0; first < param->count && status == OK; first += count) {
        const struct squares s = measure_values(values + first,
                                                r->gradients + param->offset + first, count);
        all->size += s.size;
        all->difference += s.difference;
        /* Not a number is worse than any. */
        if (relative(r, s) <= out->worst)
            continue;
        out->worst = relative(r, s);
        snprintf(out->worst_name, sizeof out->worst_name, "%s%s", param->name,
                 has_thirds ? thirds[first / count] : "");
    }
    free(values);
    return status;
}

static enum status measure(const struct reference *r, struct model *model, double loss,
                           struct distance *out)
{
    const struct param_table *table = model_param_table(model);
    struct squares all = {0};

    *out = (struct distance){.loss = fabs(loss - r->loss) / (1 + r->loss), .worst = -1};
    for (int i = 0; i < table->n_params; i++)
        TRY(measure_param(r, model, &table->params[i], &all, out));
    out->gradients = relative(r, all);
    return OK;
}

/* What is said of one GPU: in the report, if `status` is OK, or else by its error message. */
struct verdict {
    enum status status;
    char text[512];
};

static enum status judge(const struct reference *r, const struct device *dev, double loss,
                         const struct distance *d, struct verdict *out)
{
    const struct tolerance t = tolerance_of(dev->real);

    if (!(d->loss <= t.loss))
        return fail(ERR_DEVICE, "%s: training step in %s: the loss is %.6f, and %.6f on the CPU",
                    dev->description, t.type, loss, r->loss);
    if (!(d->gradients <= t.gradients) || !(d->worst <= t.one))
        return fail(ERR_DEVICE, "%s: training step in %s: the gradients are off the CPU's by %.2g "
                    "(%.2g allowed), most that of %s by %.2g (%.2g allowed)", dev->description,
                    t.type, d->gradients, t.gradients, d->worst_name, d->worst, t.one);
    snprintf(out->text, sizeof out->text, "%s: training step in %s: loss %.6f (CPU %.6f), "
             "gradients within %.2g of the CPU's, worst that of %s with %.2g", dev->description,
             t.type, loss, r->loss, d->gradients, d->worst_name, d->worst);
    return OK;
}

static enum status check_device_step(const struct run *run, const struct reference *r, int rank,
                                  struct verdict *out)
{
    struct device *dev = NULL;
    struct model *model = NULL;
    struct distance distance;
    double loss;
    enum status status;

    TRY_GOTO(status, plan_open_device(&dev, &run->devices, rank), done);
    TRY_GOTO(status, model_create(&model, dev, &r->config, 1, MODEL_TRAIN, NULL), done);
    TRY_GOTO(status, do_step(r, dev, model, &loss), done);
    TRY_GOTO(status, measure(r, model, loss, &distance), done);
    status = judge(r, dev, loss, &distance, out);
done:
    model_destroy(model);
    device_destroy(dev);
    return status;
}

/* ---- all devices ---- */

struct step_check {
    const struct run *run;
    struct reference reference;
    struct barrier *barrier;
    struct verdict *verdicts;   /* one for each device */
};

/* The failure of one GPU must not end the check of the others. */
static enum status check_rank(struct worker *worker, void *context)
{
    struct step_check *c = context;
    struct verdict *verdict = &c->verdicts[worker->rank];

    verdict->status = check_device_step(c->run, &c->reference, worker->rank, verdict);
    if (verdict->status != OK)
        snprintf(verdict->text, sizeof verdict->text, "%s", status_message());
    return OK;
}

static enum status check_all(struct step_check *c, int n_devices)
{
    TRY(compute_reference(&c->reference, c->run));
    TRY(barrier_create(&c->barrier, n_devices));
    c->verdicts = calloc((size_t)n_devices, sizeof *c->verdicts);
    if (!c->verdicts)
        return fail(ERR_NOMEM, "no memory to check %d devices", n_devices);
    return world_run(n_devices, c->barrier, check_rank, c);
}

void check_device_steps(const struct run *run, bool *passed)
{
    const int n_devices = run->devices.on_gpus ? plan_n_gpus(&run->devices) : 1;
    struct step_check c = {.run = run};

    if (check_all(&c, n_devices) != OK) {
        check_cross(passed);
        goto done;
    }
    for (int i = 0; i < n_devices; i++) {
        const struct verdict *verdict = &c.verdicts[i];
        if (verdict->status == OK) {
            check_tick("%s", verdict->text);
        } else {
            (void)fail(verdict->status, "%s", verdict->text);
            check_cross(passed);
        }
    }
done:
    free(c.verdicts);
    barrier_destroy(c.barrier);
    free(c.reference.tokens);
    free(c.reference.gradients);
}
