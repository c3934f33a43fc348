/* test_device.c - a GPU as a device: uploads that leave the caller's memory alone, sections that are
 * recorded and replayed, and waits that end when the GPU does not. */
#include "cuda/child.h"
#include "cuda/stall.h"
#include "device/cuda.h"
#include "device/gpu.h"
#include "kernels/ops.h"

enum { COUNT = 1 << 20, BYTES = COUNT * (int)sizeof(float) };

static struct device *open_gpu(void)
{
    const struct op_limits limits = {.rows = 64, .width = 64, .max_seq_len = 64, .heads = 1,
                                     .head_size = 64, .vocab_size = 64, .params = COUNT};
    struct device *dev;

    CHECK_OK(gpu_open(&dev, 0, DTYPE_F32, true));
    CHECK_OK(device_reserve(dev, &limits));
    return dev;
}

/* More than the pinned memory holds, in pieces of all sizes, from memory that is overwritten at once. */
static void uploads(void)
{
    static unsigned char expected[BYTES], found[BYTES], piece[BYTES];
    struct device *dev = open_gpu();
    void *memory;

    CHECK_OK(device_alloc(dev, BYTES, &memory));
    for (int round = 0; round < 4; round++) {
        size_t size = 1;
        for (size_t at = 0; at < BYTES; at += size) {
            size = at + 3 * size + 1 <= BYTES ? 3 * size + 1 : BYTES - at;
            for (size_t i = 0; i < size; i++)
                piece[i] = expected[at + i] = (unsigned char)((at + i) * 7 + (size_t)round * 31);
            CHECK_OK(device_upload(dev, (char *)memory + at, piece, size));
            memset(piece, 0, size);
        }
        CHECK_OK(device_download(dev, found, memory, BYTES));
        CHECK(memcmp(found, expected, BYTES) == 0);
    }
    device_free(dev, memory, BYTES);
    device_destroy(dev);
}

/* out += sum of x, in a section. */
static enum status add(struct device *dev, const struct tensor *out, const struct tensor *x)
{
    TRY(device_section_begin(dev, 3));
    RUN_OP(OPS_OPTIMIZER, dev, sum, out, x);
    return device_section_end(dev);
}

/* The same memory with other contents each time. */
static void sections(void)
{
    struct device *dev = open_gpu();
    struct tensor x = tensor_1d(NULL, DTYPE_F32, 4), out = tensor_1d(NULL, DTYPE_F64, 1);
    double total = 0, found;

    CHECK_OK(device_alloc(dev, 4 * sizeof(float), &x.data));
    CHECK_OK(device_alloc(dev, sizeof(double), &out.data));
    for (int round = 1; round <= 9; round++) {
        const float values[4] = {(float)round, 2, 3, 4};
        CHECK_OK(device_upload(dev, x.data, values, sizeof values));
        CHECK_OK(add(dev, &out, &x));
        CHECK(!dev->replaying);
        total += round + 9;
        CHECK_OK(device_download(dev, &found, out.data, sizeof found));
        CHECK_NEAR(found, total, 0);
        if (round == 5)
            CHECK_OK(device_sections_forget(dev));
    }
    device_free(dev, x.data, 4 * sizeof(float));
    device_free(dev, out.data, sizeof(double));
    device_destroy(dev);
}

/* An error in the middle of a recording leaves nothing behind. */
static void broken_off(void)
{
    struct device *dev = open_gpu();
    const float values[2] = {1, 2};
    void *memory;
    float found[2];

    CHECK_OK(device_alloc(dev, sizeof values, &memory));
    for (int round = 0; round < 4; round++) {
        CHECK_OK(device_upload(dev, memory, values, sizeof values));
        CHECK_OK(device_section_begin(dev, 0));
        CHECK_OK(device_zero(dev, memory, sizeof(float)));
        if (round == 1) {       /* the recording */
            CHECK_OK(device_sections_forget(dev));
            CHECK_OK(device_download(dev, found, memory, sizeof found));
            CHECK_NEAR(found[0], 1, 0);
            continue;
        }
        CHECK_OK(device_section_end(dev));
        CHECK_OK(device_download(dev, found, memory, sizeof found));
        CHECK_NEAR(found[0], 0, 0);
        CHECK_NEAR(found[1], 2, 0);
    }
    device_free(dev, memory, sizeof values);
    device_destroy(dev);
}

static void hanging(void)
{
    struct device *dev = open_gpu();
    int released = 0;

    dev->timeout = 0.2;
    stream_stall(cuda_stream(dev), &released);
    CHECK_FAILS(device_sync(dev), ERR_DEVICE,
                "GPU 0 (Emulated GPU 0): its work has not ended after 0.2 s");
    __atomic_store_n(&released, 1, __ATOMIC_RELEASE);
    dev->timeout = 60;
    CHECK_OK(device_sync(dev));
    device_destroy(dev);
}

int main(int argc, char **argv)
{
    child_arguments(argc, argv);
    CHILD_CASE(uploads, "OCTET_EMULATED_GPUS=1");
    CHILD_CASE(uploads, "OCTET_EMULATOR_STREAMS=random");
    CHILD_CASE(sections, "OCTET_EMULATED_GPUS=1");
    CHILD_CASE(broken_off, "OCTET_EMULATED_GPUS=1");
    CHILD_CASE(hanging, "OCTET_EMULATED_GPUS=1");
    return check_finish();
}
