/* check_gpu.c - trainer --check: which GPUs there are, and which of them reach each other. */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "device/gpu.h"
#include "train/check.h"

static double mebibytes(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

static enum status check_versions(int n_gpus)
{
    char versions[256];

    TRY(gpu_versions(versions, sizeof versions));
    check_tick("devices: %d GPU%s; %s", n_gpus, n_gpus == 1 ? "" : "s", versions);
    return OK;
}

static enum status check_gpu(int gpu)
{
    struct gpu_facts facts;
    uint64_t left;

    TRY(gpu_facts(&facts, gpu));
    TRY(gpu_free_memory(&left, gpu));
    check_tick("GPU %d: %s, compute capability %d.%d, %.0f MiB of memory, %.0f MiB free", gpu,
               facts.name, facts.major, facts.minor, mebibytes(facts.memory), mebibytes(left));
    return OK;
}

/* "    GPU 2   x   x   .   -" */
static enum status peer_row(char *row, size_t size, int from, int n_gpus)
{
    int length = snprintf(row, size, "    GPU %-3d", from);

    for (int to = 0; to < n_gpus; to++) {
        bool direct = false;
        if (to != from)
            TRY(gpu_peer_access(&direct, from, to));
        length += snprintf(row + length, size - (size_t)length, "%4s",
                           to == from ? "." : direct ? "x" : "-");
    }
    return OK;
}

/* A table of who (rows) reaches whose memory (columns). */
static enum status check_peers(int n_gpus)
{
    const size_t size = 32 + 4 * (size_t)n_gpus;
    char *rows = calloc((size_t)n_gpus + 1, size);
    enum status status = OK;

    if (!rows)
        return fail(ERR_NOMEM, "no memory for a table of %d GPUs", n_gpus);
    int length = snprintf(rows, size, "    %7s", "");
    for (int to = 0; to < n_gpus; to++)
        length += snprintf(rows + length, size - (size_t)length, "%4d", to);
    for (int from = 0; from < n_gpus && status == OK; from++)
        status = peer_row(rows + (size_t)(from + 1) * size, size, from, n_gpus);
    if (status == OK) {
        check_tick("peer access: x is direct, - goes through the host");
        for (int row = 0; row <= n_gpus; row++)
            log_info("%s", rows + (size_t)row * size);
    }
    free(rows);
    return status;
}

void check_gpus(const struct run *run, bool *passed)
{
    const int n_gpus = plan_n_gpus(&run->devices);

    if (check_versions(n_gpus) != OK)
        check_cross(passed);
    for (int gpu = 0; gpu < n_gpus; gpu++)
        if (check_gpu(gpu) != OK)
            check_cross(passed);
    if (n_gpus > 1 && check_peers(n_gpus) != OK)
        check_cross(passed);
}
