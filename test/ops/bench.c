/* bench.c - times of every operation at the sizes of the configurations in config/. */
#include <stdio.h>

#include "ops/checks.h"

/* A configuration's sizes, and as many windows as make a batch. */
struct bench_size {
    const char *name;
    int64_t windows, length, dim, heads, mlp, vocab;
};

static const struct bench_size bench_sizes[] = {
    {"tiny", 8, 256, 128, 4, 512, 256},
    {"small", 16, 512, 256, 8, 1024, 256},
};

static const struct top_size top_sizes[] = {
    {50304, 50304, 1}, {50304, 50304, 40}, {50304, 50304, 1024},
};

static void bench_size(const struct bench_size *s)
{
    const int64_t n = s->windows * s->length;
    const struct embedding_size embedding = {s->windows, s->length, s->dim, s->vocab, true};
    struct attention_size attention = {s->windows, s->length, s->heads, s->dim / s->heads, 0};
    const struct attention_size one_token = {1, 1, s->heads, s->dim / s->heads, 0};
    const int64_t params = 4 * (4 * s->dim * s->dim + 2 * s->dim * s->mlp);

    printf("%s\n", s->name);
    try_embedding_forward(&embedding);
    try_embedding_backward(&embedding);
    try_layernorm_forward(n, s->dim);
    try_layernorm_backward(n, s->dim);
    try_add_layernorm(n, s->dim, 0.1, false);
    try_linear_forward(n, s->dim, 3 * s->dim, false);
    try_linear_backward_input(n, s->dim, 3 * s->dim);
    try_linear_backward_weight(n, s->dim, 3 * s->dim, false);
    try_linear_forward(n, s->mlp, s->dim, true);
    try_linear_backward_weight(n, s->mlp, s->dim, true);
    try_linear_gelu(n, s->dim, s->mlp, 0.1);
    try_linear_forward(n, s->dim, s->vocab, false);
    try_gelu_forward(n, s->mlp, 0.1, false);
    try_gelu_backward(n, s->mlp, 0.1, false);
    try_gelu_backward(n, s->mlp, 0, false);
    try_add_dropout_forward(n, s->dim, 0.1, false);
    try_add_dropout_backward(n, s->dim, 0.1);
    try_rope(&attention, 0, false);
    try_attention_forward(&attention);
    try_attention_backward(&attention);
    attention.rate = 0.1;
    try_attention_forward(&attention);
    try_attention_backward(&attention);
    try_attention_cached(&one_token, s->length, s->length - 1);
    try_cross_entropy(n, s->vocab, 1.0 / (double)n, 5);
    try_cast(params);
    try_sum(n);
    try_sum_of_squares(params);
    try_adamw(params, params, 10, 1);
}

void bench(int n_threads)
{
    printf("%d threads; the shortest of many calls\n", n_threads);
    for (size_t i = 0; i < COUNT_OF(bench_sizes); i++)
        bench_size(&bench_sizes[i]);
    printf("the next token\n");
    for (size_t i = 0; i < COUNT_OF(top_sizes); i++)
        try_top_logits(&top_sizes[i], 0);
}
