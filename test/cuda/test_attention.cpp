/* test_attention.cpp - the attention kernels against a plain reference in double that knows how far
 * off they may be: every type, the head sizes of the tensor cores and others, lengths around the
 * edges of tiles, with dropout and without, outputs that start as NaN, guard bands around them.
 *
 * Runs all cases, or those that are named as arguments. */
#include <stdio.h>

extern "C" {
#include "check.h"
#include "device/gpu.h"
}
#include "cuda/attention_expected.h"
#include "cuda/real_values.h"
#include "kernels/cuda/attention_call.cuh"

enum {
    GUARD = 256,
    GUARD_BYTE = 0xa5,
    NAN_BYTE = 0xff,
    SLACK = 2,                  /* times the error bound */
};

static const struct op_limits limits = {.rows = 2048, .width = 256, .max_seq_len = 512,
                                        .heads = 16, .head_size = 256, .vocab_size = 256,
                                        .params = 256};

static struct real float32 = {"float32", DTYPE_F32, 0x1p-24, 0, NULL};
static struct real bfloat16 = {"bfloat16", DTYPE_BF16, 0x1p-8, 0, NULL};
static struct real float16 = {"float16", DTYPE_F16, 0x1p-11, 0x1p-25, NULL};
static const struct real *const reals[] = {&float32, &bfloat16, &float16};

static int shift;               /* of tensors, in elements, off their alignment */

/* ---- tensors ---- */

static doubles random_values(const struct real &real, int64_t n, double largest)
{
    doubles values(n);

    for (double &x : values)
        x = rounded(largest * random_number(), type_bits(real.dtype));
    return values;
}

/* NaN, between guard bands. */
class device_tensor {
public:
    struct tensor view;

    device_tensor(const struct real &real, enum dtype dtype, int64_t a, int64_t b, int64_t c,
                  int64_t d)
        : view(tensor_4d(NULL, dtype, a, b, c, d)), dev(real.dev),
          start(GUARD + shift * dtype_size(dtype)),
          image(start + tensor_count(&view) * dtype_size(dtype) + GUARD, GUARD_BYTE)
    {
        memset(image.data() + start, NAN_BYTE, image.size() - start - GUARD);
        CHECK_OK(device_alloc(dev, image.size(), &memory));
        CHECK_OK(device_upload(dev, memory, image.data(), image.size()));
        view.data = (char *)memory + start;
    }
    ~device_tensor() { device_free(dev, memory, image.size()); }
    device_tensor(const device_tensor &) = delete;
    device_tensor &operator=(const device_tensor &) = delete;

    void set(const doubles &values)
    {
        for (size_t i = 0; i < values.size(); i++)
            encode(element(i), view.dtype, values[i]);
        CHECK_OK(device_upload(dev, memory, image.data(), image.size()));
    }
    doubles values()
    {
        doubles result(tensor_count(&view));
        download();
        for (size_t i = 0; i < result.size(); i++)
            result[i] = decode(element(i), view.dtype);
        return result;
    }
    /* With its guard bands. */
    const std::vector<unsigned char> &download()
    {
        CHECK_OK(device_download(dev, image.data(), memory, image.size()));
        return image;
    }
    /* Since set(). */
    bool is_untouched()
    {
        const std::vector<unsigned char> before = image;
        return before == download();
    }

private:
    struct device *dev;
    void *memory = NULL;
    size_t start;
    std::vector<unsigned char> image;       /* as it last went to the device or came from it */

    unsigned char *element(size_t i) { return &image[start + i * dtype_size(view.dtype)]; }
};

