/* samples.c - texts that the model writes while it is trained. */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/pulse.h"
#include "generate/prompt.h"
#include "generate/text_stream.h"
#include "train/fault.h"
#include "train/run.h"
#include "train/stop.h"
#include "train/watchdog.h"

/* sample_length tokens as text, into `text` of TEXT_STREAM_MAX bytes for each and one to end it. */
static enum status write_sample(struct rank *rank, uint32_t number, char *text)
{
    const struct config *config = &rank->run->config;
    const struct sampling sampling = {
        config->generation.temperature, (int)config->generation.top_k, config->generation.top_p,
        (uint64_t)config->run.seed + (uint64_t)rank->progress.step,
    };
    struct text_stream stream;
    struct prompt start;
    size_t length = 0;

    TRY(prompt_create(&start, &rank->run->data.tokenizer, "", 0));
    generator_reset(rank->generator, number);
    const enum status status = generator_append(rank->generator, start.ids, start.count);
    prompt_free(&start);
    TRY(status);
    text_stream_start(&stream, &rank->run->data.tokenizer, true);
    for (int64_t i = 0; i < config->evaluation.sample_length; i++) {
        int32_t id;
        pulse_beat();
        TRY(generator_next(rank->generator, &sampling, &id));
        length += text_stream_token(&stream, id, text + length);
    }
    length += text_stream_end(&stream, text + length);
    text[length] = '\0';
    return OK;
}

static enum status write_samples(struct rank *rank, char *text)
{
    const struct config *config = &rank->run->config;

    for (int64_t i = 0; i < config->evaluation.num_samples && !stop_signal(); i++) {
        char tag[32];
        TRY(write_sample(rank, (uint32_t)i, text));
        snprintf(tag, sizeof tag, "samples/%lld", (long long)i + 1);
        monitor_text(rank->run->monitor, tag, rank->progress.step, text);
        log_info("sample %lld after step %lld:\n%s", (long long)i + 1,
                 (long long)rank->progress.step, text);
    }
    return OK;
}

enum status rank_write_samples(struct rank *rank)
{
    enum status status;

    (void)pulse_phase(PHASE_SAMPLES);
    TRY(fault_here(rank->worker->rank, "samples", rank->progress.step));
    if (rank->generator) {
        const size_t tokens = (size_t)rank->run->config.evaluation.sample_length;
        char *text = malloc((tokens + 1) * TEXT_STREAM_MAX + 1);
        if (!text)
            return fail(ERR_NOMEM, "no memory for a sample of %zu tokens", tokens);
        monitor_activity(rank->run->monitor, "writing samples");
        status = write_samples(rank, text);
        monitor_activity(rank->run->monitor, NULL);
        free(text);
        TRY(status);
    }
    return world_barrier(rank->worker);
}
