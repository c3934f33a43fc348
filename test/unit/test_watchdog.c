/* test_watchdog.c - what the watchdog says of workers in all states; their time is made up, a
 * look at a time. */
#include <stdatomic.h>

#include "base/pulse.h"
#include "test/check.h"
#include "train/watchdog.h"

enum { N = 4 };

static const struct plan_devices devices = {.n_workers = N};

struct scene {
    struct watchdog dog;
    struct watched workers[N];
};

static void begin(struct scene *scene, double least)
{
    *scene = (struct scene){0};
    CHECK_OK(watchdog_create(&scene->dog, least, &devices, NULL));
    CHECK(watchdog_watch(&scene->dog) == (least > 0 ? &scene->dog.watch : NULL));
}

static void end(struct scene *scene)
{
    pulse_attach(NULL);
    watchdog_free(&scene->dog);
}

/* Let a worker do what is said of it by the functions of pulse.h. */
static void as(struct scene *scene, int rank)
{
    pulse_attach(&scene->workers[rank].pulse);
}

static void all_in(struct scene *scene, enum phase phase)
{
    for (int rank = 0; rank < N; rank++) {
        as(scene, rank);
        (void)pulse_phase(phase);
    }
}

/* Let so much time pass, or less if a look fails. */
static enum status pass(struct scene *scene, double seconds, bool failed)
{
    const struct world_watch *watch = &scene->dog.watch;

    for (double t = 0; t < seconds; t += watch->interval)
        TRY(watch->look(watch->context, scene->workers, N, watch->interval, failed));
    return OK;
}

static void hang_is_named(void)
{
    static struct scene s;

    begin(&s, 10);
    all_in(&s, PHASE_STEP);
    for (int rank = 0; rank < N; rank++)
        if (rank != 2) {
            as(&s, rank);
            pulse_wait("an all-reduce");
        }
    CHECK_OK(pass(&s, 9.9, false));
    CHECK_FAILS(pass(&s, 2, false), ERR_DEVICE,
                "rank 2 (CPU worker 2) hangs in a step: no progress for 10");
    CHECK(strstr(status_message(), "; waiting in an all-reduce: rank 0, 1, 3 ("));
    CHECK(s.workers[2].is_lost && !s.workers[0].is_lost && !s.dog.lost_in_save);
    end(&s);
}

/* The slower the phase has been, the longer it may take; any sign of life begins it anew. */
static void deadline_is_scaled(void)
{
    static struct scene s;

    begin(&s, 10);
    all_in(&s, PHASE_EVALUATION);
    for (int i = 0; i < 8; i++) {
        CHECK_OK(pass(&s, 5, false));
        for (int rank = 0; rank < N; rank++) {
            as(&s, rank);
            pulse_beat();
        }
    }
    all_in(&s, PHASE_EVALUATION);
    CHECK_OK(pass(&s, 150, false));
    CHECK_FAILS(pass(&s, 100, false), ERR_DEVICE, "in an evaluation");
    end(&s);
}

/* Rank 0 saves for long; the others wait for it, and are not slow because of that. */
static void save_holds_up_the_others(void)
{
    static struct scene s;

    begin(&s, 10);
    all_in(&s, PHASE_STEP);
    for (int rank = 1; rank < N; rank++) {
        as(&s, rank);
        pulse_wait("a barrier");
    }
    as(&s, 0);
    (void)pulse_phase(PHASE_SAVE);
    for (int i = 0; i < 20; i++) {
        CHECK_OK(pass(&s, 5, false));
        pulse_beat();
    }
    CHECK_FAILS(pass(&s, 20, false), ERR_DEVICE, "rank 0 (CPU worker 0) hangs in a save");
    CHECK(s.dog.lost_in_save && s.workers[0].is_lost);
    end(&s);
}

static void all_wait(void)
{
    static struct scene s;

    begin(&s, 10);
    all_in(&s, PHASE_STEP);
    for (int rank = 0; rank < N - 1; rank++) {
        as(&s, rank);
        pulse_wait("a barrier");
    }
    s.workers[N - 1].is_over = true;
    CHECK_OK(pass(&s, 9, false));
    CHECK_FAILS(pass(&s, 3, false), ERR_COMM, "waiting in a barrier: rank 0, 1, 2");
    CHECK(!s.workers[0].is_lost);
    end(&s);
}

/* A look that comes late is no hang: the process was stopped. */
static void stopped_process(void)
{
    static struct scene s;
    const struct world_watch *watch = &s.dog.watch;

    begin(&s, 10);
    all_in(&s, PHASE_STEP);
    CHECK_OK(watch->look(watch->context, s.workers, N, 3600, false));
    CHECK_OK(pass(&s, 9, false));
    end(&s);
}

static void stragglers_after_a_failure(void)
{
    static struct scene s;

    begin(&s, 100);
    all_in(&s, PHASE_STEP);
    s.workers[0].is_over = s.workers[1].is_over = true;
    as(&s, 3);
    (void)pulse_phase(PHASE_SAVE);
    CHECK_OK(pass(&s, 9, true));
    CHECK_FAILS(pass(&s, 3, true), ERR_DEVICE, "rank 2 (CPU worker 2) had not ended 1");
    CHECK(s.workers[2].is_lost && !s.workers[3].is_lost);
    for (int i = 0; i < 5; i++) {       /* it goes on saving */
        CHECK_OK(pass(&s, 60, true));
        pulse_beat();
    }
    CHECK_FAILS(pass(&s, 110, true), ERR_DEVICE, "rank 3 (CPU worker 3)");
    CHECK(s.workers[3].is_lost && s.dog.lost_in_save);
    end(&s);
}

static void turned_off(void)
{
    static struct scene s;

    begin(&s, 0);
    end(&s);
}

int main(void)
{
    CASE(hang_is_named);
    CASE(deadline_is_scaled);
    CASE(save_holds_up_the_others);
    CASE(all_wait);
    CASE(stopped_process);
    CASE(stragglers_after_a_failure);
    CASE(turned_off);
    return check_finish();
}
