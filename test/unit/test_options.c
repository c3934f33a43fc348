/* test_options.c - INI texts, files and command lines read through option tables: what is accepted,
 * and every error by its whole text. */
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "options/config.h"
#include "test/check.h"

/* A failure with this whole message, not just a part of it. */
#define CHECK_ERROR(call, text)                                     \
    do {                                                            \
        CHECK_FAILS(call, ERR_INVALID, "");                         \
        CHECK_TEXT(status_message(), text);                         \
    } while (0)

static char folder[PATH_MAX];

static void path_in_folder(char path[PATH_MAX], const char *name)
{
    const int length = snprintf(path, PATH_MAX, "%s/%s", folder, name);
    CHECK(length < PATH_MAX);
}

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "w");
    CHECK(file && fwrite(data, 1, size, file) == size);
    CHECK(file && fclose(file) == 0);
}

/* A table of one's own, for what struct config does not have. */
struct settings {
    bool check, color;
    int64_t count;
    double share, level;
    char name[OPTION_STRING_SIZE];
    const char *prompt;
};

#define FIELD(name) .offset = offsetof(struct settings, name)

static const struct option flag_rows[] = {
    {.flag = "check", .type = OPTION_BOOL, FIELD(check), .default_value = "false",
     .help = "look only"},
    {.flag = "color", .type = OPTION_BOOL, FIELD(color), .default_value = "true",
     .help = "use colors"},
    {.flag = "count", .placeholder = "N", .type = OPTION_INT, FIELD(count), .default_value = "7",
     .min = -10, .max = 9007199254740992, .help = "how many"},
    {.flag = "share", .placeholder = "X", .type = OPTION_FLOAT, FIELD(share),
     .default_value = "0.5", .min = 0, .max = 1, .above_min = true, .below_max = true,
     .help = "how much of it"},
    {.flag = "level", .placeholder = "X", .type = OPTION_FLOAT, FIELD(level),
     .default_value = "0", .min = -DBL_MAX, .max = DBL_MAX, .help = "any number"},
    {.flag = "name", .placeholder = "TEXT", .type = OPTION_STRING, FIELD(name),
     .default_value = "", .help = "a name"},
    {.flag = "prompt", .placeholder = "TEXT", .type = OPTION_ARGUMENT, FIELD(prompt),
     .help = "the beginning of the text, which may be as long as the command line lets it be, and "
             "is not looked at here"},
};
static const struct option_table flag_table = {
    .rows = flag_rows,
    .n_rows = sizeof flag_rows / sizeof flag_rows[0],
};
static const struct option_table *const both_tables[] = {&flag_table, &config_options};

static struct config default_config(void)
{
    struct config config = {0};
    options_default(&config_options, &config);
    return config;
}

static enum status read_text(const char *text)
{
    struct config config = default_config();
    return options_read_text(&config_options, &config, text, "x.ini");
}

static enum status set(const char *assignment)
{
    struct config config = default_config();
    return options_set(&config_options, &config, assignment);
}

static void flag_defaults(void)
{
    struct settings settings;

    memset(&settings, 0xff, sizeof settings);
    options_default(&flag_table, &settings);
    CHECK(!settings.check && settings.color && settings.count == 7 && settings.share == 0.5);
    CHECK(settings.level == 0 && settings.name[0] == '\0' && settings.prompt == NULL);
}

static void ini_spelling(void)
{
    struct config config = default_config();
    const char *text = "\xef\xbb\xbf# a comment first\r\n"
                       "  ; another [model]\n"
                       "[model] # the model\n"
                       "  dim=64\r\n"
                       "\theads  :  4 ; half as many\n"
                       "dropout = 5e-2#not a comment without a blank\n";

    CHECK_ERROR(options_read_text(&config_options, &config, text, "x.ini"),
                "x.ini:6: model.dropout = 5e-2#not a comment without a blank: expected a number of "
                "at least 0 and below 1");
    CHECK(config.model.dim == 64 && config.model.heads == 4 && config.model.dropout == 0.1);
    CHECK_OK(options_read_text(&config_options, &config, "", "x.ini"));
    CHECK_OK(options_read_text(&config_options, &config,
                               "[data]\ndataset_path = a;b#c =[d] \xc3\xa9\nshuffle=Off", "x.ini"));
    CHECK_TEXT(config.data.dataset_path, "a;b#c =[d] \xc3\xa9");
    CHECK(!config.data.shuffle);
    CHECK_OK(options_read_text(&config_options, &config, "[data]\ndataset_path =\n", "x.ini"));
    CHECK_TEXT(config.data.dataset_path, "");
}

