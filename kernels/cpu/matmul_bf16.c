/* matmul_bf16.c - oneDNN's bfloat16 products, behind a cache for each thread.
 *
 * To prepare a product can take oneDNN longer than to run it, so it is done once for each shape.
 * The cache is the thread's own because oneDNN binds a product's scratch memory to the thread that
 * prepared it, and because the addresses are set in it before it runs. */
#include "kernels/cpu/matmul_bf16.h"

#include <dnnl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Training repeats some hundred shapes; prompts of all lengths have thousands, which replace each
 * other. One takes about 20 KiB. */
enum { SETS = 256, WAYS = 4 };

enum { A, B, BIAS, C, N_MATRICES };

/* A shape that oneDNN refused has no primitive; one that was never asked for, m = 0. */
struct prepared {
    struct matmul shape;
    dnnl_primitive_t primitive;
    dnnl_memory_t memories[N_MATRICES];
    uint64_t last_use;
};

struct matmul_cache {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    uint64_t uses;
    struct prepared sets[SETS][WAYS];
};

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool have_key;

static void prepared_clear(struct prepared *p)
{
    dnnl_primitive_destroy(p->primitive);
    for (int i = 0; i < N_MATRICES; i++)
        dnnl_memory_destroy(p->memories[i]);
    *p = (struct prepared){0};
}

static void cache_destroy(void *memory)
{
    struct matmul_cache *cache = memory;

    for (int i = 0; i < SETS; i++)
        for (int j = 0; j < WAYS; j++)
            prepared_clear(&cache->sets[i][j]);
    dnnl_stream_destroy(cache->stream);
    dnnl_engine_destroy(cache->engine);
    free(cache);
}

static void create_key(void)
{
    have_key = pthread_key_create(&key, cache_destroy) == 0;
}

/* The calling thread's; NULL without memory. */
static struct matmul_cache *thread_cache(void)
{
    pthread_once(&key_once, create_key);
    if (!have_key)
        return NULL;
    struct matmul_cache *cache = pthread_getspecific(key);
    if (cache)
        return cache;
    cache = calloc(1, sizeof *cache);
    if (!cache)
        return NULL;
    if (dnnl_engine_create(&cache->engine, dnnl_cpu, 0) == dnnl_success &&
        dnnl_stream_create(&cache->stream, cache->engine, dnnl_stream_default_flags) ==
            dnnl_success &&
        pthread_setspecific(key, cache) == 0)
        return cache;
    cache_destroy(cache);
    return NULL;
}

/* A row-major (rows, columns) matrix, or the transpose of one; its stored rows have length `ld`. */
static bool describe(dnnl_memory_desc_t *out, int64_t rows, int64_t columns, bool transpose,
                     int64_t ld, dnnl_data_type_t type)
{
    const dnnl_dims_t dims = {rows, columns}, strides = {transpose ? 1 : ld, transpose ? ld : 1};

    return dnnl_memory_desc_init_by_strides(out, 2, dims, type, strides) == dnnl_success;
}

static dnnl_status_t create_primitive(dnnl_primitive_t *out, const dnnl_memory_desc_t *matrices,
                                      enum matmul_kind kind, dnnl_engine_t engine)
{
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_post_ops_t after = NULL;
    dnnl_primitive_desc_t description = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(&attributes);

    if (status == dnnl_success && kind == MATMUL_FLOAT_ADD) {
        status = dnnl_post_ops_create(&after);
        if (status == dnnl_success)
            status = dnnl_post_ops_append_sum(after, 1);
        if (status == dnnl_success)
            status = dnnl_primitive_attr_set_post_ops(attributes, after);
    }
    if (status == dnnl_success)
        status = dnnl_matmul_desc_init(&desc, &matrices[A], &matrices[B],
                                       kind == MATMUL_BF16_BIAS ? &matrices[BIAS] : NULL,
                                       &matrices[C]);
    if (status == dnnl_success)
        status = dnnl_primitive_desc_create(&description, &desc, attributes, engine, NULL);
    if (status == dnnl_success)
        status = dnnl_primitive_create(out, description);
    dnnl_primitive_desc_destroy(description);
    dnnl_post_ops_destroy(after);
    dnnl_primitive_attr_destroy(attributes);
    return status;
}

static void prepare(struct prepared *p, const struct matmul *s, dnnl_engine_t engine)
{
    const bool to_float = s->kind == MATMUL_FLOAT || s->kind == MATMUL_FLOAT_ADD;
    dnnl_memory_desc_t matrices[N_MATRICES];
    bool ok = describe(&matrices[A], s->m, s->k, s->transpose_a, s->lda, dnnl_bf16) &&
              describe(&matrices[B], s->k, s->n, s->transpose_b, s->ldb, dnnl_bf16) &&
              describe(&matrices[BIAS], 1, s->n, false, s->n, dnnl_bf16) &&
              describe(&matrices[C], s->m, s->n, false, s->ldc, to_float ? dnnl_f32 : dnnl_bf16);

    for (int i = 0; i < N_MATRICES && ok; i++)
        ok = dnnl_memory_create(&p->memories[i], &matrices[i], engine, DNNL_MEMORY_NONE) ==
             dnnl_success;
    ok = ok && create_primitive(&p->primitive, matrices, (enum matmul_kind)s->kind, engine) ==
                   dnnl_success;
    if (!ok)
        prepared_clear(p);
    p->shape = *s;
}

static uint64_t hash(const struct matmul *s)
{
    int64_t words[sizeof *s / sizeof(int64_t)];
    uint64_t value = 0;

    memcpy(words, s, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        value = (value ^ (uint64_t)words[i]) * 0x9e3779b97f4a7c15u;
        value ^= value >> 32;
    }
    return value;
}

/* The prepared product of this shape, new where the cache has none: in place of the one of its set
 * that was used longest ago. */
static struct prepared *find(struct matmul_cache *cache, const struct matmul *shape)
{
    struct prepared *set = cache->sets[hash(shape) % SETS], *oldest = set;

    for (struct prepared *p = set; p < set + WAYS; p++) {
        if (memcmp(&p->shape, shape, sizeof *shape) == 0)
            return p;
        if (p->last_use < oldest->last_use)
            oldest = p;
    }
    prepared_clear(oldest);
    prepare(oldest, shape, cache->engine);
    return oldest;
}

bool matmul_bf16(const struct matmul *shape, const void *a, const void *b, const void *bias,
                 void *c)
{
    static const int names[N_MATRICES] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS,
                                          DNNL_ARG_DST};
    const void *const addresses[N_MATRICES] = {a, b, bias, c};
    dnnl_exec_arg_t arguments[N_MATRICES];
    struct matmul_cache *cache = thread_cache();

    if (!cache)
        return false;
    struct prepared *p = find(cache, shape);
    p->last_use = ++cache->uses;
    if (!p->primitive)
        return false;
    int n = 0;
    for (int i = 0; i < N_MATRICES; i++) {
        if (i == BIAS && shape->kind != MATMUL_BF16_BIAS)
            continue;
        if (dnnl_memory_set_data_handle(p->memories[i], (void *)addresses[i]) != dnnl_success)
            return false;
        arguments[n++] = (dnnl_exec_arg_t){names[i], p->memories[i]};
    }
    return dnnl_primitive_execute(p->primitive, cache->stream, n, arguments) == dnnl_success &&
           dnnl_stream_wait(cache->stream) == dnnl_success;
}

bool matmul_bf16_has_tiles(void)
{
    const unsigned tiles = dnnl_cpu_isa_avx512_core_amx;

    return ((unsigned)dnnl_get_effective_cpu_isa() & tiles) == tiles;
}
