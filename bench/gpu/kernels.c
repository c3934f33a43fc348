/* kernels - how fast each operation is on a GPU, at the sizes of the models, and how near to what
 * the GPU can do at all: a large copy and a large matrix product are timed first.
 *
 *     kernels [--quick] [--toy] [--models LIST]
 *
 * Operands are random and rotate through more memory than the second-level cache has; the calls of
 * a sample are recorded once and replayed together, so that the host's part is not in the times. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "device/cuda.h"
#include "device/gpu.h"
#include "gpu/cases.h"

enum {
    MAX_SETS = 32,              /* of operands */
    MAX_CALLS = 256,            /* in one sample */
    MAX_SAMPLES = 11,
    CACHES = 3,                 /* times the cache that the operands fill together */
};

static const double SAMPLE_SECONDS = 4e-3;

/* Random values on the device, made once for each type and copied from there. */
struct pool {
    void *memory;
    size_t bytes;
};

struct bench {
    struct bench_flags flags;
    struct device *dev;         /* as the trainer opens it */
    struct device *tuned;       /* the same GPU; algorithms of products chosen by timing */
    cudaEvent_t start, stop;
    size_t cache;               /* bytes */
    struct pool pools[N_DTYPES][N_FILLS];
    int n_samples;
    double copy_rate, product_rate;     /* the ceilings: bytes and operations a second */
    bool timed[N_OPS];
    int n_failed;
};

/* ---- random operands ---- */

static void encode(void *to, enum dtype dtype, double x)
{
    const float single = (float)x;
    uint32_t bits;

    memcpy(&bits, &single, sizeof bits);
    if (dtype == DTYPE_BF16)
        memcpy(to, &(uint16_t){(uint16_t)(bits >> 16)}, 2);
    else if (dtype == DTYPE_F32)
        memcpy(to, &single, sizeof single);
    else if (dtype == DTYPE_F64)
        memcpy(to, &x, sizeof x);
    else
        memcpy(to, &(int32_t){(int32_t)x}, sizeof(int32_t));
}

static double random_value(enum fill fill, int64_t i, int vocab)
{
    const struct rng_block block = rng_philox(1, RNG_TEST, 0, 0, (uint64_t)i / 4);
    const double x = (double)rng_uniform(block.word[i % 4]);

    if (fill == FILL_IDS)
        return x * vocab;
    return fill == FILL_POSITIVE ? 0.5 + x : 2 * x - 1;
}

static enum status pool_create(struct bench *b, struct pool *pool, enum dtype dtype,
                               enum fill fill, int vocab)
{
    const int64_t count = b->flags.toy ? 1 << 10 : 1 << 21;
    const size_t size = dtype_size(dtype), bytes = (size_t)count * size;
    char *values = malloc(bytes);
    enum status status;

    if (!values)
        return fail(ERR_NOMEM, "no memory for random values");
    for (int64_t i = 0; i < count; i++)
        encode(values + (size_t)i * size, dtype, random_value(fill, i, vocab));
    TRY_GOTO(status, device_alloc(b->dev, bytes, &pool->memory), done);
    pool->bytes = bytes;
    status = device_upload(b->dev, pool->memory, values, bytes);
done:
    free(values);
    return status;
}

/* The ids depend on the vocabulary. */
static void pools_free(struct bench *b)
{
    for (int dtype = 0; dtype < N_DTYPES; dtype++)
        for (int fill = 0; fill < N_FILLS; fill++) {
            device_free(b->dev, b->pools[dtype][fill].memory, b->pools[dtype][fill].bytes);
            b->pools[dtype][fill] = (struct pool){0};
        }
}

static enum status fill_random(struct bench *b, char *to, const struct operand *o, int vocab)
{
    const enum dtype dtype = o->shape.dtype;
    const size_t bytes = (size_t)tensor_count(&o->shape) * dtype_size(dtype);
    struct pool *pool = &b->pools[dtype][o->fill];

    if (!pool->memory)
        TRY(pool_create(b, pool, dtype, o->fill, vocab));
    for (size_t at = 0; at < bytes; at += pool->bytes) {
        const size_t rest = bytes - at;
        CUDA_TRY(b->dev, cudaMemcpyAsync(to + at, pool->memory,
                                         rest < pool->bytes ? rest : pool->bytes,
                                         cudaMemcpyDeviceToDevice, cuda_stream(b->dev)));
    }
    return OK;
}

/* ---- timing ---- */

/* What is timed: call number i queues its work on `dev`. */
struct work {
    struct device *dev;
    enum status (*call)(void *context, int i);
    void *context;
};