static void ini_values(void)
{
    static const char *const bad_ints[] = {"", "-", "+8", "8.0", "1e6", "0x10", "8 8", "--8",
                                           "eight", "65537", "0", "99999999999999999999"};
    static const char *const bad_floats[] = {"", ".", "-", "e", "nan", "inf", "1e999", "0x1p-3",
                                             "0.1f", "0,1", "0.1 0.2", "0", "10.01", "1e",
                                             "1e-400"};
    static const char *const bools[][2] = {{"True", "FALSE"}, {"yes", "No"}, {"on", "off"},
                                           {"1", "0"}};
    char text[128], expected[256];

    for (size_t i = 0; i < sizeof bad_ints / sizeof bad_ints[0]; i++) {
        snprintf(text, sizeof text, "\n[training]\nbatch_size = %s\n", bad_ints[i]);
        snprintf(expected, sizeof expected, "x.ini:3: training.batch_size = %s: expected a whole "
                 "number from 1 to 65536", *bad_ints[i] ? bad_ints[i] : "\"\"");
        CHECK_ERROR(read_text(text), expected);
    }
    for (size_t i = 0; i < sizeof bad_floats / sizeof bad_floats[0]; i++) {
        snprintf(text, sizeof text, "[training]\nlearning_rate = %s\n", bad_floats[i]);
        snprintf(expected, sizeof expected, "x.ini:2: training.learning_rate = %s: expected a "
                 "number above 0 and at most 10", *bad_floats[i] ? bad_floats[i] : "\"\"");
        CHECK_ERROR(read_text(text), expected);
    }
    for (size_t i = 0; i < sizeof bools / sizeof bools[0]; i++) {
        for (int value = 0; value < 2; value++) {
            struct config config = default_config();
            config.data.shuffle = value;
            snprintf(text, sizeof text, "data.shuffle=%s", bools[i][value]);
            CHECK_OK(options_set(&config_options, &config, text));
            CHECK(config.data.shuffle == !value);
        }
    }
    CHECK_ERROR(set("data.shuffle=2"), "data.shuffle=2: expected true or false");
    CHECK_ERROR(set("generation.temperature=-0.5"),
                "generation.temperature=-0.5: expected a number from 0 to 100");
    CHECK_ERROR(set("training.adam_beta1=1"),
                "training.adam_beta1=1: expected a number of at least 0 and below 1");
    CHECK_ERROR(set("training.lr_schedule=cos"),
                "training.lr_schedule=cos: expected cosine, linear or constant");
    CHECK_ERROR(set("training.lr_schedule=cosine|linear"),
                "training.lr_schedule=cosine|linear: expected cosine, linear or constant");
    CHECK_ERROR(set("training.optimizer="), "training.optimizer=: expected adamw");
    CHECK_ERROR(set("run.seed=4294967296"),
                "run.seed=4294967296: expected a whole number from 0 to 4294967295");
    CHECK_OK(set("training.batch_size=0065536"));
    CHECK_OK(set("training.learning_rate=10"));
}

