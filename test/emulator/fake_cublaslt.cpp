/* fake_cublaslt.cpp - the part of cuBLASLt that Octet uses, computed by the host in stream order.
 *
 * It is stricter than the library: an algorithm must be used for the very problem that it was found
 * for, with memory as aligned as was promised; outputs must not overlap inputs. Algorithms differ
 * in how they split sums, so a change of algorithm shows in the last bits.
 *
 * OCTET_EMULATOR_FAIL kind: cublas (NAME: cublasLtCreate, cublasLtMatmul,
 * cublasLtMatmulAlgoGetHeuristic). */
#include "emulator/fake_cublaslt.h"

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "emulator/fault.h"
#include "emulator/runtime.h"
#include "emulator/settings.h"

struct cublasLtContext {
    int device;
};

namespace {

struct layout {
    cudaDataType type;
    uint64_t rows, columns;
    int64_t stride;
};

struct description {
    cublasComputeType_t compute;
    cublasOperation_t op_a, op_b;
    cublasLtEpilogue_t epilogue;
    int32_t bias_type;      /* -1: not set */
    const void *bias;
};

struct preference {
    uint64_t workspace;
    uint32_t reductions;
    uint32_t align_a, align_b, align_c, align_d;
};

/* Kept in a cublasLtMatmulAlgo_t. */
struct algorithm {
    uint64_t problem;       /* that it was found for */
    uint64_t workspace;
    int number, splits, reduction, alignment;
};
static_assert(sizeof(algorithm) <= sizeof(cublasLtMatmulAlgo_t), "too much for cuBLASLt's type");

/* In the order in which the heuristics rank them. */
const struct {
    int splits, reduction, alignment;
} known_algorithms[] = {
    {1, CUBLASLT_REDUCTION_SCHEME_NONE, 16},
    {2, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 16},
    {1, CUBLASLT_REDUCTION_SCHEME_NONE, 1},
    {3, CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE, 1},
    {4, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 1},
    {5, CUBLASLT_REDUCTION_SCHEME_INPLACE, 1},
};

std::atomic<long> n_queries, n_products;
std::atomic<int> last_algorithm;

template <class T> T *object(void *opaque)
{
    return static_cast<T *>(opaque);
}

template <class T> cublasStatus_t assign(T &to, const void *from, size_t size)
{
    if (!from || size != sizeof to)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&to, from, size);
    return CUBLAS_STATUS_SUCCESS;
}

size_t type_size(cudaDataType type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

float load(const void *data, cudaDataType type, size_t i)
{
    if (type == CUDA_R_16BF)
        return __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[i]);
    if (type == CUDA_R_16F)
        return __half2float(static_cast<const __half *>(data)[i]);
    return static_cast<const float *>(data)[i];
}

void store(void *data, cudaDataType type, size_t i, float value)
{
    if (type == CUDA_R_16BF)
        static_cast<__nv_bfloat16 *>(data)[i] = __float2bfloat16(value);
    else if (type == CUDA_R_16F)
        static_cast<__half *>(data)[i] = __float2half(value);
    else
        static_cast<float *>(data)[i] = value;
}

float rounded(float value, cudaDataType type)
{
    unsigned char memory[4];

    store(memory, type, 0, value);
    return load(memory, type, 0);
}

/* To the ten explicit bits of TF32's significand. */
float rounded_to_tf32(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7f800000u) != 0x7f800000u)
        bits = (bits + 0x0fffu + (bits >> 13 & 1)) & ~0x1fffu;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* One call, with all that it refers to but the matrices themselves. */
struct product {
    description what;
    layout a, b, c, d;
    const void *a_data, *b_data, *c_data;
    void *d_data;
    float *workspace;
    float alpha, beta;
    algorithm how;
    uint64_t m, n, k;
};

void set_shape(product &p)
{
    p.m = p.d.rows;
    p.n = p.d.columns;
    p.k = p.what.op_a == CUBLAS_OP_T ? p.a.rows : p.a.columns;
}

