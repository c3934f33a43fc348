#include "gpu/bench.h"

#include <stdlib.h>
#include <string.h>

/* config/default.ini, config/gpt2-124m.ini, and the largest GPT-2. */
static const struct shape full[MAX_SHAPES] = {
    {"small",
     {.vocab_size = 256, .max_seq_len = 512, .dim = 256, .depth = 6, .heads = 8, .mlp_dim = 1024,
      .dropout = 0.1, .use_rotary_emb = true}, 32, 32},
    {"gpt2-124m",
     {.vocab_size = 50257, .max_seq_len = 1024, .dim = 768, .depth = 12, .heads = 12,
      .mlp_dim = 3072}, 64, 16},
    {"gpt2-1.5b",
     {.vocab_size = 50257, .max_seq_len = 1024, .dim = 1600, .depth = 48, .heads = 25,
      .mlp_dim = 6400}, 32, 16},
};

/* Dropout and positions stay. Heads of 32 are the smallest for which tensor cores are used. */
static void make_toy(struct shape *shape)
{
    struct model_config *c = &shape->config;

    c->vocab_size = 67;
    c->max_seq_len = 32;
    c->dim = 64;
    c->depth = 2;
    c->heads = 2;
    c->mlp_dim = 128;
    shape->step_windows = shape->op_windows = 2;
}

/* Is `name` in the list "a,b,c"? */
static bool is_listed(const char *list, const char *name)
{
    const size_t length = strlen(name);

    for (const char *at = list; (at = strstr(at, name)) != NULL; at += length)
        if ((at == list || at[-1] == ',') && (at[length] == ',' || at[length] == '\0'))
            return true;
    return false;
}

static int count_names(const char *list)
{
    int n = 1;

    for (; *list; list++)
        n += *list == ',';
    return n;
}

static enum status choose_shapes(struct bench_flags *out, const char *list)
{
    for (int i = 0; i < MAX_SHAPES; i++)
        if (!list || is_listed(list, full[i].name))
            out->shapes[out->n_shapes++] = full[i];
    if (list && out->n_shapes != count_names(list))
        return fail(ERR_INVALID, "--models %s: there are small, gpt2-124m and gpt2-1.5b", list);
    return OK;
}

enum status bench_flags_read(struct bench_flags *out, int argc, char **argv)
{
    const char *list = NULL;

    *out = (struct bench_flags){0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0)
            out->quick = true;
        else if (strcmp(argv[i], "--toy") == 0)
            out->toy = true;
        else if (strcmp(argv[i], "--fastest") == 0)
            out->fastest = true;
        else if (strcmp(argv[i], "--models") == 0 && i + 1 < argc)
            list = argv[++i];
        else
            return fail(ERR_INVALID, "%s: the flags are --quick, --toy, --fastest and --models "
                        "LIST", argv[i]);
    }
    TRY(choose_shapes(out, list));
    for (int i = 0; out->toy && i < out->n_shapes; i++)
        make_toy(&out->shapes[i]);
    return OK;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double median_of(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}
