/* generate.c - a text grows token by token: the window that the model sees, and its KV cache. */
#include "generate/generate.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"

struct generator {
    struct model *model;
    int n_tokens;               /* ids that may be drawn */
    uint32_t number;
    uint64_t n_drawn;           /* of this text */

    int32_t *ids;               /* the window: the end of the text, at most the model's context */
    int count;                  /* tokens in it */
    int n_read;                 /* those from the front that are in the model's cache */
    float *logits;              /* (V) */
    struct candidate *candidates;   /* (n_tokens) */
};

enum status generator_create(struct generator **out, struct model *model, int n_tokens)
{
    const struct model_config *config = model_config(model);

    *out = NULL;
    if (n_tokens < 1 || n_tokens > config->vocab_size)
        return fail(ERR_INVALID, "%d tokens are to be drawn from a model of %d", n_tokens,
                    config->vocab_size);
    struct generator *g = calloc(1, sizeof *g);
    if (!g)
        return fail(ERR_NOMEM, "no memory to generate text");
    g->model = model;
    g->n_tokens = n_tokens;
    g->ids = calloc((size_t)config->max_seq_len, sizeof *g->ids);
    g->logits = calloc((size_t)config->vocab_size, sizeof *g->logits);
    g->candidates = calloc((size_t)n_tokens, sizeof *g->candidates);
    if (!g->ids || !g->logits || !g->candidates) {
        generator_destroy(g);
        return fail(ERR_NOMEM, "no memory to generate text");
    }
    *out = g;
    return OK;
}

void generator_destroy(struct generator *g)
{
    if (!g)
        return;
    free(g->ids);
    free(g->logits);
    free(g->candidates);
    free(g);
}

int generator_context(const struct generator *g)
{
    return model_config(g->model)->max_seq_len;
}

void generator_reset(struct generator *g, uint32_t number)
{
    g->number = number;
    g->n_drawn = 0;
    g->count = 0;
    g->n_read = 0;
}

/* Make room for `added` more tokens, at most a context full. Half of the context is kept, less what
 * the new ones need: so most tokens cost one step of the model, and only few a window of them. */
static void forget(struct generator *g, int added)
{
    const int context = generator_context(g);
    const int kept = added < context / 2 ? context / 2 - added : 0;

    memmove(g->ids, g->ids + g->count - kept, (size_t)kept * sizeof *g->ids);
    g->count = kept;
    g->n_read = 0;
}

enum status generator_append(struct generator *g, const int32_t *ids, size_t count)
{
    const size_t context = (size_t)generator_context(g);
    const int vocab_size = model_config(g->model)->vocab_size;

    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocab_size)
            return fail(ERR_INVALID, "the model has no token %d: expected 0 to %d", ids[i],
                        vocab_size - 1);
    if (count > context) {
        ids += count - context;
        count = context;
    }
    if (count > context - (size_t)g->count)
        forget(g, (int)count);
    memcpy(g->ids + g->count, ids, count * sizeof *ids);
    g->count += (int)count;
    return OK;
}

/* The likeliest tokens that are all that is needed; 0: as many as there are. */
static int n_needed(const struct generator *g, const struct sampling *sampling)
{
    if (sampling->temperature == 0)
        return 1;
    return sampling->top_k < g->n_tokens && sampling->top_k <= OPS_TOP_MAX ? sampling->top_k : 0;
}

/* The device finds the likeliest tokens, so that only few numbers are copied from it. */
static enum status draw(struct generator *g, const struct sampling *sampling, int32_t *id)
{
    const int n = n_needed(g, sampling);

    if (n > 0) {
        TRY(model_top(g->model, g->n_tokens, n, g->candidates));
        return sample_likeliest(sampling, g->candidates, n, g->number, g->n_drawn, id);
    }
    TRY(model_read_logits(g->model, g->logits));
    return sample_token(sampling, g->logits, g->n_tokens, g->number, g->n_drawn, g->candidates, id);
}

enum status generator_next(struct generator *g, const struct sampling *sampling, int32_t *id)
{
    if (g->count == 0)
        return fail(ERR_INVALID, "a text needs a first token before others can follow");
    if (g->n_read < g->count) {
        TRY(model_extend(g->model, g->ids + g->n_read, g->count - g->n_read, g->n_read));
        g->n_read = g->count;
    }
    TRY(draw(g, sampling, id));
    g->n_drawn++;
    return generator_append(g, id, 1);
}
