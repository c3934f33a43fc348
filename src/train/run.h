/* run.h - a training run: what its workers share, and what each of them owns. */
#ifndef OCTET_RUN_H
#define OCTET_RUN_H

#include "comm/comm.h"
#include "comm/cuda_comm.h"
#include "data/dataset.h"
#include "generate/generate.h"
#include "monitor/monitor.h"
#include "options/config.h"
#include "train/checkpoint.h"
#include "train/plan.h"
#include "train/saves.h"
#include "train/schedule.h"
#include "train/world.h"

struct rank;

/* Set up before the workers start; only rank 0 uses the monitor and the saves. */
struct run {
    struct config config;
    const char *init_path;              /* --init, or NULL */
    struct dataset data;
    struct model_config model;
    struct checkpoint resume;           /* path NULL for a new run */
    struct checkpoint earlier;          /* that the ranks go back to; else path NULL */
    struct plan_devices devices;
    struct plan_batch batch;
    struct plan_steps steps;
    struct schedule schedule;
    struct progress_state start;
    struct barrier *barrier;
    struct comm_group *group;           /* of CPU workers */
    struct cuda_group *gpu_group;       /* of several GPUs */
    struct saves saves;
    struct monitor *monitor;
    struct rank *ranks;                 /* one for each worker; freed when all threads have ended */
    int locks[2];                       /* of save_dir and log_dir; -1: none */
    int stopped_by;                     /* the signal, 0 if the run went to its end */
};

/* What one rank found when a bad step was looked into. */
struct suspect {
    int micro;                          /* its worst micro-batch, alone: */
    double loss, grad_norm;
};

/* One worker's own things, living on its thread. */
struct rank {
    struct worker *worker;
    struct run *run;
    struct device *dev;
    struct comm *comm;
    struct model *model;
    struct optimizer optimizer;
    struct progress_state progress;
    int32_t *ids, *targets;             /* (micro_batch, max_seq_len), host */
    struct model *writer;               /* rank 0, with generate_samples */
    struct generator *generator;
    int64_t evaluated_step;             /* the step of the last evaluation, -1 before the first */
    int32_t *probe_tokens;              /* rank 0: (max_seq_len + 1), host */
    struct probe probe;                 /* of this state, once a save wants it */
    bool rehearsing;                    /* no collectives */
    bool is_whole;                      /* weights and moments are those of progress.step */
    struct suspect suspect;             /* read by rank 0 */
    enum status status;                 /* of the whole life of the worker, */
    _Atomic bool is_over;               /* once this is set */
};

enum status rank_create(struct rank *rank, struct run *run, struct worker *worker);
void rank_free(struct rank *rank);

/* On GPUs, before the weights are there: everything a step does is done once, so that all memory is
 * allocated, all kernels are loaded and all sections recorded before the first collective. (With
 * several GPUs in one process, doing any of it beside a collective can deadlock.) All ranks together. */
enum status rank_rehearse(struct rank *rank);
/* Weights and moments as the run starts with. */
enum status rank_load_start(struct rank *rank);
/* One optimizer step on the next global batch; *record says what happened (time left out). A bad
 * step (health.h) changes no weights. */
enum status rank_step(struct rank *rank, struct monitor_step *record);
/* All ranks together, before a bad step is counted: rank 0 logs which rank and which windows it comes
 * from. Gradients and sums are lost. */
enum status rank_report_bad_step(struct rank *rank, enum step_verdict verdict, double loss,
                                 double grad_norm);
/* All ranks together, between two steps: back to the newest weights that were saved, or to those of the
 * start; the steps, their data and the schedule go on. ERR_DIVERGED when that was tried
 * max_rollbacks times. */
enum status rank_go_back(struct rank *rank);
static inline struct spike_limits run_spike_limits(const struct run *run)
{
    return (struct spike_limits){run->config.training.spike_sigma,
                                 run->config.training.spike_window};
}
/* Validation loss over all workers; rank 0 reports it and saves best_model. *stopped: a signal came
 * in between, and nothing was reported. */
enum status rank_evaluate(struct rank *rank, bool *stopped);
/* Rank 0 writes samples into the log and TensorBoard; the others wait. */
enum status rank_write_samples(struct rank *rank);
/* What a checkpoint of this moment holds. Rank 0 makes the recorded step for it, unless its life is
 * over: after a failure its device may do no more than give its memory away. */
struct checkpoint_content rank_content(struct rank *rank);
/* The step to be recorded. Gradients and sums are anything afterwards. */
enum status rank_take_probe(struct rank *rank, struct probe *probe);

/* The worker's whole life: world_run()'s main. */
enum status run_worker(struct worker *worker, void *run);

/* What the command line says besides settings. */
struct run_options {
    const struct command_line *line;    /* its first word is the configuration file */
    const char *resume;                 /* PATH or "auto", or NULL */
    const char *init;                   /* weights, or NULL */
    bool force;                         /* however little room the disk has */
};

/* The stages of a run's set-up, in this order; each needs the ones before it. Zero the run first
 * (locks: -1), and free it with run_free() whatever happened. */
enum status run_read_settings(struct run *run, const struct run_options *options);
enum status run_plan_devices(struct run *run);
enum status run_open_data(struct run *run);
enum status run_plan_steps(struct run *run);
enum status run_plan_memory(struct run *run, struct plan_memory *memory);
enum status run_plan_disk(const struct run *run, struct plan_disk *disk);
enum status run_check_folders(struct run *run);
void run_free(struct run *run);

/* All stages, then the training itself. *signal is the one that ended the run early, or 0. */
enum status run_train(const struct run_options *options, int *signal);
/* All stages and a numeric self-test, a line each with a tick or a cross; trains nothing.
 * *passed: no cross. */
enum status run_check(const struct run_options *options, bool *passed);

/* Look at a checkpoint, and replay its recorded step on one device: a line each with a tick or a
 * cross. An error means that this could not be done, and says nothing against the file. */
enum status run_verify(const char *path, const struct command_line *line, bool *passed);

#endif