static enum status queue_calls(const struct work *work, int n_calls)
{
    for (int i = 0; i < n_calls; i++)
        TRY(work->call(work->context, i));
    return OK;
}

static enum status elapsed(struct bench *b, const struct work *work, int n_calls, bool recorded,
                           double *seconds)
{
    const cudaStream_t stream = cuda_stream(work->dev);
    enum status status = OK;
    float milliseconds;

    CUDA_TRY(work->dev, cudaEventRecord(b->start, stream));
    if (recorded)
        TRY(device_section_begin(work->dev, 0));
    if (!work->dev->replaying)
        status = queue_calls(work, n_calls);
    if (recorded) {     /* ends a recording that failed, too */
        const enum status ended = device_section_end(work->dev);
        status = status != OK ? status : ended;
    }
    TRY(status);
    CUDA_TRY(work->dev, cudaEventRecord(b->stop, stream));
    CUDA_TRY(work->dev, cudaEventSynchronize(b->stop));
    CUDA_TRY(work->dev, cudaEventElapsedTime(&milliseconds, b->start, b->stop));
    *seconds = 1e-3 * (double)milliseconds;
    return OK;
}

/* The first two rounds of a section run and record it: the samples are what comes after them. */
static enum status sample(struct bench *b, const struct work *work, int n_calls, bool recorded,
                          double *median)
{
    double seconds[MAX_SAMPLES], ignored;

    TRY(device_sections_forget(work->dev));
    for (int i = 0; i < 2; i++)
        TRY(elapsed(b, work, n_calls, recorded, &ignored));
    for (int i = 0; i < b->n_samples; i++)
        TRY(elapsed(b, work, n_calls, recorded, &seconds[i]));
    *median = median_of(seconds, b->n_samples) / n_calls;
    return OK;
}

/* The median of a call's seconds. At least `n_sets` calls make a sample, so that all operands take
 * their turn. Where the work cannot be recorded, the host's part is in the time. */
static enum status time_work(struct bench *b, const struct work *work, int n_sets, double *median,
                             bool *recorded)
{
    double first;
    int n_calls;

    TRY(queue_calls(work, n_sets));
    TRY(elapsed(b, work, n_sets, false, &first));
    n_calls = b->flags.toy ? n_sets : (int)(SAMPLE_SECONDS / (first / n_sets + 1e-7)) + 1;
    n_calls = n_calls < n_sets ? n_sets : n_calls > MAX_CALLS ? MAX_CALLS : n_calls;
    *recorded = true;
    if (sample(b, work, n_calls, true, median) == OK)
        return OK;
    *recorded = false;
    return sample(b, work, n_calls, false, median);
}

/* ---- ceilings ---- */

struct copy {
    struct device *dev;
    char *from, *to;
    size_t bytes;
};

static enum status queue_copy(void *context, int i)
{
    const struct copy *copy = context;

    (void)i;
    CUDA_TRY(copy->dev, cudaMemcpyAsync(copy->to, copy->from, copy->bytes,
                                        cudaMemcpyDeviceToDevice, cuda_stream(copy->dev)));
    return OK;
}

static enum status measure_copy(struct bench *b)
{
    const size_t bytes = b->flags.toy ? 1 << 16 : (size_t)1 << 30;
    const struct operand values = {.shape = tensor_1d(NULL, DTYPE_F32, (int64_t)bytes / 4)};
    struct copy copy = {b->dev, NULL, NULL, bytes};
    const struct work work = {b->dev, queue_copy, &copy};
    enum status status;
    double seconds;
    bool recorded;
    void *memory;

    TRY(device_alloc(b->dev, 2 * bytes, &memory));
    copy.from = memory;
    copy.to = copy.from + bytes;
    TRY_GOTO(status, fill_random(b, copy.from, &values, 0), done);
    TRY_GOTO(status, time_work(b, &work, 1, &seconds, &recorded), done);
    b->copy_rate = 2 * (double)bytes / seconds;
    printf("Copy of %zu MiB: %.0f GB/s, read and written.", bytes >> 20, b->copy_rate / 1e9);
done:
    device_free(b->dev, memory, 2 * bytes);
    return status;
}

struct product {
    struct device *dev;
    struct tensor a, b, out;
};

static enum status queue_product(void *context, int i)
{
    const struct product *p = context;
    const struct cuda_matmul product = {.transpose_b = true, .m = p->out.shape[0],
                                        .n = p->out.shape[1], .k = p->a.shape[1], .a = &p->a,
                                        .b = &p->b, .out = &p->out};

    (void)i;
    return cuda_matmul(p->dev, &product);
}

