/* prepare.h - text to token file: the work of the program of this name.
 *
 * The text is read from its source in blocks, once to check it and to learn its characters, then
 * for every repetition to write its tokens; memory does not grow with it. */
#ifndef OCTET_PREPARE_H
#define OCTET_PREPARE_H

#include <signal.h>
#include <stdint.h>

#include "base/status.h"
#include "options/option.h"

struct prepare_settings {
    const char *output;
    const char *custom_text;                /* a path, "-": standard input, NULL: the sample */
    int64_t repeat;
    char tokenizer[OPTION_STRING_SIZE];     /* byte | char */
    double train_split;                     /* fraction for training, (0, 1] */
    char split[OPTION_STRING_SIZE];         /* text | windows */
    int64_t window;                         /* tokens per window of split windows */
    int64_t seed;                           /* of the draw of windows */
};

/* The flags of the program. */
extern const struct option_table prepare_options;

/* Write the token file and print what it holds. The sample text is looked for as
 * FOLDER/datasets/sample.txt in each of `folders` (NULL-ended); "" is the current folder.
 * ERR_CANCELED once *stop is set. After any error an older output file is as it was. */
enum status prepare_run(const struct prepare_settings *settings, const char *const *folders,
                        const volatile sig_atomic_t *stop);

#endif