/* A NaN is as it should be only where it is expected. */
static void check_values(const char *name, const struct real &real, const struct task &task,
                         device_tensor &tensor, const numbers &expected)
{
    const doubles values = tensor.values();
    const std::vector<unsigned char> &image = tensor.download();
    const struct attention_shape s = task.shape;
    size_t n_wrong = 0, first = 0;
    bool wrote_outside = false;

    for (size_t i = 0; i < values.size(); i++) {
        const double allowed = SLACK * 0x1p-24 * expected[i].error;
        const bool right = isnan(expected[i].value)
                               ? isnan(values[i])
                               : fabs(values[i] - expected[i].value) <= allowed;
        if (!right && n_wrong++ == 0)
            first = i;
    }
    if (n_wrong > 0)
        check_report(__FILE__, __LINE__, "%s, %s, B %d, T %d, H %d, D %d, dropout %g: %zu of %zu "
                     "are wrong; [%zu] is %.9g, expected %.9g within %.3g", name, real.name,
                     (int)s.batch, (int)s.length, (int)s.heads, (int)s.size, task.dropout.rate,
                     n_wrong, values.size(), first, values[first], expected[first].value,
                     SLACK * 0x1p-24 * expected[first].error);
    for (size_t i = 0; i < GUARD; i++)
        wrote_outside |= image[i] != GUARD_BYTE || image[image.size() - 1 - i] != GUARD_BYTE;
    if (wrote_outside)
        check_report(__FILE__, __LINE__, "%s, %s, T %d, D %d: wrote outside", name, real.name,
                     (int)s.length, (int)s.size);
}

/* ---- forward and backward ---- */

/* A task's operands and results on the device. */
struct training {
    const struct real &real;
    const struct task &task;
    device_tensor qkv, out, lse, dout, dqkv;

    training(const struct real &r, const struct task &t)
        : real(r), task(t), qkv(heads(3)), out(heads(1)),
          lse(r, DTYPE_F32, t.shape.batch, t.shape.heads, t.shape.length, 1), dout(heads(1)),
          dqkv(heads(3))
    {
    }
    void forward()
    {
        CHECK_OK(real.dev->ops->attention_forward(real.dev, &out.view, &lse.view, &qkv.view,
                                                  &task.dropout));
    }
    void backward()
    {
        CHECK_OK(real.dev->ops->attention_backward(real.dev, &dqkv.view, &dout.view, &out.view,
                                                   &lse.view, &qkv.view, &task.dropout));
    }

private:
    device_tensor heads(int64_t n) const
    {
        const struct attention_shape s = task.shape;
        return device_tensor(real, real.dtype, s.batch, s.length, n * s.heads, s.size);
    }
};

static void try_training(const struct real &real, const struct task &task)
{
    const struct attention_shape s = task.shape;
    const int64_t rows = s.batch * s.length * s.heads;
    const doubles qkv = random_values(real, 3 * rows * s.size, LARGEST);
    const doubles dout = random_values(real, rows * s.size, 1);
    numbers out(rows * s.size), lse(rows), dqkv(qkv.size());
    struct training training(real, task);

    expect_forward(out, lse, qkv, task, real);
    expect_backward(dqkv, dout, out, lse, qkv, task, real);
    training.qkv.set(qkv);
    training.forward();
    check_values("attention_forward: out", real, task, training.out, out);
    check_values("attention_forward: lse", real, task, training.lse, lse);

    /* What the gradients are made from is right, whatever came out above. */
    training.out.set(values_of(out));
    training.lse.set(values_of(lse));
    training.dout.set(dout);
    training.backward();
    check_values("attention_backward: dqkv", real, task, training.dqkv, dqkv);
    const std::vector<unsigned char> first = training.dqkv.download();
    training.backward();
    CHECK(first == training.dqkv.download());
    CHECK(training.qkv.is_untouched() && training.dout.is_untouched() &&
          training.out.is_untouched() && training.lse.is_untouched());
}

static void try_lengths(const struct real &real, int64_t size)
{
    static const int64_t lengths[] = {1, 2, 17, 63, 64, 65, 100, 129, 200};

    for (const int64_t length : lengths) {
        const int64_t batch = length < 64 ? 2 : 1, heads = length < 64 ? 3 : 2;
        try_training(real, task_of(batch, length, heads, size, 0));
        try_training(real, task_of(batch, length, heads, size, 0.2));
    }
}