static enum status measure_product(struct bench *b)
{
    const int64_t n = b->flags.toy ? 64 : 8192;
    const size_t bytes = (size_t)(n * n) * dtype_size(DTYPE_BF16);
    struct operand matrix = {.shape = tensor_2d(NULL, DTYPE_BF16, n, n)};
    struct product product = {b->tuned, matrix.shape, matrix.shape, matrix.shape};
    const struct work work = {b->tuned, queue_product, &product};
    enum status status;
    double seconds;
    bool recorded;
    char *memory;

    TRY(device_alloc(b->dev, 3 * bytes, (void **)&memory));
    product.a.data = memory;
    product.b.data = memory + bytes;
    product.out.data = memory + 2 * bytes;
    TRY_GOTO(status, fill_random(b, product.a.data, &matrix, 0), done);
    TRY_GOTO(status, fill_random(b, product.b.data, &matrix, 0), done);
    TRY_GOTO(status, device_sync(b->dev), done);
    TRY_GOTO(status, time_work(b, &work, 1, &seconds, &recorded), done);
    b->product_rate = 2 * (double)(n * n * n) / seconds;
    printf(" Product of %d x %d matrices, bfloat16: %.1f TFLOP/s.\n\n", (int)n, (int)n,
           b->product_rate / 1e12);
done:
    device_free(b->dev, memory, 3 * bytes);
    return status;
}

/* ---- one operation ---- */

/* The operands of a case, several times over. */
struct sets {
    const struct op_case *c;
    struct device *dev;
    struct tensor tensors[MAX_SETS][MAX_OPERANDS];
    int count;
};

static size_t operand_bytes(const struct operand *o)
{
    const size_t bytes = (size_t)tensor_count(&o->shape) * dtype_size(o->shape.dtype);

    return o->role == ROLE_ABSENT ? 0 : (bytes + 255) / 256 * 256;
}

static size_t set_bytes(const struct op_case *c)
{
    size_t bytes = 0;

    for (int i = 0; i < c->n_operands; i++)
        bytes += operand_bytes(&c->operands[i]);
    return bytes;
}

static enum status place_operands(struct bench *b, struct sets *sets, char *memory, int vocab)
{
    for (int set = 0; set < sets->count; set++)
        for (int i = 0; i < sets->c->n_operands; i++) {
            const struct operand *o = &sets->c->operands[i];
            sets->tensors[set][i] = o->shape;
            if (o->role == ROLE_ABSENT)
                continue;
            sets->tensors[set][i].data = memory;
            memory += operand_bytes(o);
            TRY(fill_random(b, sets->tensors[set][i].data, o, vocab));
        }
    return device_sync(b->dev);
}

static enum status queue_op(void *context, int i)
{
    const struct sets *sets = context;

    return op_calls[sets->c->op].run(sets->dev, sets->tensors[i % sets->count],
                                     &sets->c->arguments);
}

/* The share of the ceiling that is nearer: no version could be faster than 100%. */
static void print_row(const struct bench *b, const struct op_case *c, double seconds,
                      const char *mark)
{
    const double moving = case_bytes(c) / b->copy_rate, computing = c->flops / b->product_rate;
    const double floor = moving > computing ? moving : computing;
    char rate[24];

    if (computing > moving)
        snprintf(rate, sizeof rate, "%.1f TFLOP/s", c->flops / seconds / 1e12);
    else
        snprintf(rate, sizeof rate, "%.0f GB/s", case_bytes(c) / seconds / 1e9);
    printf("| %-40s | %-29s | %10.4f%s | %13s | %5.1f%% |\n", c->name, c->sizes, 1e3 * seconds,
           mark, rate, 100 * floor / seconds);
    fflush(stdout);
}

static enum status time_case(struct bench *b, struct sets *sets)
{
    const struct work work = {sets->dev, queue_op, sets};
    const bool is_tuned = sets->dev == b->tuned;
    double seconds;
    bool recorded;

    TRY(time_work(b, &work, sets->count, &seconds, &recorded));
    b->timed[sets->c->op] = true;
    print_row(b, sets->c, seconds, is_tuned ? " t" : recorded ? "  " : " h");
    return OK;
}

static enum status run_case(struct bench *b, const struct op_case *c, int vocab)
{
    const size_t each = set_bytes(c);
    const size_t wanted = (CACHES * b->cache + each - 1) / each;
    const int count = wanted > MAX_SETS ? MAX_SETS : (int)wanted;
    struct sets sets = {.c = c, .dev = b->dev, .count = count};
    enum status status;
    void *memory;

