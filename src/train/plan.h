/* plan.h - what follows from the settings before anything runs: the model, the split of the batch
 * over the workers, the number of steps, the memory. */
#ifndef OCTET_PLAN_H
#define OCTET_PLAN_H

#include <stdint.h>

#include "base/status.h"
#include "data/dataset.h"
#include "model/model.h"
#include "options/config.h"

/* The model that [model] describes; `tokenizer_vocab` stands in for vocab_size = 0. ERR_INVALID if
 * vocab_size is smaller than the tokenizer's. */
enum status plan_model(struct model_config *out, const struct config *config, int tokenizer_vocab);

/* One worker for each of the first `gpus` GPUs (0: all of them); or CPU workers (0: one), each with its
 * share of the cores. */
struct plan_devices {
    bool on_gpus;
    int n_workers;
    int threads;                /* of each CPU worker */
    enum dtype real;            /* what the devices compute in */
};
/* ERR_INVALID where the asked-for devices are not there; notices when cores are fewer than
 * workers. */
enum status plan_devices(struct plan_devices *out, const struct config *config);
/* Open the device of one rank. */
enum status plan_open_device(struct device **out, const struct plan_devices *plan, int rank);

/* How a global batch is made: n_workers * accumulation * micro_batch windows. */
struct plan_batch {
    int micro_batch, accumulation;
    int64_t global_batch;
};
/* From the settings; or, where `kept_global` is not 0 (a resumed run on another number of workers),
 * so that the global batch stays that. ERR_INVALID if it can't be divided among the workers. */
enum status plan_batch(struct plan_batch *out, const struct config *config, int n_workers,
                       int64_t kept_global);

struct plan_steps {
    int64_t windows;            /* of an epoch */
    int64_t per_epoch, total, epochs;
};
/* ERR_INVALID when the data are too short: how many tokens there are and how many are needed. */
enum status plan_steps(struct plan_steps *out, const struct config *config,
                       const struct dataset *data, int64_t global_batch, int64_t epoch,
                       int64_t position, int64_t step);

/* Bytes on each device. */
struct plan_memory {
    struct model_memory model;
    size_t optimizer;
    size_t generation;          /* of rank 0 alone */
    uint64_t available;         /* on the machine, for all CPU workers together */
};
enum status plan_memory(struct plan_memory *out, const struct device *dev,
                        const struct model_config *model, const struct config *config,
                        int micro_batch);
/* Bytes of all workers: only the first one generates samples. */
uint64_t plan_memory_total(const struct plan_memory *memory, int n_workers);
/* The table that is printed before the first step. */
void plan_memory_print(const struct plan_memory *memory, int n_workers);
/* ERR_INVALID if the workers' needs exceed what is available, with what to lower. */
enum status plan_memory_check(const struct plan_memory *memory, int n_workers);

#endif