static void ini_strings(void)
{
    char longest[64 + OPTION_STRING_SIZE] = "data.dataset_path=", too_long[sizeof longest + 1];
    struct config config = default_config();
    const size_t name = strlen(longest);

    memset(longest + name, 'x', OPTION_STRING_SIZE - 1);
    snprintf(too_long, sizeof too_long, "%sy", longest);
    CHECK_ERROR(options_set(&config_options, &config, too_long),
                "data.dataset_path=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...: expected text of "
                "at most 179 bytes");
    CHECK_TEXT(config.data.dataset_path, "datasets/toy.safetensors");
    CHECK_OK(options_set(&config_options, &config, longest));
    CHECK_TEXT(config.data.dataset_path, longest + name);

    CHECK_ERROR(set("data.dataset_path=a\nb"),
                "data.dataset_path=a?b: expected text without control characters");
    CHECK_ERROR(set("data.dataset_path= a"),
                "data.dataset_path= a: expected text without blanks around it");
    CHECK_ERROR(set("data.dataset_path=a "),
                "data.dataset_path=a : expected text without blanks around it");
    CHECK_ERROR(set("data.dataset_path=\"a\""),
                "data.dataset_path=\"a\": expected text without quotation marks around it");
    CHECK_ERROR(set("data.dataset_path=a #b"), "data.dataset_path=a #b: expected text without ; "
                                               "or # after a blank, which begin a comment");
    CHECK_ERROR(set("data.dataset_path=;a"), "data.dataset_path=;a: expected text that begins "
                                             "with neither ; nor #, which begin a comment");
    CHECK_OK(set("data.dataset_path=a;b#\"c'"));

    /* What is too long to be shown is never cut within a character. */
    CHECK_ERROR(set("run.seed=12345678901234567890123456789012345678901234567890\xc3\xa9xyz"),
                "run.seed=12345678901234567890123456789012345678901234567890...: expected a whole "
                "number from 0 to 4294967295");
    CHECK_ERROR(set("run.seed=1234567890123456789012345678901234567890123456789\xc3\xa9wxyz"),
                "run.seed=1234567890123456789012345678901234567890123456789\xc3\xa9...: expected "
                "a whole number from 0 to 4294967295");
}

static void ini_names(void)
{
    CHECK_ERROR(read_text("[training]\nbatchsize = 3\n"),
                "x.ini:2: unknown key training.batchsize: did you mean training.batch_size?");
    CHECK_ERROR(read_text("[trainng]\nbatch_size = 3\n"),
                "x.ini:2: unknown key trainng.batch_size: did you mean training.batch_size?");
    CHECK_ERROR(read_text("[optimizer]\nlearning_rat = 3\n"),
                "x.ini:2: unknown key optimizer.learning_rat: did you mean "
                "training.learning_rate?");
    CHECK_ERROR(read_text("[model]\nseed = 3\n"),
                "x.ini:2: unknown key model.seed: did you mean run.seed?");
    CHECK_ERROR(read_text("[generation]\ntop_k = 1\ntop_q = 1\n"),
                "x.ini:3: unknown key generation.top_q: did you mean generation.top_k?");
    CHECK_ERROR(read_text("[generation]\nbeam_width = 4\n"), "x.ini:2: unknown key "
                "generation.beam_width: the keys of [generation] are temperature, top_k, top_p");
    CHECK_ERROR(read_text("[zebra]\nstripes = 4\n"),
                "x.ini:2: unknown section [zebra]: the sections are model, training, data, "
                "distributed, checkpoint, logging, evaluation, generation, run");
    CHECK_ERROR(read_text("dim = 4\n"),
                "x.ini:1: key dim without a section: did you mean model.dim?");
    CHECK_ERROR(read_text("stripes = 4\n"),
                "x.ini:1: key stripes without a section: the sections are model, training, data, "
                "distributed, checkpoint, logging, evaluation, generation, run");
    CHECK_ERROR(read_text("[run]\n= 4\n"),
                "x.ini:2: unknown key run.\"\": the keys of [run] are seed, "
                "deterministic");
    CHECK_ERROR(read_text("[model]\ndimxyz = 4\n"),
                "x.ini:2: unknown key model.dimxyz: the keys of [model] are vocab_size, "
                "max_seq_len, dim, depth, heads, mlp_dim, dropout, use_rotary_emb");
    CHECK_ERROR(read_text("[evaluation]\nlav_every = 4\n"),
                "x.ini:2: unknown key evaluation.lav_every: did you mean evaluation.eval_every?");
    CHECK_ERROR(read_text("[Model]\nDim = 4\n"),
                "x.ini:2: unknown key Model.Dim: did you mean model.dim?");
    CHECK_ERROR(read_text("[model]\ndim = 64\nheads = 2\n\n[training]\n[model]\nheads = 2\n"),
                "x.ini:7: model.heads is given twice: line 3 has it already");
    CHECK_ERROR(set("training.batch_size"), "training.batch_size: expected section.key=value");
    CHECK_ERROR(set("batch_size=4.5"), "batch_size=4.5: expected section.key=value");
    CHECK_ERROR(set("=."), "=.: expected section.key=value");
    CHECK_ERROR(set("training.batchsize=4"),
                "training.batchsize=4: unknown key training.batchsize: did you mean "
                "training.batch_size?");
}

