/* test_attention.cpp - the attention kernels against a plain reference in double that knows how far
 * off they may be: every type, the head sizes of the tensor cores and others, lengths around the
 * edges of tiles, with dropout and without, outputs that start as NaN, guard bands around them. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdio.h>
#include <stdlib.h>

#include <vector>

extern "C" {
#include "check.h"
#include "ops/number.h"
#include "ops/reference.h"
}
#include "kernels/cuda/attention_call.cuh"

enum {
    GUARD = 256,
    GUARD_BYTE = 0xa5,
    SLACK = 2,                  /* times the error bound */
    MAX_LENGTH = 512,
    MAX_HEADS = 16,
};

static const struct op_limits limits = {.rows = 4 * MAX_LENGTH, .width = 0,
                                        .max_seq_len = MAX_LENGTH, .heads = MAX_HEADS,
                                        .head_size = 256, .vocab_size = 0, .params = 0};
static struct cuda_device cuda;
static struct op_table table;
static uint64_t seed = 1;
static size_t shift;            /* of tensors, in elements, off their alignment */

extern "C" enum status cuda_fail(const struct device *dev, const char *call, cudaError_t error)
{
    return fail(ERR_DEVICE, "%s: %s: %s", dev->description, call, cudaGetErrorString(error));
}

/* ---- types ---- */

/* `unit`: half the distance of neighbours, relative to a number; `least`, where that is smaller. */
template <typename T> struct real_type;
template <> struct real_type<float> {
    static constexpr const char *name = "float32";
    static constexpr enum dtype dtype = DTYPE_F32;
    static constexpr double unit = 0x1p-24, least = 0;
    static float of(double x) { return (float)x; }
    static double value(float x) { return (double)x; }
};
template <> struct real_type<__nv_bfloat16> {
    static constexpr const char *name = "bfloat16";
    static constexpr enum dtype dtype = DTYPE_BF16;
    static constexpr double unit = 0x1p-8, least = 0;
    static __nv_bfloat16 of(double x) { return __float2bfloat16_rn((float)x); }
    static double value(__nv_bfloat16 x) { return (double)__bfloat162float(x); }
};
template <> struct real_type<__half> {
    static constexpr const char *name = "float16";
    static constexpr enum dtype dtype = DTYPE_F16;
    static constexpr double unit = 0x1p-11, least = 0x1p-25;
    static __half of(double x) { return __float2half_rn((float)x); }
    static double value(__half x) { return (double)__half2float(x); }
};

/* x, rounded to T. */
template <typename T> static struct number through(struct number x)
{
    x.error += (fabs(x.value) * real_type<T>::unit + real_type<T>::least) * 0x1p24;
    return x;
}

/* ---- tensors ---- */

static double random_number(void)
{
    const struct rng_block block = rng_philox(seed, RNG_TEST, 0, 0, 0);

    seed++;
    return 2 * rng_uniform_double(block.word[0], block.word[1]) - 1;
}

template <typename T> static std::vector<double> random_values(int64_t n, double scale)
{
    std::vector<double> values((size_t)n);

    for (double &x : values)
        x = real_type<T>::value(real_type<T>::of(scale * random_number()));
    return values;
}

