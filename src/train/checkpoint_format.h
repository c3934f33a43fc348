/* checkpoint_format.h - the names in a checkpoint that its reader and its writer share. */
#ifndef OCTET_CHECKPOINT_FORMAT_H
#define OCTET_CHECKPOINT_FORMAT_H

#define CHECKPOINT_FORMAT "octet-checkpoint-1"

#define KEY_FORMAT "format"
#define KEY_CONFIG "config"
#define KEY_TOKENIZER "tokenizer"
#define KEY_STEP "step"
#define KEY_EPOCH "epoch"
#define KEY_POSITION "position"
#define KEY_TOKENS "tokens"
#define KEY_GLOBAL_BATCH "global_batch"
#define KEY_TOTAL_STEPS "total_steps"
#define KEY_LOSS_SCALE "loss_scale"
#define KEY_SCALE_STEPS "scale_steps"
#define KEY_FINISHED "finished"
#define KEY_BEST_LOSS "best_loss"
#define KEY_HEALTH "health"
#define KEY_DATASET_DIGEST "dataset_digest"

/* The recorded step, where there is one: its tokens, I32 (max_seq_len + 1), are a tensor. */
#define KEY_PROBE_LOSS "probe_loss"
#define KEY_PROBE_GRAD_NORM "probe_grad_norm"
#define KEY_PROBE_TYPE "probe_type"
#define PROBE_TOKENS "probe.tokens"

#define MOMENT_M "adam.m."
#define MOMENT_V "adam.v."

#endif
