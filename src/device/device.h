/* device.h - what a backend is: memory, one in-order stream of work, and a table of kernels.
 *
 * Kernels (kernels/ops.h) and copies are queued on the device's stream and may return before they
 * finish; they run in the order they were queued. One thread, the worker that owns the device,
 * makes all calls. */
#ifndef OCTET_DEVICE_H
#define OCTET_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/tensor.h"

struct device;
struct op_table;
struct profile;

/* The largest shapes that the kernels will be given, so that a backend can set its scratch memory
 * aside once. Letters as in ops.h. */
struct op_limits {
    int64_t rows;           /* B * T */
    int64_t width;          /* the widest matrix dimension but V: max(3C, M) */
    int64_t max_seq_len;    /* T */
    int64_t heads, head_size;
    int64_t vocab_size;     /* V */
    int64_t params;         /* elements of the flat parameter buffer */
};

struct device_ops {
    const char *backend;    /* "cpu", "cuda" */

    /* Bytes of scratch that device_reserve() will take for these limits. */
    size_t (*scratch_size)(const struct device *dev, const struct op_limits *limits);
    /* Only ever grows: several models may share a device. */
    enum status (*reserve)(struct device *dev, const struct op_limits *limits);

    /* `size` bytes, zeroed, aligned to 256; ERR_NOMEM says how much was asked for. */
    enum status (*alloc)(struct device *dev, size_t size, void **out);
    void (*free)(struct device *dev, void *memory, size_t size);

    enum status (*upload)(struct device *dev, void *to, const void *from, size_t size);
    /* Waits for the copy. */
    enum status (*download)(struct device *dev, void *to, const void *from, size_t size);
    enum status (*zero)(struct device *dev, void *memory, size_t size);
    /* Wait until everything queued is done. */
    enum status (*sync)(struct device *dev);
    /* Recording; NULL where queueing again costs nothing. */
    enum status (*section_begin)(struct device *dev, int section);
    enum status (*section_end)(struct device *dev);
    enum status (*sections_forget)(struct device *dev);
    void (*destroy)(struct device *dev);
};

struct device {
    const struct device_ops *memory;
    const struct op_table *ops;
    int index;              /* of its kind on this machine: GPU 3, CPU worker 0 */
    char description[96];   /* for messages and logs: "CPU worker, 2 threads, AVX-512" */
    enum dtype real;        /* of activations and the weights computed with: F32, BF16, F16, F64 */
    struct profile *profile;    /* NULL: kernels are not timed */
    double timeout;         /* seconds that a wait for the device may take; 0: any time */
    bool replaying;         /* in a section that is replayed: nothing is to be queued */
};

/* The type of weights that are updated, of moments, weight gradients and statistics. */
static inline enum dtype device_master(const struct device *dev)
{
    return dev->real == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32;
}

static inline size_t device_scratch_size(const struct device *dev, const struct op_limits *limits)
{
    return dev->memory->scratch_size(dev, limits);
}
static inline enum status device_reserve(struct device *dev, const struct op_limits *limits)
{
    return dev->memory->reserve(dev, limits);
}
static inline enum status device_alloc(struct device *dev, size_t size, void **out)
{
    return dev->memory->alloc(dev, size, out);
}
static inline void device_free(struct device *dev, void *memory, size_t size)
{
    if (memory)
        dev->memory->free(dev, memory, size);
}
static inline enum status device_upload(struct device *dev, void *to, const void *from, size_t size)
{
    return dev->memory->upload(dev, to, from, size);
}
static inline enum status device_download(struct device *dev, void *to, const void *from,
                                          size_t size)
{
    return dev->memory->download(dev, to, from, size);
}
static inline enum status device_zero(struct device *dev, void *memory, size_t size)
{
    return dev->replaying ? OK : dev->memory->zero(dev, memory, size);
}
static inline enum status device_sync(struct device *dev)
{
    return dev->memory->sync(dev);
}

/* What is queued between these two is the same each time this section (0, 1 ...) comes: same calls,
 * tensors and arguments, and no upload or download. So a backend may record it and queue all of it
 * at once from then on: the first time it runs as it is, the second time it is recorded as well, and
 * after that the calls in between are passed over. Same bits either way. */
static inline enum status device_section_begin(struct device *dev, int section)
{
    return dev->memory->section_begin ? dev->memory->section_begin(dev, section) : OK;
}
static inline enum status device_section_end(struct device *dev)
{
    return dev->memory->section_end ? dev->memory->section_end(dev) : OK;
}
/* The arguments are others now, or a section was left in the middle by an error: every section is to be
 * recorded again when it comes next. */
static inline enum status device_sections_forget(struct device *dev)
{
    return dev->memory->sections_forget ? dev->memory->sections_forget(dev) : OK;
}

/* NULL is fine. */
static inline void device_destroy(struct device *dev)
{
    if (dev)
        dev->memory->destroy(dev);
}

#endif
