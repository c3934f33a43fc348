/* test_emulator.cpp - the CUDA emulator runs right kernels right in every order, and finds each
 * planted mistake that a GPU would show at best now and then. */
#include <pthread.h>

#include <atomic>
#include <memory>

#include "emulator/child.h"
#include "emulator/planted_cases.h"
#include "emulator/runtime.h"

#define RANDOM_STREAMS "OCTET_EMULATOR_STREAMS=random"
#define TWO_GPUS "OCTET_EMULATED_GPUS=2"

/* With random streams, whether any seed up to 40 gives another ending than RIGHT. */
static bool some_seed_goes_wrong(const std::function<bool()> &is_right)
{
    for (int seed = 0; seed < 40; seed++) {
        char setting[64];
        snprintf(setting, sizeof setting, "OCTET_EMULATOR_SEED=%d", seed);
        if (run_case({RANDOM_STREAMS, setting}, is_right).how != RIGHT)
            return true;
    }
    return false;
}

static bool some_order_goes_wrong(const std::function<bool()> &is_right)
{
    for (const char *order : {FORWARD, REVERSED, RANDOM})
        if (run_case({order}, is_right).how != RIGHT)
            return true;
    return false;
}

/* Kernels */

static void right_kernels_in_every_order(void)
{
    for (const char *order : {FORWARD, REVERSED, RANDOM})
        for (const char *seed : {"OCTET_EMULATOR_SEED=1", "OCTET_EMULATOR_SEED=7"})
            CHECK_RIGHT(run_case({order, seed, RANDOM_STREAMS}, all_kernels_are_right));
}

static void missing_barriers(void)
{
    CHECK(some_order_goes_wrong([] { return row_sums_are_right(SUMS_NO_BARRIER); }));
    CHECK(some_order_goes_wrong([] { return row_sums_are_right(SUMS_NO_SECOND_BARRIER); }));
    CHECK(some_order_goes_wrong([] { return reverse_is_right(REVERSE_NO_BARRIER); }));
    CHECK(some_order_goes_wrong([] { return rotation_is_right(false); }));
}

static void missing_wait_for_an_async_copy(void)
{
    for (const char *order : {FORWARD, REVERSED, RANDOM})
        CHECK(run_case({order}, [] { return reverse_is_right(REVERSE_NO_WAIT); }).how == WRONG);
}

static bool run_divergent(divergence variant)
{
    launch_divergent(variant, nullptr);
    cudaDeviceSynchronize();
    return true;
}

static void divergence(void)
{
    for (const char *order : {FORWARD, REVERSED, RANDOM}) {
        CHECK_STOPPED(run_case({order}, [] { return run_divergent(TWO_BARRIERS); }),
                      "divergent_kernel<TWO_BARRIERS>", "block (", "different barriers",
                      "planted.cpp:", order);
        CHECK_STOPPED(run_case({order}, [] { return run_divergent(BARRIER_AGAINST_WARP); }),
                      "divergent_kernel<BARRIER_AGAINST_WARP>", "block (",
                      "not every thread comes to where the others wait",
                      "waits at __syncthreads", "waits at __shfl_xor_sync");
        CHECK_STOPPED(run_case({order}, [] { return run_divergent(TWO_SHUFFLES); }),
                      "different warp-wide operations", "waits at __shfl_xor_sync");
        CHECK_STOPPED(run_case({order}, [] { return run_divergent(OUTSIDE_MASK); }),
                      "divergent_kernel<OUTSIDE_MASK>", "block (", "not in its mask 0x0000ffff");
    }
}

static void stores_outside_shared_memory(void)
{
    const auto store = [](int index) {
        launch_shared_store(10, index, nullptr);
        return cudaDeviceSynchronize() == cudaSuccess;
    };

    CHECK_RIGHT(run_case({}, [&] { return store(9); }));
    CHECK_STOPPED(run_case({}, [&] { return store(10); }), "shared_store_kernel", "block (0, 0, 0)",
                  "at byte 40 of 40 bytes of dynamic shared memory");
    CHECK_STOPPED(run_case({}, [&] { return store(-1); }), "shared_store_kernel",
                  "before its dynamic shared memory");
}

