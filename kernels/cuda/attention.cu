/* attention.cu - the operations of attention: which kernel makes them, and its launch.
 *
 * The 16-bit types use tensor cores for heads of 32, 64 and 128; everything else, float32 included,
 * goes to the plain kernels, for heads of up to 256. */
#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/attention_forward.cuh"
#include "kernels/cuda/attention_plain.cuh"

enum {
    SECTION_BYTES = 16 << 20,       /* of k and v: a part of the L2 cache that is surely there */
    USUAL_SHARED_BYTES = 48 << 10,  /* what a kernel may use without asking */
    COPY_THREADS = 256,
};

/* ---- launching ---- */

/* Tiles of tile_rows of a head's n_rows; `element` is the size of k's and v's. */
static struct tile_order tile_order_of(const struct attention_sizes &shape, int64_t sequences,
                                       int n_rows, int tile_rows, size_t element)
{
    const int64_t head_bytes = 2 * (int64_t)shape.n_keys * shape.size * (int64_t)element;
    const int64_t section = SECTION_BYTES / head_bytes, n_heads = sequences * shape.heads;

    return {(int)n_heads, (int)blocks_for(n_rows, tile_rows),
            (int)(section < 1 ? 1 : section > n_heads ? n_heads : section)};
}

/* One block for each tile of call.order. */
template <typename Call>
static enum status launch_tiles(struct device *dev, const char *name, void (*kernel)(Call),
                                const Call &call, int threads, size_t shared_bytes)
{
    const unsigned grid = (unsigned)(call.order.n_heads * call.order.n_tiles);

    if (shared_bytes > USUAL_SHARED_BYTES)
        CUDA_TRY(dev, cudaFuncSetAttribute((const void *)kernel,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           (int)shared_bytes));
    LAUNCH(kernel, grid, threads, shared_bytes, cuda_stream(dev), call);
    return cuda_launched(dev, name);
}

static enum status check_scratch(struct device *dev, size_t bytes)
{
    if (bytes > cuda_device(dev)->scratch_size)
        return cuda_fail(dev, "attention: more scratch than device_reserve() took",
                         cudaErrorMemoryAllocation);
    return OK;
}

static enum status fail_head_size(struct device *dev)
{
    return cuda_fail(dev, "attention: a head size above 256", cudaErrorInvalidValue);
}

/* ---- the three parts of qkv ---- */

template <typename T> struct qkv_rows {
    head_rows<T> q, k, v;
};

/* qkv (B, T, 3H, D). */
template <typename T> static qkv_rows<T> qkv_rows_of(const struct tensor *qkv)
{
    const int64_t width = qkv->shape[2] / 3 * qkv->shape[3], token = 3 * width;
    const head_rows<T> q = {tensor_data<T>(qkv), qkv->shape[1] * token, (int)token};

    return {q, {q.data + width, q.sequence, q.token}, {q.data + 2 * width, q.sequence, q.token}};
}

/* out (B, T, H, D). */
template <typename T> static head_rows<T> out_rows_of(const struct tensor *out, int64_t length,
                                                      int64_t heads, int64_t size)
{
    return {tensor_data<T>(out), length * heads * size, (int)(heads * size)};
}

static float log2_scale_of(int64_t size)
{
    return (float)(1.4426950408889634 / sqrt((double)size));
}

/* ---- forward ---- */

template <typename T, int D>
static enum status forward_on_tensor_cores(struct device *dev, attention_forward_call<T> &call,
                                           int64_t sequences)
{
    using tile = forward_tile<D>;
    const bool drops = call.dropout.mask.threshold > 0;

    call.order = tile_order_of(call.shape, sequences, call.shape.n_queries, tile::ROWS, sizeof(T));
    return launch_tiles(dev, "attention_forward",
                        drops ? attention_forward_kernel<T, D, true>
                              : attention_forward_kernel<T, D, false>,
                        call, tile::THREADS, tile::SHARED_BYTES);
}

