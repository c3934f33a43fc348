/* cuda_matmul.c - matrix products through cuBLASLt, with the descriptors and the algorithm of each
 * shape made once and kept.
 *
 * cuBLASLt takes columns first: a row-major (r, c) matrix is a column-major (c, r) one. So it is
 * asked for out^T = b^T a^T, where its "A" is b and its "B" is a, both as they lie in memory. */
#include "device/cuda.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_ALGORITHMS = 16,        /* timed for one shape */
    TIMED_RUNS = 5,
    MAX_ALIGNMENT = 256,        /* that cuBLASLt makes use of, in bytes */
};

/* Operations of a product that takes long enough to be timed by a single run. */
static const double LONG_PRODUCT = 1e11;

/* A later algorithm must be this much faster to be preferred, so that noise seldom decides. */
static const float WORTHWHILE = 0.98f;

/* All that the choice of an algorithm depends on. No padding: keys are compared as bytes. */
struct matmul_key {
    int64_t m, n, k;
    uint8_t transpose_a, transpose_b, accumulate, bias;
    uint8_t input, output, tf32, reserved;
    uint16_t align_a, align_b, align_c, align_d;
};
static_assert(sizeof(struct matmul_key) == 40, "struct matmul_key has padding");

/* What cuBLASLt needs for one key. `description` NULL: an empty slot of the cache. */
struct matmul_plan {
    struct matmul_key key;
    cublasLtMatmulDesc_t description;
    cublasLtMatrixLayout_t a, b, out;
    cublasLtMatmulAlgo_t algorithm;
};

/* Open addressing; capacity is a power of two. */
struct cuda_matmul_cache {
    struct matmul_plan *plans;
    size_t capacity, count;
    cudaEvent_t start, stop;
};

/* `call` may go on with its arguments. */
static enum status product_fail(const struct device *dev, const struct cuda_matmul *product,
                                const char *call, cublasStatus_t status)
{
    return fail(ERR_DEVICE, "%s: product (%lld, %lld) x (%lld, %lld) of %s to %s: %.*s: %s",
                dev->description, (long long)product->m, (long long)product->k,
                (long long)product->k, (long long)product->n, dtype_name(product->a->dtype),
                dtype_name(product->out->dtype), (int)strcspn(call, "("), call,
                cublasLtGetStatusName(status));
}

