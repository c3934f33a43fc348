/* test_matmul.c - cuda_matmul() and the linear layers over the emulated cuBLASLt. */
#include <float.h>
#include <math.h>

#include "cuda/child.h"
#include "cuda/real_values.h"
#include "device/cuda.h"
#include "device/gpu.h"
#include "emulator/fake_cublaslt.h"
#include "kernels/ops.h"

enum { GUARD = 8 };             /* elements behind an output that must stay zero */

static struct device *dev;

/* A tensor on the device and what it holds, already rounded to its type. */
struct sample {
    struct tensor tensor;
    void *memory;
    size_t bytes;
    double *values;
    int64_t count;
};

static void sample_upload(struct sample *s, const double *values)
{
    const size_t size = dtype_size(s->tensor.dtype);
    char *bytes = malloc((size_t)s->count * size);

    for (int64_t i = 0; i < s->count; i++) {
        s->values[i] = rounded(values[i], type_bits(s->tensor.dtype));
        encode(bytes + (size_t)i * size, s->tensor.dtype, values[i]);
    }
    CHECK_OK(device_upload(dev, s->tensor.data, bytes, (size_t)s->count * size));
    free(bytes);
}

/* `offset` elements behind an aligned address. */
static struct sample sample_create(enum dtype dtype, int64_t rows, int64_t columns, int offset)
{
    struct sample s = {.count = rows * columns};
    const size_t size = dtype_size(dtype);

    s.bytes = (size_t)(s.count + offset + GUARD) * size;
    CHECK_OK(device_alloc(dev, s.bytes, &s.memory));
    s.tensor = tensor_2d((char *)s.memory + (size_t)offset * size, dtype, rows, columns);
    s.values = malloc((size_t)s.count * sizeof *s.values);
    for (int64_t i = 0; i < s.count; i++)
        s.values[i] = random_number();
    sample_upload(&s, s.values);
    return s;
}

static void sample_free(struct sample *s)
{
    device_free(dev, s->memory, s->bytes);
    free(s->values);
    *s = (struct sample){0};
}

static double *sample_download(const struct sample *s)
{
    const size_t size = dtype_size(s->tensor.dtype);
    char *bytes = malloc((size_t)s->count * size);
    double *values = malloc((size_t)s->count * sizeof *values);

    CHECK_OK(device_download(dev, bytes, s->tensor.data, (size_t)s->count * size));
    for (int64_t i = 0; i < s->count; i++)
        values[i] = decode(bytes + (size_t)i * size, s->tensor.dtype);
    free(bytes);
    return values;
}

/* What a product is made of, the matrices by row and column as they lie. */
struct trial {
    int64_t m, n, k;
    bool transpose_a, transpose_b, accumulate, has_bias;
    enum dtype input, output;
    unsigned unaligned;             /* a bit each for a, b, out, bias */
    struct sample a, b, out, bias;
};

static void trial_create(struct trial *t)
{
    t->a = sample_create(t->input, t->transpose_a ? t->k : t->m, t->transpose_a ? t->m : t->k,
                         t->unaligned & 1);
    t->b = sample_create(t->input, t->transpose_b ? t->n : t->k, t->transpose_b ? t->k : t->n,
                         t->unaligned >> 1 & 1);
    t->out = sample_create(t->output, t->m, t->n, t->unaligned >> 2 & 1);
    t->bias = sample_create(t->output, t->n, 1, t->unaligned >> 3 & 1);
}

static void trial_free(struct trial *t)
{
    sample_free(&t->a);
    sample_free(&t->b);
    sample_free(&t->out);
    sample_free(&t->bias);
}

static enum status trial_multiply(const struct trial *t)
{
    const struct cuda_matmul product = {
        .transpose_a = t->transpose_a, .transpose_b = t->transpose_b,
        .accumulate = t->accumulate, .m = t->m, .n = t->n, .k = t->k, .a = &t->a.tensor,
        .b = &t->b.tensor, .out = &t->out.tensor, .bias = t->has_bias ? &t->bias.tensor : NULL,
    };

    return cuda_matmul(dev, &product);
}

