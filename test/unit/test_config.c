/* test_config.c - the configuration's rows: their defaults, the files in config/, conditions
 * between keys, and the ways from settings to text and back. */
#include <float.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/log.h"
#include "options/config.h"
#include "test/check.h"

static struct config default_config(void)
{
    struct config config = {0};
    options_default(&config_options, &config);
    return config;
}

/* The INI text of one configuration, or "" where that failed; the caller frees it. */
static char *dump(const struct config *config)
{
    char *text = NULL;
    CHECK_OK(options_dump(&config_options, config, &text));
    return text ? text : calloc(1, 1);
}

static void check_same_config(const struct config *a, const struct config *b)
{
    char *text_a = dump(a), *text_b = dump(b);
    CHECK_TEXT(text_a, text_b);
    free(text_a);
    free(text_b);
}

static void rows_are_sound(void)
{
    struct config config = {0};

    for (int i = 0; i < config_options.n_rows; i++) {
        const struct option *row = &config_options.rows[i];
        char assignment[512];
        snprintf(assignment, sizeof assignment, "%s.%s=%s", row->section, row->key,
                 row->default_value);
        CHECK_OK(options_set(&config_options, &config, assignment));
        CHECK(*row->help && !strchr(row->help, '|') && row->help[strlen(row->help) - 1] != '.');
        for (int j = 0; j < i; j++)
            CHECK(config_options.rows[j].offset < row->offset);
    }
}

static void defaults(void)
{
    const struct config c = default_config();

    CHECK(c.model.vocab_size == 0 && c.model.max_seq_len == 512 && c.model.dim == 256);
    CHECK(c.model.depth == 6 && c.model.heads == 8 && c.model.mlp_dim == 1024);
    CHECK(c.model.dropout == 0.1 && c.model.use_rotary_emb);
    CHECK(c.training.batch_size == 32 && c.training.num_epochs == 100 && !c.training.max_steps);
    CHECK(c.training.learning_rate == 1e-3 && c.training.weight_decay == 0.1);
    CHECK(c.training.warmup_steps == 100 && c.training.max_grad_norm == 1);
    CHECK(c.training.gradient_accumulation_steps == 1 && c.training.use_amp);
    CHECK_TEXT(c.training.amp_dtype, "bfloat16");
    CHECK_TEXT(c.training.optimizer, "adamw");
    CHECK(c.training.adam_beta1 == 0.9 && c.training.adam_beta2 == 0.95);
    CHECK(c.training.adam_epsilon == 1e-8 && c.training.min_lr_ratio == 0.1);
    CHECK_TEXT(c.training.lr_schedule, "cosine");
    CHECK_TEXT(c.data.dataset_path, "datasets/toy.safetensors");
    CHECK_TEXT(c.distributed.device, "auto");
    CHECK(c.data.shuffle && c.distributed.gpus == 0);
    CHECK_TEXT(c.checkpoint.save_dir, "checkpoints");
    CHECK(c.checkpoint.save_every == 10 && c.checkpoint.keep_last == 3);
    CHECK_TEXT(c.logging.log_dir, "logs");
    CHECK(c.checkpoint.save_optimizer && c.checkpoint.background);
    CHECK(c.logging.log_every == 10 && c.logging.use_tensorboard);
    CHECK(c.evaluation.eval_every == 1 && c.evaluation.eval_steps == 0);
    CHECK(c.evaluation.generate_samples && c.evaluation.num_samples == 1);
    CHECK(c.evaluation.sample_length == 200 && c.generation.temperature == 0.8);
    CHECK(c.generation.top_k == 40 && c.generation.top_p == 0.95 && c.run.seed == 42);
    CHECK_OK(config_check(&c));
}

