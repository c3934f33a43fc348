/* test_generate.c - texts from a model with a KV cache, against recomputation from scratch; and
 * what `sample` writes for a prompt. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/rng.h"
#include "check.h"
#include "device/cpu.h"
#include "generate/generate.h"
#include "generate/text_writer.h"
#include "kernels/ops.h"
#include "temp_folder.h"

enum { VOCAB = 61, CONTEXT = 12, TEXT = 5 * CONTEXT, MAX_PROMPT = 3 * CONTEXT };

static const struct model_config rotary = {.vocab_size = VOCAB, .max_seq_len = CONTEXT, .dim = 24,
                                           .depth = 3, .heads = 3, .mlp_dim = 40,
                                           .use_rotary_emb = true};
static const struct sampling greedy = {.temperature = 0, .top_p = 1};
static const struct sampling random_draws = {.temperature = 1, .top_k = 30, .top_p = 0.95,
                                             .seed = 5};
/* Settings for which the device finds the candidates, and for which it does not. */
static const struct sampling all_draws[] = {
    {.temperature = 0, .top_p = 1},
    {.temperature = 1, .top_k = 30, .top_p = 0.95, .seed = 5},
    {.temperature = 2, .top_k = VOCAB - 1, .top_p = 1, .seed = 6},
    {.temperature = 2, .top_k = VOCAB, .top_p = 0.9, .seed = 7},
    {.temperature = 2, .top_k = 0, .top_p = 1, .seed = 8},
};

/* The same weights twice: to compute logits from scratch, and with a cache. */
struct models {
    struct device *dev;
    struct model *scratch, *cached;
};

/* Larger than at the start of a training, so that the next token depends on those before. */
static void spread_weights(struct model *model)
{
    const struct tensor weights = model_weights(model);
    const struct param_table *table = model_param_table(model);

    for (int i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        float *values = malloc((size_t)param->count * sizeof *values);
        for (int64_t j = 0; values && j < param->count; j++) {
            const struct rng_block random = rng_philox(1, RNG_TEST, (uint32_t)i, 0, (uint64_t)j);
            values[j] = (param->init == INIT_ONE ? 1 : 0) +
                        0.8f * (rng_uniform(random.word[0]) - 0.5f);
        }
        CHECK(values != NULL);
        if (values)
            CHECK_OK(model_set_param(model, &weights, param, values));
        free(values);
    }
}

static bool models_create(struct models *m, const struct model_config *config)
{
    *m = (struct models){0};
    const enum status status = cpu_device_create(&m->dev, 0, 2, DTYPE_F32);
    if (status == OK && model_create(&m->scratch, m->dev, config, 1, MODEL_TRAIN, NULL) == OK &&
        model_create(&m->cached, m->dev, config, 1, MODEL_GENERATE, m->scratch) == OK) {
        spread_weights(m->scratch);
        return true;
    }
    check_report(__FILE__, __LINE__, "no models: %s", status_message());
    return false;
}

static void models_free(struct models *m)
{
    model_destroy(m->cached);
    model_destroy(m->scratch);
    device_destroy(m->dev);
}

/* Rotary and learned positions, one head and several, contexts down to a single token. */
static void for_each_config(void (*check)(const struct model_config *config))
{
    struct model_config config = rotary;

    check(&config);
    config.use_rotary_emb = false;
    check(&config);
    config.heads = config.depth = 1;
    config.max_seq_len = 7;
    check(&config);
    config.max_seq_len = 2;
    check(&config);
    config.max_seq_len = 1;
    config.use_rotary_emb = true;
    check(&config);
}

static int32_t test_id(uint64_t place, int n)
{
    return (int32_t)(rng_philox(2, RNG_TEST, 0, 0, place).word[0] % (uint32_t)n);
}

/* ---- model_extend ---- */

