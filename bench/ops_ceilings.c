#include "ops_ceilings.h"

#include <dnnl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "device/cpu.h"
#include "kernels/cpu/matmul_bf16.h"

/* Loops over memory are compiled for each instruction set, the fastest being chosen at start-up. */
#if defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_CPU __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define FOR_EACH_CPU __attribute__((noinline))
#endif

enum {
    MIN_TRIES = 5,
    CACHED_BYTES = 1 << 20,         /* of each thread */
    CACHED_PASSES = 256,
    UNKNOWN_CACHE = 32 << 20,
    LARGEST_PRODUCT = 1024,
};

static const double MEASURED_SECONDS = 0.25;
static const size_t MEMORY_BYTES = 256 << 20;
static const double PRODUCT_FLOP = 1e9;     /* of a thread in one try, at least about that */

static int n_threads(struct device *dev)
{
    return team_size(cpu_device(dev)->team);
}

/* The shortest time of one task on each thread. */
static double best_seconds(struct device *dev, team_task task, void *context)
{
    const double begin = seconds_now();
    double best = INFINITY;

    for (int i = 0; i < MIN_TRIES || seconds_now() - begin < MEASURED_SECONDS; i++) {
        const double start = seconds_now();
        cpu_run(dev, n_threads(dev), task, context);
        best = fmin(best, seconds_now() - start);
    }
    return best;
}

/* ---- products ---- */

/* Square matrices a, b and c for each thread. */
struct products {
    char *memory;
    int64_t n;
    enum dtype dtype;
    int calls;
    atomic_bool missing;            /* oneDNN has no such product */
};

static void multiply(void *context, int task, int thread)
{
    struct products *p = context;
    const int64_t n = p->n;
    const size_t bytes = (size_t)(n * n) * dtype_size(p->dtype);
    char *a = p->memory + 3 * bytes * (size_t)task, *b = a + bytes, *c = b + bytes;
    const struct matmul shape = {MATMUL_BF16, false, false, n, n, n, n, n, n};

    (void)thread;
    for (int i = 0; i < p->calls; i++)
        if (p->dtype == DTYPE_F32)
            dnnl_sgemm('N', 'N', n, n, n, 1, (float *)a, n, (float *)b, n, 0, (float *)c, n);
        else if (!matmul_bf16(&shape, a, b, NULL, c))
            p->missing = true;
}

/* The best rate of several sizes, 0 without such products. */
static double product_rate(struct device *dev, char *memory, enum dtype dtype)
{
    double best = 0;

    for (int64_t n = 256; n <= LARGEST_PRODUCT; n *= 2) {
        const double flop = 2 * (double)(n * n * n);
        struct products products = {.memory = memory, .n = n, .dtype = dtype,
                                    .calls = (int)ceil(PRODUCT_FLOP / flop)};
        const double seconds = best_seconds(dev, multiply, &products);
        if (products.missing)
            return 0;
        best = fmax(best, n_threads(dev) * products.calls * flop / seconds);
    }
    return best;
}

static enum status measure_products(struct ceilings *out, struct device *dev)
{
    const size_t matrix = LARGEST_PRODUCT * LARGEST_PRODUCT * sizeof(float);
    const size_t bytes = 3 * matrix * (size_t)n_threads(dev);
    void *memory;

    TRY(device_alloc(dev, bytes, &memory));
    memset(memory, 0x3f, bytes);    /* numbers of about 0.75 in both types */
    out->float32 = product_rate(dev, memory, DTYPE_F32);
    out->bfloat16 = product_rate(dev, memory, DTYPE_BF16);
    device_free(dev, memory, bytes);
    return OK;
}

/* ---- memory ---- */

/* Each thread goes so often over its part. */
struct passes {
    char *memory;
    size_t part;                    /* bytes of a thread */
    int count;
    _Atomic uint64_t result;        /* so that what was read is of use */
};

/* Wide vectors, which compilers split where the machine's are narrower. */
typedef uint64_t vector __attribute__((vector_size(64), may_alias));

/* n is a multiple of 4. In several sums, since each addition waits for the one before it. */
FOR_EACH_CPU
static uint64_t read_vectors(const vector *x, size_t n)
{
    vector a = {0}, b = {0}, c = {0}, d = {0};

    for (size_t i = 0; i < n; i += 4) {
        a += x[i];
        b += x[i + 1];
        c += x[i + 2];
        d += x[i + 3];
    }
    a += b + c + d;
    return a[0] + a[1] + a[2] + a[3] + a[4] + a[5] + a[6] + a[7];
}

FOR_EACH_CPU
static void update_vectors(vector *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += 3;
}

static void read_part(void *context, int task, int thread)
{
    struct passes *p = context;
    const vector *x = (const vector *)(p->memory + p->part * (size_t)task);

    (void)thread;
    for (int i = 0; i < p->count; i++)
        atomic_fetch_add(&p->result, read_vectors(x, p->part / sizeof *x));
}

static void update_part(void *context, int task, int thread)
{
    struct passes *p = context;
    vector *x = (vector *)(p->memory + p->part * (size_t)task);

    (void)thread;
    for (int i = 0; i < p->count; i++)
        update_vectors(x, p->part / sizeof *x);
}

/* The update comes first: memory that nothing was written to yet is read faster than any other. */
static struct memory_rates memory_rates(struct device *dev, char *memory, size_t part, int count)
{
    struct passes passes = {.memory = memory, .part = part, .count = count};
    const double bytes = (double)part * n_threads(dev) * count;
    struct memory_rates rates;

    rates.update = 2 * bytes / best_seconds(dev, update_part, &passes);
    rates.read = bytes / best_seconds(dev, read_part, &passes);
    return rates;
}

static enum status measure_memory(struct ceilings *out, struct device *dev)
{
    const size_t threads = (size_t)n_threads(dev), cached = threads * CACHED_BYTES;
    size_t bytes = MEMORY_BYTES;
    void *memory;

    if (bytes < 4 * out->cache_bytes)
        bytes = 4 * out->cache_bytes;
    if (bytes < cached)
        bytes = cached;
    TRY(device_alloc(dev, bytes, &memory));
    out->memory = memory_rates(dev, memory, bytes / threads / 4096 * 4096, 1);
    out->cache = memory_rates(dev, memory, CACHED_BYTES, CACHED_PASSES);
    device_free(dev, memory, bytes);
    return OK;
}

/* As the kernel has it: on some machines sysconf() counts the caches of the whole socket, of which
 * a virtual machine has one. */
static size_t last_cache_bytes(void)
{
    FILE *file = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r");
    size_t kilobytes = 0;

    if (file) {
        if (fscanf(file, "%zuK", &kilobytes) != 1)
            kilobytes = 0;
        fclose(file);
    }
    return kilobytes > 0 ? kilobytes << 10 : UNKNOWN_CACHE;
}

enum status ceilings_measure(struct ceilings *out, struct device *dev)
{
    *out = (struct ceilings){.cache_bytes = last_cache_bytes()};
    TRY(measure_products(out, dev));
    return measure_memory(out, dev);
}
