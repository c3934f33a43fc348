/* cpu.h - a CPU worker as a device: a share of the cores, host memory, kernels that run at once. */
#ifndef OCTET_DEVICE_CPU_H
#define OCTET_DEVICE_CPU_H

#include "base/team.h"
#include "device/device.h"

struct cpu_device {
    struct device base;
    struct team *team;
    char *scratch;              /* shared scratch, then one part for each thread */
    size_t scratch_bytes;
    size_t shared_bytes, thread_bytes;
};

/* Worker `index` of several, with this many threads and the fastest kernels that the machine runs, in
 * F32 or BF16. */
enum status cpu_device_create(struct device **out, int index, int n_threads, enum dtype real);
/* Whether the machine has instructions for products of bfloat16. Any can compute in it. */
bool cpu_has_bf16(void);
/* The same with a given table and type, for tests and benches. */
enum status cpu_device_create_with(struct device **out, int index, int n_threads,
                                   const struct op_table *ops, enum dtype real,
                                   const char *ops_name);

/* A compiled table of kernels and whether this machine can run it. */
struct cpu_variant {
    const char *name;           /* "AVX-512" */
    void (*fill)(struct op_table *table);
    bool usable;
};
enum { CPU_MAX_VARIANTS = 4 };
/* Those for F32, or for BF16. Fastest first; the last one, plain C, is always usable. Returns their
 * number. */
int cpu_variants(struct cpu_variant variants[CPU_MAX_VARIANTS], enum dtype real);

static inline struct cpu_device *cpu_device(struct device *dev)
{
    return (struct cpu_device *)dev;
}
/* Scratch that all threads see, and one thread's own; at least the sizes below for the limits that
 * were reserved, aligned to 64 bytes. */
static inline void *cpu_shared_scratch(struct device *dev)
{
    return cpu_device(dev)->scratch;
}
static inline void *cpu_thread_scratch(struct device *dev, int thread)
{
    struct cpu_device *cpu = cpu_device(dev);
    return cpu->scratch + cpu->shared_bytes + (size_t)thread * cpu->thread_bytes;
}
static inline void cpu_run(struct device *dev, int n_tasks, team_task task, void *context)
{
    team_run(cpu_device(dev)->team, n_tasks, task, context);
}

/* How kernels divide work and scratch; constants, so that results do not depend on the threads. */
enum {
    CPU_PARTIALS = 32,          /* chunks of rows whose column sums are kept apart: (2, C) each */
    CPU_QUERY_BLOCK = 64,       /* queries of one attention tile: two (block, T) tiles a thread */
    CPU_PANEL_QUERIES = 32,     /* the same in attention_avx512.c, see thread_scratch() */
};

#endif
