/* generate.h - text from a model: logits to a token, and the loop around it. */
#ifndef OCTET_GENERATE_H
#define OCTET_GENERATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/candidate.h"
#include "base/status.h"
#include "model/model.h"

struct sampling {
    double temperature;         /* 0: the most likely token, always */
    int top_k;                  /* only the k most likely; 0: all */
    double top_p;               /* only the most likely of those that together reach p; 1: all */
    uint64_t seed;
};

/* Pick a token from logits (n). Of equal logits the smaller id ranks first. A pure function of its
 * arguments: sample `number`, its `position`-th token. `scratch` holds n entries. A token with
 * logit -infinity is never picked. ERR_INVALID if no logit is finite, or any is NaN or +inf. */
enum status sample_token(const struct sampling *sampling, const float *logits, int n,
                         uint32_t number, uint64_t position, struct candidate *scratch,
                         int32_t *id);
/* The same token, where only the n likeliest have been found, in order: 1 of them for temperature
 * 0, else top_k. The first one's logit is NaN if any is NaN or +inf. */
enum status sample_likeliest(const struct sampling *sampling, const struct candidate *likeliest,
                             int n, uint32_t number, uint64_t position, int32_t *id);

/* A text in progress. Borrows the model (MODEL_GENERATE) and writes its cache. */
struct generator;

/* Only ids below `n_tokens` are drawn: those that the tokenizer has, which may be fewer than the
 * model's. ERR_INVALID if they are more. */
enum status generator_create(struct generator **out, struct model *model, int n_tokens);
/* NULL is fine. */
void generator_destroy(struct generator *generator);
/* Tokens that the model sees at once, its max_seq_len. */
int generator_context(const struct generator *generator);

/* Start over: forget the text so far; `number` tells this sample's random numbers from others'. */
void generator_reset(struct generator *generator, uint32_t number);
/* Append tokens to the text. When it outgrows the model's context, all is forgotten but the last
 * half of a context, or what was just appended if that is more, a context at most; the rest is read
 * again. ERR_INVALID for an id that the model has not. */
enum status generator_append(struct generator *generator, const int32_t *ids, size_t count);
/* Draw the next token from what was appended (at least one token) and append it. */
enum status generator_next(struct generator *generator, const struct sampling *sampling,
                           int32_t *id);

#endif
