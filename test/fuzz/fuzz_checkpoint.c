/* fuzz_checkpoint.c - checkpoints, and weights of other programs: opening one, planning to go on
 * from it, loading it into a model of the size that the corpus has, replaying its recorded step. */
#include <stdlib.h>

#include "device/cpu.h"
#include "fuzz.h"
#include "train/checkpoint.h"
#include "train/plan.h"
#include "train/probe.h"

static struct device *dev;
static struct model *model;
static struct optimizer optimizer;

static void create_model(void)
{
    const struct model_config config = {.vocab_size = 3, .max_seq_len = 4, .dim = 2, .depth = 1,
                                        .heads = 1, .mlp_dim = 1, .use_rotary_emb = true};
    const struct optimizer_config settings = {0.9, 0.95, 1e-8, 0.1, 1};

    FUZZ_CHECK(cpu_device_create(&dev, 0, 1, DTYPE_F32) == OK);
    FUZZ_CHECK(model_create(&model, dev, &config, 1, MODEL_TRAIN, NULL) == OK);
    FUZZ_CHECK(optimizer_create(&optimizer, dev, model, &settings) == OK);
}

/* Numbers from the file must not upset the arithmetic of a resumed run. */
static enum status plan(const struct checkpoint *c, int n_workers)
{
    const struct progress_state *p = &c->progress;
    const struct dataset data = {.path = "data", .streams = {{.count = 1000}}};
    struct plan_batch batch;
    struct plan_steps steps;

    TRY(plan_batch(&batch, &c->config, n_workers, p->global_batch));
    FUZZ_CHECK(batch.micro_batch > 0 && batch.accumulation > 0);
    FUZZ_CHECK(!p->global_batch || batch.global_batch == p->global_batch);
    return plan_steps(&steps, &c->config, &data, batch.global_batch, p->epoch, p->position,
                      p->step);
}

/* As --verify does, whatever numbers the weights are. */
static enum status replay(const struct checkpoint *c)
{
    struct probe probe;
    int32_t *tokens;
    enum status status = checkpoint_read_probe(c, &probe, &tokens);

    if (status == OK && tokens)
        status = probe_take(&probe, dev, model, 1, &c->progress);
    free(tokens);
    return status;
}

static enum status load(const struct checkpoint *c)
{
    TRY(checkpoint_check_model(c, model_config(model)));
    FUZZ_CHECK(checkpoint_load_weights(c, model) == OK);
    return c->has_optimizer ? checkpoint_load_optimizer(c, &optimizer) : OK;
}

enum status fuzz_read(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file(data, size);
    struct checkpoint c;
    int64_t step;
    bool finished;

    if (!model)
        create_model();
    const bool peeked = checkpoint_peek(path, &step, &finished) == OK;
    /* For --init, which needs no more than tensors. */
    fuzz_check_status(weights_load(path, model));
    TRY(checkpoint_open(&c, path));

    FUZZ_CHECK(peeked && step == c.progress.step && finished == c.progress.finished);
    enum status status = checkpoint_check_numbers(&c);
    fuzz_check_status(status);
    FUZZ_CHECK(status != OK || weights_check(path, &c.model) == OK);
    status = plan(&c, 1);
    if (status == OK)
        status = plan(&c, 2);
    if (status == OK)
        status = load(&c);
    if (status == OK)
        status = replay(&c);
    checkpoint_close(&c);
    return status;
}
