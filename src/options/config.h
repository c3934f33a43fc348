/* config.h - the settings of a training run: every INI key, with its rows in config.c. */
#ifndef OCTET_CONFIG_H
#define OCTET_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "options/option.h"

struct config {
    struct {
        int64_t vocab_size;         /* 0: the tokenizer's */
        int64_t max_seq_len;
        int64_t dim, depth, heads, mlp_dim;
        double dropout;
        bool use_rotary_emb;
    } model;
    struct {
        int64_t batch_size;         /* windows per device and micro-batch */
        int64_t num_epochs;
        int64_t max_steps;          /* 0: as num_epochs says */
        double learning_rate, weight_decay;
        int64_t warmup_steps;
        double max_grad_norm;       /* 0: no clipping */
        int64_t max_bad_steps;      /* in a row */
        int64_t max_rollbacks;
        double spike_sigma;         /* 0: off */
        int64_t spike_window;       /* steps */
        int64_t gradient_accumulation_steps;
        bool use_amp;
        char amp_dtype[OPTION_STRING_SIZE];     /* bfloat16 | float16 */
        char optimizer[OPTION_STRING_SIZE];     /* adamw */
        double adam_beta1, adam_beta2, adam_epsilon;
        char lr_schedule[OPTION_STRING_SIZE];   /* cosine | linear | constant */
        double min_lr_ratio;
    } training;
    struct {
        char dataset_path[OPTION_STRING_SIZE];
        bool shuffle;
    } data;
    struct {
        char device[OPTION_STRING_SIZE];        /* auto | cpu | cuda */
        int64_t gpus;               /* 0: every GPU, or one CPU worker with all cores */
        double comm_timeout;        /* seconds */
        double watchdog;            /* seconds; 0: none */
        bool cuda_graphs;
        bool share_gpu;             /* for tests */
    } distributed;
    struct {
        char save_dir[OPTION_STRING_SIZE];
        int64_t save_every;         /* epochs; 0: never in between */
        int64_t keep_last;          /* newest epoch checkpoints kept; 0: all */
        double save_minutes;        /* between saves of last_checkpoint; 0: at signals only */
        bool save_optimizer;        /* in epoch, best and final files; last_checkpoint has it */
        bool background;            /* the step loop waits for a copy only */
    } checkpoint;
    struct {
        char log_dir[OPTION_STRING_SIZE];
        int64_t log_every;          /* steps */
        bool use_tensorboard;
    } logging;
    struct {
        int64_t eval_every;         /* epochs; 0: only at the end */
        int64_t eval_steps;         /* batches of batch_size windows at most; 0: all of val */
        bool generate_samples;
        int64_t num_samples, sample_length;
    } evaluation;
    struct {
        double temperature;
        int64_t top_k;              /* 0: off */
        double top_p;               /* 1: off */
    } generation;
    struct {
        int64_t seed;
        bool deterministic;
    } run;
};

/* The rows of struct config; the flags --gpus and --device are rows' flags. */
extern const struct option_table config_options;

/* Conditions between keys: heads divides dim, an even head size for RoPE, tokens of a micro-batch
 * within 2^31, warm-up within max_steps, top_k within vocab_size where that is given, no empty
 * paths. ERR_INVALID names the keys. */
enum status config_check(const struct config *config);

#endif
