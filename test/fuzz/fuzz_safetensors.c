/* fuzz_safetensors.c - the container, as any program may have written it. */
#include <string.h>

#include "base/safetensors.h"
#include "fuzz.h"

/* Every byte of the tensors lies in the mapping, once. */
static enum status read_entries(const struct safetensors *st, const char *path)
{
    const size_t data_size = st->file.size - (size_t)(st->data - st->file.data);
    enum status status = OK;
    uint64_t total = 0;

    for (int i = 0; i < st->n_entries; i++) {
        const struct safetensors_entry *entry = &st->entries[i];
        const unsigned char *bytes = safetensors_data(st, entry);
        uint64_t elements = 1;
        volatile unsigned char last = 0;

        for (int k = 0; k < SAFETENSORS_MAX_DIMS; k++)
            elements *= (uint64_t)entry->shape[k];
        FUZZ_CHECK(elements * dtype_size(entry->dtype) == entry->size);
        FUZZ_CHECK(safetensors_find(st, entry->name) == entry);
        for (uint64_t k = 0; k < entry->size; k++)
            last = bytes[k];
        (void)last;
        total += entry->size;
        if (safetensors_verify(st, path, entry) != OK)
            status = ERR_INVALID;
    }
    FUZZ_CHECK(total == data_size);
    return status;
}

enum status fuzz_read(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file(data, size);
    struct safetensors st;

    TRY(safetensors_open(&st, path));
    const enum status status = read_entries(&st, path);
    for (int i = 0; i < st.n_metadata; i++)
        FUZZ_CHECK(safetensors_metadata(&st, st.metadata[2 * i]) == st.metadata[2 * i + 1]);
    safetensors_close(&st);
    return status;
}
