/* byte_progress.h - how far a long pass over many bytes has come: a live line on a terminal, else a
 * message every 10 seconds. Short passes show nothing. */
#ifndef OCTET_BYTE_PROGRESS_H
#define OCTET_BYTE_PROGRESS_H

#include <stdint.h>

struct byte_progress {
    const char *what;           /* "reading notes.txt"; lives as long as the pass */
    uint64_t done, total;       /* total 0: unknown */
    double started, shown;      /* seconds of the monotonic clock */
};

void byte_progress_begin(struct byte_progress *progress, const char *what, uint64_t total);
/* Call it about every MiB: that is how often the clock is read. */
void byte_progress_add(struct byte_progress *progress, uint64_t bytes);
/* Take the live line away. */
void byte_progress_end(void);

/* "999 bytes", "12.3 kB", "1.5 GB" (decimal) into `text`, which is returned. */
enum { BYTES_TEXT_SIZE = 32 };
const char *bytes_text(char text[BYTES_TEXT_SIZE], uint64_t bytes);

#endif