/* Element (row, column) of the result and a bound of its rounding errors. */
static double expected(const struct trial *t, int64_t row, int64_t column, double *bound)
{
    double sum = 0, size = 0;

    for (int64_t i = 0; i < t->k; i++) {
        const double a = t->a.values[t->transpose_a ? i * t->m + row : row * t->k + i];
        const double b = t->b.values[t->transpose_b ? column * t->k + i : i * t->n + column];
        sum += a * b;
        size += fabs(a * b);
    }
    if (t->accumulate)
        sum += t->out.values[row * t->n + column];
    if (t->has_bias)
        sum += t->bias.values[column];
    *bound = (double)(t->k + 4) * FLT_EPSILON * (size + 2) +
             fabs(sum) * ldexp(1, -type_bits(t->output));
    return sum;
}

static void check_guard(const struct sample *s)
{
    const size_t size = GUARD * dtype_size(s->tensor.dtype);
    char guard[GUARD * sizeof(double)];
    const char *behind = (char *)s->memory + s->bytes - size;

    CHECK_OK(device_download(dev, guard, behind, size));
    for (size_t i = 0; i < size; i++)
        CHECK(guard[i] == 0);
}

static void trial_check(const struct trial *t)
{
    double *values = sample_download(&t->out), bound;

    for (int64_t i = 0; i < t->out.count; i++) {
        const double right = expected(t, i / t->n, i % t->n, &bound);
        if (!(fabs(values[i] - right) <= bound)) {
            check_report(__FILE__, __LINE__, "(%d, %d, %d) %s to %s%s%s%s%s, element %d: %.9g, "
                         "expected %.9g", (int)t->m, (int)t->n, (int)t->k, dtype_name(t->input),
                         dtype_name(t->output), t->transpose_a ? ", a^T" : "",
                         t->transpose_b ? ", b^T" : "", t->accumulate ? ", accumulated" : "",
                         t->has_bias ? ", bias" : "", (int)i, values[i], right);
            break;
        }
    }
    check_guard(&t->out);
    free(values);
}

static void open_device(bool deterministic)
{
    const struct op_limits limits = {.rows = 64, .width = 64, .max_seq_len = 64, .heads = 2,
                                     .head_size = 32, .vocab_size = 300, .params = 1};

    random_state = 1;
    CHECK_OK(gpu_open(&dev, 0, DTYPE_F32, deterministic));
    CHECK_OK(device_reserve(dev, &limits));
}

static void multiply_and_check(struct trial t)
{
    trial_create(&t);
    CHECK_OK(trial_multiply(&t));
    trial_check(&t);
    trial_free(&t);
}

static const enum dtype types[][2] = {
    {DTYPE_F32, DTYPE_F32}, {DTYPE_BF16, DTYPE_BF16}, {DTYPE_BF16, DTYPE_F32},
    {DTYPE_F16, DTYPE_F16}, {DTYPE_F16, DTYPE_F32},
};
static const int64_t shapes[][3] = {
    {1, 1, 1}, {3, 5, 7}, {1, 257, 9}, {65, 1, 33}, {17, 33, 65}, {32, 64, 48}, {2, 3, 300},
};

static void all_products(bool deterministic)
{
    open_device(deterministic);
    for (size_t shape = 0; shape < sizeof shapes / sizeof *shapes; shape++)
        for (size_t type = 0; type < sizeof types / sizeof *types; type++)
            for (int bits = 0; bits < 32; bits++)
                multiply_and_check((struct trial){
                    .m = shapes[shape][0], .n = shapes[shape][1], .k = shapes[shape][2],
                    .transpose_a = bits & 1, .transpose_b = bits & 2, .accumulate = bits & 4,
                    .has_bias = bits & 8, .unaligned = bits & 16 ? 15 : 0,
                    .input = types[type][0], .output = types[type][1]});
    device_destroy(dev);
}

static void products_timed(void)
{
    all_products(false);
}

static void products_deterministic(void)
{
    all_products(true);
}

static const struct trial ordinary = {.m = 12, .n = 20, .k = 28, .input = DTYPE_F32,
                                      .output = DTYPE_F32};

/* At first use one query and, timed, six runs of each of six algorithms; then a single product. */
static void plans_are_kept(void)
{
    struct trial t = ordinary;

    open_device(false);
    trial_create(&t);
    const struct fake_cublaslt_log before = fake_cublaslt_read_log();
    CHECK_OK(trial_multiply(&t));
    const struct fake_cublaslt_log first = fake_cublaslt_read_log();
    CHECK(first.queries == before.queries + 1);
    CHECK(first.products == before.products + 6 * 6 + 1);
    for (int i = 0; i < 3; i++)
        CHECK_OK(trial_multiply(&t));
    const struct fake_cublaslt_log later = fake_cublaslt_read_log();
    CHECK(later.queries == first.queries);
    CHECK(later.products == first.products + 3);
    CHECK(later.algorithm == first.algorithm);
    trial_check(&t);
    trial_free(&t);
    device_destroy(dev);
}

