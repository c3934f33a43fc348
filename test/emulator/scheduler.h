/* scheduler.h - the emulated devices' queues of work, and which operation runs next.
 *
 * There are no threads of its own: an operation runs on a host thread that waits, asks, or has just
 * queued something. Each queue keeps its order; among queues any order may be taken that the points
 * to wait for allow. */
#ifndef OCTET_EMULATOR_SCHEDULER_H
#define OCTET_EMULATOR_SCHEDULER_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include <deque>
#include <functional>
#include <memory>
#include <vector>

namespace emulator {

struct queue;

/* Reached when the first `number` operations of a queue are done; without a queue, at once. */
struct point {
    std::shared_ptr<queue> on;
    uint64_t number = 0;
};

struct operation {
    const char *name;
    std::function<bool()> run;      /* false: not yet, try again when something has changed */
    std::vector<point> after;
};

struct queue {
    int device = 0;
    bool blocking = true;           /* waits for the null stream's work, and that for its own */
    std::deque<operation> operations;
    uint64_t submitted = 0, completed = 0;
    bool running = false;           /* the first operation, on some thread */
    uint64_t tried = 0;             /* the change after which the first operation said "not yet" */
};

std::shared_ptr<queue> queue_create(int device, bool blocking);
/* When all its work is done. */
void queue_destroy(const std::shared_ptr<queue> &queue);
std::shared_ptr<queue> null_queue(int device);

void submit(const std::shared_ptr<queue> &queue, operation operation);
/* The end of what has been submitted so far. */
point queue_end(const std::shared_ptr<queue> &queue);

/* Run what is needed until the point is reached. */
void wait_for(const point &point);
void wait_for_device(int device);
/* Whether it is reached; gives the devices a chance to get on. */
bool ask(const point &point);

/* From now on every call on the device returns the error, and its queued work does nothing. */
void fail_device(int device, cudaError_t error);
cudaError_t device_error(int device);

}

#endif
