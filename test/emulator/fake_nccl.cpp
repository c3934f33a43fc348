/* fake_nccl.cpp - the part of NCCL that Octet uses, between emulated devices of one process.
 *
 * A collective is over when every rank's stream has come to it; the last one to come adds up all
 * ranks' data, in rank order. Where NCCL would hang or give wrong results, the ranks get an
 * asynchronous error that says why: calls that do not agree, and ranks that are still missing when
 * nothing has moved on any device for OCTET_EMULATOR_TIMEOUT seconds (settings.h). A program that
 * takes no notice is stopped after twice that time, and one that allocates or frees memory of a
 * device while a collective is under way there, which may wait for ever, at once.
 *
 * OCTET_EMULATOR_FAIL kinds (fault.h), NAME being the function:
 *     nccl          the call itself fails with ncclSystemError (any function that can fail)
 *     nccl-async    ncclAllReduce: its rank gets an asynchronous error and never finishes
 *     nccl-lost     ncclAllReduce: its rank never comes to the collective
 *     nccl-hang     ncclCommInitAll, ncclCommAbort: never returns */
#include <nccl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "emulator/fault.h"
#include "emulator/runtime.h"
#include "emulator/settings.h"

namespace {

using clock_type = std::chrono::steady_clock;

struct request {
    const void *from;
    void *to;
    size_t count;
    ncclDataType_t type;
    ncclRedOp_t op;
};

struct collective {
    std::vector<request> requests;      /* one for each rank; count is valid where it has come */
    std::vector<bool> has_come;
    int n_come = 0, n_gone = 0;
    clock_type::time_point first_came;
    bool agreed = true, late = false, complete = false;
};

/* What the communicators of one ncclCommInitAll share. */
struct clique {
    std::mutex mutex;
    std::condition_variable changed;
    std::map<uint64_t, collective> collectives;     /* those that some rank is at */
    std::vector<uint64_t> n_queued, n_come, n_done; /* collectives, for each rank */
    std::vector<ncclResult_t> errors;               /* asynchronous, for each rank */
    std::vector<bool> aborted;
    std::string last_error;
    int n_open;
    ncclComm *communicators;

    int size() const { return static_cast<int>(errors.size()); }
};

}

struct ncclComm {
    std::shared_ptr<clique> group;
    int rank = 0, device = 0;
    std::atomic<bool> in_use{false}, closed{false};
};

