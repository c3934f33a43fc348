/* stream.h - the types behind CUDA's handles of streams, events and graphs. */
#ifndef OCTET_EMULATOR_STREAM_H
#define OCTET_EMULATOR_STREAM_H

#include <string>
#include <vector>

#include "emulator/scheduler.h"

struct CUstream_st {
    std::shared_ptr<emulator::queue> queue;
    unsigned flags;
    int priority;
    cudaGraph_t capture;        /* takes what is queued, while the stream is captured */
};

struct CUevent_st {
    int device;
    unsigned flags;
    emulator::point recorded;
    std::shared_ptr<double> milliseconds;   /* when that was */
    cudaGraph_t capture;        /* recorded on a captured stream */
};

/* A captured piece of work, run again in the order in which it was queued: less freedom than a GPU
 * takes between the streams of one graph. */
struct CUgraph_st {
    struct node {
        const char *name;
        std::function<bool()> run;
    };
    std::vector<node> nodes;
    std::vector<cudaStream_t> streams;      /* captured; the first one began */
    bool broken;                            /* by a call that a capture does not allow */
};

struct CUgraphExec_st {
    std::vector<CUgraph_st::node> nodes;
};

namespace emulator {

std::shared_ptr<queue> queue_of(cudaStream_t stream);
/* The graph that captures the stream, or NULL. */
cudaGraph_t capture_of(cudaStream_t stream);

}

#endif