/* A tensor on the device between guard bands. */
template <typename T> class device_tensor {
public:
    struct tensor view;

    device_tensor(int64_t a, int64_t b, int64_t c, int64_t d) : n((size_t)(a * b * c * d))
    {
        std::vector<unsigned char> image(bytes(), GUARD_BYTE);
        memset(image.data() + start, 0xff, n * sizeof(T));      /* NaN */
        cudaMalloc(&memory, bytes());
        cudaMemcpy(memory, image.data(), bytes(), cudaMemcpyHostToDevice);
        view = tensor_4d((char *)memory + start, real_type<T>::dtype, a, b, c, d);
    }
    ~device_tensor() { cudaFree(memory); }
    device_tensor(const device_tensor &) = delete;
    device_tensor &operator=(const device_tensor &) = delete;

    void set(const std::vector<double> &values)
    {
        std::vector<T> converted(n);
        for (size_t i = 0; i < n; i++)
            converted[i] = real_type<T>::of(values[i]);
        cudaMemcpy(view.data, converted.data(), n * sizeof(T), cudaMemcpyHostToDevice);
    }
    std::vector<double> values(void) const
    {
        const std::vector<unsigned char> all = image();
        std::vector<double> result(n);
        for (size_t i = 0; i < n; i++) {
            T x;
            memcpy(&x, all.data() + start + i * sizeof(T), sizeof x);
            result[i] = real_type<T>::value(x);
        }
        return result;
    }
    std::vector<unsigned char> image(void) const
    {
        std::vector<unsigned char> copy(bytes());
        cudaStreamSynchronize(cuda.stream);
        cudaMemcpy(copy.data(), memory, bytes(), cudaMemcpyDeviceToHost);
        return copy;
    }
    bool guards_are_whole(void) const
    {
        const std::vector<unsigned char> all = image();
        bool whole = true;
        for (size_t i = 0; i < GUARD; i++)
            whole = whole && all[i] == GUARD_BYTE && all[all.size() - 1 - i] == GUARD_BYTE;
        return whole;
    }

private:
    void *memory = nullptr;
    size_t n, start = GUARD + shift * sizeof(T);
    size_t bytes(void) const { return start + n * sizeof(T) + GUARD; }
};

struct size {
    int64_t batch, length, heads, size;
    double rate;
};

static struct dropout dropout_of(const struct size *s)
{
    struct dropout dropout = {};

    dropout.rate = s->rate;
    dropout.seed = 0x9876543210abcdef;
    dropout.step = 70000;
    dropout.site = 321;
    dropout.first_row = 3 * s->length;
    return dropout;
}

/* A NaN is as it should be only where it is expected. */
template <typename T>
static void check_values(const char *name, const struct size *s, const device_tensor<T> &tensor,
                         const std::vector<struct number> &expected)
{
    const std::vector<double> values = tensor.values();
    size_t n_wrong = 0, first = 0;

    for (size_t i = 0; i < values.size(); i++) {
        const double allowed = SLACK * 0x1p-24 * expected[i].error;
        const bool right = isnan(expected[i].value)
                               ? isnan(values[i])
                               : fabs(values[i] - expected[i].value) <= allowed;
        if (!right && n_wrong++ == 0)
            first = i;
    }
    if (n_wrong > 0)
        check_report(__FILE__, __LINE__, "%s, %s, B %d, T %d, H %d, D %d, dropout %g: %zu of %zu are "
                     "wrong; [%zu] is %.9g, expected %.9g within %.3g", name, real_type<T>::name,
                     (int)s->batch, (int)s->length, (int)s->heads, (int)s->size, s->rate, n_wrong,
                     values.size(), first, values[first], expected[first].value,
                     SLACK * 0x1p-24 * expected[first].error);
    if (!tensor.guards_are_whole())
        check_report(__FILE__, __LINE__, "%s, %s, T %d, D %d: wrote outside", name,
                     real_type<T>::name, (int)s->length, (int)s->size);
}

/* ---- the reference ---- */

/* What belongs to a query: the probabilities of the keys it sees, and what dropout multiplies them
 * by. q (D); k with `stride` numbers from one key to the next. */
struct query {
    std::vector<struct number> p;
    std::vector<double> factor;
    struct number lse;
};

static struct query query_of(const double *q, const double *k, int64_t stride, int64_t visible,
                             const struct size *s, int64_t b, int64_t h, int64_t t)
{
    struct query result = {std::vector<struct number>((size_t)visible),
                           std::vector<double>((size_t)visible, 1), {}};
    struct dropout dropout = dropout_of(s);
    struct number largest = exact(-INFINITY), total = exact(0);

    dropout.first_row = (dropout.first_row + b * s->length + t) * s->heads + h;
    for (int64_t j = 0; j < visible; j++) {
        struct number score = exact(0);
        for (int64_t c = 0; c < s->size; c++)
            accumulate(&score, multiply(exact(q[c]), exact(k[j * stride + c])));
        score = multiply(score, rounded(1 / sqrt((double)s->size)));
        result.p[(size_t)j] = score;
        largest = score.value > largest.value || isnan(score.value) ? score : largest;
        if (s->rate > 0)
            result.factor[(size_t)j] = reference_dropout(&dropout, 0, j, s->length);
    }
    for (struct number &p : result.p) {
        p = exponential(subtract(p, largest));
        accumulate(&total, p);
    }
    for (struct number &p : result.p)
        p = divide(p, total);
    result.lse = add(largest, logarithm(total));
    return result;
}

