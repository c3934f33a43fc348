/* test_train.c - learning rates, batches, steps, initial weights: what follows from the settings. */
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "model/params.h"
#include "test/check.h"
#include "train/plan.h"
#include "train/saves.h"
#include "train/schedule.h"

static void cosine(void)
{
    const struct schedule s = {SCHEDULE_COSINE, 2e-3, 0.1, 10, 110};

    CHECK_NEAR(schedule_lr(&s, 0), 0, 0);
    CHECK_NEAR(schedule_lr(&s, 5), 1e-3, 1e-12);
    CHECK_NEAR(schedule_lr(&s, 10), 2e-3, 1e-12);
    CHECK_NEAR(schedule_lr(&s, 60), 1.1e-3, 1e-12);     /* half-way: the mean of both ends */
    CHECK_NEAR(schedule_lr(&s, 110), 2e-4, 1e-12);
    CHECK_NEAR(schedule_lr(&s, 1000), 2e-4, 1e-12);
}

static void linear_and_constant(void)
{
    const struct schedule linear = {SCHEDULE_LINEAR, 1, 0.2, 0, 100};
    const struct schedule constant = {SCHEDULE_CONSTANT, 1, 0.2, 4, 100};

    CHECK_NEAR(schedule_lr(&linear, 0), 1, 1e-12);
    CHECK_NEAR(schedule_lr(&linear, 50), 0.6, 1e-12);
    CHECK_NEAR(schedule_lr(&linear, 99), 0.208, 1e-12);
    CHECK_NEAR(schedule_lr(&constant, 2), 0.5, 1e-12);
    CHECK_NEAR(schedule_lr(&constant, 99), 1, 1e-12);
    CHECK(schedule_shape_from_name("cosine") == SCHEDULE_COSINE);
    CHECK(schedule_shape_from_name("linear") == SCHEDULE_LINEAR);
    CHECK(schedule_shape_from_name("constant") == SCHEDULE_CONSTANT);
}

static void warmup_beyond_the_end(void)
{
    const struct schedule s = {SCHEDULE_COSINE, 1, 0.1, 100, 20};

    CHECK_NEAR(schedule_lr(&s, 19), 0.19, 1e-12);
    CHECK_NEAR(schedule_lr(&s, 100), 0.1, 1e-12);
}

static struct config settings(int64_t batch, int64_t accumulation)
{
    struct config config;

    options_default(&config_options, &config);
    config.training.batch_size = batch;
    config.training.gradient_accumulation_steps = accumulation;
    return config;
}

static void batch_of_a_new_run(void)
{
    const struct config config = settings(8, 3);
    struct plan_batch plan;

    CHECK_OK(plan_batch(&plan, &config, 2, 0));
    CHECK(plan.micro_batch == 8 && plan.accumulation == 3 && plan.global_batch == 48);
}

/* A resumed run keeps its global batch on any number of workers that divides it. */
static void batch_of_a_resumed_run(void)
{
    const struct config config = settings(8, 3);
    struct plan_batch plan;

    for (int n = 1; n <= 48; n++) {
        if (48 % n != 0) {
            CHECK_FAILS(plan_batch(&plan, &config, n, 48), ERR_INVALID, "48 windows");
            continue;
        }
        CHECK_OK(plan_batch(&plan, &config, n, 48));
        CHECK((int64_t)plan.micro_batch * plan.accumulation * n == 48);
        CHECK(plan.micro_batch <= 8 && plan.global_batch == 48);
    }
}

static void steps_of_a_run(void)
{
    struct config config = settings(4, 1);
    uint8_t tokens[1001] = {0};
    struct dataset data = {.path = "x", .streams = {{tokens, DTYPE_U8, 1001}}};
    struct plan_steps plan;

    config.model.max_seq_len = 10;
    config.training.num_epochs = 3;
    CHECK_OK(plan_steps(&plan, &config, &data, 4, 0, 0, 0));
    CHECK(plan.windows == 100 && plan.per_epoch == 25 && plan.total == 75 && plan.epochs == 3);
    CHECK_OK(plan_steps(&plan, &config, &data, 4, 1, 40, 35));     /* resumed in mid-epoch */
    CHECK(plan.total == 75 && plan.epochs == 3);
    CHECK_OK(plan_steps(&plan, &config, &data, 4, 3, 0, 75));      /* at its end */
    CHECK(plan.total == 75);
    config.training.max_steps = 30;
    CHECK_OK(plan_steps(&plan, &config, &data, 4, 0, 0, 0));
    CHECK(plan.total == 30 && plan.epochs == 2);
    config.training.max_steps = 25;
    CHECK_OK(plan_steps(&plan, &config, &data, 4, 0, 0, 0));
    CHECK(plan.total == 25 && plan.epochs == 1);
    CHECK_FAILS(plan_steps(&plan, &config, &data, 101, 0, 0, 0), ERR_INVALID,
                "has 1001 tokens; one step of 101 windows of 10 tokens needs at least 1011");
}