/* More shapes than the table starts with, each found again; then the same for other pointers. */
static void many_shapes(void)
{
    enum { N_SHAPES = 200 };
    const struct fake_cublaslt_log before = fake_cublaslt_read_log();

    open_device(true);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < N_SHAPES; i++) {
            struct trial t = ordinary;
            t.m = 1 + i;
            multiply_and_check(t);
        }
    CHECK(fake_cublaslt_read_log().queries == before.queries + N_SHAPES);
    CHECK(fake_cublaslt_read_log().products == before.products + 2 * N_SHAPES);
    device_destroy(dev);
}

/* The first heuristic that the alignment of the matrices, and of the bias, allows. */
static void deterministic_takes_the_first(void)
{
    struct trial t = ordinary;

    t.has_bias = true;
    open_device(true);
    multiply_and_check(t);
    CHECK(fake_cublaslt_read_log().algorithm == 0);
    for (int operand = 0; operand < 4; operand++) {
        t.unaligned = 1u << operand;
        multiply_and_check(t);
        CHECK(fake_cublaslt_read_log().algorithm == 2);
    }
    t.unaligned = 0;
    multiply_and_check(t);
    CHECK(fake_cublaslt_read_log().algorithm == 0);
    device_destroy(dev);
}

/* Of a 16-bit output, partial sums must not be rounded to 16 bits: algorithms 3 and 5 are out. */
static void sums_stay_float32(void)
{
    struct trial t = ordinary;
    const struct fake_cublaslt_log before = fake_cublaslt_read_log();

    t.input = t.output = DTYPE_BF16;
    open_device(false);
    multiply_and_check(t);
    CHECK(fake_cublaslt_read_log().products == before.products + 4 * 6 + 1);
    device_destroy(dev);
}

/* What is too large to be kept in scratch memory while algorithms are timed is not timed. */
static void large_sums_are_not_timed(void)
{
    struct trial t = ordinary;
    const struct fake_cublaslt_log before = fake_cublaslt_read_log();

    t.accumulate = true;
    open_device(false);
    t.m = (int64_t)(cuda_device(dev)->scratch_size / sizeof(float)) / t.n + 1;
    multiply_and_check(t);
    CHECK(fake_cublaslt_read_log().products == before.products + 1);
    t.m--;
    multiply_and_check(t);
    CHECK(fake_cublaslt_read_log().products == before.products + 1 + 6 * 6 + 1);
    device_destroy(dev);
}

static void bias_may_move(void)
{
    struct trial t = ordinary, other = ordinary;

    t.has_bias = other.has_bias = true;
    open_device(true);
    trial_create(&t);
    trial_create(&other);
    CHECK_OK(trial_multiply(&t));
    CHECK_OK(trial_multiply(&other));
    trial_check(&t);
    trial_check(&other);
    trial_free(&t);
    trial_free(&other);
    device_destroy(dev);
}

/* 1 + 2^-12 is 1 in TF32, and only there. */
static void tf32_on_request(void)
{
    struct trial t = {.m = 1, .n = 1, .k = 1, .input = DTYPE_F32, .output = DTYPE_F32};

    open_device(true);
    trial_create(&t);
    sample_upload(&t.a, (const double[]){1 + 0x1p-12});
    sample_upload(&t.b, (const double[]){1});
    for (int i = 0; i < 3; i++) {
        cuda_device(dev)->tf32 = i == 1;
        CHECK_OK(trial_multiply(&t));
        double *value = sample_download(&t.out);
        CHECK(*value == (i == 1 ? 1 : 1 + 0x1p-12));
        free(value);
    }
    trial_free(&t);
    device_destroy(dev);
}