/* Launches */

static void launch_limits(void)
{
    CHECK_RIGHT(run_case({}, [] {
        launch_too_large_block(nullptr);
        return cudaGetLastError() == cudaErrorInvalidConfiguration &&
               cudaGetLastError() == cudaSuccess;
    }));
    CHECK_RIGHT(run_case({}, [] {
        const int n = 64 << 10 >> 2;
        launch_shared_store(n, 0, nullptr);
        const bool refused = cudaGetLastError() == cudaErrorInvalidValue;
        const bool allowed = allow_shared_store(64 << 10) == cudaSuccess;
        launch_shared_store(n, n - 1, nullptr);
        return refused && allowed && cudaGetLastError() == cudaSuccess &&
               cudaDeviceSynchronize() == cudaSuccess;
    }));
    CHECK_RIGHT(run_case({}, [] {
        return allow_shared_store(228 << 10) == cudaErrorInvalidValue;
    }));
}

static void arguments_are_copied_at_the_launch(void)
{
    const auto fill_two = [] {
        const device_array<float> x(std::vector<float>(2));
        const cudaStream_t stream = new_stream();
        for (float value : {1.0f, 2.0f})
            launch_fill(x + (value == 2.0f), value, 1, stream);
        cudaStreamSynchronize(stream);
        cudaStreamDestroy(stream);
        return x.values() == std::vector<float>{1, 2};
    };

    CHECK(!some_seed_goes_wrong(fill_two));
}

static void memory_of_the_host(void)
{
    CHECK_STOPPED(run_case({}, [] {
        float x[1] = {};
        launch_fill(x, 1.0f, 1, nullptr);
        return true;
    }), "kernel fill_kernel on device 0 was given 0x", "memory of the host");
    CHECK_STOPPED(run_case({}, [] {
        float x[1] = {}, y[1];
        cudaMemcpy(y, x, sizeof x, cudaMemcpyHostToDevice);
        return true;
    }), "cudaMemcpy on device 0 was given 0x", "memory of the host");
    CHECK_STOPPED(run_case({}, [] {
        const device_array<float> x(1);
        float y[1];
        cudaMemcpyAsync(y, x, sizeof y, cudaMemcpyHostToHost, nullptr);
        return true;
    }), "cudaMemcpyAsync on device 0 reads memory of a device");
    CHECK_STOPPED(run_case({}, [] {
        float x[1];
        cudaMemsetAsync(x, 0, sizeof x, nullptr);
        return true;
    }), "cudaMemsetAsync on device 0 was given");
    CHECK_RIGHT(run_case({}, [] {       /* pinned memory is legal */
        void *pinned;
        cudaMallocHost(&pinned, sizeof(float));
        launch_fill(static_cast<float *>(pinned), 3.0f, 1, nullptr);
        cudaDeviceSynchronize();
        const bool right = *static_cast<float *>(pinned) == 3.0f;
        return cudaFreeHost(pinned) == cudaSuccess && right;
    }));
}

static void memory_of_another_device(void)
{
    CHECK_STOPPED(run_case({TWO_GPUS}, [] {
        const device_array<float> x(1);
        cudaSetDevice(1);
        launch_fill(x, 1.0f, 1, nullptr);
        return true;
    }), "kernel fill_kernel on device 1 was given 0x", "memory of device 0");
    CHECK_STOPPED(run_case({TWO_GPUS}, [] {     /* within a struct */
        const device_array<float> x(1);
        cudaSetDevice(1);
        const device_array<float> y(1);
        launch_add(y, x, 1, nullptr);
        return true;
    }), "kernel add_kernel on device 1 was given 0x", "memory of device 0");
    CHECK_STOPPED(run_case({TWO_GPUS}, [] {
        const device_array<float> x(1);
        float y[1] = {};
        cudaSetDevice(1);
        cudaMemcpy(x, y, sizeof y, cudaMemcpyHostToDevice);
        return true;
    }), "cudaMemcpy on device 1 was given 0x", "memory of device 0");
    CHECK_RIGHT(run_case({TWO_GPUS}, [] {
        const device_array<float> x(std::vector<float>{1});
        cudaSetDevice(1);
        const bool enabled = cudaDeviceEnablePeerAccess(0, 0) == cudaSuccess;
        launch_fill(x, 2.0f, 1, nullptr);
        cudaDeviceSynchronize();
        cudaSetDevice(0);
        return enabled && x.values() == std::vector<float>{2};
    }));
}