static void ini_lines(void)
{
    char text[700], comment[700];

    CHECK_ERROR(read_text("[model]\ndim = 64\nheads\n[run]\nseed = x\n"),
                "x.ini:3: expected [section], key = value or a comment");
    CHECK_ERROR(read_text("[model]\nheads = x\ndim\n"),
                "x.ini:2: model.heads = x: expected a whole number from 1 to 1024");
    CHECK_ERROR(read_text("[model\n"), "x.ini:1: expected [section] alone on its line");
    CHECK_ERROR(read_text("[model] dim = 64\n"), "x.ini:1: expected [section] alone on its line");
    CHECK_ERROR(read_text("[run]\nseed = 1\n\x01\n"),
                "x.ini:3: control character 0x01: expected a text file");

    CHECK_ERROR(read_text("[run]\nseed = 1\x7f\n"),
                "x.ini:2: control character 0x7f: expected a text file");

    /* inih would split such a line and take its rest for another one. */
    memset(comment, 'x', sizeof comment);
    snprintf(text, sizeof text, "[run]\n\nseed = %0400d\n", 1);
    CHECK_ERROR(read_text(text), "x.ini:3: line too long: expected at most 198 bytes");
    snprintf(text, sizeof text, "[run]\nseed = %.191s\n", comment);
    CHECK_FAILS(read_text(text), ERR_INVALID, "x.ini:2: run.seed = xxxx");
    snprintf(text, sizeof text, "[run]\nseed = %.192s\n", comment);
    CHECK_FAILS(read_text(text), ERR_INVALID, "x.ini:2: line too long");
    snprintf(text, sizeof text, "# %.300s\n[run]\nseed = 1 # %.300s\n", comment, comment);
    CHECK_OK(read_text(text));
}

static void ini_files(void)
{
    static const char with_nul[] = "[run]\nseed = 1\0 2\n";
    struct config config = default_config();
    char path[PATH_MAX], expected[PATH_MAX + 128];

    path_in_folder(path, "good.ini");
    write_file(path, "[run]\nseed = 12", 15);
    CHECK_OK(options_read_file(&config_options, &config, path));
    CHECK(config.run.seed == 12);

    path_in_folder(path, "empty.ini");
    write_file(path, "", 0);
    CHECK_OK(options_read_file(&config_options, &config, path));
    CHECK(config.run.seed == 12);

    path_in_folder(path, "nul.ini");
    write_file(path, with_nul, sizeof with_nul - 1);
    snprintf(expected, sizeof expected, "%s:2: control character 0x00: expected a text file", path);
    CHECK_ERROR(options_read_file(&config_options, &config, path), expected);

    path_in_folder(path, "absent.ini");
    snprintf(expected, sizeof expected, "%s: cannot open the configuration file: %s", path,
             strerror(ENOENT));
    CHECK_ERROR(options_read_file(&config_options, &config, path), expected);
    snprintf(expected, sizeof expected, "%s:1: cannot read the file: %s", folder, strerror(EISDIR));
    CHECK_ERROR(options_read_file(&config_options, &config, folder), expected);
}

/* The flags of both tables, as an application reads and applies them. */
struct program {
    struct command_line line;
    struct settings settings;
    struct config config;
};

static enum status run_program(struct program *p, const char *ini, char **argv)
{
    int argc = 0;