static void bfloat16_32(void) { try_lengths(bfloat16, 32); }
static void bfloat16_64(void) { try_lengths(bfloat16, 64); }
static void bfloat16_128(void) { try_lengths(bfloat16, 128); }
static void float16_32(void) { try_lengths(float16, 32); }
static void float16_64(void) { try_lengths(float16, 64); }
static void float16_128(void) { try_lengths(float16, 128); }
static void float32_32(void) { try_lengths(float32, 32); }
static void float32_64(void) { try_lengths(float32, 64); }
static void float32_128(void) { try_lengths(float32, 128); }

static void other_head_sizes(void)
{
    static const struct task tasks[] = {
        task_of(1, 1, 1, 2, 0),      task_of(2, 33, 2, 2, 0.5),   task_of(1, 70, 3, 6, 0.2),
        task_of(2, 65, 1, 48, 0.2),  task_of(1, 100, 2, 80, 0),   task_of(1, 40, 1, 130, 0.2),
        task_of(1, 35, 1, 256, 0.2),
    };

    for (const struct task &task : tasks)
        for (const struct real *real : reals)
            try_training(*real, task);
}

/* ---- dropout, exactly ---- */

static bool is_kept(const struct task &task, int64_t h, int64_t query, int64_t key)
{
    return key <= query && dropout_factor(task, 0, h, query, key) > 0;
}

static void check_mask(const struct real &real, const struct task &task, int n_wrong)
{
    if (n_wrong > 0)
        check_report(__FILE__, __LINE__, "%s, T %d, D %d: %d of the mask's elements are wrong",
                     real.name, (int)task.shape.length, (int)task.shape.size, n_wrong);
}

/* Equal scores, and v the unit vectors from key `first` on: out is these keys' probabilities. */
static void try_forward_mask(const struct real &real, const struct task &task, int64_t first)
{
    const int64_t length = task.shape.length, H = task.shape.heads, D = task.shape.size;
    doubles qkv(length * 3 * H * D, 0);
    struct training training(real, task);
    int n_wrong = 0;

    for (int64_t key = first; key < first + D && key < length; key++)
        for (int64_t h = 0; h < H; h++)
            qkv[(key * 3 * H + 2 * H + h) * D + key - first] = 1;
    training.qkv.set(qkv);
    training.forward();
    const doubles out = training.out.values();
    for (int64_t query = 0; query < length; query++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t c = 0; c < D; c++)
                n_wrong += (out[(query * H + h) * D + c] != 0) !=
                           is_kept(task, h, query, first + c);
    check_mask(real, task, n_wrong);
}

/* Equal scores, and dout the unit vectors from query `first` on: dv is their probabilities. */
static void try_backward_mask(const struct real &real, const struct task &task, int64_t first)
{
    const int64_t length = task.shape.length, H = task.shape.heads, D = task.shape.size;
    doubles dout(length * H * D, 0), lse;
    struct training training(real, task);
    int n_wrong = 0;

    for (int64_t h = 0; h < H; h++)
        for (int64_t query = 0; query < length; query++) {
            lse.push_back(log((double)(query + 1)));
            if (query >= first && query < first + D)
                dout[(query * H + h) * D + query - first] = 1;
        }
    training.qkv.set(doubles(length * 3 * H * D, 0));
    training.out.set(doubles(length * H * D, 0));
    training.dout.set(dout);
    training.lse.set(lse);
    training.backward();
    const doubles dqkv = training.dqkv.values();
    for (int64_t key = 0; key < length; key++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t query = first; query < first + D && query < length; query++)
                n_wrong += (dqkv[(key * 3 * H + 2 * H + h) * D + query - first] != 0) !=
                           is_kept(task, h, query, key);
    check_mask(real, task, n_wrong);
}

static void try_masks(const struct real &real, int64_t size)
{
    const struct task task = task_of(1, 200, 2, size, 0.4);

    for (int64_t first = 0; first < task.shape.length; first += size) {
        try_forward_mask(real, task, first);
        try_backward_mask(real, task, first);
    }
}

static void dropout_masks(void)
{
    try_masks(float16, 32);
    try_masks(float16, 64);
    try_masks(float16, 128);
    try_masks(float32, 64);
    try_masks(float32, 256);
}