/* Memory */

static void beyond_an_allocation(void)
{
    CHECK_STOPPED(run_case({}, [] {
        const device_array<float> x(10);
        cudaMemset(x + 8, 0, 3 * sizeof(float));
        return true;
    }), "cudaMemset on device 0 was given 12 bytes at offset 32 of an allocation of 40");
}

static void fresh_memory_is_not_a_number(void)
{
    CHECK_RIGHT(run_case({}, [] {
        const float x = device_array<float>(1).values()[0];
        return x != x;
    }));
}

static void memory_is_limited_and_counted(void)
{
    CHECK_RIGHT(run_case({"OCTET_EMULATED_MEMORY=1000", TWO_GPUS}, [] {
        void *a, *b, *c;
        size_t available, total;
        const bool fits = cudaMalloc(&a, 600) == cudaSuccess;
        const bool full = cudaMalloc(&b, 401) == cudaErrorMemoryAllocation;
        cudaMemGetInfo(&available, &total);
        cudaSetDevice(1);
        const bool other = cudaMalloc(&c, 1000) == cudaSuccess;
        cudaFree(a);
        cudaFree(c);
        return fits && full && other && available == 400 && total == 1000 &&
               cudaFree(&a) == cudaErrorInvalidValue;
    }));
}

/* Streams */

/* y = 1 on a stream, x += y on another, which waits for the first one's event or does not. */
static bool add_on_a_second_stream(bool wait)
{
    const device_array<float> x(std::vector<float>{2}), y(std::vector<float>{0});
    const cudaStream_t first = new_stream(), second = new_stream();
    const cudaEvent_t filled = new_event();

    launch_fill(y, 1.0f, 1, first);
    cudaEventRecord(filled, first);
    if (wait)
        cudaStreamWaitEvent(second, filled, 0);
    launch_add(x, y, 1, second);
    cudaStreamSynchronize(second);
    cudaStreamSynchronize(first);
    const bool right = x.values()[0] == 3.0f;
    cudaEventDestroy(filled);
    cudaStreamDestroy(first);
    cudaStreamDestroy(second);
    return right;
}

static void missing_event_wait(void)
{
    CHECK(!some_seed_goes_wrong([] { return add_on_a_second_stream(true); }));
    CHECK(some_seed_goes_wrong([] { return add_on_a_second_stream(false); }));
}

/* The null stream does not wait for a non-blocking stream. */
static void missing_synchronize(void)
{
    const auto copy_back = [](bool synchronize, bool blocking) {
        const device_array<float> x(std::vector<float>{0});
        cudaStream_t stream;
        cudaStreamCreateWithFlags(&stream, blocking ? cudaStreamDefault : cudaStreamNonBlocking);
        launch_fill(x, 1.0f, 1, stream);
        if (synchronize)
            cudaStreamSynchronize(stream);
        const bool right = x.values()[0] == 1.0f;
        cudaStreamDestroy(stream);
        return right;
    };

    CHECK(!some_seed_goes_wrong([&] { return copy_back(true, false); }));
    CHECK(some_seed_goes_wrong([&] { return copy_back(false, false); }));
    CHECK(!some_seed_goes_wrong([&] { return copy_back(false, true); }));
}