static void numbers_round_trip(void)
{
    static const double values[] = {0.1, 1.0 / 3, 1e-8, 3e-4, 0.95, 1e-5, DBL_MIN, 4.9e-324, 1.0,
                                    0.30000000000000004, 0x1.fffffffffffffp-1, 2.5e-7};
    struct config config = default_config(), again;

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        again = default_config();
        config.training.learning_rate = values[i];
        char *text = dump(&config);
        CHECK_OK(options_read_text(&config_options, &again, text, "dump"));
        CHECK(memcmp(&again.training.learning_rate, &values[i], sizeof values[i]) == 0);
        free(text);
    }
    config.training.learning_rate = 0.1;
    config.training.adam_beta2 = 0.30000000000000004;
    char *text = dump(&config);
    CHECK(strstr(text, "\nlearning_rate = 0.1\n") && strstr(text, "\nadam_epsilon = 1e-08\n"));
    CHECK(strstr(text, "\nadam_beta2 = 0.30000000000000004\n"));
    CHECK(strncmp(text, "[model]\nvocab_size = 0\n", 23) == 0);
    CHECK(strstr(text, "\nuse_rotary_emb = true\n\n[training]\n"));
    free(text);
}

/* The longest string of every key must come back from the text that a checkpoint keeps. */
static void strings_round_trip(void)
{
    struct config config = default_config(), again = default_config();

    memset(config.data.dataset_path, 'd', OPTION_STRING_SIZE - 1);
    memset(config.checkpoint.save_dir, 's', OPTION_STRING_SIZE - 1);
    memset(config.logging.log_dir, 'l', OPTION_STRING_SIZE - 1);
    char *text = dump(&config);
    CHECK_OK(options_read_text(&config_options, &again, text, "dump"));
    check_same_config(&config, &again);
    free(text);
}

static void config_files(void)
{
    static const struct {
        const char *name;
        int64_t dim, depth, heads, mlp_dim, length;
        bool rotary;
    } files[] = {
        {"default", 256, 6, 8, 1024, 512, true}, {"tiny", 128, 4, 4, 512, 256, true},
        {"small", 256, 6, 8, 1024, 512, true},   {"medium", 512, 8, 8, 2048, 1024, true},
        {"large", 768, 12, 12, 3072, 1024, true}, {"quickstart", 128, 4, 4, 512, 128, true},
        {"gpt2-124m", 768, 12, 12, 3072, 1024, false},
    };
    char path[PATH_MAX];

    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        struct config config = default_config(), again = default_config();
        snprintf(path, sizeof path, "%s/config/%s.ini", OCTET_SOURCE_DIR, files[i].name);
        CHECK_OK(options_read_file(&config_options, &config, path));
        CHECK_OK(config_check(&config));
        CHECK(config.model.dim == files[i].dim && config.model.depth == files[i].depth);
        CHECK(config.model.heads == files[i].heads && config.model.mlp_dim == files[i].mlp_dim);
        CHECK(config.model.max_seq_len == files[i].length);
        CHECK(config.model.use_rotary_emb == files[i].rotary);
        char *text = dump(&config);
        CHECK_OK(options_read_text(&config_options, &again, text, "dump"));
        check_same_config(&config, &again);
        free(text);
    }
}

/* default.ini must name every key, with the value the program has without any file. */
static void default_file_is_complete(void)
{
    struct config expected = default_config(), config = default_config();
    char text[16384] = "", line[256];
    FILE *file = fopen(OCTET_SOURCE_DIR "/config/default.ini", "r");

    CHECK(file && fread(text, 1, sizeof text - 1, file) > 0);
    if (file)
        fclose(file);
    CHECK_OK(options_read_text(&config_options, &config, text, "default.ini"));
    check_same_config(&config, &expected);
    for (int i = 0; i < config_options.n_rows; i++) {
        const struct option *row = &config_options.rows[i];
        snprintf(line, sizeof line, "\n%s = %s ", row->key, row->default_value);
        if (!strstr(text, line))
            check_report(__FILE__, __LINE__, "default.ini lacks \"%s\"", line + 1);
    }
}

static void note_difference(void *context, const char *key, const char *a, const char *b)
{
    char *text = context;
    snprintf(text + strlen(text), 256 - strlen(text), "%s: %s -> %s\n", key, a, b);
}