cublasStatus_t check_shapes(const product &p)
{
    const bool a_turned = p.what.op_a == CUBLAS_OP_T, b_turned = p.what.op_b == CUBLAS_OP_T;

    if ((a_turned ? p.a.columns : p.a.rows) != p.m || (b_turned ? p.b.rows : p.b.columns) != p.n ||
        (b_turned ? p.b.columns : p.b.rows) != p.k || p.c.rows != p.m || p.c.columns != p.n)
        return CUBLAS_STATUS_INVALID_VALUE;
    for (const layout *l : {&p.a, &p.b, &p.c, &p.d})
        if (l->stride < static_cast<int64_t>(l->rows))
            return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

/* The rows of cublasLtMatmul's table of types that Octet uses. */
cublasStatus_t check_types(const product &p)
{
    const bool is_float = p.a.type == CUDA_R_32F;

    if (p.a.type != p.b.type || p.c.type != p.d.type ||
        (p.d.type != p.a.type && p.d.type != CUDA_R_32F) ||
        (!is_float && p.a.type != CUDA_R_16BF && p.a.type != CUDA_R_16F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (p.what.compute != CUBLAS_COMPUTE_32F &&
        !(p.what.compute == CUBLAS_COMPUTE_32F_FAST_TF32 && is_float))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (p.what.epilogue == CUBLASLT_EPILOGUE_DEFAULT)
        return CUBLAS_STATUS_SUCCESS;
    return p.what.epilogue == CUBLASLT_EPILOGUE_BIAS && p.what.bias_type == p.d.type ?
               CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

uint64_t problem_hash(const product &p)
{
    uint64_t hash = 0xcbf29ce484222325u;
    const auto add = [&](uint64_t value) { hash = (hash ^ value) * 0x100000001b3u; };

    for (const layout *l : {&p.a, &p.b, &p.c, &p.d}) {
        add(l->type);
        add(l->rows);
        add(l->columns);
        add(static_cast<uint64_t>(l->stride));
    }
    add(p.what.compute);
    add(p.what.op_a);
    add(p.what.op_b);
    add(p.what.epilogue);
    return hash;
}

size_t matrix_bytes(const layout &l)
{
    return ((l.columns - 1) * static_cast<uint64_t>(l.stride) + l.rows) * type_size(l.type);
}

bool overlap(const void *a, size_t a_size, const void *b, size_t b_size)
{
    const uintptr_t first = reinterpret_cast<uintptr_t>(a), second = reinterpret_cast<uintptr_t>(b);

    return first < second + b_size && second < first + a_size;
}

void check_memory(const product &p, int device)
{
    const struct {
        const char *name;
        const void *data;
        const layout &shape;
    } matrices[] = {{"A", p.a_data, p.a}, {"B", p.b_data, p.b}, {"C", p.c_data, p.c},
                    {"D", p.d_data, p.d}};

    for (const auto &matrix : matrices) {
        emulator::require_device_memory("cublasLtMatmul", matrix.data, matrix_bytes(matrix.shape),
                                        device);
        if (reinterpret_cast<uintptr_t>(matrix.data) % static_cast<uintptr_t>(p.how.alignment))
            emulator::stop("cublasLtMatmul: %s at %p is not aligned to the %d bytes that its "
                           "algorithm was promised", matrix.name, matrix.data, p.how.alignment);
    }
    for (int i = 0; i < 2; i++)
        if (overlap(matrices[i].data, matrix_bytes(matrices[i].shape), p.d_data,
                    matrix_bytes(p.d)))
            emulator::stop("cublasLtMatmul: %s and D overlap", matrices[i].name);
    if (p.what.epilogue == CUBLASLT_EPILOGUE_BIAS)
        emulator::require_device_memory("cublasLtMatmul", p.what.bias, p.m * type_size(p.d.type),
                                        device);
    if (p.how.workspace)
        emulator::require_device_memory("cublasLtMatmul", p.workspace, p.how.workspace, device);
}

/* op(matrix), columns first without gaps. */
std::vector<float> unpack(const void *data, const layout &l, bool transpose, bool tf32)
{
    std::vector<float> out(l.rows * l.columns);

    for (uint64_t column = 0; column < l.columns; column++)
        for (uint64_t row = 0; row < l.rows; row++) {
            const float x = load(data, l.type, column * static_cast<uint64_t>(l.stride) + row);
            out[transpose ? row * l.columns + column : column * l.rows + row] =
                tf32 ? rounded_to_tf32(x) : x;
        }
    return out;
}

/* One column of the part of the sum from `first` to `end`. */
void add_up(float *sum, const float *a, const float *b, uint64_t m, uint64_t first, uint64_t end)
{
    std::fill(sum, sum + m, 0.0f);
    for (uint64_t i = first; i < end; i++) {
        const float *column = a + i * m;
        const float factor = b[i];
        for (uint64_t row = 0; row < m; row++)
            sum[row] += column[row] * factor;
    }
}

void compute_column(const product &p, const float *a, const float *b, uint64_t column)
{
    const uint64_t splits = static_cast<uint64_t>(p.how.splits);
    const bool rounds = p.how.reduction == CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE ||
                        p.how.reduction == CUBLASLT_REDUCTION_SCHEME_INPLACE;
    std::vector<float> total(p.m), own(p.m);

    for (uint64_t split = 0; split < splits; split++) {
        float *part = splits > 1 ? p.workspace + split * p.m : own.data();
        add_up(part, a, b, p.m, p.k * split / splits, p.k * (split + 1) / splits);
        for (uint64_t row = 0; row < p.m; row++)
            total[row] += rounds ? rounded(part[row], p.d.type) : part[row];
    }
    for (uint64_t row = 0; row < p.m; row++) {
        const uint64_t at = column * static_cast<uint64_t>(p.d.stride) + row;
        float value = p.alpha * total[row];
        if (p.beta != 0)
            value += p.beta * load(p.c_data, p.c.type, at);
        if (p.what.epilogue == CUBLASLT_EPILOGUE_BIAS)
            value += load(p.what.bias, p.d.type, row);
        store(p.d_data, p.d.type, at, value);
    }
}

void compute(const product &p)
{
    const bool tf32 = p.what.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    const std::vector<float> a = unpack(p.a_data, p.a, p.what.op_a == CUBLAS_OP_T, tf32);
    const std::vector<float> b = unpack(p.b_data, p.b, p.what.op_b == CUBLAS_OP_T, tf32);

    for (uint64_t column = 0; column < p.n; column++)
        compute_column(p, a.data(), b.data() + column * p.k, column);
}

}

struct fake_cublaslt_log fake_cublaslt_read_log(void)
{
    return {n_queries, n_products, last_algorithm};
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    const int device = emulator::current_device();

    if (emulator::fault_due("cublas", "cublasLtCreate", device))
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = new cublasLtContext{device};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void)
{
    return CUBLAS_VERSION;
}

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
        return "a status that the emulated cuBLASLt does not give";
    }
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return cublasLtGetStatusName(status);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    if (scale != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    *out = reinterpret_cast<cublasLtMatmulDesc_t>(
        new description{compute, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT,
                        -1, nullptr});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t opaque)
{
    delete object<description>(opaque);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t opaque,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t size)
{
    description &what = *object<description>(opaque);

    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return assign(what.op_a, value, size);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return assign(what.op_b, value, size);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return assign(what.epilogue, value, size);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return assign(what.bias_type, value, size);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return assign(what.bias, value, size);
    default:
        return CUBLAS_STATUS_INVALID_VALUE;
    }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t stride)
{
    *out = reinterpret_cast<cublasLtMatrixLayout_t>(new layout{type, rows, columns, stride});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t opaque)
{
    delete object<layout>(opaque);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    *out = reinterpret_cast<cublasLtMatmulPreference_t>(
        new preference{0, CUBLASLT_REDUCTION_SCHEME_MASK, 256, 256, 256, 256});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t opaque)
{
    delete object<preference>(opaque);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t opaque,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t size)
{
    preference &wish = *object<preference>(opaque);

    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return assign(wish.workspace, value, size);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return assign(wish.reductions, value, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return assign(wish.align_a, value, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return assign(wish.align_b, value, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return assign(wish.align_c, value, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return assign(wish.align_d, value, size);
    default:
        return CUBLAS_STATUS_INVALID_VALUE;
    }
}

static bool allowed(const preference &wish, const product &p, const algorithm &how)
{
    const uint32_t least = std::min({wish.align_a, wish.align_b, wish.align_c, wish.align_d});
    const uint32_t reduction = static_cast<uint32_t>(how.reduction);

    return how.workspace <= wish.workspace && (reduction & ~wish.reductions) == 0 &&
           static_cast<uint32_t>(how.alignment) <= least &&
           static_cast<uint64_t>(how.splits) <= p.k;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                                              cublasLtMatmulDesc_t description_,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference_, int most,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int *n_results)
{
    product p = {};
    int number = 0;

    if (emulator::fault_due("cublas", "cublasLtMatmulAlgoGetHeuristic", handle->device))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    p.what = *object<description>(description_);
    p.a = *object<layout>(a), p.b = *object<layout>(b);
    p.c = *object<layout>(c), p.d = *object<layout>(d);
    set_shape(p);
    if (most < 1 || check_shapes(p) != CUBLAS_STATUS_SUCCESS)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (check_types(p) != CUBLAS_STATUS_SUCCESS)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    n_queries++;
    *n_results = 0;
    for (const auto &known : known_algorithms) {
        const uint64_t splits = static_cast<uint64_t>(known.splits);
        const algorithm how = {problem_hash(p), splits > 1 ? splits * p.m * sizeof(float) : 0,
                               number++, known.splits, known.reduction, known.alignment};
        if (*n_results == most || !allowed(*object<preference>(preference_), p, how))
            continue;
        cublasLtMatmulHeuristicResult_t &result = results[(*n_results)++];
        result = {};
        memcpy(&result.algo, &how, sizeof how);
        result.workspaceSize = how.workspace;
        result.state = CUBLAS_STATUS_SUCCESS;
    }
    return *n_results ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description_,
                              const void *alpha, const void *a_data, cublasLtMatrixLayout_t a,
                              const void *b_data, cublasLtMatrixLayout_t b, const void *beta,
                              const void *c_data, cublasLtMatrixLayout_t c, void *d_data,
                              cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algorithm_,
                              void *workspace, size_t workspace_size, cudaStream_t stream)
{
    product p = {};

    if (emulator::fault_due("cublas", "cublasLtMatmul", handle->device))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    p.what = *object<description>(description_);
    p.a = *object<layout>(a), p.b = *object<layout>(b);
    p.c = *object<layout>(c), p.d = *object<layout>(d);
    p.a_data = a_data, p.b_data = b_data, p.c_data = c_data, p.d_data = d_data;
    p.alpha = *static_cast<const float *>(alpha), p.beta = *static_cast<const float *>(beta);
    p.workspace = static_cast<float *>(workspace);
    memcpy(&p.how, algorithm_, sizeof p.how);
    set_shape(p);
    if (p.how.problem != problem_hash(p) || p.how.workspace > workspace_size)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (emulator::stream_device(stream) != handle->device)
        emulator::stop("cublasLtMatmul: a handle of device %d and a stream of device %d",
                       handle->device, emulator::stream_device(stream));
    check_memory(p, handle->device);
    n_products++;
    last_algorithm = p.how.number;
    const cudaError_t error = emulator::enqueue(stream, "cublasLtMatmul", [p] {
        compute(p);
        return true;
    });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
