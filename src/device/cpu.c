#include "device/cpu.h"

#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu/variants.h"
#include "kernels/ops.h"

enum { HUGE_PAGE = 2 << 20 };

static size_t round_up(size_t value, size_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The kernels' needs, see cpu_ops.h and the files that call cpu_*_scratch(). */
static size_t shared_scratch(const struct device *dev, const struct op_limits *limits)
{
    const size_t column_sums = 2 * CPU_PARTIALS * (size_t)limits->width *
                               dtype_size(device_master(dev));
    const size_t square_sums = ((size_t)limits->params / 65536 + 1) * sizeof(double);

    return round_up(larger(column_sums, square_sums), 64);
}

/* attention.c: two tiles of scores, narrowed ones, dK and dV, a row of factors. */
static size_t tile_scratch(const struct device *dev, const struct op_limits *limits)
{
    const size_t keys = round_up((size_t)limits->max_seq_len, 32);
    const size_t size = (size_t)limits->head_size;
    const size_t tile = CPU_QUERY_BLOCK * keys, master = dtype_size(device_master(dev));
    const size_t narrowed = dev->real == DTYPE_BF16 ? 2 * tile * dtype_size(dev->real) : 0;

    return (2 * tile + CPU_QUERY_BLOCK * size + 2 * keys * size + keys) * master + narrowed +
           8 * 64;     /* parts of it begin at multiples of 64 */
}

/* attention_avx512.c: five panels, dK and dV; scores, dp, ds, p and ds in units, factors, deltas, dQ. */
static size_t panel_scratch(const struct device *dev, const struct op_limits *limits)
{
    const size_t step = 4 / dtype_size(dev->real);
    const size_t keys = round_up((size_t)limits->max_seq_len, 16) + 16;
    const size_t size = round_up((size_t)limits->head_size, 16);
    const size_t panels = 5 * keys * size / step + 2 * keys * size;
    const size_t blocks = CPU_PANEL_QUERIES * ((3 + 2 / step) * keys + size);

    return (panels + blocks + 3 * keys + 16 * 16) * 4;
}

static size_t thread_scratch(const struct device *dev, const struct op_limits *limits)
{
    const size_t row = ((size_t)limits->width + 8) * dtype_size(device_master(dev));
    const size_t panel = dev->real == DTYPE_F64 ? 0 : panel_scratch(dev, limits);

    return round_up(larger(larger(tile_scratch(dev, limits), panel), row), 4096);
}

static size_t cpu_scratch_size(const struct device *dev, const struct op_limits *limits)
{
    const struct cpu_device *cpu = (const struct cpu_device *)dev;

    return shared_scratch(dev, limits) +
           (size_t)team_size(cpu->team) * thread_scratch(dev, limits);
}

static enum status cpu_alloc(struct device *dev, size_t size, void **out)
{
    const size_t bytes = round_up(larger(size, 1), 4096);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    *out = NULL;
    if (memory == MAP_FAILED)
        return fail_errno(ERR_NOMEM, "%s: cannot get %.1f MiB of memory", dev->description,
                          (double)size / (1 << 20));
    /* Large pages spare the TLB; without them it is only slower. */
    if (bytes >= HUGE_PAGE)
        (void)madvise(memory, bytes, MADV_HUGEPAGE);
    *out = memory;
    return OK;
}

static void cpu_free(struct device *dev, void *memory, size_t size)
{
    (void)dev;
    munmap(memory, round_up(larger(size, 1), 4096));
}

static enum status cpu_reserve(struct device *dev, const struct op_limits *limits)
{
    struct cpu_device *cpu = cpu_device(dev);
    const size_t shared = larger(cpu->shared_bytes, shared_scratch(dev, limits));
    const size_t thread = larger(cpu->thread_bytes, thread_scratch(dev, limits));
    const size_t bytes = shared + (size_t)team_size(cpu->team) * thread;
    void *memory;

    if (bytes == cpu->scratch_bytes)
        return OK;
    TRY(cpu_alloc(dev, bytes, &memory));
    if (cpu->scratch)
        cpu_free(dev, cpu->scratch, cpu->scratch_bytes);
    cpu->scratch = memory;
    cpu->scratch_bytes = bytes;
    cpu->shared_bytes = shared;
    cpu->thread_bytes = thread;
    return OK;
}

static enum status cpu_copy(struct device *dev, void *to, const void *from, size_t size)
{
    (void)dev;
    memcpy(to, from, size);
    return OK;
}

static enum status cpu_zero(struct device *dev, void *memory, size_t size)
{
    (void)dev;
    memset(memory, 0, size);
    return OK;
}

static enum status cpu_sync(struct device *dev)
{
    (void)dev;
    return OK;
}

static void cpu_destroy(struct device *dev)
{
    struct cpu_device *cpu = cpu_device(dev);

    team_destroy(cpu->team);
    if (cpu->scratch)
        cpu_free(dev, cpu->scratch, cpu->scratch_bytes);
    free(cpu);
}

static const struct device_ops cpu_memory = {
    .backend = "cpu",
    .scratch_size = cpu_scratch_size,
    .reserve = cpu_reserve,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .zero = cpu_zero,
    .sync = cpu_sync,
    .destroy = cpu_destroy,
};

int cpu_variants(struct cpu_variant variants[CPU_MAX_VARIANTS], enum dtype real)
{
    const bool is_bf16 = real == DTYPE_BF16;
    int n = 0;

#ifdef HAVE_CPU_AVX512
    variants[n++] = (struct cpu_variant){
        "AVX-512", is_bf16 ? cpu_fill_ops_avx512_bf16 : cpu_fill_ops_avx512,
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
            (!is_bf16 || cpu_has_bf16())};
#endif
#ifdef HAVE_CPU_AVX2
    if (!is_bf16)
        variants[n++] = (struct cpu_variant){
            "AVX2", cpu_fill_ops_avx2,
            __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")};
#endif
    variants[n++] = (struct cpu_variant){
        "plain C", is_bf16 ? cpu_fill_ops_plain_bf16 : cpu_fill_ops_plain, true};
    return n;
}

bool cpu_has_bf16(void)
{
#ifdef HAVE_CPU_AVX512
    /* What has AMX has these, too. */
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

/* oneDNN runs on OpenMP, whose thread count belongs to the calling thread: our teams share out the
 * work themselves. */
static void one_omp_thread(void *context, int task, int thread)
{
    (void)context;
    (void)task;
    (void)thread;
    omp_set_num_threads(1);
}

enum status cpu_device_create_with(struct device **out, int index, int n_threads,
                                   const struct op_table *ops, enum dtype real,
                                   const char *ops_name)
{
    struct cpu_device *cpu = calloc(1, sizeof *cpu);

    *out = NULL;
    if (!cpu)
        return fail(ERR_NOMEM, "CPU worker %d: no memory", index);
    const enum status status = team_create(&cpu->team, n_threads, one_omp_thread);
    if (status != OK) {
        free(cpu);
        return status;
    }
    cpu->base.memory = &cpu_memory;
    cpu->base.ops = ops;
    cpu->base.index = index;
    cpu->base.real = real;
    snprintf(cpu->base.description, sizeof cpu->base.description, "CPU worker %d (%d thread%s, %s)",
             index, n_threads, n_threads == 1 ? "" : "s", ops_name);
    *out = &cpu->base;
    return OK;
}

enum status cpu_device_create(struct device **out, int index, int n_threads, enum dtype real)
{
    static struct op_table f32_table, bf16_table;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct op_table *table = real == DTYPE_BF16 ? &bf16_table : &f32_table;
    struct cpu_variant variants[CPU_MAX_VARIANTS];
    int best = 0;
    char name[32];

    cpu_variants(variants, real);
    while (!variants[best].usable)
        best++;
    pthread_mutex_lock(&lock);
    if (!table->sum)
        variants[best].fill(table);
    pthread_mutex_unlock(&lock);
    snprintf(name, sizeof name, "%s%s", variants[best].name,
             real == DTYPE_BF16 ? ", bfloat16" : "");
    return cpu_device_create_with(out, index, n_threads, table, real, name);
}