/* One query's out (D); v as k above. */
template <typename T>
static void expect_out(struct number *out, const struct query &query, const double *v,
                       int64_t stride, int64_t size)
{
    for (int64_t c = 0; c < size; c++) {
        out[c] = exact(0);
        for (size_t j = 0; j < query.p.size(); j++)
            accumulate(&out[c], scaled(through<T>(scaled(query.p[j], query.factor[j])),
                                       v[(int64_t)j * stride + c]));
        out[c] = through<T>(out[c]);
    }
}

struct expectation {
    std::vector<struct number> out, lse, dqkv;
};

/* One query's part of dqkv; q, k, v, dout, and out are offsets and rows as in ops.h. */
template <typename T>
static void add_gradients(std::vector<struct number> &dqkv, const struct query &query,
                          const std::vector<double> &qkv, const double *dout,
                          const struct number *out, int64_t q, int64_t k, const struct size *s)
{
    const int64_t D = s->size, stride = 3 * s->heads * D, to_v = s->heads * D;
    const struct number scale = rounded(1 / sqrt((double)D));
    const size_t visible = query.p.size();
    std::vector<struct number> p = query.p, dp(visible);
    struct number delta = exact(0);

    for (size_t j = 0; j < visible; j++) {
        const int64_t v = k + (int64_t)j * stride + to_v;
        dp[j] = exact(0);
        for (int64_t c = 0; c < D; c++)
            accumulate(&dp[j], multiply(exact(dout[c]), exact(qkv[(size_t)(v + c)])));
        dp[j] = multiply(dp[j], rounded(query.factor[j]));
        accumulate(&delta, multiply(p[j], dp[j]));
        /* From lse, which was rounded. */
        p[j].error += p[j].value * (fabs(query.lse.value) * 4);
        const struct number kept = through<T>(scaled(p[j], query.factor[j]));
        for (int64_t c = 0; c < D; c++)
            accumulate(&dqkv[(size_t)(v + c)], scaled(kept, dout[c]));
    }
    /* The kernels have dout . out instead, of an `out` that was rounded. */
    for (int64_t c = 0; c < D; c++)
        delta.error += fabs(dout[c]) * (out[c].error + 2 * fabs(out[c].value));
    for (size_t j = 0; j < visible; j++) {
        const struct number ds = through<T>(multiply(p[j], subtract(dp[j], delta)));
        for (int64_t c = 0; c < D; c++) {
            const int64_t key = k + (int64_t)j * stride + c;
            accumulate(&dqkv[(size_t)(q + c)],
                       multiply(scaled(ds, qkv[(size_t)key]), scale));
            accumulate(&dqkv[(size_t)key], multiply(scaled(ds, qkv[(size_t)(q + c)]), scale));
        }
    }
}

template <typename T>
static struct expectation expect(const std::vector<double> &qkv, const std::vector<double> &dout,
                                 const struct size *s)
{
    const int64_t T_ = s->length, H = s->heads, D = s->size;
    struct expectation e;

    e.out.resize((size_t)(s->batch * T_ * H * D));
    e.lse.resize((size_t)(s->batch * T_ * H));
    e.dqkv.assign(qkv.size(), exact(0));
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t t = 0; t < T_; t++)
            for (int64_t h = 0; h < H; h++) {
                const int64_t row = ((b * T_ + t) * H + h) * D;
                const int64_t q = ((b * T_ + t) * 3 * H + h) * D, k = (b * T_ * 3 * H + H + h) * D;
                const struct query query = query_of(&qkv[(size_t)q], &qkv[(size_t)k], 3 * H * D,
                                                    t + 1, s, b, h, t);
                e.lse[(size_t)((b * H + h) * T_ + t)] = query.lse;
                expect_out<T>(&e.out[(size_t)row], query, &qkv[(size_t)(k + H * D)], 3 * H * D, D);
                if (!dout.empty())
                    add_gradients<T>(e.dqkv, query, qkv, &dout[(size_t)row], &e.out[(size_t)row],
                                     q, k, s);
            }
    for (struct number &x : e.dqkv)
        x = through<T>(x);
    return e;
}