template <typename T, int P>
static enum status forward_plain(struct device *dev, attention_forward_call<T> &call,
                                 int64_t sequences)
{
    using tile = plain_tile<P>;

    call.order = tile_order_of(call.shape, sequences, call.shape.n_queries, tile::ROWS, sizeof(T));
    return launch_tiles(dev, "attention_forward", attention_plain_forward_kernel<T, P>, call,
                        PLAIN_THREADS, tile::FORWARD_BYTES);
}

/* `aligned`: all rows begin at multiples of 16 bytes. */
template <typename T>
static enum status forward(struct device *dev, attention_forward_call<T> call, int64_t sequences,
                           bool aligned)
{
    const int size = call.shape.size;

    if constexpr (sizeof(T) == 2) {
        if (size == 32 && aligned)
            return forward_on_tensor_cores<T, 32>(dev, call, sequences);
        if (size == 64 && aligned)
            return forward_on_tensor_cores<T, 64>(dev, call, sequences);
        if (size == 128 && aligned)
            return forward_on_tensor_cores<T, 128>(dev, call, sequences);
    }
    return size <= 32    ? forward_plain<T, 32>(dev, call, sequences)
           : size <= 64  ? forward_plain<T, 64>(dev, call, sequences)
           : size <= 128 ? forward_plain<T, 128>(dev, call, sequences)
           : size <= 256 ? forward_plain<T, 256>(dev, call, sequences)
                         : fail_head_size(dev);
}

template <typename T>
static enum status attention_forward_of(struct device *dev, const struct tensor *out,
                                        const struct tensor *lse, const struct tensor *qkv,
                                        const struct dropout *dropout)
{
    const int heads = (int)(qkv->shape[2] / 3), size = (int)qkv->shape[3];
    const int length = (int)qkv->shape[1];
    const qkv_rows<const T> rows = qkv_rows_of<const T>(qkv);
    attention_forward_call<T> call = {};

    call.q = rows.q;
    call.k = rows.k;
    call.v = rows.v;
    call.out = out_rows_of<T>(out, length, heads, size);
    call.lse = tensor_data<float>(lse);
    call.shape = {heads, size, length, length};
    call.log2_scale = log2_scale_of(size);
    call.dropout = attention_dropout_of(dropout, heads, length);
    return forward(dev, call, qkv->shape[0], rows_are_vectors<T>(size, {out, qkv}));
}

static enum status attention_forward(struct device *dev, const struct tensor *out,
                                     const struct tensor *lse, const struct tensor *qkv,
                                     const struct dropout *dropout)
{
    return FOR_REAL_TYPE(dev->real, attention_forward_of, dev, out, lse, qkv, dropout);
}

/* ---- backward ---- */

template <typename T, int D>
static enum status backward_on_tensor_cores(struct device *dev, attention_backward_call<T> &call,
                                            int64_t sequences)
{
    using keys = keys_tile<D>;
    using queries = queries_tile<D>;
    const bool drops = call.dropout.mask.threshold > 0;

    call.order = tile_order_of(call.shape, sequences, call.shape.n_keys, keys::ROWS, sizeof(T));
    TRY(launch_tiles(dev, "attention_backward",
                     drops ? attention_backward_keys_kernel<T, D, true>
                           : attention_backward_keys_kernel<T, D, false>,
                     call, keys::THREADS, keys::shared_bytes(drops)));
    call.order = tile_order_of(call.shape, sequences, call.shape.n_keys, queries::ROWS, sizeof(T));
    return launch_tiles(dev, "attention_backward",
                        drops ? attention_backward_queries_kernel<T, D, true>
                              : attention_backward_queries_kernel<T, D, false>,
                        call, queries::THREADS, queries::SHARED_BYTES);
}