/* Part of what says where the mask begins may lie on the device. */
static void try_place(const struct real &real)
{
    static const struct dropout_place place = {100, -7};
    const struct task task = task_of(1, 70, 2, 64, 0.3);
    const doubles qkv = random_values(real, 70 * 3 * 2 * 64, LARGEST);
    struct task placed = task;
    struct training one(real, task), other(real, placed);
    void *memory;

    CHECK_OK(device_alloc(real.dev, sizeof place, &memory));
    CHECK_OK(device_upload(real.dev, memory, &place, sizeof place));
    placed.dropout.first_row -= place.first_row;
    placed.dropout.step += 7;
    placed.dropout.place = (const struct dropout_place *)memory;
    for (struct training *training : {&one, &other}) {
        training->qkv.set(qkv);
        training->forward();
        training->dout.set(training->out.values());
        training->backward();
    }
    CHECK(one.out.download() == other.out.download());
    CHECK(one.dqkv.download() == other.dqkv.download());
    device_free(real.dev, memory, sizeof place);
}

static void placed_dropout(void)
{
    for (const struct real *real : reals)
        try_place(*real);
}

/* ---- NaN ---- */

/* A NaN in the last query's q makes its row NaN, and no other. */
static void try_nan(const struct real &real, int64_t size)
{
    const struct task task = task_of(1, 70, 2, size, 0.1);
    doubles qkv = random_values(real, 70 * 3 * 2 * size, LARGEST);
    numbers out(70 * 2 * size), lse(70 * 2);
    struct training training(real, task);

    qkv[(69 * 3 * 2 + 1) * size + 2] = NAN;
    expect_forward(out, lse, qkv, task, real);
    training.qkv.set(qkv);
    training.forward();
    check_values("NaN: out", real, task, training.out, out);
    check_values("NaN: lse", real, task, training.lse, lse);
}

static void nan_in_a_query(void)
{
    try_nan(float32, 64);
    try_nan(bfloat16, 64);
    try_nan(float16, 128);
}

/* ---- with a cache ---- */

static void try_cached(const struct real &real, int64_t heads, int64_t size, int64_t length,
                       int64_t position, int64_t room)
{
    const struct task task = task_of(1, length, heads, size, 0);
    const doubles qkv_values = random_values(real, length * 3 * heads * size, LARGEST);
    const doubles cache_values = random_values(real, 2 * room * heads * size, LARGEST);
    device_tensor qkv(real, real.dtype, 1, length, 3 * heads, size);
    device_tensor cache(real, real.dtype, 2, room, heads, size);
    device_tensor out(real, real.dtype, length, heads, size, 1);
    numbers expected(length * heads * size), cached;

    for (const double x : cache_values)
        cached.push_back(exact(x));
    expect_cached(expected, cached, qkv_values, task.shape, room, position, real);
    qkv.set(qkv_values);
    cache.set(cache_values);
    CHECK_OK(real.dev->ops->attention_cached(real.dev, &out.view, &cache.view, &qkv.view,
                                             position));
    check_values("attention_cached: out", real, task, out, expected);
    check_values("attention_cached: cache", real, task, cache, cached);
    CHECK(qkv.is_untouched());
}

static void try_caches(const struct real &real)
{
    static const struct {
        int64_t heads, size, length, position, room;
    } caches[] = {
        {2, 64, 1, 0, 1},       {3, 32, 1, 126, 200},   {3, 32, 1, 127, 200},
        {2, 128, 1, 128, 129},  {2, 64, 1, 300, 400},   {1, 256, 1, 299, 300},
        {2, 40, 1, 150, 200},   {2, 6, 1, 40, 41},      {2, 64, 5, 0, 8},
        {2, 32, 130, 67, 200},  {1, 128, 65, 0, 65},    {2, 64, 3, 127, 300},
        {2, 6, 33, 14, 50},     {1, 64, 100, 100, 200},
    };

    for (const auto &c : caches)
        try_cached(real, c.heads, c.size, c.length, c.position, c.room);
}

static void cached_float32(void) { try_caches(float32); }
static void cached_bfloat16(void) { try_caches(bfloat16); }
static void cached_float16(void) { try_caches(float16); }

/* ---- unusual calls ---- */