static void refuses_wrong_products(void)
{
    struct trial t = ordinary;

    open_device(true);
    trial_create(&t);
    t.a.tensor.dtype = DTYPE_F64;
    CHECK_FAILS(trial_multiply(&t), ERR_DEVICE,
                "product (12, 28) x (28, 20) of F64 to F32: type of the inputs");
    t.a.tensor.dtype = DTYPE_BF16;
    CHECK_FAILS(trial_multiply(&t), ERR_DEVICE, "types of inputs and output");
    t.a.tensor.dtype = DTYPE_F32;
    t.out.tensor.dtype = DTYPE_BF16;
    CHECK_FAILS(trial_multiply(&t), ERR_DEVICE, "types of inputs and output");
    t.out.tensor.dtype = DTYPE_F32;
    t.bias.tensor.dtype = DTYPE_BF16;
    t.has_bias = true;
    CHECK_FAILS(trial_multiply(&t), ERR_DEVICE, "type of the bias");
    t.has_bias = false;
    t.k++;
    CHECK_FAILS(trial_multiply(&t), ERR_DEVICE, "shapes of the tensors");
    t.k = 0;
    CHECK_FAILS(trial_multiply(&t), ERR_DEVICE, "shapes of the tensors");
    t.k = 28;
    CHECK_OK(trial_multiply(&t));
    trial_check(&t);
    trial_free(&t);
    device_destroy(dev);
}

/* The message names the GPU, the shape, the call and the status; the next call starts afresh. */
static void heuristics_fail(void)
{
    struct trial t = ordinary;

    open_device(false);
    trial_create(&t);
    CHECK_FAILS(trial_multiply(&t), ERR_DEVICE, "product (12, 28) x (28, 20) of F32 to F32: "
                "cublasLtMatmulAlgoGetHeuristic: CUBLAS_STATUS_NOT_SUPPORTED");
    CHECK(strncmp(status_message(), "GPU 0 (", 7) == 0);
    CHECK_OK(trial_multiply(&t));
    trial_check(&t);
    trial_free(&t);
    device_destroy(dev);
}

static void product_fails(void)
{
    struct trial t = ordinary;

    open_device(true);
    trial_create(&t);
    CHECK_FAILS(trial_multiply(&t), ERR_DEVICE, "CUBLAS_STATUS_EXECUTION_FAILED");
    CHECK_OK(trial_multiply(&t));
    trial_check(&t);
    trial_free(&t);
    device_destroy(dev);
}

/* The first product called is the first algorithm's warm-up: it is passed over. */
static void algorithm_fails(void)
{
    struct trial t = ordinary;

    t.accumulate = true;
    open_device(false);
    multiply_and_check(t);
    CHECK(fake_cublaslt_read_log().algorithm != 0);
    CHECK(fake_cublaslt_read_log().products == 5 * 6 + 1);
    device_destroy(dev);
}

static void host_memory(void)
{
    struct trial t = ordinary;
    float host[12 * 28] = {0};

    open_device(true);
    trial_create(&t);
    t.a.tensor.data = host;
    (void)trial_multiply(&t);
}

static void short_memory(void)
{
    struct trial t = ordinary;

    open_device(true);
    trial_create(&t);
    t.b.tensor = tensor_rows(&t.b.tensor, 1, t.k);
    (void)trial_multiply(&t);
}

static void output_over_input(void)
{
    struct trial t = ordinary;

    open_device(true);
    trial_create(&t);
    t.out.tensor.data = (float *)t.b.tensor.data + 20;
    (void)trial_multiply(&t);
}

/* The rows of the table: sums over the rows in several parts, twice the same bits. */
static void linear_layer(enum dtype real, int64_t n, int64_t c, int64_t m)
{
    struct trial t = {.m = m, .n = c, .k = n, .transpose_a = true, .accumulate = true,
                      .input = real, .output = DTYPE_F32};
    struct trial columns = {.m = 1, .n = m, .k = n, .accumulate = true, .input = real,
                            .output = DTYPE_F32};
    const struct tensor none = {0};

    dev->real = real;
    trial_create(&t);
    columns.a = sample_create(real, 1, n, 0);
    for (int64_t i = 0; i < n; i++)
        columns.a.values[i] = 1;
    columns.b = t.a;
    columns.out = sample_create(DTYPE_F32, 1, m, 0);
    CHECK_OK(dev->ops->linear_backward_weight(dev, &t.out.tensor, &columns.out.tensor,
                                              &t.a.tensor, &t.b.tensor));
    trial_check(&t);
    trial_check(&columns);
    double *once = sample_download(&columns.out);
    sample_upload(&columns.out, columns.out.values);
    CHECK_OK(dev->ops->linear_backward_weight(dev, &t.out.tensor, &columns.out.tensor,
                                              &t.a.tensor, &t.b.tensor));
    CHECK_OK(dev->ops->linear_backward_weight(dev, &t.out.tensor, &none, &t.a.tensor,
                                              &t.b.tensor));
    double *again = sample_download(&columns.out);
    CHECK(memcmp(once, again, (size_t)m * sizeof *once) == 0);
    free(once);
    free(again);
    sample_free(&columns.a);
    sample_free(&columns.out);
    trial_free(&t);
}