/* The likeliest tokens that the device finds are those of these logits. */
static void check_top(const struct models *m, const float *logits, int n)
{
    struct candidate all[VOCAB], likeliest[VOCAB];
    const int ks[] = {1, n / 2 + 1, n};

    for (int i = 0; i < n; i++)
        all[i] = (struct candidate){logits[i], i};
    heap_make(all, n, candidate_is_likelier);
    for (int left = n; left > 1; left--)
        heap_pop(all, left, candidate_is_likelier);
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        CHECK_OK(model_top(m->cached, n, ks[i], likeliest));
        for (int rank = 0; rank < ks[i]; rank++)
            CHECK(likeliest[rank].logit == all[n - 1 - rank].logit &&
                  likeliest[rank].id == all[n - 1 - rank].id);
    }
}

/* The logits behind each token, read in pieces, against one pass over all of them. */
static void check_pieces(const struct model_config *config)
{
    static const int pieces[] = {1, 2, 3, 5, CONTEXT};
    const int length = config->max_seq_len;
    static float expected[CONTEXT * VOCAB], logits[VOCAB];
    int32_t ids[CONTEXT];
    struct models m;

    if (!models_create(&m, config)) {
        models_free(&m);
        return;
    }
    for (int i = 0; i < length; i++)
        ids[i] = test_id((uint64_t)i, config->vocab_size);
    const struct model_batch batch = {ids, NULL, 1, length};
    CHECK_OK(model_logits(m.scratch, &batch, expected));
    for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
        for (int at = 0; at < length; at += pieces[p]) {
            const int count = at + pieces[p] < length ? pieces[p] : length - at;
            CHECK_OK(model_extend(m.cached, ids + at, count, at));
            CHECK_OK(model_read_logits(m.cached, logits));
            check_top(&m, logits, config->vocab_size);
            for (int v = 0; v < config->vocab_size; v++)
                CHECK_NEAR(logits[v], expected[(at + count - 1) * config->vocab_size + v], 1e-4);
        }
    }
    models_free(&m);
}

static void cache_gives_the_logits_of_a_full_pass(void)
{
    for_each_config(check_pieces);
}

/* ---- generator ---- */

/* The whole text, and the window of it that generate.h promises: read again for each token. */
struct reference {
    struct model *model;
    int context;
    int32_t text[2 * MAX_PROMPT + TEXT];
    int start, end;             /* the window */
    uint64_t n_drawn;
};