    while (argv[argc])
        argc++;
    options_default(&flag_table, &p->settings);
    options_default(&config_options, &p->config);
    TRY(options_read_flags(&p->line, both_tables, 2, argc, argv, 1));
    TRY(options_read_text(&config_options, &p->config, ini, "x.ini"));
    TRY(command_line_apply(&p->line, &flag_table, &p->settings));
    return command_line_apply(&p->line, &config_options, &p->config);
}

#define ARGV(...) ((char *[]){"program", __VA_ARGS__, NULL})

static void flags(void)
{
    struct program p = {0};

    CHECK_OK(run_program(&p, "[distributed]\ngpus = 2\n[run]\nseed = 3\n",
                         ARGV("--check", "--count", "-5", "x.ini", "--no-color", "--gpus=4",
                              "--prompt=--a\nb", "--set", "training.batch_size=8",
                              "--set=data.dataset_path=a=b", "--count", "6", "--share", "0.25")));
    CHECK(p.settings.check && !p.settings.color && p.settings.count == 6);
    CHECK(p.settings.share == 0.25 && p.config.model.max_seq_len == 512);
    CHECK_TEXT(p.settings.prompt, "--a\nb");
    CHECK(p.config.distributed.gpus == 4 && p.config.run.seed == 3);
    CHECK(p.config.training.batch_size == 8);
    CHECK_TEXT(p.config.data.dataset_path, "a=b");
    CHECK(p.line.n_positional == 1 && !p.line.wants_help && !p.line.wants_version);
    CHECK_TEXT(p.line.positional[0], "x.ini");
    command_line_free(&p.line);

    CHECK_OK(run_program(&p, "", ARGV("--help", "--color=false", "--version", "--", "--check")));
    CHECK(p.line.wants_help && p.line.wants_version && !p.settings.check && !p.settings.color);
    CHECK_TEXT(p.line.positional[0], "--check");
    command_line_free(&p.line);

    /* The last one wins, between a flag and --set of the same key too. */
    CHECK_OK(run_program(&p, "", ARGV("--gpus", "1", "--set", "distributed.gpus=3", "-")));
    CHECK(p.config.distributed.gpus == 3);
    CHECK_TEXT(p.line.positional[0], "-");
    command_line_free(&p.line);
    CHECK_OK(run_program(&p, "", ARGV("--set", "distributed.gpus=3", "--gpus", "1", "--check",
                                      "--no-check")));
    CHECK(p.config.distributed.gpus == 1 && !p.settings.check && !p.line.positional[0]);
    command_line_free(&p.line);
    command_line_free(&p.line);
    CHECK_OK(options_read_flags(&p.line, both_tables, 2, 0, (char *[]){NULL}, 0));
    command_line_free(&p.line);
}

static void check_bad_flags(char **argv, const char *message)
{
    struct program p = {0};

    CHECK_ERROR(run_program(&p, "", argv), message);
    command_line_free(&p.line);
}