static void off_alignment(void)
{
    shift = 1;
    for (const struct real *real : reals) {
        try_training(*real, task_of(1, 70, 2, 64, 0.2));
        try_cached(*real, 2, 64, 1, 130, 200);
        try_cached(*real, 2, 64, 3, 20, 200);
    }
    shift = 0;
}

static void refuses_wide_heads(void)
{
    const struct task task = task_of(1, 1, 1, 258, 0);
    struct training training(float32, task);

    CHECK_FAILS(float32.dev->ops->attention_forward(float32.dev, &training.out.view,
                                                    &training.lse.view, &training.qkv.view,
                                                    &task.dropout),
                ERR_DEVICE, "head size above 256");
}

static void refuses_small_scratch(void)
{
    const struct task task = task_of(1, 2, 1, 4, 0);
    size_t *size = &cuda_device(float32.dev)->scratch_size, before = *size;
    struct training training(float32, task);

    *size = 8;
    CHECK_FAILS(float32.dev->ops->attention_backward(float32.dev, &training.dqkv.view,
                                                     &training.dout.view, &training.out.view,
                                                     &training.lse.view, &training.qkv.view,
                                                     &task.dropout),
                ERR_DEVICE, "scratch");
    *size = before;
}

/* ---- the order of blocks ---- */

static __global__ void places_kernel(struct tile_place *places, struct tile_order order, int heads)
{
    places[blockIdx.x] = place_of_block(order, heads);
}

/* 11 heads in sections of 4: every tile once, sections one after the other, the longest first. */
static void order_of_tiles(void)
{
    static const struct tile_order order = {22, 5, 4};
    struct device *dev = float32.dev;
    struct tile_place places[110];
    bool seen[2][11][5] = {};
    void *memory;

    CHECK_OK(device_alloc(dev, sizeof places, &memory));
    LAUNCH(places_kernel, 110, 1, 0, cuda_stream(dev), (struct tile_place *)memory, order, 11);
    CHECK_OK(device_download(dev, places, memory, sizeof places));
    device_free(dev, memory, sizeof places);
    for (int i = 0; i < 110; i++) {
        const struct tile_place p = places[i];
        const int section = (p.b * 11 + p.h) / 4;
        CHECK(p.b < 2 && p.h < 11 && p.rank < 5 && !seen[p.b][p.h][p.rank]);
        CHECK(section == i / 20);
        CHECK(i % 20 == 0 || places[i - 1].rank <= p.rank);
        seen[p.b][p.h][p.rank] = true;
    }
}

/* ---- all ---- */

#define NAMED(name) {#name, name}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    NAMED(order_of_tiles),
    NAMED(bfloat16_32),
    NAMED(bfloat16_64),
    NAMED(bfloat16_128),
    NAMED(float16_32),
    NAMED(float16_64),
    NAMED(float16_128),
    NAMED(float32_32),
    NAMED(float32_64),
    NAMED(float32_128),
    NAMED(other_head_sizes),
    NAMED(dropout_masks),
    NAMED(placed_dropout),
    NAMED(nan_in_a_query),
    NAMED(cached_float32),
    NAMED(cached_bfloat16),
    NAMED(cached_float16),
    NAMED(off_alignment),
    NAMED(refuses_wide_heads),
    NAMED(refuses_small_scratch),
};

static bool is_wanted(const char *name, int n_wanted, char **wanted)
{
    bool found = n_wanted == 0;

    for (int i = 0; i < n_wanted; i++)
        found = found || strcmp(wanted[i], name) == 0;
    return found;
}

static enum status open_devices(void)
{
    for (struct real *real : {&float32, &bfloat16, &float16}) {
        TRY(gpu_open(&real->dev, 0, real->dtype, true));
        TRY(device_reserve(real->dev, &limits));
    }
    return OK;
}

int main(int argc, char **argv)
{
    if (open_devices() != OK) {
        printf("%s\n", status_message());
        return 1;
    }
    for (const auto &c : cases)
        if (is_wanted(c.name, argc - 1, argv + 1))
            check_run(c.name, c.run);
    for (const struct real *real : reals)
        device_destroy(real->dev);
    return check_finish() != 0 || check_passed == 0;
}
