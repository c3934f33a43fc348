/* graph.cpp - CUDA graphs as lists of captured operations. */
#include "emulator/runtime.h"
#include "emulator/stream.h"

using namespace emulator;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    if (!stream)
        return record_error(cudaErrorStreamCaptureUnsupported);
    if (stream->capture)
        return record_error(cudaErrorIllegalState);
    stream->capture = new CUgraph_st{{}, {stream}, false};
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    cudaGraph_t captured = capture_of(stream);

    *graph = nullptr;
    if (!captured)
        return record_error(cudaErrorIllegalState);
    if (captured->streams.front() != stream)
        return record_error(cudaErrorStreamCaptureUnmatched);
    for (cudaStream_t member : captured->streams)
        member->capture = nullptr;
    captured->streams.clear();
    if (captured->broken) {
        delete captured;
        return record_error(cudaErrorStreamCaptureInvalidated);
    }
    *graph = captured;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
    const cudaGraph_t graph = capture_of(stream);

    *status = !graph          ? cudaStreamCaptureStatusNone
              : graph->broken ? cudaStreamCaptureStatusInvalidated
                              : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    *exec = new CUgraphExec_st{graph->nodes};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    for (const CUgraph_st::node &node : exec->nodes) {
        const cudaError_t error = enqueue(stream, node.name, node.run);
        if (error != cudaSuccess)
            return error;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t)
{
    return current_device_error();
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

}