static std::vector<double> values_of(const std::vector<struct number> &numbers)
{
    std::vector<double> values;

    for (const struct number &x : numbers)
        values.push_back(x.value);
    return values;
}

/* ---- forward and backward ---- */

template <typename T>
static void try_training(const struct size *s, const std::vector<double> &qkv_values,
                         const std::vector<double> &dout_values)
{
    const struct dropout dropout = dropout_of(s);
    const struct expectation expected = expect<T>(qkv_values, dout_values, s);
    device_tensor<T> qkv(s->batch, s->length, 3 * s->heads, s->size);
    device_tensor<T> out(s->batch, s->length, s->heads, s->size);
    device_tensor<T> dout(s->batch, s->length, s->heads, s->size);
    device_tensor<T> dqkv(s->batch, s->length, 3 * s->heads, s->size);
    device_tensor<float> lse(s->batch, s->heads, s->length, 1);

    cuda.base.real = real_type<T>::dtype;
    qkv.set(qkv_values);
    CHECK_OK(table.attention_forward(&cuda.base, &out.view, &lse.view, &qkv.view, &dropout));
    check_values("attention_forward: out", s, out, expected.out);
    check_values("attention_forward: lse", s, lse, expected.lse);

    /* What the gradients are made from is right, whatever came out above. */
    out.set(values_of(expected.out));
    lse.set(values_of(expected.lse));
    dout.set(dout_values);
    CHECK_OK(table.attention_backward(&cuda.base, &dqkv.view, &dout.view, &out.view, &lse.view,
                                      &qkv.view, &dropout));
    check_values("attention_backward: dqkv", s, dqkv, expected.dqkv);

    const std::vector<unsigned char> first = dqkv.image();
    CHECK_OK(table.attention_backward(&cuda.base, &dqkv.view, &dout.view, &out.view, &lse.view,
                                      &qkv.view, &dropout));
    CHECK(first == dqkv.image());
}

template <typename T> static void try_random(const struct size *s)
{
    const int64_t rows = s->batch * s->length * s->heads;

    try_training<T>(s, random_values<T>(3 * rows * s->size, 2), random_values<T>(rows * s->size, 1));
}

template <typename T> static void try_lengths(int64_t size)
{
    static const int64_t lengths[] = {1, 2, 17, 63, 64, 65, 100, 129, 200};

    for (const int64_t length : lengths) {
        const int64_t batch = length < 64 ? 2 : 1, heads = length < 64 ? 3 : 2;
        const struct size plain = {batch, length, heads, size, 0};
        const struct size drops = {batch, length, heads, size, 0.2};
        try_random<T>(&plain);
        try_random<T>(&drops);
    }
}

static void bfloat16_32(void) { try_lengths<__nv_bfloat16>(32); }
static void bfloat16_64(void) { try_lengths<__nv_bfloat16>(64); }
static void bfloat16_128(void) { try_lengths<__nv_bfloat16>(128); }
static void float16_32(void) { try_lengths<__half>(32); }
static void float16_64(void) { try_lengths<__half>(64); }
static void float16_128(void) { try_lengths<__half>(128); }
static void float32_32(void) { try_lengths<float>(32); }
static void float32_64(void) { try_lengths<float>(64); }
static void float32_128(void) { try_lengths<float>(128); }

