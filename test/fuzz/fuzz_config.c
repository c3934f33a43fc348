/* fuzz_config.c - configuration files. */
#include <string.h>

#include "fuzz.h"
#include "options/config.h"

static void report_difference(void *context, const char *key, const char *a, const char *b)
{
    (void)context;
    fprintf(stderr, "%s: \"%s\" became \"%s\"\n", key, a, b);
    abort();
}

/* What a checkpoint keeps of the settings must give them back. */
static void check_dump(const struct config *config)
{
    struct config again;
    char *text;

    FUZZ_CHECK(options_dump(&config_options, config, &text) == OK);
    options_default(&config_options, &again);
    FUZZ_CHECK(options_read_text(&config_options, &again, text, "dump") == OK);
    options_diff(&config_options, config, &again, report_difference, NULL);
    free(text);
}

/* A text read from memory is the same file. */
static void check_text(const uint8_t *data, size_t size, enum status status)
{
    char *text = malloc(size + 1);
    struct config config;

    FUZZ_CHECK(text);
    memcpy(text, data, size);
    text[size] = '\0';
    options_default(&config_options, &config);
    FUZZ_CHECK(options_read_text(&config_options, &config, text, "input") == status);
    free(text);
}

enum status fuzz_read(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file(data, size);
    struct config config;

    options_default(&config_options, &config);
    const enum status status = options_read_file(&config_options, &config, path);
    if (status == OK)
        check_dump(&config);
    if (!memchr(data, '\0', size))
        check_text(data, size, status);
    TRY(status);
    return config_check(&config);
}
