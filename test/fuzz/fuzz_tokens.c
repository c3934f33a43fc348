/* fuzz_tokens.c - token files: opening one, then the windows that training reads. */
#include <string.h>

#include "data/dataset.h"
#include "fuzz.h"

enum { MAX_LENGTH = 64, MAX_WINDOWS = 256 };

static void read_windows(const struct dataset *ds, enum split split, int length)
{
    const uint32_t vocab_size = (uint32_t)ds->tokenizer.vocab_size;
    const int64_t n_windows = dataset_windows(ds, split, length);
    int32_t ids[MAX_LENGTH], targets[MAX_LENGTH];

    for (int64_t n = 0; n < n_windows && n < MAX_WINDOWS; n++) {
        /* From both ends, so that a long file's last window is among them. */
        const int64_t window = n % 2 ? n_windows - 1 - n / 2 : n / 2;
        FUZZ_CHECK(dataset_window(ds, split, window, length, ids, targets) == OK);
        FUZZ_CHECK(memcmp(ids + 1, targets, (size_t)(length - 1) * sizeof *ids) == 0);
        for (int i = 0; i < length; i++)
            FUZZ_CHECK((uint32_t)ids[i] < vocab_size && (uint32_t)targets[i] < vocab_size);
    }
}

enum status fuzz_read(const uint8_t *data, size_t size)
{
    static const int lengths[] = {1, 5, MAX_LENGTH};
    struct dataset ds;

    TRY(dataset_open(&ds, fuzz_file(data, size)));
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        read_windows(&ds, SPLIT_TRAIN, lengths[i]);
        read_windows(&ds, SPLIT_VAL, lengths[i]);
    }
    dataset_close(&ds);
    return OK;
}