static void other_head_sizes(void)
{
    static const struct size sizes[] = {
        {1, 1, 1, 2, 0}, {2, 33, 2, 2, 0.5}, {1, 70, 3, 6, 0.2}, {2, 65, 1, 48, 0.2},
        {1, 100, 2, 80, 0}, {1, 40, 1, 130, 0.2}, {1, 35, 1, 256, 0.2},
    };

    for (const struct size &s : sizes) {
        try_random<float>(&s);
        try_random<__nv_bfloat16>(&s);
        try_random<__half>(&s);
    }
}

/* ---- the mask, exactly ---- */

/* Equal scores, and v the unit vectors from key `first` on: out is the probabilities of those keys. */
template <typename T> static void try_forward_mask(const struct size *s, int64_t first)
{
    const struct dropout dropout = dropout_of(s);
    const int64_t H = s->heads, D = s->size;
    device_tensor<T> qkv(1, s->length, 3 * H, D), out(1, s->length, H, D);
    device_tensor<float> lse(1, H, s->length, 1);
    std::vector<double> values((size_t)(s->length * 3 * H * D), 0);
    int n_wrong = 0;

    for (int64_t j = first; j < first + D && j < s->length; j++)
        for (int64_t h = 0; h < H; h++)
            values[(size_t)((j * 3 * H + 2 * H + h) * D + j - first)] = 1;
    cuda.base.real = real_type<T>::dtype;
    qkv.set(values);
    CHECK_OK(table.attention_forward(&cuda.base, &out.view, &lse.view, &qkv.view, &dropout));
    const std::vector<double> kept = out.values();
    for (int64_t t = 0; t < s->length; t++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t c = 0; c < D; c++) {
                struct dropout row = dropout;
                row.first_row = (dropout.first_row + t) * H + h;
                const bool keeps = first + c <= t &&
                                   reference_dropout(&row, 0, first + c, s->length) > 0;
                n_wrong += (kept[(size_t)((t * H + h) * D + c)] != 0) != keeps;
            }
    if (n_wrong > 0)
        check_report(__FILE__, __LINE__, "%s, T %d, D %d: %d of the mask's elements are wrong",
                     real_type<T>::name, (int)s->length, (int)D, n_wrong);
}

/* Equal scores, and dout the unit vectors from query `first` on: dv is their probabilities. */
template <typename T> static void try_backward_mask(const struct size *s, int64_t first)
{
    const struct dropout dropout = dropout_of(s);
    const int64_t H = s->heads, D = s->size;
    device_tensor<T> qkv(1, s->length, 3 * H, D), dqkv(1, s->length, 3 * H, D);
    device_tensor<T> out(1, s->length, H, D), dout(1, s->length, H, D);
    device_tensor<float> lse(1, H, s->length, 1);
    std::vector<double> gradients((size_t)(s->length * H * D), 0), sums;
    int n_wrong = 0;

    for (int64_t h = 0; h < H; h++)
        for (int64_t t = 0; t < s->length; t++) {
            sums.push_back(log((double)(t + 1)));
            if (t >= first && t < first + D)
                gradients[(size_t)((t * H + h) * D + t - first)] = 1;
        }
    cuda.base.real = real_type<T>::dtype;
    qkv.set(std::vector<double>((size_t)(s->length * 3 * H * D), 0));
    out.set(std::vector<double>((size_t)(s->length * H * D), 0));
    dout.set(gradients);
    lse.set(sums);
    CHECK_OK(table.attention_backward(&cuda.base, &dqkv.view, &dout.view, &out.view, &lse.view,
                                      &qkv.view, &dropout));
    const std::vector<double> result = dqkv.values();
    for (int64_t j = 0; j < s->length; j++)
        for (int64_t h = 0; h < H; h++)
            for (int64_t t = first; t < first + D && t < s->length; t++) {
                struct dropout row = dropout;
                row.first_row = (dropout.first_row + t) * H + h;
                const bool keeps = j <= t && reference_dropout(&row, 0, j, s->length) > 0;
                const double dv = result[(size_t)((j * 3 * H + 2 * H + h) * D + t - first)];
                n_wrong += (dv != 0) != keeps;
            }
    if (n_wrong > 0)
        check_report(__FILE__, __LINE__, "%s, T %d, D %d: %d of the mask's elements are wrong",
                     real_type<T>::name, (int)s->length, (int)D, n_wrong);
}