static int larger(int a, int b)
{
    return a > b ? a : b;
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

static void reference_append(struct reference *r, const int32_t *ids, int count)
{
    memcpy(r->text + r->end, ids, (size_t)count * sizeof *ids);
    r->end += count;
    if (r->end - r->start > r->context)
        r->start = r->end - larger(r->context / 2, smaller(count, r->context));
}

static int32_t reference_next(struct reference *r, const struct sampling *sampling, uint32_t number)
{
    static float logits[CONTEXT * VOCAB];
    static struct candidate scratch[VOCAB];
    const int length = r->end - r->start, vocab_size = model_config(r->model)->vocab_size;
    const struct model_batch batch = {r->text + r->start, NULL, 1, length};
    int32_t id = 0;

    CHECK_OK(model_logits(r->model, &batch, logits));
    CHECK_OK(sample_token(sampling, logits + (length - 1) * vocab_size, vocab_size, number,
                          r->n_drawn++, scratch, &id));
    reference_append(r, &id, 1);
    return id;
}

/* A prompt, half of the text, the same prompt once more, the other half. */
static void check_text(struct models *m, struct generator *generator, const int32_t *prompt,
                       int n_prompt, const struct sampling *sampling, uint32_t number)
{
    struct reference reference = {.model = m->scratch, .context = generator_context(generator)};
    int32_t id = -1;

    generator_reset(generator, number);
    for (int i = 0; i < TEXT; i++) {
        if (i == 0 || i == TEXT / 2) {
            CHECK_OK(generator_append(generator, prompt, (size_t)n_prompt));
            reference_append(&reference, prompt, n_prompt);
        }
        CHECK_OK(generator_next(generator, sampling, &id));
        const int32_t expected = reference_next(&reference, sampling, number);
        if (id == expected)
            continue;
        check_report(__FILE__, __LINE__, "context %d, prompt %d, temperature %g: token %d is %d, "
                     "expected %d", reference.context, n_prompt, sampling->temperature, i, id,
                     expected);
        return;
    }
}

static void check_texts(const struct model_config *config)
{
    struct generator *generator = NULL;
    int32_t prompt[MAX_PROMPT];
    struct models m;

    for (int i = 0; i < MAX_PROMPT; i++)
        prompt[i] = test_id((uint64_t)i, config->vocab_size);
    if (models_create(&m, config)) {
        CHECK_OK(generator_create(&generator, m.cached, config->vocab_size));
        CHECK(generator_context(generator) == config->max_seq_len);
        for (int n = 1; n <= MAX_PROMPT; n += n < CONTEXT + 2 ? 1 : 7) {
            for (size_t i = 0; i < sizeof all_draws / sizeof *all_draws; i++)
                check_text(&m, generator, prompt, n, &all_draws[i], (uint32_t)n);
        }
    }
    generator_destroy(generator);
    models_free(&m);
}

static void same_text_as_without_a_cache(void)
{
    for_each_config(check_texts);
}

static void generate(struct generator *generator, uint32_t number, int32_t ids[TEXT])
{
    const int32_t first = 1;

    generator_reset(generator, number);
    CHECK_OK(generator_append(generator, &first, 1));
    for (int i = 0; i < TEXT; i++)
        CHECK_OK(generator_next(generator, &random_draws, &ids[i]));
}

static void numbers_name_texts(void)
{
    struct generator *generator = NULL;
    int32_t first[TEXT], second[TEXT], again[TEXT];
    struct models m;

    if (models_create(&m, &rotary)) {
        CHECK_OK(generator_create(&generator, m.cached, VOCAB));
        generate(generator, 0, first);
        generate(generator, 1, second);
        generate(generator, 0, again);
        CHECK(memcmp(first, again, sizeof first) == 0);
        CHECK(memcmp(first, second, sizeof first) != 0);
    }
    generator_destroy(generator);
    models_free(&m);
}

/* As many candidates as a device finds, and one more. */
static void many_candidates(void)
{
    enum { WIDE = OPS_TOP_MAX + 70 };
    static float logits[WIDE];
    static struct candidate scratch[WIDE];
    struct model_config config = rotary;
    struct generator *generator = NULL;
    struct models m;
    int32_t id = 1, expected = 0;

    config.vocab_size = WIDE;
    if (models_create(&m, &config)) {
        CHECK_OK(generator_create(&generator, m.cached, WIDE));
        generator_reset(generator, 0);
        CHECK_OK(generator_append(generator, &id, 1));
        for (uint64_t i = 0; i < 40; i++) {
            const struct sampling wild = {.temperature = 100, .top_k = OPS_TOP_MAX + (int)(i % 2),
                                          .top_p = 1, .seed = 9};
            CHECK_OK(generator_next(generator, &wild, &id));
            CHECK_OK(model_read_logits(m.cached, logits));
            CHECK_OK(sample_token(&wild, logits, WIDE, 0, i, scratch, &expected));
            CHECK(id == expected);
        }
    }
    generator_destroy(generator);
    models_free(&m);
}

static void only_tokens_of_the_tokenizer_are_drawn(void)
{
    const struct sampling wild = {.temperature = 100, .top_p = 1};
    const struct sampling two = {.temperature = 100, .top_k = 2, .top_p = 1};
    struct generator *generator = NULL;
    const int32_t first = VOCAB - 1;
    bool drawn[VOCAB] = {false};
    struct models m;
    int32_t id = 0;

    if (models_create(&m, &rotary)) {
        CHECK_OK(generator_create(&generator, m.cached, 3));
        generator_reset(generator, 0);
        CHECK_OK(generator_append(generator, &first, 1));
        for (int i = 0; i < 100; i++) {
            CHECK_OK(generator_next(generator, &wild, &id));
            drawn[id] = true;
        }
        for (int i = 0; i < VOCAB; i++)
            CHECK(drawn[i] == (i < 3));
        for (int i = 0; i < 100; i++) {
            CHECK_OK(generator_next(generator, &two, &id));
            CHECK(id >= 0 && id < 3);
        }
        generator_destroy(generator);
        CHECK_FAILS(generator_create(&generator, m.cached, VOCAB + 1), ERR_INVALID, "62 tokens");
        CHECK_FAILS(generator_create(&generator, m.cached, 0), ERR_INVALID, "0 tokens");
        CHECK(generator == NULL);
    }
    generator_destroy(generator);
    models_free(&m);
}

static void wrong_calls_are_refused(void)
{
    static const int32_t high[] = {1, VOCAB}, negative[] = {-1};
    struct generator *generator = NULL;
    struct models m;
    int32_t id = 0;

    if (models_create(&m, &rotary)) {
        CHECK_OK(generator_create(&generator, m.cached, VOCAB));
        CHECK_FAILS(generator_next(generator, &greedy, &id), ERR_INVALID, "a first token");
        CHECK_FAILS(generator_append(generator, high, 2), ERR_INVALID, "no token 61");
        CHECK_FAILS(generator_append(generator, negative, 1), ERR_INVALID, "no token -1");
        CHECK_OK(generator_append(generator, high, 0));
        CHECK_FAILS(generator_next(generator, &greedy, &id), ERR_INVALID, "a first token");
    }
    generator_destroy(generator);
    models_free(&m);
}

/* ---- text_writer ---- */

static volatile sig_atomic_t stop;

/* The vocabulary \n and A to Z; the model has more tokens than that. */
static void make_tokenizer(struct tokenizer *tokenizer)
{
    uint32_t points[27] = {'\n'};

    for (uint32_t i = 0; i < 26; i++)
        points[1 + i] = 'A' + i;
    CHECK_OK(tokenizer_from_code_points(tokenizer, points, 27));
}

/* What a writer with these settings puts into a file for two prompts; the caller frees it. */
static char *write_prompts(struct text_writer settings, const char *first, const char *second)
{
    const char *path = temp_path("text");
    struct generator *generator = NULL;
    struct text_output output = {0};
    struct tokenizer tokenizer;
    char *text = NULL;
    struct models m;
    size_t size;

    make_tokenizer(&tokenizer);
    if (models_create(&m, &rotary)) {
        CHECK_OK(generator_create(&generator, m.cached, tokenizer.vocab_size));
        CHECK_OK(text_output_open(&output, path, &stop));
        settings.generator = generator;
        settings.tokenizer = &tokenizer;
        settings.output = &output;
        settings.stop = &stop;
        CHECK_OK(text_writer_answer(&settings, first, strlen(first)));
        CHECK_OK(text_writer_answer(&settings, second, strlen(second)));
        CHECK(settings.n_texts == 2 * settings.n_samples);
        CHECK(settings.n_drawn == 2 * settings.n_samples * settings.max_length);
        CHECK_OK(text_output_commit(&output));
        text = temp_get(path, &size);
        CHECK(text && strlen(text) == size);
    }
    text_output_close(&output);
    generator_destroy(generator);
    models_free(&m);
    tokenizer_free(&tokenizer);
    return text ? text : strdup("");
}

/* prompt, `length` characters of the vocabulary, line end. Returns what follows. */
static const char *skip_text(const char *text, const char *prompt, int length)
{
    const size_t n = strlen(prompt);

    CHECK(strncmp(text, prompt, n) == 0);
    text += n;
    for (int i = 0; i < length && *text; i++, text++)
        CHECK(*text == '\n' || (*text >= 'A' && *text <= 'Z'));
    CHECK(*text == '\n');
    return *text ? text + 1 : text;
}

static const char *skip_line(const char *text, const char *line)
{
    const size_t n = strlen(line);

    CHECK(strncmp(text, line, n) == 0);
    return strncmp(text, line, n) == 0 ? text + n : text;
}

static void prompts_then_texts(void)
{
    const struct text_writer settings = {.sampling = random_draws, .max_length = 40,
                                         .n_samples = 3};
    char *text = write_prompts(settings, "HELLO", "");
    const char *at = text;

    for (int i = 0; i < 3; i++)
        at = skip_text(skip_line(at, i > 0 ? "---\n" : ""), "HELLO", 40);
    for (int i = 0; i < 3; i++)
        at = skip_text(skip_line(at, i > 0 ? "---\n" : ""), "", 40);
    CHECK_TEXT(at, "");
    free(text);
}

static void equal_settings_equal_bytes(void)
{
    struct text_writer settings = {.sampling = random_draws, .max_length = 100, .n_samples = 1};
    char *first = write_prompts(settings, "A", "A");
    char *again = write_prompts(settings, "A", "A");

    settings.sampling.seed++;
    char *other = write_prompts(settings, "A", "A");
    CHECK_TEXT(again, first);
    CHECK(strcmp(other, first) != 0);
    /* Equal prompts after each other are two texts. */
    CHECK(strlen(first) == 204 && memcmp(first, first + 102, 102) != 0);
    free(first);
    free(again);
    free(other);
}

/* Each of these ends with what the older file holds, or with a text of one line. */
static void errors_and_stops(void)
{
    const char *path = temp_path("stopped");
    struct generator *generator = NULL;
    struct text_output output = {0};
    struct tokenizer tokenizer;
    struct models m;
    size_t size;

    make_tokenizer(&tokenizer);
    if (models_create(&m, &rotary)) {
        CHECK_OK(generator_create(&generator, m.cached, tokenizer.vocab_size));
        CHECK_OK(text_output_open(&output, path, &stop));
        struct text_writer writer = {generator, &tokenizer, &output, random_draws, 5, 2, &stop,
                                     0, 0};
        CHECK_FAILS(text_writer_answer(&writer, "A?", 2), ERR_INVALID,
                    "prompt, byte 1: the vocabulary has no ?");
        stop = SIGINT;
        CHECK_FAILS(text_writer_answer(&writer, "STOPPED", 7), ERR_CANCELED, "signal 2");
        stop = 0;
        CHECK(writer.n_drawn == 0 && writer.n_texts == 1);

        /* A model that has diverged: its text ends the line, too. */
        const struct param *norm = param_find(model_param_table(m.scratch), "norm.weight");
        const struct tensor weights = model_weights(m.scratch);
        float broken[24];
        for (int i = 0; i < 24; i++)
            broken[i] = NAN;
        CHECK(norm && norm->count == 24);
        if (norm)
            CHECK_OK(model_set_param(m.scratch, &weights, norm, broken));
        CHECK_FAILS(text_writer_answer(&writer, "BROKEN", 6), ERR_INVALID, "not finite");
        CHECK_OK(text_output_commit(&output));
        char *text = temp_get(path, &size);
        CHECK_TEXT(text ? text : "", "STOPPED\nBROKEN\n");
        free(text);
    }
    text_output_close(&output);
    generator_destroy(generator);
    models_free(&m);
    tokenizer_free(&tokenizer);
}

int main(void)
{
    if (!temp_folder_create("test_generate"))
        return 1;
    CASE(cache_gives_the_logits_of_a_full_pass);
    CASE(same_text_as_without_a_cache);
    CASE(numbers_name_texts);
    CASE(many_candidates);
    CASE(only_tokens_of_the_tokenizer_are_drawn);
    CASE(wrong_calls_are_refused);
    CASE(prompts_then_texts);
    CASE(equal_settings_equal_bytes);
    CASE(errors_and_stops);
    temp_folder_remove();
    return check_finish();
}
