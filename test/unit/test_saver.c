/* test_saver.c - the thread that writes checkpoints: what it is given, in which order; who waits. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/pulse.h"
#include "check.h"
#include "device/cpu.h"
#include "train/saver.h"
#include "train/saves.h"

static const struct model_config tiny = {.vocab_size = 5, .max_seq_len = 4, .dim = 8, .depth = 1,
                                         .heads = 1, .mlp_dim = 8, .use_rotary_emb = true};

enum { MAX_WRITTEN = 8 };

/* The thread's calls; each waits until it may. */
struct scene {
    struct device *dev;
    struct model *model;
    struct optimizer optimizer;
    struct saver *saver;
    struct pulse pulse;         /* of the thread of the test */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int allowed, n_written;
    int until_beats;            /* a call beats until the test's thread has done so so often */
    char names[MAX_WRITTEN][SAVE_NAME_SIZE];
    float first[MAX_WRITTEN];   /* weight, as in the copy */
    int64_t steps[MAX_WRITTEN];
};

static void note_write(void *context, const char *name, struct checkpoint_content content)
{
    struct scene *s = context;

    pthread_mutex_lock(&s->lock);
    while (s->allowed <= s->n_written)
        pthread_cond_wait(&s->changed, &s->lock);
    while ((int)atomic_load(&s->pulse.beats) < s->until_beats)
        pulse_beat();
    snprintf(s->names[s->n_written], SAVE_NAME_SIZE, "%s", name);
    s->first[s->n_written] = content.copy[0];
    s->steps[s->n_written++] = content.progress.step;
    pthread_mutex_unlock(&s->lock);
}

static void allow(struct scene *s, int writes)
{
    pthread_mutex_lock(&s->lock);
    s->allowed += writes;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static int n_written(struct scene *s)
{
    pthread_mutex_lock(&s->lock);
    const int n = s->n_written;
    pthread_mutex_unlock(&s->lock);
    return n;
}

static bool begin(struct scene *s)
{
    static const struct optimizer_config adam = {.beta1 = 0.9, .beta2 = 0.9, .epsilon = 1e-8};

    *s = (struct scene){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    CHECK_OK(cpu_device_create(&s->dev, 0, 1, DTYPE_F32));
    CHECK_OK(model_create(&s->model, s->dev, &tiny, 1, MODEL_TRAIN, NULL));
    CHECK_OK(optimizer_create(&s->optimizer, s->dev, s->model, &adam));
    CHECK_OK(saver_create(&s->saver, checkpoint_copy_size(model_param_table(s->model)), note_write,
                          s));
    pulse_attach(&s->pulse);
    return s->saver != NULL;
}

static void end(struct scene *s)
{
    saver_destroy(s->saver);
    pulse_attach(NULL);
    optimizer_free(&s->optimizer);
    model_destroy(s->model);
    device_destroy(s->dev);
}

/* The state of this step: its number is the first weight. */
static struct checkpoint_content state(struct scene *s, int step)
{
    const struct tensor weights = model_weights(s->model);
    const struct param *param = &model_param_table(s->model)->params[0];
    float *values = calloc((size_t)param->count, sizeof *values);

    values[0] = (float)step;
    CHECK_OK(model_set_param(s->model, &weights, param, values));
    free(values);
    return (struct checkpoint_content){.model = s->model, .optimizer = &s->optimizer,
                                       .progress = {.step = step}};
}

static void check_write(const struct scene *s, int i, const char *name, int step, float weight)
{
    CHECK_TEXT(s->names[i], name);
    CHECK(s->steps[i] == step && s->first[i] == weight);
}

/* Nothing is written yet when all of them are begun. */
static void one_copy_of_a_state(void)
{
    static struct scene s;

    if (!begin(&s))
        return;
    CHECK_OK(saver_begin(s.saver, "a", state(&s, 1)));
    CHECK_OK(saver_begin(s.saver, "b", state(&s, 2)));     /* the thread looks at the copy alone */
    CHECK(n_written(&s) == 0 && !saver_is_idle(s.saver));
    saver_state_changes(s.saver);
    allow(&s, 3);
    CHECK_OK(saver_begin(s.saver, "c", state(&s, 3)));
    CHECK(n_written(&s) >= 2);
    saver_take_turn(s.saver);
    CHECK(s.n_written == 3 && !saver_is_idle(s.saver));
    saver_end_turn(s.saver);
    CHECK(saver_is_idle(s.saver));
    check_write(&s, 0, "a", 1, 1);
    check_write(&s, 1, "b", 2, 1);
    check_write(&s, 2, "c", 3, 3);
    end(&s);
}

/* However many names one copy gets. */
static void many_names(void)
{
    static struct scene s;

    if (!begin(&s))
        return;
    allow(&s, MAX_WRITTEN);
    for (int i = 0; i < MAX_WRITTEN; i++)
        CHECK_OK(saver_begin(s.saver, "a", state(&s, 7)));
    saver_destroy(s.saver);         /* waits */
    s.saver = NULL;
    CHECK(s.n_written == MAX_WRITTEN);
    for (int i = 0; i < s.n_written; i++)
        check_write(&s, i, "a", 7, 7);
    end(&s);
}

/* A slow write is no hang of the one who waits for it: the write does not end before that one's
 * pulse has been seen to beat. */
static void waiting_goes_on_with_the_write(void)
{
    static struct scene s;

    if (!begin(&s))
        return;
    CHECK_OK(saver_begin(s.saver, "a", state(&s, 1)));
    s.until_beats = (int)atomic_load(&s.pulse.beats) + 3;
    allow(&s, 1);
    saver_take_turn(s.saver);
    CHECK(n_written(&s) == 1 && (int)atomic_load(&s.pulse.beats) >= s.until_beats);
    saver_end_turn(s.saver);
    end(&s);
}

/* Though its failure is known only later, the best model that is not on the disk counts as none. */
static void best_that_fails(void)
{
    static struct scene s;
    struct saves saves = {.folder = "/dev/null/nowhere", .best_loss = 3, .start_step = -1};

    if (!begin(&s))
        return;
    CHECK_OK(saves_open(&saves, checkpoint_copy_size(model_param_table(s.model))));
    struct checkpoint_content content = state(&s, 1);
    content.progress.best_loss = 2;
    saves_begin(&saves, SAVE_BEST, content);
    CHECK(saves_best_loss(&saves) == 3);
    CHECK(saves_are_idle(&saves) && saves.failed && saves_are_due(&saves, 1e-9));
    saves_close(&saves);
    end(&s);
}

static void without_a_thread(void)
{
    struct saver *saver;

    CHECK_OK(saver_create(&saver, 0, note_write, NULL));
    CHECK(!saver_has_thread(saver) && saver_is_idle(saver));
    saver_take_turn(saver);
    CHECK(!saver_is_idle(saver));
    saver_end_turn(saver);
    CHECK(saver_is_idle(saver));
    saver_destroy(saver);
    saver_destroy(NULL);
}

static void more_than_there_is(void)
{
    struct saver *saver;

    CHECK_FAILS(saver_create(&saver, (size_t)1 << 60, note_write, NULL), ERR_NOMEM,
                "to save from in the background (checkpoint.background = false does without)");
    CHECK(!saver);
}

int main(void)
{
    CASE(one_copy_of_a_state);
    CASE(many_names);
    CASE(waiting_goes_on_with_the_write);
    CASE(best_that_fails);
    CASE(without_a_thread);
    CASE(more_than_there_is);
    return check_finish();
}
