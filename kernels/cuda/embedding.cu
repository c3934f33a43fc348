/* embedding.cu - token (and learned position) embeddings.
 *
 * The backward pass sorts the rows by token, cuts the sorted list in segments of equal length,
 * however often a token occurs, and sums the runs of one token in each segment. A run that crosses
 * from segment to segment leaves partial sums, which one warp then adds up in order. */
#include "kernels/cuda/sort.cuh"

namespace {

enum {
    WARPS = 8,
    SEGMENT = 64,               /* rows; a multiple of LANES */
    BATCH = 4,                  /* rows that a warp has under way */
};

/* Warps are numbered through the grid: one for each of `chunks` chunks of each row. */
DEVICE_FUNCTION int grid_warp(void)
{
    return (int)(blockIdx.x * WARPS + threadIdx.y);
}
unsigned grid_for(int64_t rows, int64_t width)
{
    return (unsigned)blocks_for(rows * blocks_for(width, CHUNK), WARPS);
}
DEVICE_FUNCTION int chunks_of(int width)
{
    return (width + CHUNK - 1) / CHUNK;
}

/* ---- forward ---- */

/* positions: (length, width) or NULL. */
template <typename T, int W> __global__ void __launch_bounds__(LANES *WARPS)
embedding_forward_kernel(T *out, const int32_t *ids, const T *table, const T *positions, int n,
                         int length, int width)
{
    const int row = grid_warp() / chunks_of(width), first = grid_warp() % chunks_of(width) * CHUNK;
    float x[LANE_COLUMNS], position[LANE_COLUMNS];

    if (row >= n)
        return;
    chunk_load<W>(x, table + (int64_t)ids[row] * width, first, width);
    if (positions) {
        chunk_load<W>(position, positions + (int64_t)(row % length) * width, first, width);
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; i++)
            x[i] += position[i];
    }
    chunk_store<W>(out + (int64_t)row * width, x, first, width);
}

template <typename T>
enum status forward_of(struct device *dev, const struct tensor *out, const struct tensor *ids,
                       const struct tensor *table, const struct tensor *positions)
{
    const int64_t length = out->shape[1], width = out->shape[2], n = out->shape[0] * length;
    const auto embedding_forward = rows_are_vectors<T>(width, {out, table, positions})
                                       ? embedding_forward_kernel<T, VECTOR<T>>
                                       : embedding_forward_kernel<T, 1>;

    LAUNCH(embedding_forward, grid_for(n, width), dim3(LANES, WARPS), 0, cuda_stream(dev),
           tensor_data<T>(out), tensor_data<int32_t>(ids), tensor_data<T>(table),
           tensor_data<T>(positions), (int)n, (int)length, (int)width);
    return cuda_launched(dev, "embedding_forward");
}

enum status embedding_forward(struct device *dev, const struct tensor *out,
                              const struct tensor *ids, const struct tensor *table,
                              const struct tensor *positions)
{
    return FOR_REAL_TYPE(dev->real, forward_of, dev, out, ids, table, positions);
}

/* ---- backward ---- */

enum { HEAD, TAIL };

/* Of `partials` (segments, 2, width): what a segment adds to a run that began before it, and to one
 * that goes on behind it. */
DEVICE_FUNCTION float *partial_of(float *partials, int segment, int end, int width)
{
    return partials + ((int64_t)segment * 2 + end) * width;
}

template <typename T, int W> __global__ void __launch_bounds__(LANES *WARPS)
embedding_segment_kernel(float *dtable, float *partials, const struct sort_item *items,
                         const T *dout, int n, int width)
{
    const int segment = grid_warp() / chunks_of(width), lane = lane_index();
    const int first = grid_warp() % chunks_of(width) * CHUNK;
    const int begin = segment * SEGMENT, end = min(begin + SEGMENT, n);
    float sum[LANE_COLUMNS] = {}, x[LANE_COLUMNS];

    if (begin >= n)
        return;
    /* Whether the run so far began in an earlier segment. */
    bool continued = begin > 0 && items[begin - 1].id == items[begin].id;
    for (int base = begin; base < end; base += LANES) {
        const int i = base + lane;
        const struct sort_item mine = i < n ? items[i] : sort_item{-1, 0};
        const unsigned ends = __ballot_sync(ALL_LANES, i + 1 >= n || items[i + 1].id != mine.id);
        for (int from = 0; from < LANES && base + from < end; from += BATCH) {
            struct raw_chunk<T, W> raw[BATCH];
#pragma unroll
            for (int k = 0; k < BATCH; k++) {
                const int64_t row = __shfl_sync(ALL_LANES, mine.row, from + k);
                if (base + from + k < end)
                    chunk_read(raw[k], dout + row * width, first, width);
            }
#pragma unroll
            for (int k = 0; k < BATCH; k++) {
                const int id = __shfl_sync(ALL_LANES, mine.id, from + k);
                const bool ended = ends >> (from + k) & 1;
                if (base + from + k >= end)
                    break;
                chunk_unpack(x, raw[k]);
#pragma unroll
                for (int j = 0; j < LANE_COLUMNS; j++)
                    sum[j] += x[j];
                if (!ended && base + from + k + 1 < end)
                    continue;
                if (continued)
                    chunk_store<W>(partial_of(partials, segment, HEAD, width), sum, first, width);
                else if (!ended)
                    chunk_store<W>(partial_of(partials, segment, TAIL, width), sum, first, width);
                else
                    chunk_add<W>(dtable + (int64_t)id * width, sum, first, width);
                continued = false;
#pragma unroll
                for (int j = 0; j < LANE_COLUMNS; j++)
                    sum[j] = 0;
            }
        }
    }
}

