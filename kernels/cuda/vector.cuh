/* vector.cuh - tensors of the real types as floats, 16 bytes at a time, and how a warp shares out a
 * row.
 *
 * A warp works on 256 columns of a row at a time, a chunk: eight for each lane, as 8/W vectors of W
 * elements. Lanes lie side by side in each vector, so that a warp's access is one run of memory. W
 * is as many elements as 16 bytes hold, or 1 where rows are not aligned for that. */
#ifndef OCTET_CUDA_VECTOR_CUH
#define OCTET_CUDA_VECTOR_CUH

#include <initializer_list>
#include <type_traits>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"

#define DEVICE_FUNCTION static __device__ __forceinline__

enum {
    LANES = 32,
    LANE_COLUMNS = 8,
    CHUNK = LANES * LANE_COLUMNS,
};

/* Call launch<type>(...) for the device's real type; the value is an enum status. */
#define FOR_REAL_TYPE(real, launch, ...)                                    \
    ((real) == DTYPE_BF16  ? launch<__nv_bfloat16>(__VA_ARGS__)             \
     : (real) == DTYPE_F16 ? launch<__half>(__VA_ARGS__)                    \
                           : launch<float>(__VA_ARGS__))

/* Elements in 16 bytes. */
template <typename T> constexpr int VECTOR = 16 / (int)sizeof(T);

/* Whether all of these can be accessed 16 bytes at a time; NULL can. */
static inline bool are_aligned(std::initializer_list<const struct tensor *> tensors)
{
    bool aligned = true;

    for (const struct tensor *t : tensors)
        aligned = aligned && (uintptr_t)t->data % 16 == 0;
    return aligned;
}

/* And all of their rows of `width` elements of type T, or of the master type, which is wider. */
template <typename T>
static inline bool rows_are_vectors(int64_t width,
                                    std::initializer_list<const struct tensor *> tensors)
{
    return width % VECTOR<T> == 0 && are_aligned(tensors);
}

static inline int64_t blocks_for(int64_t n, int64_t per_block)
{
    return (n + per_block - 1) / per_block;
}

static inline int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Of the model, C: the widest matrix is 3C or more. */
static inline int64_t largest_width(const struct op_limits *limits)
{
    return limits->width / 3;
}

template <typename T> static inline T *tensor_data(const struct tensor *t)
{
    return (T *)t->data;
}

DEVICE_FUNCTION float to_float(float x)
{
    return x;
}
DEVICE_FUNCTION float to_float(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}
DEVICE_FUNCTION float to_float(__half x)
{
    return __half2float(x);
}

template <typename T> DEVICE_FUNCTION T from_float(float x)
{
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
        return __float2bfloat16_rn(x);
    else if constexpr (std::is_same_v<T, __half>)
        return __float2half_rn(x);
    else
        return x;
}

/* What x is after it went through memory as a T. */
template <typename T> DEVICE_FUNCTION float rounded_to(float x)
{
    return to_float(from_float<T>(x));
}

/* N elements as they lie in memory, loaded and stored 16 bytes at a time. The 16-bit types stay two
 * to a register, which their own structs would not. */
typedef uint32_t __attribute__((may_alias)) packed_word;

template <typename T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) packed {
    packed_word word[sizeof(T) * N / 4];
};
template <typename T> struct packed<T, 1> {
    T element;
};

template <typename T, int N>
DEVICE_FUNCTION void vector_unpack(float *v, const struct packed<T, N> &raw)
{
    if constexpr (N == 1) {
        v[0] = to_float(raw.element);
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] = __uint_as_float(raw.word[i]);
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            const uint32_t word = raw.word[i / 2];
            if constexpr (std::is_same_v<T, __nv_bfloat16>) {
                /* The upper half of a float. */
                v[i] = __uint_as_float(word << 16);
                v[i + 1] = __uint_as_float(word & 0xffff0000u);
            } else {
                v[i] = to_float(__ushort_as_half((unsigned short)word));
                v[i + 1] = to_float(__ushort_as_half((unsigned short)(word >> 16)));
            }
        }
    }
}

template <typename T, int N>
DEVICE_FUNCTION void vector_pack(struct packed<T, N> &raw, const float *v)
{
    if constexpr (N == 1) {
        raw.element = from_float<T>(v[0]);
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < N; i++)
            raw.word[i] = __float_as_uint(v[i]);
    } else {
        /* Two at once are one instruction. */
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            if constexpr (std::is_same_v<T, __nv_bfloat16>) {
                const __nv_bfloat162 pair = __floats2bfloat162_rn(v[i], v[i + 1]);
                memcpy(&raw.word[i / 2], &pair, sizeof pair);
            } else {
                const __half2 pair = __floats2half2_rn(v[i], v[i + 1]);
                memcpy(&raw.word[i / 2], &pair, sizeof pair);
            }
        }
    }
}

template <int N, typename T> DEVICE_FUNCTION void vector_load(float *v, const T *from)
{
    const struct packed<T, N> raw = *(const struct packed<T, N> *)from;

    vector_unpack(v, raw);
}

template <int N, typename T> DEVICE_FUNCTION void vector_store(T *to, const float *v)
{
    struct packed<T, N> raw;

    vector_pack(raw, v);
    *(struct packed<T, N> *)to = raw;
}

DEVICE_FUNCTION int lane_index(void)
{
    return (int)(threadIdx.x % LANES);
}

/* The first column of a lane's vector that begins with its element i of the chunk at `first`. */
template <int W> DEVICE_FUNCTION int chunk_column(int first, int i)
{
    return first + i / W * LANES * W + lane_index() * W;
}

/* A lane's part of a chunk as it lies in memory: fewer registers, while loads are under way, than
 * floats take. */
template <typename T, int W> struct raw_chunk {
    struct packed<T, W> vector[LANE_COLUMNS / W];
};

/* Columns behind the row's end read as zero. */
template <typename T, int W>
DEVICE_FUNCTION void chunk_read(struct raw_chunk<T, W> &raw, const T *row, int first, int width)
{
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; i += W) {
        const int column = chunk_column<W>(first, i);
        if (column < width) {
            raw.vector[i / W] = *(const struct packed<T, W> *)(row + column);
        } else {
            raw.vector[i / W] = {};
        }
    }
}

template <typename T, int W>
DEVICE_FUNCTION void chunk_unpack(float (&v)[LANE_COLUMNS], const struct raw_chunk<T, W> &raw)
{
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; i += W)
        vector_unpack(v + i, raw.vector[i / W]);
}

template <int W, typename T>
DEVICE_FUNCTION void chunk_load(float (&v)[LANE_COLUMNS], const T *row, int first, int width)
{
    struct raw_chunk<T, W> raw;

    chunk_read(raw, row, first, width);
    chunk_unpack(v, raw);
}

template <int W, typename T>
DEVICE_FUNCTION void chunk_store(T *row, const float (&v)[LANE_COLUMNS], int first, int width)
{
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; i += W) {
        const int column = chunk_column<W>(first, i);
        if (column < width)
            vector_store<W>(row + column, v + i);
    }
}

/* row += v, which is what only one warp does to these columns. */
template <int W, typename T>
DEVICE_FUNCTION void chunk_add(T *row, const float (&v)[LANE_COLUMNS], int first, int width)
{
    float sum[LANE_COLUMNS];

    chunk_load<W>(sum, row, first, width);
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; i++)
        sum[i] += v[i];
    chunk_store<W>(row, sum, first, width);
}

#endif
