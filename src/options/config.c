#include "options/config.h"

#include <inttypes.h>
#include <stddef.h>

/* Parts of a row: which key, what it accepts. */
#define KEY(s, k) .section = #s, .key = #k, .offset = offsetof(struct config, s.k)
#define BOOL .type = OPTION_BOOL
#define INT(lowest, highest) .type = OPTION_INT, .min = (lowest), .max = (highest)
#define FLOAT(lowest, highest) .type = OPTION_FLOAT, .min = (lowest), .max = (highest)
#define STRING .type = OPTION_STRING
#define CHOICE(all) .type = OPTION_CHOICE, .choices = (all)
#define DEFAULT(text) .default_value = (text)
#define HELP(text) .help = (text)

enum {
    MAX_VOCAB = 1 << 24,
    MAX_LENGTH = 1 << 20,
    MAX_BATCH = 1 << 16,
    MAX_DIM = 1 << 16,
    MAX_EPOCHS = 1000000,
    MAX_STEPS = 1000000000,
};

static const struct option rows[] = {
    {KEY(model, vocab_size), INT(0, MAX_VOCAB), DEFAULT("0"),
     HELP("number of token ids; 0: as many as the tokenizer of the dataset has")},
    {KEY(model, max_seq_len), INT(1, MAX_LENGTH), DEFAULT("512"),
     HELP("context length in tokens")},
    {KEY(model, dim), INT(1, MAX_DIM), DEFAULT("256"),
     HELP("width of the model, a multiple of heads")},
    {KEY(model, depth), INT(1, 1024), DEFAULT("6"),
     HELP("number of transformer blocks")},
    {KEY(model, heads), INT(1, 1024), DEFAULT("8"),
     HELP("attention heads of each block")},
    {KEY(model, mlp_dim), INT(1, 4 * MAX_DIM), DEFAULT("1024"),
     HELP("width of the hidden layer of each MLP, often 4 times dim")},
    {KEY(model, dropout), FLOAT(0, 1), .below_max = true, DEFAULT("0.1"),
     HELP("share of activations dropped in training")},
    {KEY(model, use_rotary_emb), BOOL, DEFAULT("true"),
     HELP("rotary positions (RoPE); false: learned positions")},

    {KEY(training, batch_size), INT(1, MAX_BATCH), DEFAULT("32"),
     HELP("sequences per device and micro-batch")},
    {KEY(training, num_epochs), INT(1, MAX_EPOCHS), DEFAULT("100"),
     HELP("passes over the training text")},
    {KEY(training, max_steps), INT(0, MAX_STEPS), DEFAULT("0"),
     HELP("optimizer steps of the whole run; 0: as num_epochs says")},
    {KEY(training, learning_rate), FLOAT(0, 10), .above_min = true, DEFAULT("1e-3"),
     HELP("highest learning rate, reached after the warm-up")},
    {KEY(training, weight_decay), FLOAT(0, 10), DEFAULT("0.1"),
     HELP("decay of AdamW, on matrices and embeddings only")},
    {KEY(training, warmup_steps), INT(0, MAX_STEPS), DEFAULT("100"),
     HELP("steps over which the learning rate rises from zero")},
    {KEY(training, max_grad_norm), FLOAT(0, 1e5), DEFAULT("1.0"),
     HELP("gradients are scaled down to this global norm; 0: never")},
    {KEY(training, max_bad_steps), INT(1, MAX_STEPS), DEFAULT("5"),
     HELP("steps in a row without a finite loss and gradient before the run goes back to its last "
          "save")},
    {KEY(training, max_rollbacks), INT(0, MAX_STEPS), DEFAULT("3"),
     HELP("times that it goes back; then it ends")},
    {KEY(training, spike_sigma), FLOAT(0, 1e5), DEFAULT("0"),
     HELP("pass over steps with a loss so many standard deviations above the mean, too; 0: none")},
    {KEY(training, spike_window), INT(2, MAX_STEPS), DEFAULT("100"),
     HELP("steps of which spike_sigma takes the mean and the deviation")},
    {KEY(training, gradient_accumulation_steps), INT(1, MAX_BATCH), DEFAULT("1"),
     HELP("micro-batches summed into one optimizer step")},
    {KEY(training, use_amp), BOOL, DEFAULT("true"),
     HELP("compute in amp_dtype; CPUs without instructions for it use float32")},
    {KEY(training, amp_dtype), CHOICE("bfloat16|float16"), DEFAULT("bfloat16"),
     HELP("number format of use_amp; float16 on GPUs only")},
    {KEY(training, optimizer), CHOICE("adamw"), DEFAULT("adamw"),
     HELP("the optimizer")},
    {KEY(training, adam_beta1), FLOAT(0, 1), .below_max = true, DEFAULT("0.9"),
     HELP("decay of the mean of the gradients")},
    {KEY(training, adam_beta2), FLOAT(0, 1), .below_max = true, DEFAULT("0.95"),
     HELP("decay of the mean of their squares")},
    {KEY(training, adam_epsilon), FLOAT(1e-30, 1), DEFAULT("1e-8"),
     HELP("added to the divisor of each update")},
    {KEY(training, lr_schedule), CHOICE("cosine|linear|constant"), DEFAULT("cosine"),
     HELP("how the learning rate falls after the warm-up")},
    {KEY(training, min_lr_ratio), FLOAT(0, 1), DEFAULT("0.1"),
     HELP("last learning rate as a share of the highest")},

    {KEY(data, dataset_path), STRING, DEFAULT("datasets/toy.safetensors"),
     HELP("token file, as prepare writes it")},
    {KEY(data, shuffle), BOOL, DEFAULT("true"),
     HELP("a new order of the training text in each epoch")},

    {KEY(distributed, device), CHOICE("auto|cpu|cuda"), DEFAULT("auto"),
     .flag = "device", .placeholder = "NAME",
     HELP("auto, cpu or cuda; auto: the GPUs, or the CPU where there is none")},
    {KEY(distributed, gpus), INT(0, 256), DEFAULT("0"),
     .flag = "gpus", .placeholder = "N",
     HELP("GPUs, or CPU workers that share the cores; 0: every GPU, or one CPU worker")},

    {KEY(distributed, comm_timeout), FLOAT(1, 86400), DEFAULT("600"),
     HELP("seconds to wait for a GPU or a sum over the GPUs, before the run ends")},
    {KEY(distributed, watchdog), FLOAT(0, 1e6), DEFAULT("600"),
     HELP("seconds without progress before the run ends, slow phases have longer; 0: no limit")},
    {KEY(distributed, cuda_graphs), BOOL, DEFAULT("true"),
     HELP("queue a step's kernels on a GPU all at once; false: one by one, the same bits")},
    {KEY(distributed, share_gpu), BOOL, DEFAULT("false"),
     HELP("for tests: all ranks on the first GPU, without NCCL")},

    {KEY(checkpoint, save_dir), STRING, DEFAULT("checkpoints"),
     HELP("folder of the checkpoints")},
    {KEY(checkpoint, save_every), INT(0, MAX_EPOCHS), DEFAULT("10"),
     HELP("epochs between checkpoints; 0: none in between")},
    {KEY(checkpoint, keep_last), INT(0, MAX_EPOCHS), DEFAULT("3"),
     HELP("newest epoch checkpoints to keep; 0: all")},
    {KEY(checkpoint, save_minutes), FLOAT(0, 1e6), DEFAULT("30"),
     HELP("minutes between saves of last_checkpoint; 0: only when a signal ends the run")},
    {KEY(checkpoint, save_optimizer), BOOL, DEFAULT("true"),
     HELP("optimizer state in every checkpoint; false: only in last_checkpoint")},
    {KEY(checkpoint, background), BOOL, DEFAULT("true"),
     HELP("write checkpoints beside the steps, from a copy in host memory; false: steps wait")},

    {KEY(logging, log_dir), STRING, DEFAULT("logs"),
     HELP("folder of the log file, metrics.jsonl and tensorboard/")},
    {KEY(logging, log_every), INT(1, MAX_STEPS), DEFAULT("10"),
     HELP("steps between two lines of progress where the output is no terminal")},
    {KEY(logging, use_tensorboard), BOOL, DEFAULT("true"),
     HELP("write curves for TensorBoard")},

    {KEY(evaluation, eval_every), INT(0, MAX_EPOCHS), DEFAULT("1"),
     HELP("epochs between evaluations; 0: only at the end")},
    {KEY(evaluation, eval_steps), INT(0, MAX_STEPS), DEFAULT("0"),
     HELP("batches of an evaluation at most; 0: all of the validation text")},
    {KEY(evaluation, generate_samples), BOOL, DEFAULT("true"),
     HELP("write sample texts after each evaluation")},
    {KEY(evaluation, num_samples), INT(1, 1024), DEFAULT("1"),
     HELP("sample texts each time")},
    {KEY(evaluation, sample_length), INT(1, MAX_LENGTH), DEFAULT("200"),
     HELP("tokens of each sample text")},

    {KEY(generation, temperature), FLOAT(0, 100), DEFAULT("0.8"),
     HELP("below 1 safer, above 1 wilder; 0: always the likeliest token")},
    {KEY(generation, top_k), INT(0, MAX_VOCAB), DEFAULT("40"),
     HELP("draw from the k likeliest tokens only; 0: off")},
    {KEY(generation, top_p), FLOAT(0, 1), .above_min = true, DEFAULT("0.95"),
     HELP("draw from the likeliest tokens that reach this probability; 1: off")},

    {KEY(run, seed), INT(0, 4294967295.0), DEFAULT("42"),
     HELP("seed of weights, order, dropout and samples; the same seed repeats a run")},
    {KEY(run, deterministic), BOOL, DEFAULT("true"),
     HELP("same bits every time; false: on GPUs the fastest product algorithms, by timing")},
};