template <typename T, int P>
static enum status backward_plain(struct device *dev, attention_backward_call<T> &call,
                                  int64_t sequences)
{
    using tile = plain_tile<P>;

    call.order = tile_order_of(call.shape, sequences, call.shape.n_keys, tile::ROWS, sizeof(T));
    TRY(launch_tiles(dev, "attention_backward", attention_plain_keys_kernel<T, P>, call,
                     PLAIN_THREADS, tile::BACKWARD_BYTES));
    return launch_tiles(dev, "attention_backward", attention_plain_queries_kernel<T, P>, call,
                        PLAIN_THREADS, tile::BACKWARD_BYTES);
}

template <typename T>
static enum status backward(struct device *dev, attention_backward_call<T> call, int64_t sequences,
                            bool aligned)
{
    const int size = call.shape.size;

    if constexpr (sizeof(T) == 2) {
        if (size == 32 && aligned)
            return backward_on_tensor_cores<T, 32>(dev, call, sequences);
        if (size == 64 && aligned)
            return backward_on_tensor_cores<T, 64>(dev, call, sequences);
        if (size == 128 && aligned)
            return backward_on_tensor_cores<T, 128>(dev, call, sequences);
    }
    return size <= 32    ? backward_plain<T, 32>(dev, call, sequences)
           : size <= 64  ? backward_plain<T, 64>(dev, call, sequences)
           : size <= 128 ? backward_plain<T, 128>(dev, call, sequences)
           : size <= 256 ? backward_plain<T, 256>(dev, call, sequences)
                         : fail_head_size(dev);
}

template <typename T>
static enum status attention_backward_of(struct device *dev, const struct tensor *dqkv,
                                         const struct tensor *dout, const struct tensor *out,
                                         const struct tensor *lse, const struct tensor *qkv,
                                         const struct dropout *dropout)
{
    const int heads = (int)(qkv->shape[2] / 3), size = (int)qkv->shape[3];
    const int length = (int)qkv->shape[1];
    const int64_t n_rows = qkv->shape[0] * length * heads;
    const qkv_rows<const T> rows = qkv_rows_of<const T>(qkv);
    const qkv_rows<T> gradients = qkv_rows_of<T>(dqkv);
    struct attention_row *scratch = (struct attention_row *)cuda_device(dev)->scratch;
    attention_backward_call<T> call = {};

    TRY(check_scratch(dev, (size_t)n_rows * sizeof *scratch));
    call.q = rows.q;
    call.k = rows.k;
    call.v = rows.v;
    call.dout = out_rows_of<const T>(dout, length, heads, size);
    call.dq = gradients.q;
    call.dk = gradients.k;
    call.dv = gradients.v;
    call.rows = scratch;
    call.shape = {heads, size, length, length};
    call.scale = (float)(1 / sqrt((double)size));
    call.log2_scale = log2_scale_of(size);
    call.dropout = attention_dropout_of(dropout, heads, length);

    const unsigned grid = (unsigned)blocks_for(4 * n_rows, COPY_THREADS);
    const auto rows_kernel = rows_are_vectors<T>(size, {dout, out})
                                 ? attention_rows_kernel<T, VECTOR<T>>
                                 : attention_rows_kernel<T, 1>;
    LAUNCH(rows_kernel, grid, COPY_THREADS, 0, cuda_stream(dev), scratch,
           tensor_data<const T>(dout), tensor_data<const T>(out), tensor_data<const float>(lse),
           call.shape, n_rows);
    TRY(cuda_launched(dev, "attention_backward"));
    return backward(dev, call, qkv->shape[0], rows_are_vectors<T>(size, {dqkv, dout, qkv}));
}

static enum status attention_backward(struct device *dev, const struct tensor *dqkv,
                                      const struct tensor *dout, const struct tensor *out,
                                      const struct tensor *lse, const struct tensor *qkv,
                                      const struct dropout *dropout)
{
    return FOR_REAL_TYPE(dev->real, attention_backward_of, dev, dqkv, dout, out, lse, qkv, dropout);
}

/* ---- with a cache ---- */