/* The runs that cross segments, each by the warps of the segment where it begins. */
template <int W> __global__ void __launch_bounds__(LANES *WARPS)
embedding_combine_kernel(float *dtable, float *partials, const struct sort_item *items, int n,
                         int width)
{
    const int segment = grid_warp() / chunks_of(width), lane = lane_index();
    const int first = grid_warp() % chunks_of(width) * CHUNK;
    const int begin = segment * SEGMENT, end = begin + SEGMENT;
    float sum[LANE_COLUMNS], part[LANE_COLUMNS];
    int last = segment;
    unsigned reached;

    if (end >= n)
        return;
    const int id = items[end].id;
    const bool crosses = items[end - 1].id == id;
    const bool began_before = begin > 0 && items[begin - 1].id == id;
    if (!crosses || began_before)
        return;
    do {
        const int64_t start = (int64_t)(last + 1 + lane) * SEGMENT;
        reached = __ballot_sync(ALL_LANES, start < n && items[start].id == id);
        last += __popc(reached);
    } while (reached == ALL_LANES);

    chunk_load<W>(sum, partial_of(partials, segment, TAIL, width), first, width);
#pragma unroll 4
    for (int s = segment + 1; s <= last; s++) {
        chunk_load<W>(part, partial_of(partials, s, HEAD, width), first, width);
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; i++)
            sum[i] += part[i];
    }
    chunk_add<W>(dtable + (int64_t)id * width, sum, first, width);
}

/* dpositions (length, width) += dout (batch, length, width). */
template <typename T, int W> __global__ void __launch_bounds__(LANES *WARPS)
embedding_positions_kernel(float *dpositions, const T *dout, int batch, int length, int width)
{
    const int t = grid_warp() / chunks_of(width), first = grid_warp() % chunks_of(width) * CHUNK;
    float sum[LANE_COLUMNS] = {}, x[LANE_COLUMNS];

    if (t >= length)
        return;
#pragma unroll 4
    for (int b = 0; b < batch; b++) {
        chunk_load<W>(x, dout + ((int64_t)b * length + t) * width, first, width);
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; i++)
            sum[i] += x[i];
    }
    chunk_add<W>(dpositions + (int64_t)t * width, sum, first, width);
}

struct scratch {
    struct sort_buffers sort;
    float *partials;
};

void *take(char *base, size_t *used, size_t bytes)
{
    char *part = base ? base + *used : NULL;

    *used += (bytes + 255) / 256 * 256;
    return part;
}

/* Returns the bytes taken from `base`; NULL only measures. */
size_t lay_out(struct scratch *s, void *base, int64_t n, int64_t width)
{
    const size_t tiles = (size_t)blocks_for(n, SORT_TILE);
    const size_t segments = (size_t)blocks_for(n, SEGMENT);
    size_t used = 0;

    for (int i = 0; i < 2; i++)
        s->sort.items[i] = (struct sort_item *)take((char *)base, &used,
                                                    (size_t)n * sizeof(struct sort_item));
    s->sort.counts = (int *)take((char *)base, &used, tiles * SORT_DIGITS * sizeof(int));
    s->partials = (float *)take((char *)base, &used, segments * 2 * (size_t)width * sizeof(float));
    return used;
}

template <typename T, int W>
enum status launch_backward(struct device *dev, const struct tensor *dtable,
                            const struct tensor *dpositions, const struct tensor *dout,
                            const struct tensor *ids)
{
    const int64_t batch = dout->shape[0], length = dout->shape[1], width = dout->shape[2];
    const int n = (int)(batch * length);
    const unsigned grid = grid_for(blocks_for(n, SEGMENT), width);
    struct scratch s;

    lay_out(&s, cuda_device(dev)->scratch, n, width);
    const struct sort_item *items = sort_ids(dev, &s.sort, tensor_data<int32_t>(ids), n,
                                             dtable->shape[0]);
    LAUNCH((embedding_segment_kernel<T, W>), grid, dim3(LANES, WARPS), 0, cuda_stream(dev),
           tensor_data<float>(dtable), s.partials, items, tensor_data<T>(dout), n, (int)width);
    LAUNCH((embedding_combine_kernel<W>), grid, dim3(LANES, WARPS), 0, cuda_stream(dev),
           tensor_data<float>(dtable), s.partials, items, n, (int)width);
    if (dpositions->data)
        LAUNCH((embedding_positions_kernel<T, W>), grid_for(length, width), dim3(LANES, WARPS), 0,
               cuda_stream(dev), tensor_data<float>(dpositions), tensor_data<T>(dout), (int)batch,
               (int)length, (int)width);
    return cuda_launched(dev, "embedding_backward");
}

template <typename T>
enum status backward_of(struct device *dev, const struct tensor *dtable,
                        const struct tensor *dpositions, const struct tensor *dout,
                        const struct tensor *ids)
{
    if (rows_are_vectors<T>(dout->shape[2], {dtable, dpositions, dout}))
        return launch_backward<T, VECTOR<T>>(dev, dtable, dpositions, dout, ids);
    return launch_backward<T, 1>(dev, dtable, dpositions, dout, ids);
}

enum status embedding_backward(struct device *dev, const struct tensor *dtable,
                               const struct tensor *dpositions, const struct tensor *dout,
                               const struct tensor *ids)
{
    return FOR_REAL_TYPE(dev->real, backward_of, dev, dtable, dpositions, dout, ids);
}

}

size_t cuda_embedding_scratch(const struct op_limits *limits, enum dtype)
{
    struct scratch s;

    return lay_out(&s, NULL, limits->rows, largest_width(limits));
}

void cuda_embedding_ops(struct op_table *table)
{
    table->embedding_forward = embedding_forward;
    table->embedding_backward = embedding_backward;
}