namespace {

/* Collectives that are neither over nor aborted, for each device. */
std::atomic<int> under_way[64];

/* When an operation has last been seen to end, on any device. */
clock_type::time_point last_move()
{
    static std::mutex mutex;
    static uint64_t n_seen;
    static clock_type::time_point seen;
    const std::lock_guard<std::mutex> lock(mutex);
    const uint64_t n_done = emulator::operations_done();

    if (n_done != n_seen)
        seen = clock_type::now();
    n_seen = n_done;
    return seen;
}

/* For the time of a call: NCCL lets only one thread use a communicator. */
class usage {
public:
    usage(ncclComm *communicator, const char *function) : used(communicator)
    {
        if (used->closed)
            emulator::stop("%s: the communicator of rank %d is closed", function, used->rank);
        if (used->in_use.exchange(true))
            emulator::stop("%s: another thread is using the communicator of rank %d", function,
                           used->rank);
    }
    ~usage() { used->in_use = false; }
    usage(const usage &) = delete;
    usage &operator=(const usage &) = delete;

private:
    ncclComm *used;
};

std::string describe(int rank, const request &r)
{
    return "rank " + std::to_string(rank) + ": " + std::to_string(r.count) +
           (r.type == ncclFloat64 ? " float64" : r.type == ncclFloat32 ? " float32" : " others") +
           (r.op == ncclSum ? ", sum" : ", not sum");
}

/* The same error for every rank; the group is locked. */
void fail_all(clique &group, ncclResult_t error, const std::string &why)
{
    group.last_error = why;
    for (ncclResult_t &each : group.errors)
        if (each == ncclSuccess)
            each = error;
    fprintf(stderr, "emulator: NCCL: %s\n", why.c_str());
}

template <class T> void add_up(const collective &all)
{
    const size_t count = all.requests[0].count;

    for (size_t i = 0; i < count; i++) {
        T sum = static_cast<const T *>(all.requests[0].from)[i];
        for (size_t rank = 1; rank < all.requests.size(); rank++)
            sum += static_cast<const T *>(all.requests[rank].from)[i];
        for (const request &r : all.requests)
            static_cast<T *>(r.to)[i] = sum;
    }
}

void come(clique &group, int rank, uint64_t number, collective &here, const request &request)
{
    const size_t index = static_cast<size_t>(rank);

    if (here.n_come == 0)
        here.first_came = clock_type::now();
    here.requests[index] = request;
    here.has_come[index] = true;
    here.n_come++;
    if (group.n_come[index]++ != number) {
        here.agreed = false;
        fail_all(group, ncclInvalidUsage, "rank " + std::to_string(rank) +
                 " runs its collectives in another order than it queued them");
    }
    for (int other = 0; other < group.size(); other++) {
        const struct request &theirs = here.requests[static_cast<size_t>(other)];
        if (!here.has_come[static_cast<size_t>(other)] || !here.agreed ||
            (theirs.count == request.count && theirs.type == request.type &&
             theirs.op == request.op))
            continue;
        const std::string mine = describe(rank, request), their = describe(other, theirs);
        here.agreed = false;
        fail_all(group, ncclInvalidUsage, "ncclAllReduce number " + std::to_string(number + 1) +
                 ": the ranks do not agree: " + (rank < other ? mine + "; " + their :
                                                                their + "; " + mine));
    }
    if (here.agreed && here.n_come == group.size()) {
        if (request.type == ncclFloat64)
            add_up<double>(here);
        else
            add_up<float>(here);
        here.complete = true;
    }
}

/* Report what has waited too long; the group is locked. */
void check_time(clique &group)
{
    const double limit = emulator::environment().timeout;

    for (auto &[number, here] : group.collectives) {
        const std::chrono::duration<double> waited =
            clock_type::now() - std::max(here.first_came, last_move());
        if (here.complete || here.n_come == 0 || waited.count() < limit)
            continue;
        std::string missing;
        for (size_t rank = 0; rank < here.has_come.size(); rank++)
            if (!here.has_come[rank])
                missing += (missing.empty() ? " " : ", ") + std::to_string(rank);
        if (waited.count() > 2 * limit)
            emulator::stop("ncclAllReduce number %llu is not over, and nothing has moved for %g s; "
                           "missing ranks:%s",
                           static_cast<unsigned long long>(number + 1), waited.count(),
                           missing.empty() ? " none" : missing.c_str());
        if (!here.late && here.agreed && !missing.empty())
            fail_all(group, ncclRemoteError, "ncclAllReduce number " + std::to_string(number + 1) +
                     ": missing ranks:" + missing);
        here.late = true;
    }
}

/* The work of one rank's stream: false while others are missing. */
bool take_part(clique &group, int rank, uint64_t number, const request &request)
{
    const std::lock_guard<std::mutex> lock(group.mutex);
    const size_t index = static_cast<size_t>(rank);

    if (group.aborted[index])
        return true;
    collective &here = group.collectives[number];
    if (here.requests.empty()) {
        here.requests.resize(group.errors.size());
        here.has_come.resize(group.errors.size());
    }
    if (!here.has_come[index])
        come(group, rank, number, here, request);
    check_time(group);
    if (!here.complete)
        return false;
    under_way[group.communicators[index].device]--;
    group.n_done[index]++;
    if (++here.n_gone == group.size())
        group.collectives.erase(number);
    return true;
}

/* A communicator's memory goes when the last one of its group is closed. */
void close(ncclComm *communicator)
{
    const std::shared_ptr<clique> group = communicator->group;
    bool last;

    {
        const std::lock_guard<std::mutex> lock(group->mutex);
        communicator->closed = true;
        last = --group->n_open == 0;
    }
    if (last)
        delete[] group->communicators;
}

}

