/* safetensors.h - the one container for token files, weights and checkpoints.
 *
 * Layout (github.com/huggingface/safetensors, "Format"): 8-byte little-endian header length, a JSON
 * object {"NAME": {"dtype", "shape", "data_offsets"}, ..., "__metadata__": {"KEY": "TEXT"}}, then
 * the raw tensors. Octet pads the header with blanks so that the data starts on a 64-byte boundary.
 * The format allows no gaps between tensors; Octet places those with wider elements first, so that
 * each lies on a multiple of its element size. Files of other programs may be aligned to nothing.
 *
 * Files that Octet writes also carry, in the metadata, "octet.checksums" (a JSON text: name to
 * CRC-32C of the tensor's bytes, eight lower-case hexadecimal digits) and, as the very first thing
 * in the header, "octet.header_checksum" (CRC-32C of the header's JSON text, blanks included, with
 * this value's own eight digits taken as '0'). They are checked where present, so that files of
 * other programs are read too. */
#ifndef OCTET_SAFETENSORS_H
#define OCTET_SAFETENSORS_H

#include <stdint.h>

#include "base/file.h"
#include "base/status.h"
#include "base/tensor.h"

enum { SAFETENSORS_MAX_DIMS = 4 };

struct safetensors_entry {
    char *name;
    enum dtype dtype;
    int n_dims;
    int64_t shape[SAFETENSORS_MAX_DIMS];    /* 1 from n_dims on */
    uint64_t offset, size;          /* bytes, from the start of the data section */
    uint32_t checksum;
    bool has_checksum;
};

/* Reading: the file is mapped; entries and metadata live until close. */
struct safetensors {
    struct mapped_file file;
    const unsigned char *data;      /* the data section */
    struct safetensors_entry *entries;  /* in the order of their offsets */
    int n_entries;
    char **metadata;                /* key, value, key, value, ...; without the two checksums */
    int n_metadata;                 /* pairs */
};

/* Map and check: header length, JSON (depth and size limited), names, dtypes, shapes whose product
 * matches the size, offsets inside the file that neither overlap nor leave holes, header checksum.
 * Tensor checksums are left to safetensors_verify(), because they read everything.
 * ERR_INVALID names the file and what is wrong; ERR_IO if it can't be read. After a failure there
 * is nothing to close, but closing is safe. An open file may be read by many threads at once. */
enum status safetensors_open(struct safetensors *st, const char *path);
void safetensors_close(struct safetensors *st);

const struct safetensors_entry *safetensors_find(const struct safetensors *st, const char *name);
/* Where the entry's bytes lie in the mapping; see above for their alignment. */
const void *safetensors_data(const struct safetensors *st, const struct safetensors_entry *entry);
/* NULL when the key is absent. */
const char *safetensors_metadata(const struct safetensors *st, const char *key);
/* Compare the bytes of one entry with its checksum; OK where it has none. */
enum status safetensors_verify(const struct safetensors *st, const char *path,
                               const struct safetensors_entry *entry);

/* Writing: declare tensors and metadata, begin, hand over the bytes in the declared order in pieces
 * of any size, commit. */
struct safetensors_writer;

enum status safetensors_writer_create(struct safetensors_writer **out);
/* Text must be UTF-8 without NUL. A key given again replaces the value; after begin only that is
 * possible, with a text as long as the old one (a digest of the data, say). */
enum status safetensors_writer_metadata(struct safetensors_writer *w, const char *key,
                                        const char *text, size_t length);
enum status safetensors_writer_tensor(struct safetensors_writer *w, const char *name,
                                      enum dtype dtype, int n_dims, const int64_t *shape);
/* Bytes of the whole file as declared so far (header included); 0 where begin would fail. */
uint64_t safetensors_writer_size(struct safetensors_writer *w);
/* Create the temporary file and reserve its space. Nothing new can be declared after it. */
enum status safetensors_writer_begin(struct safetensors_writer *w, const char *path);
enum status safetensors_writer_data(struct safetensors_writer *w, const void *data, size_t size);
/* Fill in the checksums, make the file durable under its name. ERR_INVALID if bytes are missing. */
enum status safetensors_writer_commit(struct safetensors_writer *w);
/* Discards the temporary file if there was no commit. NULL is fine. */
void safetensors_writer_destroy(struct safetensors_writer *w);

#endif