static void flag_errors(void)
{
    check_bad_flags(ARGV("--gpu", "1"), "unknown flag --gpu: did you mean --gpus?");
    check_bad_flags(ARGV("--hlep"), "unknown flag --hlep: did you mean --help?");
    check_bad_flags(ARGV("--zebra=1"), "unknown flag --zebra: --help lists the flags");
    check_bad_flags(ARGV("--no-zebra"), "unknown flag --no-zebra: --help lists the flags");
    check_bad_flags(ARGV("--=1"), "unknown flag --\"\": --help lists the flags");
    check_bad_flags(ARGV("-g", "1"),
                    "unknown flag -g: flags begin with two dashes, --help lists them");
    check_bad_flags(ARGV("--batch-size", "1"),
                    "unknown flag --batch-size: use --set training.batch_size=VALUE");
    check_bad_flags(ARGV("--model.dim=1"), "unknown flag --model.dim: use --set model.dim=VALUE");
    check_bad_flags(ARGV("--gpus"),
                    "--gpus needs a value: --gpus N (--gpus=VALUE if it begins with --)");
    check_bad_flags(ARGV("--prompt", "--check"),
                    "--prompt needs a value: --prompt TEXT (--prompt=VALUE if it begins with --)");
    check_bad_flags(ARGV("--set"), "--set needs a value: --set section.key=value "
                                   "(--set=VALUE if it begins with --)");
    check_bad_flags(ARGV("--gpus="), "--gpus \"\": expected a whole number from 0 to 256");
    check_bad_flags(ARGV("--gpus", "-1"), "--gpus -1: expected a whole number from 0 to 256");
    check_bad_flags(ARGV("--share=1"), "--share 1: expected a number above 0 and below 1");
    check_bad_flags(ARGV("--check=maybe"), "--check maybe: expected true or false");
    check_bad_flags(ARGV("--no-check=true"), "--no-check takes no value");
    check_bad_flags(ARGV("--no-gpus"), "unknown flag --no-gpus: --gpus takes a value");
    check_bad_flags(ARGV("--help=x"), "--help takes no value");
    check_bad_flags(ARGV("--device", "gpu"), "--device gpu: expected auto, cpu or cuda");
    check_bad_flags(ARGV("--set", "run.seed"), "--set run.seed: expected section.key=value");
    check_bad_flags(ARGV("--set", "run.sed=1"),
                    "--set run.sed=1: unknown key run.sed: did you mean run.seed?");
    check_bad_flags(ARGV("--set", "run.seed=-1"),
                    "--set run.seed=-1: expected a whole number from 0 to 4294967295");
    check_bad_flags(ARGV("a", "\x1b[31mb"), "unexpected argument ?[31mb: --help shows the usage");
    check_bad_flags(ARGV("--level", "-1e999"),
                    "--level -1e999: expected a number from -1.79769e+308 to 1.79769e+308");
    check_bad_flags(ARGV("--count", "9223372036854775808"), "--count 9223372036854775808: expected "
                    "a whole number from -10 to 9007199254740992");

    /* Without a table of INI keys there is nothing to --set. */
    struct command_line line;
    CHECK_ERROR(options_read_flags(&line, both_tables, 1, 3, ARGV("--set", "run.seed=1"), 0),
                "unknown flag --set: --help lists the flags");
    command_line_free(&line);
}

/* What a printing function wrote, as a string. */
static void read_back(FILE *file, char *text, size_t size)
{
    rewind(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
}

static void printed_flags(void)
{
    FILE *file = tmpfile();
    char text[4096];

    CHECK(file);
    options_print_flags(both_tables, 1, file);
    read_back(file, text, sizeof text);
    CHECK_TEXT(text,
               "  --check        look only\n"
               "  --[no-]color   use colors\n"
               "  --count N      how many (default 7)\n"
               "  --share X      how much of it (default 0.5)\n"
               "  --level X      any number (default 0)\n"
               "  --name TEXT    a name\n"
               "  --prompt TEXT  the beginning of the text, which may be as long as the command "
               "line lets it be, and\n"
               "                 is not looked at here\n"
               "  --help         show this text\n"
               "  --version      show the version\n");
    file = tmpfile();
    CHECK(file);
    options_print_flags(both_tables, 2, file);
    read_back(file, text, sizeof text);
    CHECK(strstr(text, "\n  --gpus N                 GPUs, or CPU workers"));
    CHECK(strstr(text, "\n  --set SECTION.KEY=VALUE  set a key of"));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        CHECK(strlen(line) <= 100);
}

static bool make_folder(void)
{
    const char *parent = getenv("TMPDIR");

    snprintf(folder, sizeof folder, "%s/octet_options_XXXXXX", parent && *parent ? parent : "/tmp");
    return mkdtemp(folder) != NULL;
}

static void remove_folder(void)
{
    static const char *const names[] = {"good.ini", "empty.ini", "nul.ini"};
    char path[PATH_MAX];

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        path_in_folder(path, names[i]);
        remove(path);
    }
    rmdir(folder);
}

int main(void)
{
    if (!make_folder()) {
        perror(folder);
        return 1;
    }
    CASE(flag_defaults);
    CASE(ini_spelling);
    CASE(ini_values);
    CASE(ini_strings);
    CASE(ini_names);
    CASE(ini_lines);
    CASE(ini_files);
    CASE(flags);
    CASE(flag_errors);
    CASE(printed_flags);
    remove_folder();
    return check_finish();
}