void emulator::require_no_collective(const char *call, int device)
{
    if (under_way[device] > 0)
        stop("%s on device %d while a collective is under way there: it may wait for other ranks "
             "for ever", call, device);
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const texts[] = {
        "no error", "unhandled cuda error", "unhandled system error", "internal error",
        "invalid argument", "invalid usage", "remote process exited or there was a network error",
        "NCCL operation in progress",
    };

    return result < ncclNumResults ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t communicator)
{
    static thread_local std::string text;

    text.clear();
    if (communicator) {
        const std::lock_guard<std::mutex> lock(communicator->group->mutex);
        text = communicator->group->last_error;
    }
    return text.c_str();
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclCommInitAll(ncclComm_t *communicators, int size, const int *devices)
{
    auto group = std::make_shared<clique>();
    int n_devices = 0;

    if (emulator::fault_due("nccl", "ncclCommInitAll", 0))
        return ncclSystemError;
    if (emulator::fault_due("nccl-hang", "ncclCommInitAll", 0))
        for (;;)
            pause();
    (void)cudaGetDeviceCount(&n_devices);
    for (int i = 0; i < size; i++) {
        if (devices[i] < 0 || devices[i] >= n_devices)
            return ncclInvalidArgument;
        for (int j = 0; j < i; j++)
            if (devices[j] == devices[i])
                return ncclInvalidUsage;
    }
    const size_t n = static_cast<size_t>(size);
    group->n_queued.resize(n);
    group->n_come.resize(n);
    group->n_done.resize(n);
    group->errors.resize(n, ncclSuccess);
    group->aborted.resize(n);
    group->n_open = size;
    group->communicators = new ncclComm[n];
    for (int i = 0; i < size; i++) {
        communicators[i] = &group->communicators[i];
        communicators[i]->group = group;
        communicators[i]->rank = i;
        communicators[i]->device = devices[i];
    }
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t communicator, cudaStream_t stream)
{
    const usage now(communicator, "ncclAllReduce");
    const int rank = communicator->rank, device = communicator->device;
    const size_t index = static_cast<size_t>(rank), bytes = count * (type == ncclFloat64 ? 8 : 4);
    const std::shared_ptr<clique> group = communicator->group;
    const request request = {from, to, count, type, op};
    uint64_t number;

    if (emulator::fault_due("nccl", "ncclAllReduce", device))
        return ncclSystemError;
    if ((type != ncclFloat32 && type != ncclFloat64) || op != ncclSum ||
        emulator::stream_device(stream) != device)
        return ncclInvalidArgument;
    emulator::require_device_memory("ncclAllReduce", from, bytes, device);
    emulator::require_device_memory("ncclAllReduce", to, bytes, device);
    const bool fails = emulator::fault_due("nccl-async", "ncclAllReduce", device);
    const bool lost = emulator::fault_due("nccl-lost", "ncclAllReduce", device) || fails;
    {
        const std::lock_guard<std::mutex> lock(group->mutex);
        number = group->n_queued[index]++;
        if (fails) {
            group->errors[index] = ncclRemoteError;
            group->last_error = "an error that was asked for";
        }
    }
    under_way[device]++;
    const cudaError_t error = emulator::enqueue(stream, "ncclAllReduce", [=] {
        if (!lost)
            return take_part(*group, rank, number, request);
        const std::lock_guard<std::mutex> lock(group->mutex);
        return static_cast<bool>(group->aborted[index]);
    });
    return error == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t *error)
{
    const usage now(communicator, "ncclCommGetAsyncError");
    clique &group = *communicator->group;
    const std::lock_guard<std::mutex> lock(group.mutex);

    check_time(group);
    *error = group.errors[static_cast<size_t>(communicator->rank)];
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t communicator)
{
    const std::shared_ptr<clique> group = communicator->group;
    const size_t index = static_cast<size_t>(communicator->rank);

    {
        const usage now(communicator, "ncclCommDestroy");
        const std::lock_guard<std::mutex> lock(group->mutex);
        if (group->n_done[index] != group->n_queued[index])
            emulator::stop("ncclCommDestroy: rank %d has a collective pending, so this would hang",
                           communicator->rank);
    }
    const bool fails = emulator::fault_due("nccl", "ncclCommDestroy", communicator->device);
    close(communicator);
    return fails ? ncclSystemError : ncclSuccess;
}

/* With a collective pending it returns only when all ranks abort. */
ncclResult_t ncclCommAbort(ncclComm_t communicator)
{
    const std::shared_ptr<clique> group = communicator->group;
    const size_t index = static_cast<size_t>(communicator->rank);
    const auto all_abort = [&group] {
        return std::find(group->aborted.begin(), group->aborted.end(), false) ==
               group->aborted.end();
    };

    {
        const usage now(communicator, "ncclCommAbort");
        std::unique_lock<std::mutex> lock(group->mutex);
        if (emulator::fault_due("nccl", "ncclCommAbort", communicator->device))
            return ncclSystemError;
        group->aborted[index] = true;
        under_way[communicator->device] -= static_cast<int>(group->n_queued[index] -
                                                            group->n_done[index]);
        group->changed.notify_all();
        if (group->n_done != group->n_queued)
            group->changed.wait(lock, all_abort);
        if (emulator::fault_due("nccl-hang", "ncclCommAbort", communicator->device))
            group->changed.wait(lock, [] { return false; });
    }
    close(communicator);
    return ncclSuccess;
}