template <typename T> static void try_mask(int64_t size)
{
    const struct size s = {1, 200, 2, size, 0.4};

    for (int64_t first = 0; first < s.length; first += size) {
        try_forward_mask<T>(&s, first);
        try_backward_mask<T>(&s, first);
    }
}

static void dropout_mask(void)
{
    try_mask<__half>(32);
    try_mask<__half>(64);
    try_mask<__half>(128);
    try_mask<float>(64);
    try_mask<float>(256);
}

/* ---- NaN ---- */

/* A NaN in the last query's q makes its row NaN, and no other. */
template <typename T> static void try_nan(int64_t size)
{
    const struct size s = {1, 70, 2, size, 0.1};
    std::vector<double> qkv = random_values<T>(s.length * 3 * s.heads * size, 2);
    std::vector<double> dout = random_values<T>(s.length * s.heads * size, 1);

    qkv[(size_t)((69 * 3 * s.heads + 1) * size + 2)] = NAN;
    const struct expectation expected = expect<T>(qkv, {}, &s);
    device_tensor<T> device_qkv(1, s.length, 3 * s.heads, size), out(1, s.length, s.heads, size);
    device_tensor<float> lse(1, s.heads, s.length, 1);
    const struct dropout dropout = dropout_of(&s);

    cuda.base.real = real_type<T>::dtype;
    device_qkv.set(qkv);
    CHECK_OK(table.attention_forward(&cuda.base, &out.view, &lse.view, &device_qkv.view, &dropout));
    check_values("NaN: out", &s, out, expected.out);
    check_values("NaN: lse", &s, lse, expected.lse);
}

static void nan_in_a_query(void)
{
    try_nan<float>(64);
    try_nan<__nv_bfloat16>(64);
    try_nan<__half>(128);
}

/* ---- with a cache ---- */

template <typename T>
static void try_cached(int64_t heads, int64_t size, int64_t length, int64_t position, int64_t room)
{
    const struct size s = {1, length, heads, size, 0};
    const int64_t row = heads * size;
    std::vector<double> qkv_values = random_values<T>(length * 3 * row, 2);
    std::vector<double> cache_values = random_values<T>(2 * room * row, 2);
    device_tensor<T> qkv(1, length, 3 * heads, size), cache(2, room, heads, size);
    device_tensor<T> out(length, heads, size, 1);
    std::vector<struct number> expected((size_t)(length * row)), kept(cache_values.size());

    qkv.set(qkv_values);
    cache.set(cache_values);
    for (int64_t t = 0; t < length; t++)
        for (int64_t i = 0; i < 2 * row; i++)
            cache_values[(size_t)((i / row * room + position + t) * row + i % row)] =
                qkv_values[(size_t)(t * 3 * row + row + i)];
    for (int64_t t = 0; t < length; t++)
        for (int64_t h = 0; h < heads; h++) {
            const struct query query =
                query_of(&qkv_values[(size_t)(t * 3 * row + h * size)],
                         &cache_values[(size_t)(h * size)], row, position + t + 1, &s, 0, h, t);
            expect_out<T>(&expected[(size_t)(t * row + h * size)], query,
                          &cache_values[(size_t)(room * row + h * size)], row, size);
        }
    for (size_t i = 0; i < kept.size(); i++)
        kept[i] = exact(cache_values[i]);

    cuda.base.real = real_type<T>::dtype;
    CHECK_OK(table.attention_cached(&cuda.base, &out.view, &cache.view, &qkv.view, position));
    check_values("attention_cached: out", &s, out, expected);
    check_values("attention_cached: cache", &s, cache, kept);
}

template <typename T> static void try_caches(void)
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
        try_cached<T>(c.heads, c.size, c.length, c.position, c.room);
}

static void cached_float32(void) { try_caches<float>(); }
static void cached_bfloat16(void) { try_caches<__nv_bfloat16>(); }
static void cached_float16(void) { try_caches<__half>(); }