static void differences(void)
{
    struct config a = default_config(), b = a;
    char text[256] = "";

    options_diff(&config_options, &a, &b, note_difference, text);
    CHECK_TEXT(text, "");
    b.run.seed = 7;
    b.training.min_lr_ratio = 0.25;
    b.data.shuffle = false;
    options_diff(&config_options, &a, &b, note_difference, text);
    CHECK_TEXT(text, "training.min_lr_ratio: 0.1 -> 0.25\ndata.shuffle: true -> false\n"
                     "run.seed: 42 -> 7\n");
}

static void ignored_keys(void)
{
    struct config config = default_config(), before = config;
    char text[1024] = "";
    FILE *log = tmpfile();

    CHECK(log);
    log_set_stream(log);
    CHECK_OK(options_read_text(&config_options, &config, "[data]\nnum_workers = 4\n[dataloader]\n"
                               "pin_memory = true\n[distributed]\nbackend = nccl\n", "x.ini"));
    CHECK_OK(options_set(&config_options, &config, "training.compile=true"));
    log_set_stream(NULL);
    rewind(log);
    CHECK(fread(text, 1, sizeof text - 1, log) > 0);
    fclose(log);
    CHECK(strstr(text, "notice: num_workers is not needed: the token file is mapped"));
    CHECK(strstr(text, "notice: pin_memory is not needed: "));
    CHECK(strstr(text, "notice: backend is not needed: devices talk through NCCL"));
    CHECK(strstr(text, "notice: compile is not needed: "));
    check_same_config(&config, &before);
}

static void conditions(void)
{
    static const struct {
        const char *assignments[3];
        const char *message;    /* NULL: fine */
    } cases[] = {
        {{"model.heads=7"},
         "model.dim = 256 is no multiple of model.heads = 7: change one of them"},
        {{"model.dim=24"}, "model.dim / model.heads = 3 is odd, and rotary positions need pairs: "
                           "change one of them, or set model.use_rotary_emb = false"},
        {{"model.dim=24", "model.use_rotary_emb=false"}, NULL},
        {{"training.batch_size=65536", "model.max_seq_len=32768"},
         "training.batch_size = 65536 times model.max_seq_len = 32768 are too many tokens for one "
         "micro-batch: lower one of them, and raise training.gradient_accumulation_steps instead"},
        {{"training.batch_size=65536", "model.max_seq_len=32767"}, NULL},
        {{"data.dataset_path="},
         "data.dataset_path is empty: name the token file that prepare wrote"},
        {{"checkpoint.save_dir="}, "checkpoint.save_dir is empty: name a folder"},
        {{"logging.log_dir="}, "logging.log_dir is empty: name a folder"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct config config = default_config();
        for (int j = 0; cases[i].assignments[j]; j++)
            CHECK_OK(options_set(&config_options, &config, cases[i].assignments[j]));
        if (cases[i].message)
            CHECK_FAILS(config_check(&config), ERR_INVALID, cases[i].message);
        else
            CHECK_OK(config_check(&config));
    }
}

static void printed_table(void)
{
    FILE *file = tmpfile();
    char text[16384], key[64];

    CHECK(file);
    options_print_table(&config_options, file);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    CHECK(strncmp(text, "### [model]\n\n| Key | Value | Default | Meaning |\n|---|---|---|---|\n"
                        "| `vocab_size` | whole number from 0 to 16777216 | 0 | ", 112) == 0);
    CHECK(strstr(text, "| `lr_schedule` | cosine, linear or constant | cosine | "));
    CHECK(strstr(text, "|\n\n### [run]\n\n| Key |"));
    for (int i = 0; i < config_options.n_rows; i++) {
        snprintf(key, sizeof key, "\n| `%s` | ", config_options.rows[i].key);
        CHECK(strstr(text, key));
    }
}

int main(void)
{
    CASE(rows_are_sound);
    CASE(defaults);
    CASE(numbers_round_trip);
    CASE(strings_round_trip);
    CASE(config_files);
    CASE(default_file_is_complete);
    CASE(differences);
    CASE(ignored_keys);
    CASE(conditions);
    CASE(printed_table);
    return check_finish();
}