/* Keys of PyTorch training configurations that have nothing to set here. */
static const char *const ignored_keys[] = {
    "num_workers", "the token file is mapped into memory, no processes load it",
    "pin_memory", "the trainer pins by itself what it copies from",
    "persistent_workers", "the token file is mapped into memory, no processes load it",
    "prefetch_factor", "the token file is mapped into memory, nothing has to be prefetched",
    "compile", "the kernels are compiled with the program",
    "compile_mode", "the kernels are compiled with the program",
    "backend", "devices talk through NCCL, or through memory on the CPU",
    "init_method", "all devices belong to one process",
    "master_addr", "all devices belong to one process",
    "master_port", "all devices belong to one process",
    "local_rank", "all devices belong to one process",
    "find_unused_parameters", "every parameter takes part in every step",
    "broadcast_buffers", "the model has no buffers besides its parameters",
    "static_graph", "the order of operations never changes",
    NULL,
};

const struct option_table config_options = {
    .rows = rows,
    .n_rows = sizeof rows / sizeof rows[0],
    .ignored_keys = ignored_keys,
};

static enum status check_model(const struct config *c)
{
    const int64_t dim = c->model.dim, heads = c->model.heads;

    if (dim % heads != 0)
        return fail(ERR_INVALID, "model.dim = %" PRId64 " is no multiple of model.heads = %" PRId64
                    ": change one of them", dim, heads);
    if (c->model.use_rotary_emb && dim / heads % 2 != 0)
        return fail(ERR_INVALID, "model.dim / model.heads = %" PRId64 " is odd, and rotary "
                    "positions need pairs: change one of them, or set model.use_rotary_emb = false",
                    dim / heads);
    return OK;
}

static enum status check_training(const struct config *c)
{
    const int64_t tokens = c->training.batch_size * c->model.max_seq_len;

    if (tokens > INT32_MAX)
        return fail(ERR_INVALID, "training.batch_size = %" PRId64 " times model.max_seq_len = %"
                    PRId64 " are too many tokens for one micro-batch: lower one of them, and raise "
                    "training.gradient_accumulation_steps instead",
                    c->training.batch_size, c->model.max_seq_len);
    return OK;
}

static enum status check_paths(const struct config *c)
{
    if (!*c->data.dataset_path)
        return fail(ERR_INVALID, "data.dataset_path is empty: name the token file that prepare "
                                 "wrote");
    if (!*c->checkpoint.save_dir)
        return fail(ERR_INVALID, "checkpoint.save_dir is empty: name a folder");
    if (!*c->logging.log_dir)
        return fail(ERR_INVALID, "logging.log_dir is empty: name a folder");
    return OK;
}

enum status config_check(const struct config *config)
{
    TRY(check_model(config));
    TRY(check_training(config));
    return check_paths(config);
}