static void parameter_table(void)
{
    const struct model_config config = {.vocab_size = 50257, .max_seq_len = 1024, .dim = 768,
                                        .depth = 12, .heads = 12, .mlp_dim = 3072};
    struct param_table table;

    CHECK_OK(param_table_create(&table, &config));
    /* GPT-2's 124,439,808 less its biases of the attention: 12 (3 * 768 + 768). */
    CHECK(table.n_parameters == 124439808 - 12 * 4 * 768);
    CHECK(param_find(&table, "blocks.11.ff.net.3.bias") != NULL);
    CHECK(param_find(&table, "blocks.12.ff.net.3.bias") == NULL);
    CHECK(param_find(&table, "pos_emb.weight")->decay);
    CHECK(!param_find(&table, "norm.weight")->decay);
    for (int i = 0; i < table.n_params; i++) {
        const struct param *a = &table.params[i];
        CHECK(a->decay == (a->offset < table.decay_count));
        CHECK(a->offset % 64 == 0 && a->offset + a->count <= table.flat_count);
        for (int j = 0; j < i; j++) {
            const struct param *b = &table.params[j];
            CHECK(a->offset >= b->offset + b->count || b->offset >= a->offset + a->count);
        }
    }
    param_table_free(&table);
}

/* Mean 0, standard deviation 0.02, and a pure function of seed and place. */
static void initial_weights(void)
{
    const struct model_config config = {.vocab_size = 1001, .max_seq_len = 16, .dim = 64,
                                        .depth = 1, .heads = 2, .mlp_dim = 32,
                                        .use_rotary_emb = true};
    static float a[1001 * 64], b[1001 * 64];
    struct param_table table;
    double sum = 0, squares = 0;
    int same = 0;

    CHECK_OK(param_table_create(&table, &config));
    const int64_t n = table.params[0].count;
    CHECK(n == 1001 * 64);
    param_initial_values(&table, 0, 7, a);
    param_initial_values(&table, 0, 8, b);
    for (int64_t i = 0; i < n; i++) {
        sum += (double)a[i];
        squares += (double)a[i] * (double)a[i];
        same += a[i] == b[i];
    }
    CHECK_NEAR(sum / (double)n, 0, 4 * 0.02 / sqrt((double)n));
    CHECK_NEAR(sqrt(squares / (double)n), 0.02, 2e-4);
    CHECK(same < 5);
    param_initial_values(&table, 0, 7, b);
    CHECK(memcmp(a, b, sizeof a) == 0);
    param_table_free(&table);
}

/* After a failure within a minute, or as often as without one. */
static void saves_by_time(void)
{
    struct saves saves = {.waiting_since = seconds_now() - 50};

    CHECK(saves_are_due(&saves, 40));
    CHECK(!saves_are_due(&saves, 1000));
    CHECK(!saves_are_due(&saves, 0));
    saves.failed = true;
    CHECK(saves_are_due(&saves, 40));
    CHECK(!saves_are_due(&saves, 1000));
    CHECK(!saves_are_due(&saves, 0));
    saves.waiting_since = seconds_now() - 70;
    CHECK(saves_are_due(&saves, 1000));
    CHECK(saves_are_due(&saves, 0));
    saves.failed = false;
    CHECK(!saves_are_due(&saves, 1000));
    CHECK(!saves_are_due(&saves, 0));
}

static struct plan_disk disk(uint64_t needed, uint64_t available)
{
    return (struct plan_disk){"saves", 3, needed, available, 100};
}

static void room_on_the_disk(void)
{
    const struct plan_disk exact = disk(1000, 1000), full = disk(3ull << 29, 1ull << 28);
    const struct plan_disk small = disk(3 << 20, 0), endless = disk(UINT64_MAX, 1ull << 40);

    CHECK_OK(plan_disk_check(&exact, false));
    CHECK_FAILS(plan_disk_check(&full, false), ERR_INVALID,
                "saves: 3 checkpoints of this run need 1.5 GiB, 0.2 GiB are free");
    CHECK_OK(plan_disk_check(&full, true));
    CHECK_FAILS(plan_disk_check(&small, false), ERR_INVALID, "need 3.0 MiB, 0.0 MiB are free");
    CHECK_FAILS(plan_disk_check(&endless, false), ERR_INVALID, "--force");
}

int main(void)
{
    CASE(cosine);
    CASE(linear_and_constant);
    CASE(warmup_beyond_the_end);
    CASE(batch_of_a_new_run);
    CASE(batch_of_a_resumed_run);
    CASE(steps_of_a_run);
    CASE(parameter_table);
    CASE(initial_weights);
    CASE(saves_by_time);
    CASE(room_on_the_disk);
    return check_finish();
}