/* A host buffer that is changed right after cudaMemcpyAsync. */
static void copies_from_the_host(void)
{
    const auto upload = [](bool pinned) {
        const device_array<float> x(1);
        const cudaStream_t stream = new_stream();
        void *buffer = nullptr;
        float pageable = 0;
        cudaMallocHost(&buffer, sizeof(float));
        float *const from = pinned ? static_cast<float *>(buffer) : &pageable;
        *from = 1;
        cudaMemcpyAsync(x, from, sizeof(float), cudaMemcpyHostToDevice, stream);
        *from = 2;
        cudaStreamSynchronize(stream);
        const bool right = x.values()[0] == 1.0f;
        cudaFreeHost(buffer);
        cudaStreamDestroy(stream);
        return right;
    };

    CHECK(!some_seed_goes_wrong([&] { return upload(false); }));
    CHECK(some_seed_goes_wrong([&] { return upload(true); }));
}

static void copies_to_the_host(void)
{
    const auto download = [](bool pinned, bool synchronize) {
        const device_array<float> x(std::vector<float>{1});
        const cudaStream_t stream = new_stream();
        void *buffer = nullptr;
        float pageable = 0;
        cudaMallocHost(&buffer, sizeof(float));
        float *const to = pinned ? static_cast<float *>(buffer) : &pageable;
        cudaMemcpyAsync(to, x, sizeof(float), cudaMemcpyDeviceToHost, stream);
        if (synchronize)
            cudaStreamSynchronize(stream);
        const bool right = *to == 1.0f;
        cudaFreeHost(buffer);
        cudaStreamDestroy(stream);
        return right;
    };

    CHECK(!some_seed_goes_wrong([&] { return download(false, false); }));
    CHECK(!some_seed_goes_wrong([&] { return download(true, true); }));
    CHECK(some_seed_goes_wrong([&] { return download(true, false); }));
}

static void events(void)
{
    const auto poll = [] {
        const device_array<float> x(1);
        const cudaStream_t stream = new_stream();
        cudaEvent_t start, end;
        float milliseconds = -1;
        cudaError_t state;
        cudaEventCreate(&start);
        cudaEventCreate(&end);
        const bool fresh = cudaEventQuery(start) == cudaSuccess;
        cudaEventRecord(start, stream);
        launch_fill(x, 1.0f, 1, stream);
        cudaEventRecord(end, stream);
        bool recorded = true;
        while ((state = cudaEventQuery(end)) == cudaErrorNotReady)
            recorded = recorded && cudaGetLastError() == cudaErrorNotReady;
        const bool timed = cudaEventElapsedTime(&milliseconds, start, end) == cudaSuccess;
        const bool right = x.values()[0] == 1.0f;
        cudaEventDestroy(start);
        cudaEventDestroy(end);
        cudaStreamDestroy(stream);
        return fresh && recorded && state == cudaSuccess && timed && milliseconds >= 0 && right;
    };

    CHECK(!some_seed_goes_wrong(poll));
    CHECK_RIGHT(run_case({}, [] {       /* without timing */
        const cudaEvent_t event = new_event();
        float milliseconds;
        cudaEventRecord(event, nullptr);
        return cudaEventElapsedTime(&milliseconds, event, event) == cudaErrorInvalidResourceHandle;
    }));
}

/* Two operations, each of which waits until both are there, as collectives do. */
struct meeting {
    std::atomic<int> arrived{0};
};

static cudaError_t enqueue_meeting(meeting *shared, cudaStream_t stream)
{
    auto here = std::make_shared<bool>(false);

    return emulator::enqueue(stream, "a meeting", [=] {
        if (!*here)
            shared->arrived++;
        *here = true;
        return shared->arrived == 2;
    });
}

static void one_thread_drives_two_devices(void)
{
    const auto meet = [] {
        meeting both;
        cudaStream_t streams[2];
        for (int device = 0; device < 2; device++) {
            cudaSetDevice(device);
            streams[device] = new_stream();
            enqueue_meeting(&both, streams[device]);
        }
        for (int device = 0; device < 2; device++) {
            cudaStreamSynchronize(streams[device]);
            cudaStreamDestroy(streams[device]);
        }
        return both.arrived == 2;
    };

    CHECK_RIGHT(run_case({TWO_GPUS}, meet));
    CHECK_RIGHT(run_case({TWO_GPUS, RANDOM_STREAMS}, meet));
}

struct worker {
    int device;
    meeting *shared;
    bool right;
};

