/* test_team.c - the thread team: every task once, whatever the threads do. */
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/team.h"
#include "test/check.h"

enum { MOST_TASKS = 5000 };

struct counts {
    _Atomic int runs[MOST_TASKS];
    _Atomic int strangers;      /* calls with a thread number out of range */
    int n_threads;
    int naps;                   /* let every n-th task sleep, 0: none */
};

static void count(void *context, int task, int thread)
{
    struct counts *c = context;

    atomic_fetch_add(&c->runs[task], 1);
    if (thread < 0 || thread >= c->n_threads)
        atomic_fetch_add(&c->strangers, 1);
    if (c->naps && task % c->naps == 0)
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

/* One job of n tasks: each ran once more, and nothing else did. */
static void run_job(struct team *team, struct counts *c, int n_tasks, int job)
{
    for (int i = 0; i < MOST_TASKS; i++)
        atomic_store(&c->runs[i], 0);
    team_run(team, n_tasks, count, c);
    for (int i = 0; i < MOST_TASKS; i++)
        if (c->runs[i] != (i < n_tasks)) {
            check_report(__FILE__, __LINE__, "job %d of %d tasks: task %d ran %d times", job,
                         n_tasks, i, c->runs[i]);
            return;
        }
}

static void every_task_once(void)
{
    static struct counts c;

    for (int n_threads = 1; n_threads <= 5; n_threads++) {
        struct team *team;
        CHECK_OK(team_create(&team, n_threads, NULL));
        CHECK(team_size(team) == n_threads);
        c = (struct counts){.n_threads = n_threads};
        for (int job = 0; job < 300; job++)
            run_job(team, &c, (job * 37) % 97, job);
        run_job(team, &c, MOST_TASKS, -1);
        CHECK(c.strangers == 0);
        team_destroy(team);
    }
}

/* Short jobs between naps: helpers are found spinning, asleep and in between. */
static void helpers_that_sleep(void)
{
    static struct counts c;
    struct team *team;

    CHECK_OK(team_create(&team, 3, NULL));
    c = (struct counts){.n_threads = 3, .naps = 7};
    for (int job = 0; job < 60; job++) {
        if (job % 3 == 0)
            nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
        run_job(team, &c, 1 + job % 20, job);
    }
    team_destroy(team);
}

static void set_mark(void *context, int task, int thread)
{
    static _Atomic int n_prepared;

    (void)context;
    (void)task;
    (void)thread;
    atomic_fetch_add(&n_prepared, 1);
}

static void ends_without_work(void)
{
    for (int i = 0; i < 20; i++) {
        struct team *team;
        CHECK_OK(team_create(&team, 1 + i % 4, set_mark));
        team_destroy(team);
    }
    team_destroy(NULL);
    CHECK(team_cores() >= 1);
}

int main(void)
{
    CASE(every_task_once);
    CASE(helpers_that_sleep);
    CASE(ends_without_work);
    return check_finish();
}