#define CUBLAS_TRY(dev, product, call)                                  \
    do {                                                                \
        const cublasStatus_t cublas_status = (call);                    \
        if (cublas_status != CUBLAS_STATUS_SUCCESS)                     \
            return product_fail((dev), (product), #call, cublas_status);\
    } while (0)

/* Of the types that check_product() lets through. */
static cudaDataType_t cuda_type(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? CUDA_R_32F : dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

static enum status check_product(const struct device *dev, const struct cuda_matmul *p)
{
    const enum dtype input = p->a->dtype, output = p->out->dtype;

    if (input != DTYPE_F32 && input != DTYPE_BF16 && input != DTYPE_F16)
        return product_fail(dev, p, "type of the inputs", CUBLAS_STATUS_NOT_SUPPORTED);
    if (p->b->dtype != input || (output != input && output != DTYPE_F32))
        return product_fail(dev, p, "types of inputs and output", CUBLAS_STATUS_NOT_SUPPORTED);
    if (p->bias && p->bias->dtype != output)
        return product_fail(dev, p, "type of the bias", CUBLAS_STATUS_NOT_SUPPORTED);
    if (p->m < 1 || p->n < 1 || p->k < 1 || tensor_count(p->a) != p->m * p->k ||
        tensor_count(p->b) != p->k * p->n || tensor_count(p->out) != p->m * p->n ||
        (p->bias && tensor_count(p->bias) != p->n))
        return product_fail(dev, p, "shapes of the tensors", CUBLAS_STATUS_INVALID_VALUE);
    return OK;
}

static uint16_t alignment(const void *data)
{
    const uintptr_t lowest_bit = (uintptr_t)data & -(uintptr_t)data;

    return (uint16_t)(lowest_bit == 0 || lowest_bit > MAX_ALIGNMENT ? MAX_ALIGNMENT : lowest_bit);
}

static struct matmul_key key_of(const struct cuda_device *cuda, const struct cuda_matmul *p)
{
    const uint16_t out = alignment(p->out->data);
    const uint16_t bias = p->bias ? alignment(p->bias->data) : MAX_ALIGNMENT;

    return (struct matmul_key){
        .m = p->m, .n = p->n, .k = p->k,
        .transpose_a = p->transpose_a, .transpose_b = p->transpose_b,
        .accumulate = p->accumulate, .bias = p->bias != NULL,
        .input = (uint8_t)p->a->dtype, .output = (uint8_t)p->out->dtype,
        .tf32 = cuda->tf32 && p->a->dtype == DTYPE_F32,
        .align_a = alignment(p->a->data), .align_b = alignment(p->b->data),
        /* The bias is read along with the tiles of D, and has no alignment attribute of its own. */
        .align_c = out, .align_d = bias < out ? bias : out,
    };
}

/* FNV-1a. */
static size_t key_hash(const struct matmul_key *key)
{
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < sizeof *key; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return (size_t)(hash ^ hash >> 32);
}

/* The slot that holds this key, or the empty one where it would go. */
static struct matmul_plan *cache_slot(const struct cuda_matmul_cache *cache,
                                      const struct matmul_key *key)
{
    size_t i = key_hash(key);

    for (;; i++) {
        struct matmul_plan *plan = &cache->plans[i & (cache->capacity - 1)];
        if (!plan->description || memcmp(&plan->key, key, sizeof *key) == 0)
            return plan;
    }
}

/* Make room for one more plan; at least a quarter of the slots stays empty. */
static enum status cache_grow(struct cuda_matmul_cache *cache)
{
    struct cuda_matmul_cache larger = *cache;

    if (4 * (cache->count + 1) <= 3 * cache->capacity)
        return OK;
    larger.capacity = cache->capacity ? 2 * cache->capacity : 64;
    larger.plans = calloc(larger.capacity, sizeof *larger.plans);
    if (!larger.plans)
        return fail(ERR_NOMEM, "no memory for the plans of %zu products", larger.capacity);
    for (size_t i = 0; i < cache->capacity; i++)
        if (cache->plans[i].description)
            *cache_slot(&larger, &cache->plans[i].key) = cache->plans[i];
    free(cache->plans);
    *cache = larger;
    return OK;
}

static enum status cache_prepare(struct device *dev)
{
    struct cuda_device *cuda = cuda_device(dev);

    if (!cuda->matmuls)
        cuda->matmuls = calloc(1, sizeof *cuda->matmuls);
    if (!cuda->matmuls)
        return fail(ERR_NOMEM, "%s: no memory for the plans of products", dev->description);
    if (!cuda->matmuls->start)
        CUDA_TRY(dev, cudaEventCreate(&cuda->matmuls->start));
    if (!cuda->matmuls->stop)
        CUDA_TRY(dev, cudaEventCreate(&cuda->matmuls->stop));
    return cache_grow(cuda->matmuls);
}

/* Failures to destroy leave nothing to be done. */
static void plan_free(struct matmul_plan *plan)
{
    if (plan->out)
        (void)cublasLtMatrixLayoutDestroy(plan->out);
    if (plan->b)
        (void)cublasLtMatrixLayoutDestroy(plan->b);
    if (plan->a)
        (void)cublasLtMatrixLayoutDestroy(plan->a);
    if (plan->description)
        (void)cublasLtMatmulDescDestroy(plan->description);
}

void cuda_matmul_cache_free(struct cuda_matmul_cache *cache)
{
    if (!cache)
        return;
    for (size_t i = 0; i < cache->capacity; i++)
        plan_free(&cache->plans[i]);
    if (cache->start)
        (void)cudaEventDestroy(cache->start);
    if (cache->stop)
        (void)cudaEventDestroy(cache->stop);
    free(cache->plans);
    free(cache);
}

/* The column-major layout of a matrix that lies row-major, of its transpose if `transposed`. */
static cublasStatus_t layout_create(cublasLtMatrixLayout_t *out, enum dtype dtype, int64_t rows,
                                    int64_t columns, bool transposed)
{
    const int64_t height = transposed ? rows : columns, width = transposed ? columns : rows;

    return cublasLtMatrixLayoutCreate(out, cuda_type(dtype), (uint64_t)height, (uint64_t)width,
                                      height);
}

static enum status describe_bias(const struct matmul_plan *plan, const struct device *dev,
                                 const struct cuda_matmul *p)
{
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType_t type = cuda_type(p->bias->dtype);

    CUBLAS_TRY(dev, p, cublasLtMatmulDescSetAttribute(plan->description,
               CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    CUBLAS_TRY(dev, p, cublasLtMatmulDescSetAttribute(plan->description,
               CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type));
    return OK;
}

static enum status describe(struct matmul_plan *plan, const struct device *dev,
                            const struct cuda_matmul *p)
{
    const cublasOperation_t op_a = p->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t op_b = p->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasComputeType_t compute = plan->key.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 :
                                                         CUBLAS_COMPUTE_32F;

    CUBLAS_TRY(dev, p, cublasLtMatmulDescCreate(&plan->description, compute, CUDA_R_32F));
    CUBLAS_TRY(dev, p, cublasLtMatmulDescSetAttribute(plan->description,
               CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a));
    CUBLAS_TRY(dev, p, cublasLtMatmulDescSetAttribute(plan->description,
               CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b));
    CUBLAS_TRY(dev, p, layout_create(&plan->a, p->b->dtype, p->k, p->n, p->transpose_b));
    CUBLAS_TRY(dev, p, layout_create(&plan->b, p->a->dtype, p->m, p->k, p->transpose_a));
    CUBLAS_TRY(dev, p, layout_create(&plan->out, p->out->dtype, p->m, p->n, false));
    return p->bias ? describe_bias(plan, dev, p) : OK;
}

/* Queue the product as the plan describes it, with this algorithm. */
static cublasStatus_t queue_product(struct device *dev, const struct matmul_plan *plan,
                                    const cublasLtMatmulAlgo_t *algorithm,
                                    const struct cuda_matmul *p)
{
    const struct cuda_device *cuda = cuda_device(dev);
    const float alpha = 1, beta = p->accumulate ? 1 : 0;

    return cublasLtMatmul(cuda->cublas, plan->description, &alpha, p->b->data, plan->a,
                          p->a->data, plan->b, &beta, p->out->data, plan->out, p->out->data,
                          plan->out, algorithm, cuda->workspace, cuda->workspace_size,
                          cuda->stream);
}

static enum status prefer(cublasLtMatmulPreference_t preference, const struct device *dev,
                          const struct cuda_matmul *p, cublasLtMatmulPreferenceAttributes_t what,
                          const void *value, size_t size)
{
    CUBLAS_TRY(dev, p, cublasLtMatmulPreferenceSetAttribute(preference, what, value, size));
    return OK;
}

static enum status set_preference(cublasLtMatmulPreference_t preference, struct device *dev,
                                  const struct matmul_key *key, const struct cuda_matmul *p)
{
    const uint64_t workspace = cuda_device(dev)->workspace_size;
    /* Parts of a sum are not to be rounded to a 16-bit output before they are added up. */
    const uint32_t reductions = p->out->dtype == DTYPE_F32 ? CUBLASLT_REDUCTION_SCHEME_MASK :
                                                             CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    /* cuBLASLt's A is our b. */
    const uint32_t a = key->align_b, b = key->align_a, c = key->align_c, d = key->align_d;

    TRY(prefer(preference, dev, p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
               sizeof workspace));
    TRY(prefer(preference, dev, p, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
               sizeof reductions));
    TRY(prefer(preference, dev, p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a, sizeof a));
    TRY(prefer(preference, dev, p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b, sizeof b));
    TRY(prefer(preference, dev, p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c, sizeof c));
    return prefer(preference, dev, p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &d, sizeof d);
}

/* The algorithms that cuBLASLt expects to be fastest, best first; at least one. */
static enum status find_algorithms(const struct matmul_plan *plan, struct device *dev,
                                   const struct cuda_matmul *p,
                                   cublasLtMatmulHeuristicResult_t found[MAX_ALGORITHMS],
                                   int *n_found)
{
    cublasLtMatmulPreference_t preference;

    CUBLAS_TRY(dev, p, cublasLtMatmulPreferenceCreate(&preference));
    enum status status = set_preference(preference, dev, &plan->key, p);
    if (status == OK) {
        const cublasStatus_t result = cublasLtMatmulAlgoGetHeuristic(
            cuda_device(dev)->cublas, plan->description, plan->a, plan->b, plan->out, plan->out,
            preference, MAX_ALGORITHMS, found, n_found);
        if (result != CUBLAS_STATUS_SUCCESS)
            status = product_fail(dev, p, "cublasLtMatmulAlgoGetHeuristic", result);
        else if (*n_found == 0)
            status = product_fail(dev, p, "no algorithm", CUBLAS_STATUS_NOT_SUPPORTED);
    }
    (void)cublasLtMatmulPreferenceDestroy(preference);
    return status;
}

/* *milliseconds of some runs, after one that warms up; *result: if the algorithm runs at all. */
static enum status time_algorithm(struct device *dev, const struct matmul_plan *plan,
                                  const cublasLtMatmulAlgo_t *algorithm,
                                  const struct cuda_matmul *p, cublasStatus_t *result,
                                  float *milliseconds)
{
    const struct cuda_matmul_cache *cache = cuda_device(dev)->matmuls;
    const double operations = 2.0 * (double)p->m * (double)p->n * (double)p->k;
    const int n_runs = operations > LONG_PRODUCT ? 1 : TIMED_RUNS;

    *result = queue_product(dev, plan, algorithm, p);
    if (*result != CUBLAS_STATUS_SUCCESS)
        return OK;
    CUDA_TRY(dev, cudaEventRecord(cache->start, cuda_stream(dev)));
    for (int run = 0; run < n_runs && *result == CUBLAS_STATUS_SUCCESS; run++)
        *result = queue_product(dev, plan, algorithm, p);
    CUDA_TRY(dev, cudaEventRecord(cache->stop, cuda_stream(dev)));
    CUDA_TRY(dev, cudaEventSynchronize(cache->stop));
    CUDA_TRY(dev, cudaEventElapsedTime(milliseconds, cache->start, cache->stop));
    return OK;
}

static enum status time_algorithms(struct matmul_plan *plan, struct device *dev,
                                   const struct cuda_matmul *p,
                                   const cublasLtMatmulHeuristicResult_t *found, int n_found)
{
    cublasStatus_t result = CUBLAS_STATUS_NOT_SUPPORTED;
    float best = 0, milliseconds;
    bool chosen = false;

    for (int i = 0; i < n_found; i++) {
        const cublasLtMatmulAlgo_t *algorithm = &found[i].algo;
        TRY(time_algorithm(dev, plan, algorithm, p, &result, &milliseconds));
        if (result != CUBLAS_STATUS_SUCCESS || (chosen && milliseconds >= WORTHWHILE * best))
            continue;
        plan->algorithm = *algorithm;
        best = milliseconds;
        chosen = true;
    }
    return chosen ? OK : product_fail(dev, p, "none of its algorithms runs", result);
}

/* The same, leaving `out` as it was, for a product that adds to it. */
static enum status time_accumulating(struct matmul_plan *plan, struct device *dev,
                                     const struct cuda_matmul *p,
                                     const cublasLtMatmulHeuristicResult_t *found, int n_found)
{
    const struct cuda_device *cuda = cuda_device(dev);
    const size_t size = (size_t)tensor_count(p->out) * dtype_size(p->out->dtype);

    CUDA_TRY(dev, cudaMemcpyAsync(cuda->scratch, p->out->data, size, cudaMemcpyDeviceToDevice,
                                  cuda->stream));
    TRY(time_algorithms(plan, dev, p, found, n_found));
    CUDA_TRY(dev, cudaMemcpyAsync(p->out->data, cuda->scratch, size, cudaMemcpyDeviceToDevice,
                                  cuda->stream));
    return OK;
}

static enum status choose_algorithm(struct matmul_plan *plan, struct device *dev,
                                    const struct cuda_matmul *p)
{
    const struct cuda_device *cuda = cuda_device(dev);
    const size_t size = (size_t)tensor_count(p->out) * dtype_size(p->out->dtype);
    cublasLtMatmulHeuristicResult_t found[MAX_ALGORITHMS];
    int n_found = 0;

    TRY(find_algorithms(plan, dev, p, found, &n_found));
    plan->algorithm = found[0].algo;
    if (cuda->deterministic || n_found == 1 || (p->accumulate && size > cuda->scratch_size))
        return OK;
    if (p->accumulate)
        return time_accumulating(plan, dev, p, found, n_found);
    return time_algorithms(plan, dev, p, found, n_found);
}

static enum status set_bias(const struct matmul_plan *plan, const struct device *dev,
                            const struct cuda_matmul *p)
{
    const void *const bias = p->bias->data;

    CUBLAS_TRY(dev, p, cublasLtMatmulDescSetAttribute(plan->description,
               CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    return OK;
}

static enum status plan_create(struct matmul_plan *out, struct device *dev,
                               const struct matmul_key *key, const struct cuda_matmul *product)
{
    struct matmul_plan plan = {.key = *key};
    enum status status = describe(&plan, dev, product);

    if (status == OK && product->bias)
        status = set_bias(&plan, dev, product);
    if (status == OK)
        status = choose_algorithm(&plan, dev, product);
    if (status != OK) {
        plan_free(&plan);
        return status;
    }
    *out = plan;
    return OK;
}

enum status cuda_matmul(struct device *dev, const struct cuda_matmul *product)
{
    struct cuda_device *cuda = cuda_device(dev);
    const struct matmul_key key = key_of(cuda, product);

    TRY(check_product(dev, product));
    TRY(cache_prepare(dev));
    struct matmul_plan *plan = cache_slot(cuda->matmuls, &key);
    if (!plan->description) {
        TRY(plan_create(plan, dev, &key, product));
        cuda->matmuls->count++;
    } else if (product->bias) {
        TRY(set_bias(plan, dev, product));
    }
    const cublasStatus_t status = queue_product(dev, plan, &plan->algorithm, product);
    if (status != CUBLAS_STATUS_SUCCESS)
        return product_fail(dev, product, "cublasLtMatmul", status);
    return OK;
}