static void *work(void *argument)
{
    worker *const self = static_cast<worker *>(argument);

    cudaSetDevice(self->device);
    self->right = all_kernels_are_right();
    const cudaStream_t stream = new_stream();
    enqueue_meeting(self->shared, stream);
    self->right = self->right && cudaStreamSynchronize(stream) == cudaSuccess;
    cudaStreamDestroy(stream);
    return nullptr;
}

static void a_thread_for_each_device(void)
{
    const auto run_workers = [] {
        meeting both;
        worker workers[2] = {{0, &both, false}, {1, &both, false}};
        pthread_t threads[2];
        for (int i = 0; i < 2; i++)
            pthread_create(&threads[i], nullptr, work, &workers[i]);
        for (pthread_t thread : threads)
            pthread_join(thread, nullptr);
        return workers[0].right && workers[1].right;
    };

    CHECK_RIGHT(run_case({TWO_GPUS}, run_workers));
    CHECK_RIGHT(run_case({TWO_GPUS, RANDOM_STREAMS, RANDOM}, run_workers));
}

/* x += y twice, the second time on a stream that joins the capture. */
static void graphs(void)
{
    const auto replay = [] {
        const device_array<float> x(std::vector<float>{0}), y(std::vector<float>{1});
        const cudaStream_t stream = new_stream(), other = new_stream();
        const cudaEvent_t fork = new_event(), join = new_event();
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
        launch_add(x, y, 1, stream);
        cudaEventRecord(fork, stream);
        cudaStreamWaitEvent(other, fork, 0);
        launch_add(x, y, 1, other);
        cudaEventRecord(join, other);
        cudaStreamWaitEvent(stream, join, 0);
        bool right = cudaStreamEndCapture(stream, &graph) == cudaSuccess;
        cudaDeviceSynchronize();
        right = right && x.values()[0] == 0.0f;     /* captured, not run */
        cudaGraphInstantiate(&exec, graph, 0);
        for (int i = 0; i < 3; i++)
            cudaGraphLaunch(exec, stream);
        cudaStreamSynchronize(stream);
        right = right && x.values()[0] == 6.0f;
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
        right = right && cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported &&
                cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated;
        return right;
    };

    CHECK(!some_seed_goes_wrong(replay));
}

/* Faults and settings */

static void faults(void)
{
    CHECK_RIGHT(run_case({"OCTET_EMULATOR_FAIL=malloc:2,event:1"}, [] {
        void *a, *b;
        cudaEvent_t event;
        const bool first = cudaMalloc(&a, 1) == cudaSuccess;
        const bool second = cudaMalloc(&b, 1) == cudaErrorMemoryAllocation;
        return first && second && cudaMalloc(&b, 1) == cudaSuccess &&
               cudaEventCreateWithFlags(&event, 0) == cudaErrorMemoryAllocation;
    }));
    CHECK_RIGHT(run_case({"OCTET_EMULATOR_FAIL=launch:fill_kernel:2,memcpy:3"}, [] {
        const device_array<float> x(std::vector<float>{0});     /* one copy */
        launch_add(x, x, 1, nullptr);
        launch_fill(x, 1.0f, 1, nullptr);
        const bool none = cudaGetLastError() == cudaSuccess;
        launch_fill(x, 2.0f, 1, nullptr);
        const bool failed = cudaGetLastError() == cudaErrorLaunchOutOfResources;
        const bool not_run = x.values()[0] == 1.0f;
        return none && failed && not_run && cudaMemset(x, 0, 4) == cudaErrorInvalidValue;
    }));
    CHECK_RIGHT(run_case({TWO_GPUS, "OCTET_EMULATOR_FAIL=malloc:1@1"}, [] {
        void *a;
        const bool other = cudaMalloc(&a, 1) == cudaSuccess;
        cudaSetDevice(1);
        return other && cudaMalloc(&a, 1) == cudaErrorMemoryAllocation;
    }));
}

