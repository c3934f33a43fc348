/* gradcheck_model.c - the gradients of every parameter of a whole model against differences of its
 * loss, in double precision; accumulated over micro-batches, with and without dropout. */
#include "gradcheck.h"
#include "model/model_internal.h"

enum {
    WINDOWS = 4,                    /* of the global batch */
    MICRO_BATCH = 2,
    LENGTH = 7,
    VOCAB = 11,
    SAMPLED = 40,                   /* elements of each parameter that are checked, or all */
};

struct run {
    struct model *model;
    int32_t ids[WINDOWS * LENGTH], targets[WINDOWS * LENGTH];
    double loss;                    /* of the latest run_batches() */
};

/* Sum over the rows of the latest forward pass. */
static double batch_loss(const struct model *m, const int32_t *targets, int64_t rows)
{
    const struct tensor *embedding_table = &m->weights.token_emb;
    const int64_t width = embedding_table->shape[1];
    double loss = 0;

    for (int64_t row = 0; row < rows; row++) {
        const double *norm = (const double *)m->acts.last.norm.data + row * width;
        double logits[VOCAB] = {0};
        for (int64_t v = 0; v < VOCAB; v++)
            for (int64_t c = 0; c < width; c++)
                logits[v] += norm[c] * ((const double *)embedding_table->data)[v * width + c];
        loss += token_loss(logits, VOCAB, targets[row]);
    }
    return loss * LOSS_SCALE;
}

/* Forward and backward over the whole global batch, `windows` of it at a time. */
static void run_batches(struct run *run, int windows)
{
    run->loss = 0;
    CHECK_OK(model_begin(run->model));
    for (int first = 0; first < WINDOWS; first += windows) {
        const struct model_batch batch = {run->ids + first * LENGTH, run->targets + first * LENGTH,
                                          windows, LENGTH};
        const struct model_step step = {.seed = SEED, .step = 5, .first_window = first};
        CHECK_OK(model_train_batch(run->model, &batch, &step, LOSS_SCALE, NULL));
        run->loss += batch_loss(run->model, batch.targets, windows * LENGTH);
    }
}

static double model_loss(void *context)
{
    struct run *run = context;

    run_batches(run, MICRO_BATCH);
    return run->loss;
}

/* Values of a size at which every part of the model matters. */
static void random_weights(struct model *m)
{
    for (int i = 0; i < m->table.n_params; i++) {
        const struct param *param = &m->table.params[i];
        double *values = (double *)m->flat_weights.data + param->offset;
        fill_random(values, param->count, 300 + (uint32_t)i, 0.6);
        for (int64_t k = 0; k < param->count && param->init == INIT_ONE; k++)
            values[k] += 1;
    }
}

/* Check SAMPLED elements of each parameter against `gradients`, those of the whole flat buffer. */
static void check_params(struct run *run, const char *name, const double *gradients)
{
    struct model *m = run->model;

    for (int i = 0; i < m->table.n_params; i++) {
        const struct param *param = &m->table.params[i];
        const int64_t n = param->count < SAMPLED ? param->count : SAMPLED;
        double expected[SAMPLED], gradient[SAMPLED];
        for (int64_t k = 0; k < n; k++) {
            /* One random element of each n-th part. */
            const int64_t first = k * param->count / n, end = (k + 1) * param->count / n;
            const uint32_t random = rng_philox(SEED, RNG_TEST, 400, (uint32_t)i,
                                               (uint64_t)k).word[0];
            const int64_t at = param->offset + first + random % (end - first);
            expected[k] = difference((double *)m->flat_weights.data + at, model_loss, run);
            gradient[k] = gradients[at];
        }
        check_gradient(name, param->name, expected, gradient, n);
    }
}

