/* text_writer.h - prompts become texts: what `sample` does, once its model is loaded. */
#ifndef OCTET_TEXT_WRITER_H
#define OCTET_TEXT_WRITER_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#include "data/tokenizer.h"
#include "generate/generate.h"
#include "generate/text_output.h"

/* Owns nothing; the caller fills in all but the last two. */
struct text_writer {
    struct generator *generator;
    const struct tokenizer *tokenizer;
    struct text_output *output;
    struct sampling sampling;
    int64_t max_length;         /* tokens added to a prompt */
    int64_t n_samples;          /* texts for each prompt */
    const volatile sig_atomic_t *stop;

    uint32_t n_texts;           /* begun so far: the number of the next */
    int64_t n_drawn;            /* tokens so far */
};

/* Write the texts for one prompt: the prompt, what the model adds, a line end; "---" on a line of
 * its own between two texts. ERR_INVALID for a prompt that can't be read (nothing is written then)
 * or a broken model; ERR_CANCELED once *stop is set, after the line end. */
enum status text_writer_answer(struct text_writer *writer, const char *prompt, size_t size);

#endif
