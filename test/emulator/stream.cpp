/* stream.cpp - CUDA's streams and events. */
#include "emulator/stream.h"

#include <stdint.h>
#include <time.h>

#include "emulator/runtime.h"

namespace emulator {

static bool is_null(cudaStream_t stream)
{
    return !stream || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
}

std::shared_ptr<queue> queue_of(cudaStream_t stream)
{
    return is_null(stream) ? null_queue(current_device()) : stream->queue;
}

cudaGraph_t capture_of(cudaStream_t stream)
{
    return is_null(stream) ? nullptr : stream->capture;
}

int stream_device(cudaStream_t stream)
{
    return is_null(stream) ? current_device() : stream->queue->device;
}

cudaError_t enqueue(cudaStream_t stream, const char *name, std::function<bool()> run)
{
    const cudaError_t lost = device_error(stream_device(stream));

    if (lost != cudaSuccess)
        return record_error(lost);
    if (capture_of(stream))
        stream->capture->nodes.push_back({name, std::move(run)});
    else
        submit(queue_of(stream), {name, std::move(run), {}});
    return cudaSuccess;
}

/* For calls that wait: they end a capture's hopes. */
static cudaError_t check_may_wait(cudaStream_t stream)
{
    if (!capture_of(stream))
        return cudaSuccess;
    stream->capture->broken = true;
    return record_error(cudaErrorStreamCaptureUnsupported);
}

static double now_in_milliseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) * 1e-6;
}

}

using namespace emulator;

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
    const cudaError_t lost = current_device_error();

    if (lost != cudaSuccess)
        return lost;
    if (fault_due("stream", ""))
        return record_error(cudaErrorMemoryAllocation);
    if (flags != cudaStreamDefault && flags != cudaStreamNonBlocking)
        return record_error(cudaErrorInvalidValue);
    *stream = new CUstream_st{queue_create(current_device(), flags == cudaStreamDefault), flags,
                              priority, nullptr};
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    if (!stream)
        return record_error(cudaErrorInvalidResourceHandle);
    queue_destroy(stream->queue);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority)
{
    *priority = stream ? stream->priority : 0;
    return cudaSuccess;
}

cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned *flags)
{
    *flags = stream ? stream->flags : static_cast<unsigned>(cudaStreamDefault);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    const cudaError_t error = check_may_wait(stream);

    if (error != cudaSuccess)
        return error;
    wait_for(queue_end(queue_of(stream)));
    return record_error(device_error(stream_device(stream)));
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    const cudaError_t error = check_may_wait(stream);

    if (error != cudaSuccess)
        return error;
    const bool done = ask(queue_end(queue_of(stream)));
    const cudaError_t lost = device_error(stream_device(stream));
    if (lost != cudaSuccess)
        return record_error(lost);
    return done ? cudaSuccess : record_error(cudaErrorNotReady);
}

cudaError_t cudaDeviceSynchronize(void)
{
    wait_for_device(current_device());
    return current_device_error();
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    return enqueue(stream, "cudaLaunchHostFunc", [=] {
        function(data);
        return true;
    });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    const cudaError_t lost = current_device_error();

    if (lost != cudaSuccess)
        return lost;
    if (fault_due("event", ""))
        return record_error(cudaErrorMemoryAllocation);
    *event = new CUevent_st{current_device(), flags, {}, nullptr, nullptr};
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    if (!event)
        return record_error(cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    const auto time = std::make_shared<double>();

    if (event->device != stream_device(stream))
        return record_error(cudaErrorInvalidResourceHandle);
    event->capture = capture_of(stream);
    if (event->capture)
        return cudaSuccess;
    const cudaError_t error = enqueue(stream, "cudaEventRecord", [time] {
        *time = now_in_milliseconds();
        return true;
    });
    if (error != cudaSuccess)
        return error;
    event->milliseconds = time;
    event->recorded = queue_end(queue_of(stream));
    return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned)
{
    return cudaEventRecord(event, stream);
}

/* A captured event makes its stream's graph capture the waiting stream as well. */
static cudaError_t join_capture(cudaStream_t stream, cudaGraph_t graph)
{
    if (!stream || (stream->capture && stream->capture != graph))
        return record_error(cudaErrorStreamCaptureIsolation);
    if (!stream->capture) {
        stream->capture = graph;
        graph->streams.push_back(stream);
    }
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    if (event->capture)
        return join_capture(stream, event->capture);
    if (capture_of(stream))
        return record_error(cudaErrorStreamCaptureIsolation);
    const cudaError_t lost = device_error(stream_device(stream));
    if (lost != cudaSuccess)
        return record_error(lost);
    submit(queue_of(stream), {"cudaStreamWaitEvent", [] { return true; }, {event->recorded}});
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    wait_for(event->recorded);
    return record_error(device_error(event->device));
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    const bool done = ask(event->recorded);
    const cudaError_t lost = device_error(event->device);

    if (lost != cudaSuccess)
        return record_error(lost);
    return done ? cudaSuccess : record_error(cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    if (!start->milliseconds || !end->milliseconds ||
        (start->flags | end->flags) & cudaEventDisableTiming)
        return record_error(cudaErrorInvalidResourceHandle);
    if (cudaEventQuery(start) != cudaSuccess || cudaEventQuery(end) != cudaSuccess)
        return record_error(cudaErrorNotReady);
    *milliseconds = static_cast<float>(*end->milliseconds - *start->milliseconds);
    return cudaSuccess;
}

}