/* The sums that the model keeps are those losses. */
static void check_sums(struct run *run)
{
    double sums[2];

    run_batches(run, MICRO_BATCH);
    CHECK_OK(device_download(dev, sums, model_sums(run->model).data, sizeof sums));
    CHECK_NEAR(sums[0] * LOSS_SCALE, run->loss, 1e-6 * run->loss);
    CHECK(sums[1] >= 0 && sums[1] <= WINDOWS * LENGTH);
}

/* What gradients_ready() announced, to be compared with the final gradients. */
struct announced {
    const struct model *model;
    double *gradients;              /* of the flat buffer, as they were when announced */
    int64_t first;                  /* all matrices from here on were announced */
};

static enum status note_announced(void *context, int64_t first)
{
    struct announced *a = context;

    CHECK(first >= 0 && first <= a->first);
    memcpy(a->gradients + first, (const double *)a->model->flat_gradients.data + first,
           (size_t)(a->first - first) * sizeof(double));
    a->first = first;
    return OK;
}

/* Gradients of matrices are final once they are announced, and all of them are. */
static void check_hook(struct run *run)
{
    struct model *m = run->model;
    struct announced announced = {m, doubles(m->table.flat_count), m->table.decay_count};
    const struct model_hook hook = {note_announced, &announced};
    const struct model_batch batch = {run->ids, run->targets, WINDOWS, LENGTH};
    const struct model_step step = {.seed = SEED, .step = 5};

    CHECK_OK(model_begin(m));
    CHECK_OK(model_train_batch(m, &batch, &step, LOSS_SCALE, &hook));
    CHECK(announced.first == 0);
    CHECK(memcmp(announced.gradients, m->flat_gradients.data,
                 (size_t)m->table.decay_count * sizeof(double)) == 0);
    free(announced.gradients);
}

static void check_model(const char *name, bool rotary, double dropout)
{
    /* With learned positions, longer than the windows: the last positions have no gradient. */
    const struct model_config config = {.vocab_size = VOCAB, .max_seq_len = LENGTH + 2, .dim = 12,
                                        .depth = 2, .heads = 2, .mlp_dim = 20, .dropout = dropout,
                                        .use_rotary_emb = rotary};
    const struct tensor ids = ids_of(2 * WINDOWS, LENGTH, VOCAB);
    struct run run;

    memcpy(run.ids, ids.data, sizeof run.ids);
    memcpy(run.targets, (const int32_t *)ids.data + WINDOWS * LENGTH, sizeof run.targets);
    free(ids.data);
    if (model_create(&run.model, dev, &config, WINDOWS, MODEL_TRAIN, NULL) != OK) {
        check_report(__FILE__, __LINE__, "%s", status_message());
        return;
    }
    struct model *m = run.model;
    const int64_t count = m->table.flat_count;
    double *gradients = doubles(count);

    m->logits_rows = 5;             /* the classifier in several pieces, the last one shorter */
    random_weights(m);
    run_batches(&run, MICRO_BATCH);
    memcpy(gradients, m->flat_gradients.data, (size_t)count * sizeof *gradients);
    check_params(&run, name, gradients);
    check_sums(&run);
    /* One batch of all windows has the same dropout, and so the same gradients. */
    run_batches(&run, WINDOWS);
    check_gradient(name, "all, in one batch", gradients, m->flat_gradients.data, count);
    check_hook(&run);
    free(gradients);
    model_destroy(m);
}

static void model_rotary(void)
{
    check_model("model", true, 0);
}

static void model_rotary_dropout(void)
{
    check_model("model with dropout", true, 0.2);
}

static void model_learned(void)
{
    check_model("model with learned positions", false, 0);
}

static void model_learned_dropout(void)
{
    check_model("model with learned positions and dropout", false, 0.2);
}

int main(void)
{
    if (gradcheck_open() != OK) {
        fprintf(stderr, "gradcheck_model: %s\n", status_message());
        device_destroy(dev);
        return 1;
    }
    CASE(model_rotary);
    CASE(model_rotary_dropout);
    CASE(model_learned);
    CASE(model_learned_dropout);
    return gradcheck_finish();
}
