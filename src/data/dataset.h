/* dataset.h - the memory-mapped token file that all workers read. */
#ifndef OCTET_DATASET_H
#define OCTET_DATASET_H

#include <stdint.h>

#include "base/safetensors.h"
#include "base/status.h"
#include "data/tokenizer.h"

enum split { SPLIT_TRAIN, SPLIT_VAL };

enum { DIGEST_SIZE = 17 };

struct token_stream {
    const void *ids;            /* in the mapping; other programs' may lie unaligned */
    enum dtype dtype;           /* U8, U16, U32 (I32 and I64 of other programs are accepted) */
    int64_t count;
};

struct dataset {
    char *path;
    struct safetensors file;
    struct tokenizer tokenizer;
    struct token_stream streams[2];     /* by enum split; val may be empty */
    char digest[DIGEST_SIZE];           /* of all tokens, see dataset_digest() */
};

/* Map and check the token file: container, `train` (and `val`, if there) 1-D of an integer type,
 * tokenizer metadata, every id below its vocab_size, checksums and digest where present. A large
 * file's check shows progress. ERR_INVALID names the file, the defect and what to do. */
enum status dataset_open(struct dataset *ds, const char *path);
void dataset_close(struct dataset *ds);

/* Windows of `length` + 1 tokens, each starting where the last one's targets ended: window i is
 * tokens i*length .. i*length+length. 0 if the stream is too short for one. */
int64_t dataset_windows(const struct dataset *ds, enum split split, int length);
/* One window: ids (length) and targets (length), the same tokens shifted by one. ERR_IO if the file has
 * been cut short since, or can't be read. */
enum status dataset_window(const struct dataset *ds, enum split split, int64_t window, int length,
                           int32_t *ids, int32_t *targets);
/* Whether the windows read until now were the file's: in the page where it was cut short they are zeros.
 * ERR_IO as above. */
enum status dataset_check_whole(const struct dataset *ds);

/* The digest of a token file, 16 hexadecimal digits: the CRC-32C of the bytes of train, then that
 * of val (0 where it is empty). */
void dataset_digest(char digest[DIGEST_SIZE], uint32_t train, uint32_t val);

#endif
