/* plan.h - what follows from the settings before anything runs: the model, the split of the batch
 * over the workers, the number of steps, the memory. */
#ifndef OCTET_PLAN_H
#define OCTET_PLAN_H

#include <stdint.h>

#include "base/barrier.h"
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
    bool deterministic;
    bool share_gpu;             /* all ranks on GPU 0 */
    double timeout;             /* seconds that a wait for a device may take */
};
/* ERR_INVALID where the asked-for devices are not there or cannot do this model; notices when cores
 * are fewer than workers, and when CPU workers take the place of GPUs that cannot be used. */
enum status plan_devices(struct plan_devices *out, const struct config *config);
/* GPUs of the run; 0 with CPU workers. */
static inline int plan_n_gpus(const struct plan_devices *plan)
{
    return !plan->on_gpus ? 0 : plan->share_gpu ? 1 : plan->n_workers;
}
/* Of a plan on GPUs: ERR_INVALID where one is too old or has no kernels for this model. */
enum status plan_check_gpus(const struct plan_devices *plan, const struct config *config);
/* Through which the plan's GPUs, if they are several, sum; arguments as in comm/cuda_comm.h. */
struct cuda_group;
enum status plan_create_group(struct cuda_group **out, const struct plan_devices *plan,
                              struct barrier *barrier, double timeout);
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
    uint64_t saving;            /* of CPU workers, once: the copy that is saved in the background */
    uint64_t libraries;         /* of CPU workers, once */
    uint64_t available;         /* on the machine, or on the GPU that has least */
    uint64_t reserved;          /* of a GPU, for CUDA and NCCL; not in `available` */
    int gpu;                    /* the GPU that has least; -1: CPU workers */
    int n_sharing;              /* workers that share it: all of them, or 1 with a GPU for each */
    int largest_batch;          /* the largest batch_size up to the planned one that fits, or 0 */
};
/* `dev` is the device of one rank. */
enum status plan_memory(struct plan_memory *out, const struct device *dev,
                        const struct plan_devices *devices, const struct model_config *model,
                        const struct config *config, int micro_batch);
/* Bytes of so many workers: only the first one generates samples and saves. */
uint64_t plan_memory_total(const struct plan_memory *memory, int n_workers);
/* Bytes of those that share the available memory. */
uint64_t plan_memory_needed(const struct plan_memory *memory);
/* The table that is printed before the first step. */
void plan_memory_print(const struct plan_memory *memory);
/* ERR_INVALID if that exceeds what is available, with the batch_size that would fit. */
enum status plan_memory_check(const struct plan_memory *memory);

/* The checkpoints that a run adds to its folder, and their bytes. */
struct plan_disk {
    const char *folder;
    int64_t n_files;
    uint64_t needed, available;
    uint64_t largest;           /* of one file */
};
/* ERR_INVALID if there is too little room; with `force` only a warning. */
enum status plan_disk_check(const struct plan_disk *disk, bool force);

#endif
