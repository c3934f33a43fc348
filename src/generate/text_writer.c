#include "generate/text_writer.h"

#include "base/log.h"
#include "generate/prompt.h"
#include "generate/text_stream.h"

static enum status put_token(struct text_writer *w, struct text_stream *stream, int32_t id)
{
    char text[TEXT_STREAM_MAX];
    const size_t size = text_stream_token(stream, id, text);

    return text_output_write(w->output, text, size);
}

static enum status put_end(struct text_writer *w, struct text_stream *stream)
{
    char text[TEXT_STREAM_MAX];
    const size_t size = text_stream_end(stream, text);

    TRY(text_output_write(w->output, text, size));
    TRY(text_output_write(w->output, "\n", 1));
    return text_output_flush(w->output);
}

static enum status put_text(struct text_writer *w, struct text_stream *stream,
                            const struct prompt *prompt)
{
    int32_t id;

    generator_reset(w->generator, w->n_texts++);
    TRY(generator_append(w->generator, prompt->ids, prompt->count));
    for (size_t i = 0; i < prompt->count && !prompt->is_hidden; i++)
        TRY(put_token(w, stream, prompt->ids[i]));
    TRY(text_output_flush(w->output));
    for (int64_t i = 0; i < w->max_length && !*w->stop; i++) {
        TRY(generator_next(w->generator, &w->sampling, &id));
        w->n_drawn++;
        TRY(put_token(w, stream, id));
        TRY(text_output_flush(w->output));
    }
    return OK;
}

static enum status write_texts(struct text_writer *w, const struct prompt *prompt)
{
    for (int64_t i = 0; i < w->n_samples; i++) {
        struct text_stream stream;
        text_stream_start(&stream, w->tokenizer, text_output_is_terminal(w->output));
        if (i > 0)
            TRY(text_output_write(w->output, "---\n", 4));
        const enum status status = put_text(w, &stream, prompt);
        /* Where the model fails, its text so far still ends its line. */
        if (status == OK || status == ERR_INVALID)
            TRY(put_end(w, &stream));
        TRY(status);
        if (*w->stop)
            return fail(ERR_CANCELED, "stopped by signal %d", (int)*w->stop);
    }
    return OK;
}

enum status text_writer_answer(struct text_writer *writer, const char *prompt, size_t size)
{
    const int context = generator_context(writer->generator);
    struct prompt tokens;

    TRY(prompt_create(&tokens, writer->tokenizer, prompt, size));
    if (tokens.count > (size_t)context)
        log_notice("the prompt has %zu tokens: the model reads only the last %d", tokens.count,
                   context);
    const enum status status = write_texts(writer, &tokens);
    prompt_free(&tokens);
    return status;
}