/* k and v of qkv to rows position ... of the cache. */
template <typename T, int W>
static enum status append(struct device *dev, const struct tensor *cache, const struct tensor *qkv,
                          int64_t position)
{
    const int64_t width = cache->shape[2] * cache->shape[3] / W, n = qkv->shape[1] * width;
    packed<T, W> *keys = tensor_data<packed<T, W>>(cache) + position * width;

    LAUNCH((attention_append_kernel<T, W>), (unsigned)blocks_for(n, COPY_THREADS), COPY_THREADS, 0,
           cuda_stream(dev), keys, keys + cache->shape[1] * width, tensor_data<packed<T, W>>(qkv),
           (int)width, n);
    return cuda_launched(dev, "attention_cached");
}

static size_t decode_bytes(int64_t n_keys, int64_t heads, int64_t size)
{
    const int64_t splits = blocks_for(n_keys, DECODE_KEYS);

    return (size_t)(splits * heads) * ((size_t)size * sizeof(float) + sizeof(struct decode_sum));
}

template <typename T>
static enum status decode(struct device *dev, const attention_forward_call<T> &call)
{
    const struct attention_sizes shape = call.shape;
    const int splits = (int)blocks_for(shape.n_keys, DECODE_KEYS);
    struct decode_sum *sums = (struct decode_sum *)cuda_device(dev)->scratch;
    float *parts = (float *)(sums + splits * shape.heads);

    TRY(check_scratch(dev, decode_bytes(shape.n_keys, shape.heads, shape.size)));
    LAUNCH(attention_decode_kernel<T>, dim3((unsigned)splits, (unsigned)shape.heads),
           DECODE_THREADS, 0, cuda_stream(dev), call, parts, sums);
    TRY(cuda_launched(dev, "attention_cached"));
    if (splits == 1)
        return OK;
    LAUNCH(attention_combine_kernel<T>, (unsigned)shape.heads, DECODE_THREADS, 0, cuda_stream(dev),
           call, parts, sums, splits);
    return cuda_launched(dev, "attention_cached");
}

template <typename T>
static enum status attention_cached_of(struct device *dev, const struct tensor *out,
                                       const struct tensor *cache, const struct tensor *qkv,
                                       int64_t position)
{
    const int heads = (int)cache->shape[2], size = (int)cache->shape[3];
    const int length = (int)qkv->shape[1];
    const int64_t rows = cache->shape[1] * heads * size;
    const bool aligned = rows_are_vectors<T>(size, {out, cache, qkv});
    attention_forward_call<T> call = {};

    call.q = qkv_rows_of<const T>(qkv).q;
    call.k = {tensor_data<const T>(cache), rows, heads * size};
    call.v = {call.k.data + rows, rows, heads * size};
    call.out = out_rows_of<T>(out, length, heads, size);
    call.shape = {heads, size, length, (int)position + length};
    call.log2_scale = log2_scale_of(size);
    call.dropout.mask.scale = 1;
    TRY((aligned ? append<T, VECTOR<T>> : append<T, 1>)(dev, cache, qkv, position));
    if (length == 1 && aligned && size <= DECODE_SIZE)
        return decode(dev, call);
    return forward(dev, call, 1, aligned);
}

static enum status attention_cached(struct device *dev, const struct tensor *out,
                                    const struct tensor *cache, const struct tensor *qkv,
                                    int64_t position)
{
    return FOR_REAL_TYPE(dev->real, attention_cached_of, dev, out, cache, qkv, position);
}

void cuda_attention_ops(struct op_table *table)
{
    table->attention_forward = attention_forward;
    table->attention_backward = attention_backward;
    table->attention_cached = attention_cached;
}

size_t cuda_attention_scratch(const struct op_limits *limits, enum dtype real)
{
    const size_t rows = (size_t)(limits->rows * limits->heads) * sizeof(struct attention_row);
    const size_t decode = decode_bytes(limits->max_seq_len, limits->heads, limits->head_size);

    (void)real;
    return rows > decode ? rows : decode;
}