static void a_lost_device(void)
{
    CHECK_RIGHT(run_case({TWO_GPUS, "OCTET_EMULATOR_FAIL=kernel:fill_kernel:1@1"}, [] {
        void *memory;
        cudaSetDevice(1);
        const device_array<float> x(1);
        const cudaStream_t stream = new_stream();
        launch_fill(x, 1.0f, 1, stream);
        bool right = cudaStreamSynchronize(stream) == cudaErrorIllegalAddress;
        right = right && cudaGetLastError() == cudaErrorIllegalAddress &&
                cudaGetLastError() == cudaErrorIllegalAddress &&
                cudaMalloc(&memory, 1) == cudaErrorIllegalAddress;
        cudaSetDevice(0);
        cudaGetLastError();
        return right && cudaGetLastError() == cudaSuccess && row_sums_are_right(SUMS_RIGHT);
    }));
}

static void devices(void)
{
    CHECK_RIGHT(run_case({"OCTET_EMULATED_GPUS=3", "OCTET_EMULATED_CAPABILITY=75"}, [] {
        cudaDeviceProp properties;
        int n_devices, n_multiprocessors;
        cudaGetDeviceCount(&n_devices);
        cudaGetDeviceProperties(&properties, 2);
        cudaDeviceGetAttribute(&n_multiprocessors, cudaDevAttrMultiProcessorCount, 2);
        return n_devices == 3 && strcmp(properties.name, "Emulated GPU 2") == 0 &&
               properties.major == 7 && properties.minor == 5 &&
               n_multiprocessors == properties.multiProcessorCount &&
               cudaSetDevice(3) == cudaErrorInvalidDevice;
    }));
    CHECK_RIGHT(run_case({"OCTET_EMULATED_GPUS=0"}, [] {
        int n_devices;
        return cudaGetDeviceCount(&n_devices) == cudaErrorNoDevice && n_devices == 0;
    }));
}

static void settings_that_make_no_sense(void)
{
    const auto start = [] { return all_kernels_are_right(); };

    CHECK_STOPPED(run_case({"OCTET_EMULATED_GPUS=many"}, start), "OCTET_EMULATED_GPUS=many",
                  "expected a number");
    CHECK_STOPPED(run_case({"OCTET_EMULATOR_ORDER=sideways"}, start), "sideways",
                  "expected one of forward reversed random");
    CHECK_STOPPED(run_case({"OCTET_EMULATOR_TIMEOUT=soon"}, start), "soon", "expected seconds");
    for (const char *rules : {"malloc", "malloc:0", "malloc:1@x", ":1", "malloc:1,,malloc:2"}) {
        const std::string setting = std::string("OCTET_EMULATOR_FAIL=") + rules;
        CHECK_STOPPED(run_case({setting.c_str()}, start), "expected KIND[:NAME]:N[@DEVICE]");
    }
}

static void a_seed_from_the_clock_is_printed(void)
{
    const outcome outcome = run_case({"OCTET_EMULATOR_SEED=any", RANDOM}, all_kernels_are_right);

    CHECK_RIGHT(outcome);
    CHECK(says(outcome, {"OCTET_EMULATOR_SEED="}));
}

int main(void)
{
    CASE(right_kernels_in_every_order);
    CASE(missing_barriers);
    CASE(missing_wait_for_an_async_copy);
    CASE(divergence);
    CASE(stores_outside_shared_memory);
    CASE(launch_limits);
    CASE(arguments_are_copied_at_the_launch);
    CASE(memory_of_the_host);
    CASE(memory_of_another_device);
    CASE(beyond_an_allocation);
    CASE(fresh_memory_is_not_a_number);
    CASE(memory_is_limited_and_counted);
    CASE(missing_event_wait);
    CASE(missing_synchronize);
    CASE(copies_from_the_host);
    CASE(copies_to_the_host);
    CASE(events);
    CASE(one_thread_drives_two_devices);
    CASE(a_thread_for_each_device);
    CASE(graphs);
    CASE(faults);
    CASE(a_lost_device);
    CASE(devices);
    CASE(settings_that_make_no_sense);
    CASE(a_seed_from_the_clock_is_printed);
    return check_finish();
}