    TRY(device_alloc(b->dev, each * (size_t)sets.count, &memory));
    TRY_GOTO(status, place_operands(b, &sets, memory, vocab), done);
    TRY_GOTO(status, time_case(b, &sets), done);
    sets.dev = b->tuned;
    if (c->is_product)
        status = time_case(b, &sets);
done:
    (void)device_sync(b->dev);
    (void)device_sync(b->tuned);
    device_free(b->dev, memory, each * (size_t)sets.count);
    return status;
}

static enum status run_shape(struct bench *b, const struct shape *shape)
{
    const struct model_config *m = &shape->config;
    const int64_t qkv = 3 * (int64_t)m->dim;
    struct op_case cases[MAX_CASES];
    const int n_cases = cases_of(cases, shape);
    const struct op_limits limits = {
        .rows = (int64_t)shape->op_windows * m->max_seq_len,
        .width = qkv > m->mlp_dim ? qkv : m->mlp_dim, .max_seq_len = m->max_seq_len,
        .heads = m->heads, .head_size = m->dim / m->heads, .vocab_size = m->vocab_size,
        .params = tensor_count(&cases[n_cases - 1].operands[0].shape),
    };

    TRY(device_reserve(b->dev, &limits));
    TRY(device_reserve(b->tuned, &limits));
    printf("%s, %d windows of %d tokens:\n\n", shape->name, shape->op_windows, m->max_seq_len);
    printf("| %-40s | %-29s | %12s | %13s | %6s |\n", "operation", "sizes", "ms", "rate", "share");
    printf("|---|---|---|---|---|\n");
    for (int i = 0; i < n_cases; i++)
        if (run_case(b, &cases[i], m->vocab_size) != OK) {
            b->n_failed++;
            printf("| %-40s | %-29s | FAILED: %s | | |\n", cases[i].name, cases[i].sizes,
                   status_message());
        }
    printf("\n");
    pools_free(b);
    return OK;
}

/* ---- the whole ---- */

static enum status bench_open(struct bench *b)
{
    struct cudaDeviceProp properties;
    char versions[128];

    if (gpu_count() == 0)
        return fail(ERR_DEVICE, "%s", gpu_support());
    b->n_samples = b->flags.toy ? 1 : b->flags.quick ? 5 : MAX_SAMPLES;
    TRY(gpu_open(&b->dev, 0, DTYPE_BF16, true));
    TRY(gpu_open(&b->tuned, 0, DTYPE_BF16, false));
    CUDA_TRY(b->dev, cudaEventCreate(&b->start));
    CUDA_TRY(b->dev, cudaEventCreate(&b->stop));
    CUDA_TRY(b->dev, cudaGetDeviceProperties(&properties, 0));
    b->cache = b->flags.toy ? 16 << 10 : (size_t)properties.l2CacheSize;
    TRY(gpu_versions(versions, sizeof versions));
    printf("%s: %d multiprocessors, %.1f GiB of memory, second-level cache %d MiB; %s.\n",
           b->dev->description, properties.multiProcessorCount,
           (double)properties.totalGlobalMem / (1 << 30), properties.l2CacheSize >> 20, versions);
    return OK;
}

static void bench_close(struct bench *b)
{
    if (b->dev)
        pools_free(b);
    if (b->start)
        (void)cudaEventDestroy(b->start);
    if (b->stop)
        (void)cudaEventDestroy(b->stop);
    device_destroy(b->tuned);
    device_destroy(b->dev);
}

/* With all models, every operation has its turn. */
static void print_missing(struct bench *b)
{
    for (int op = 0; op < N_OPS && b->flags.n_shapes == MAX_SHAPES; op++)
        if (!b->timed[op]) {
            printf("FAILED: %s was not timed\n", op_calls[op].name);
            b->n_failed++;
        }
}

static void print_legend(void)
{
    printf("Medians. The rate counts each input read once and each output written once; or the\n"
           "operations of matrix products, of causal attention the half that is needed. The share\n"
           "is of the copy or the product above, whichever allows less. t: cuBLASLt's algorithm\n"
           "chosen by timing, not by its own order (run.deterministic = false). h: could not be\n"
           "recorded, so the host's part is in the time.\n");
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    enum status status;

    TRY_GOTO(status, bench_flags_read(&b.flags, argc, argv), done);
    TRY_GOTO(status, bench_open(&b), done);
    TRY_GOTO(status, measure_copy(&b), done);
    TRY_GOTO(status, measure_product(&b), done);
    for (int i = 0; i < b.flags.n_shapes; i++)
        TRY_GOTO(status, run_shape(&b, &b.flags.shapes[i]), done);
    print_missing(&b);
    print_legend();
done:
    if (status != OK)
        fprintf(stderr, "kernels: %s\n", status_message());
    bench_close(&b);
    return status == OK && b.n_failed > 0 ? 1 : status_exit_code(status);
}