/* ---- unusual calls ---- */

static void off_alignment(void)
{
    static const struct size s = {1, 70, 2, 64, 0.2};

    shift = 1;
    try_random<float>(&s);
    try_random<__nv_bfloat16>(&s);
    try_random<__half>(&s);
    try_cached<float>(2, 64, 1, 130, 200);
    try_cached<__nv_bfloat16>(2, 64, 1, 130, 200);
    try_cached<__half>(2, 64, 3, 20, 200);
    shift = 0;
}

static void refuses_wide_heads(void)
{
    const struct dropout none = {};
    device_tensor<float> qkv(1, 1, 3, 258), out(1, 1, 1, 258), lse(1, 1, 1, 1);

    cuda.base.real = DTYPE_F32;
    CHECK_FAILS(table.attention_forward(&cuda.base, &out.view, &lse.view, &qkv.view, &none),
                ERR_DEVICE, "head size above 256");
}

static void refuses_small_scratch(void)
{
    const struct dropout none = {};
    device_tensor<float> qkv(1, 2, 3, 4), out(1, 2, 1, 4), lse(1, 1, 2, 1);
    const size_t size = cuda.scratch_size;

    cuda.base.real = DTYPE_F32;
    cuda.scratch_size = 8;
    CHECK_FAILS(table.attention_backward(&cuda.base, &qkv.view, &out.view, &out.view, &lse.view,
                                         &qkv.view, &none), ERR_DEVICE, "scratch");
    cuda.scratch_size = size;
}

/* ---- the order of blocks ---- */

static __global__ void places_kernel(struct tile_place *places, struct tile_order order, int heads)
{
    places[blockIdx.x] = place_of_block(order, heads);
}

/* 11 heads in sections of 4: every tile once, sections one after the other, the longest first. */
static void tile_order(void)
{
    const struct tile_order order = {22, 5, 4};
    struct tile_place places[110];
    bool seen[2][11][5] = {};
    void *memory;

    cudaMalloc(&memory, sizeof places);
    LAUNCH(places_kernel, 110, 1, 0, cuda.stream, (struct tile_place *)memory, order, 11);
    cudaStreamSynchronize(cuda.stream);
    cudaMemcpy(places, memory, sizeof places, cudaMemcpyDeviceToHost);
    cudaFree(memory);
    for (int i = 0; i < 110; i++) {
        const struct tile_place p = places[i];
        const int section = (p.b * 11 + p.h) / 4;
        CHECK(p.b < 2 && p.h < 11 && p.rank < 5 && !seen[p.b][p.h][p.rank]);
        CHECK(section == i / 20);
        CHECK(i % 20 == 0 || places[i - 1].rank <= p.rank);
        seen[p.b][p.h][p.rank] = true;
    }
}

int main(void)
{
    cuda_attention_ops(&table);
    snprintf(cuda.base.description, sizeof cuda.base.description, "GPU 0");
    cuda.scratch_size = cuda_attention_scratch(&limits, DTYPE_BF16);
    if (cudaStreamCreateWithFlags(&cuda.stream, cudaStreamNonBlocking) != cudaSuccess ||
        cudaMalloc(&cuda.scratch, cuda.scratch_size) != cudaSuccess)
        return 1;
    CASE(tile_order);
    CASE(bfloat16_32);
    CASE(bfloat16_64);
    CASE(bfloat16_128);
    CASE(float16_32);
    CASE(float16_64);
    CASE(float16_128);
    CASE(float32_32);
    CASE(float32_64);
    CASE(float32_128);
    CASE(other_head_sizes);
    CASE(dropout_mask);
    CASE(nan_in_a_query);
    CASE(cached_float32);
    CASE(cached_bfloat16);
    CASE(cached_float16);
    CASE(off_alignment);
    CASE(refuses_wide_heads);
    CASE(refuses_small_scratch);
    cudaFree(cuda.scratch);
    cudaStreamDestroy(cuda.stream);
    return check_finish();
}
