/* checkpoint.h - a run on disk: weights, optimizer state, and everything needed to go on or sample.
 *
 * One safetensors file. Weights under the parameters' names, moments as adam.m.NAME and adam.v.NAME,
 * all F32; the rest in its metadata. */
#ifndef OCTET_CHECKPOINT_H
#define OCTET_CHECKPOINT_H

#include "base/safetensors.h"
#include "data/tokenizer.h"
#include "model/model.h"
#include "options/config.h"
#include "train/health.h"
#include "train/optimizer.h"

/* Where a run stands between two steps. */
struct progress_state {
    int64_t step;               /* optimizer steps done */
    int64_t epoch;              /* the one in progress, from 0 */
    int64_t position;           /* windows of this epoch already used */
    int64_t tokens;             /* trained on so far */
    int64_t global_batch;       /* windows of a step */
    int64_t total_steps;        /* that the schedule was made for */
    double loss_scale;          /* float16: what losses are multiplied by; else 1 */
    int64_t scale_steps;        /* float16: steps since it was changed */
    double best_loss;           /* lowest validation loss so far; infinity before the first */
    bool finished;              /* the final model, its evaluation done */
    struct health health;
};

/* A step on one window of training text, without an update: recorded beside a state, so that it can
 * be replayed from there (trainer --verify). */
struct probe {
    const int32_t *tokens;      /* (max_seq_len + 1): ids, and the last one's target; NULL: none */
    double loss, grad_norm;
    enum dtype real;            /* what the step was computed in */
};

struct checkpoint {
    char *path;
    struct safetensors file;
    struct config config;
    struct model_config model;      /* vocab_size resolved */
    struct tokenizer tokenizer;
    struct progress_state progress;
    char dataset_digest[17];
    bool has_optimizer;
};

/* Map a file and check all of it: container, checksums of every tensor, metadata, names and shapes
 * against the model that its configuration describes. ERR_INVALID names the file and the defect. */
enum status checkpoint_open(struct checkpoint *checkpoint, const char *path);
/* Its stages before the checksums, for whoever goes on after a defect. Once it is mapped, it is to be
 * closed. */
enum status checkpoint_map(struct checkpoint *checkpoint, const char *path);
enum status checkpoint_read_metadata(struct checkpoint *checkpoint);
enum status checkpoint_check_tensors(struct checkpoint *checkpoint);
/* No weight or moment is NaN, no second moment below 0, no other infinite; which checksums that are
 * right say nothing of. The values of other types than F32 are not looked at. */
enum status checkpoint_check_numbers(const struct checkpoint *checkpoint);
enum status checkpoint_check_values(const char *path, const struct safetensors *file,
                                    const struct safetensors_entry *entry);
/* Safe on a zeroed struct. */
void checkpoint_close(struct checkpoint *checkpoint);

/* ERR_INVALID names what differs from the model that this run is for. */
enum status checkpoint_check_model(const struct checkpoint *checkpoint,
                                   const struct model_config *model);
/* The step of a checkpoint, without checking the rest of it. */
enum status checkpoint_peek(const char *path, int64_t *step, bool *finished);

/* Copy the weights into a model of the same configuration. */
enum status checkpoint_load_weights(const struct checkpoint *checkpoint, struct model *model);
enum status checkpoint_load_optimizer(const struct checkpoint *checkpoint,
                                      struct optimizer *optimizer);

/* The recorded step, checked here and not before; *tokens, which the caller frees, is what
 * probe->tokens points to, NULL where none was recorded. */
enum status checkpoint_read_probe(const struct checkpoint *checkpoint, struct probe *probe,
                                  int32_t **tokens);

/* Weights alone from any safetensors file that has the parameters' names and shapes, Octet's or not
 * (--init): F32, or BF16, F16 and F64, which are converted. */
enum status weights_load(const char *path, struct model *model);
/* The same checks without a model to load into. */
enum status weights_check(const char *path, const struct model_config *model);

/* What a save writes; `optimizer` NULL leaves its state out. With `copy` the numbers come from there,
 * and neither the model nor the optimizer but their tables are looked at. */
struct checkpoint_content {
    const struct config *config;
    const struct tokenizer *tokenizer;
    struct model *model;
    const struct optimizer *optimizer;
    struct progress_state progress;
    const char *dataset_digest;
    struct probe probe;
    const float *copy;
};

/* Copy weights and moments to host memory, to be `copy` later. */
enum status checkpoint_copy(const struct checkpoint_content *content, float *copy);
/* Its bytes, with optimizer state. */
uint64_t checkpoint_copy_size(const struct param_table *table);
/* Write atomically: at any instant `path` is the older file or the whole new one. */
enum status checkpoint_save(const char *path, const struct checkpoint_content *content);

/* Bytes of one file for this model. */
uint64_t checkpoint_size(const struct param_table *table, int max_seq_len, bool with_optimizer);

#endif