static void linear_forward_and_input(enum dtype real, int64_t n, int64_t c, int64_t m)
{
    struct trial forward = {.m = n, .n = m, .k = c, .transpose_b = true, .has_bias = true,
                            .input = real, .output = real};
    struct trial input = {.m = n, .n = c, .k = m, .input = real, .output = real};
    const struct tensor none = {0};

    dev->real = real;
    trial_create(&forward);
    trial_create(&input);
    CHECK_OK(dev->ops->linear_forward(dev, &forward.out.tensor, &forward.a.tensor,
                                      &forward.b.tensor, &forward.bias.tensor));
    trial_check(&forward);
    forward.has_bias = false;
    CHECK_OK(dev->ops->linear_forward(dev, &forward.out.tensor, &forward.a.tensor,
                                      &forward.b.tensor, &none));
    trial_check(&forward);
    CHECK_OK(dev->ops->linear_backward_input(dev, &input.out.tensor, &input.a.tensor,
                                             &input.b.tensor));
    trial_check(&input);
    trial_free(&forward);
    trial_free(&input);
}

static void linear_layers(void)
{
    static const enum dtype reals[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    static const int64_t sizes[][3] = {{1, 3, 1}, {31, 4, 8}, {33, 5, 255}, {65, 2, 256},
                                       {130, 3, 264}, {2050, 1, 40}, {2500, 1, 513}};

    open_device(true);
    /* The scratch memory is to be large enough for the widest of them. */
    CHECK_OK(device_reserve(dev, &(struct op_limits){.width = 513, .heads = 1, .head_size = 5}));
    for (size_t type = 0; type < 3; type++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            linear_layer(reals[type], sizes[i][0], sizes[i][1], sizes[i][2]);
            linear_forward_and_input(reals[type], sizes[i][0], sizes[i][1], sizes[i][2]);
        }
    device_destroy(dev);
}

int main(int argc, char **argv)
{
    child_arguments(argc, argv);
    CHILD_CASE(products_timed, "OCTET_EMULATED_GPUS=1");
    CHILD_CASE(products_deterministic, "OCTET_EMULATOR_STREAMS=random");
    CHILD_CASE(plans_are_kept, "OCTET_EMULATED_GPUS=1");
    CHILD_CASE(many_shapes, "OCTET_EMULATED_GPUS=1");
    CHILD_CASE(deterministic_takes_the_first, "OCTET_EMULATED_GPUS=1");
    CHILD_CASE(sums_stay_float32, "OCTET_EMULATED_GPUS=1");
    CHILD_CASE(large_sums_are_not_timed, "OCTET_EMULATED_GPUS=1");
    CHILD_CASE(bias_may_move, "OCTET_EMULATOR_STREAMS=random");
    CHILD_CASE(tf32_on_request, "OCTET_EMULATED_GPUS=1");
    CHILD_CASE(refuses_wrong_products, "OCTET_EMULATED_GPUS=1");
    CHILD_CASE(heuristics_fail, "OCTET_EMULATOR_FAIL=cublas:cublasLtMatmulAlgoGetHeuristic:1");
    CHILD_CASE(product_fails, "OCTET_EMULATOR_FAIL=cublas:cublasLtMatmul:1");
    CHILD_CASE(algorithm_fails, "OCTET_EMULATOR_FAIL=cublas:cublasLtMatmul:1");
    CHILD_STOPS(host_memory, "cublasLtMatmul", "OCTET_EMULATED_GPUS=1");
    CHILD_STOPS(short_memory, "cublasLtMatmul", "OCTET_EMULATED_GPUS=1");
    CHILD_STOPS(output_over_input, "A and D overlap", "OCTET_EMULATED_GPUS=1");
    CHILD_CASE(linear_layers, "OCTET_EMULATOR_ORDER=forward");
    CHILD_CASE(linear_layers, "OCTET_EMULATOR_ORDER=reversed");
    CHILD_CASE(linear_layers, "OCTET_EMULATOR_ORDER=random");
    return check_finish();
}
