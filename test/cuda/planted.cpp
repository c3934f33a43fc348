/* planted.cpp - mistakes planted into kernels and collectives behind their back, for test_planted.
 *
 * The linker's --wrap (test/emulator/meson.build) makes the calls below come here first.
 * OCTET_PLANTED names the one mistake that is made; without it all calls go on as they are. Apart
 * from that the programs are the tests of the backend, which have to fail then. */
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

#include "emulator/cuda_emulator.h"
#include "kernels/cuda/cuda_ops.h"

/* "NAME", or "NAME:N" where a mistake can be made at several places. */
struct mistake {
    std::string name;
    int place = 0;
};

static mistake read_mistake(void)
{
    const char *text = getenv("OCTET_PLANTED");
    const std::string all = text ? text : "";
    const size_t colon = all.find(':');
    mistake read;

    read.name = all.substr(0, colon);
    if (colon != std::string::npos)
        read.place = atoi(all.c_str() + colon + 1);
    return read;
}

static const mistake planted = read_mistake();

/* Whether this is the one; says so at the first time. */
static bool is_planted(const char *name)
{
    static std::once_flag said;

    if (planted.name != name)
        return false;
    std::call_once(said, [name] { fprintf(stderr, "planted: %s\n", name); });
    return true;
}

/* Of the places where it can be made, in the order in which kernels come to them, the N-th. */
static bool is_planted_at(const char *name, emulator::place where)
{
    static std::mutex mutex;
    static std::vector<emulator::place> places;
    static std::once_flag said;

    if (planted.name != name)
        return false;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = std::find_if(places.begin(), places.end(), [&](const auto &place) {
        return place.line == where.line && strcmp(place.file, where.file) == 0;
    });
    const auto number = found - places.begin() + 1;
    if (found == places.end())
        places.push_back(where);
    if (number != planted.place)
        return false;
    std::call_once(said, [&] {
        fprintf(stderr, "planted: %s at %s:%d\n", name, where.file, where.line);
    });
    return true;
}

/* What the linker calls the functions of the emulator. */
#define BLOCK_BARRIER(prefix) prefix##_ZN8emulator13block_barrierEiPKcNS_5placeE
#define WARP_COLLECTIVE(prefix) prefix##_ZN8emulator15warp_collectiveEjPvPFvPKS0_jEPKcNS_5placeE
#define CP_ASYNC_WAIT(prefix) prefix##_ZN8emulator13cp_async_waitEi
#define SUBMIT_LAUNCH(prefix) prefix##_ZN8emulator13submit_launchENS_6launchESt8functionIFvvEE

extern "C" {

/* Kernels */

int BLOCK_BARRIER(__real_)(int value, const char *name, emulator::place where);
int BLOCK_BARRIER(__wrap_)(int value, const char *name, emulator::place where);
int BLOCK_BARRIER(__wrap_)(int value, const char *name, emulator::place where)
{
    if (strcmp(name, "__syncthreads") == 0 && is_planted_at("missing __syncthreads", where))
        return 0;
    return BLOCK_BARRIER(__real_)(value, name, where);
}

void WARP_COLLECTIVE(__real_)(unsigned mask, void *argument, emulator::warp_function function,
                              const char *name, emulator::place where);
void WARP_COLLECTIVE(__wrap_)(unsigned mask, void *argument, emulator::warp_function function,
                              const char *name, emulator::place where);
void WARP_COLLECTIVE(__wrap_)(unsigned mask, void *argument, emulator::warp_function function,
                              const char *name, emulator::place where)
{
    if (!function && is_planted_at("missing __syncwarp", where))
        return;
    if (function && emulator::self->lane >= 16 && is_planted("shuffle that half a warp skips"))
        return;
    WARP_COLLECTIVE(__real_)(mask, argument, function, name, where);
}

void CP_ASYNC_WAIT(__real_)(int groups_in_flight);
void CP_ASYNC_WAIT(__wrap_)(int groups_in_flight);
void CP_ASYNC_WAIT(__wrap_)(int groups_in_flight)
{
    if (!is_planted("missing cp.async wait"))
        CP_ASYNC_WAIT(__real_)(groups_in_flight);
}

void SUBMIT_LAUNCH(__real_)(emulator::launch launch, std::function<void()> body);
void SUBMIT_LAUNCH(__wrap_)(emulator::launch launch, std::function<void()> body);
void SUBMIT_LAUNCH(__wrap_)(emulator::launch launch, std::function<void()> body)
{
    if (launch.shared_bytes > 0 && is_planted("store beyond shared memory"))
        launch.shared_bytes -= 64;
    if (launch.grid.x > 1 && is_planted("read of memory never written"))
        launch.grid.x--;
    SUBMIT_LAUNCH(__real_)(std::move(launch), std::move(body));
}

void __real_cuda_optimizer_ops(struct op_table *table);
void __wrap_cuda_optimizer_ops(struct op_table *table);
void __wrap_cuda_optimizer_ops(struct op_table *table)
{
    static decltype(table->cast) right;

    __real_cuda_optimizer_ops(table);
    right = table->cast;
    table->cast = [](struct device *dev, const struct tensor *out, const struct tensor *x) {
        const int64_t n = tensor_count(x) + is_planted("store beyond an array");
        const struct tensor longer_out = tensor_1d(out->data, out->dtype, n);
        const struct tensor longer_x = tensor_1d(x->data, x->dtype, n);
        return right(dev, &longer_out, &longer_x);
    };
}

/* Collectives. Rank r is GPU r here. */

struct comm;

static bool is_rank_1(void)
{
    int device = 0;

    (void)cudaGetDevice(&device);
    return device == 1;
}

cudaError_t __real_cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t __wrap_cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t __wrap_cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    if (is_planted("missing event wait before a collective"))
        return cudaSuccess;
    return __real_cudaStreamWaitEvent(stream, event, flags);
}

enum status __real_cuda_comm_wait(struct comm *comm);
enum status __wrap_cuda_comm_wait(struct comm *comm);
enum status __wrap_cuda_comm_wait(struct comm *comm)
{
    return is_planted("missing wait after a collective") ? OK : __real_cuda_comm_wait(comm);
}

/* Each second tensor goes before the first one. */
enum status __real_cuda_comm_all_reduce(struct comm *comm, const struct tensor *x);
enum status __wrap_cuda_comm_all_reduce(struct comm *comm, const struct tensor *x);
enum status __wrap_cuda_comm_all_reduce(struct comm *comm, const struct tensor *x)
{
    static struct tensor held;
    static bool holds;

    if (!is_rank_1() || !is_planted("buckets in another order on one rank"))
        return __real_cuda_comm_all_reduce(comm, x);
    holds = !holds;
    if (holds) {
        held = *x;
        return OK;
    }
    TRY(__real_cuda_comm_all_reduce(comm, x));
    return __real_cuda_comm_all_reduce(comm, &held);
}

ncclResult_t __real_ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                                  ncclRedOp_t op, ncclComm_t communicator, cudaStream_t stream);
ncclResult_t __wrap_ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                                  ncclRedOp_t op, ncclComm_t communicator, cudaStream_t stream);
ncclResult_t __wrap_ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                                  ncclRedOp_t op, ncclComm_t communicator, cudaStream_t stream)
{
    void *memory;

    if (count > 1 && is_rank_1() && is_planted("another count on one rank"))
        count--;
    if (type == ncclFloat32 && is_rank_1() && is_planted("another type on one rank"))
        type = ncclFloat64;
    const ncclResult_t result = __real_ncclAllReduce(from, to, count, type, op, communicator,
                                                     stream);
    if (is_planted("allocation between collectives"))
        (void)cudaMalloc(&memory, 1);
    return is_planted("result of a collective not looked at") ? ncclSuccess : result;
}

ncclResult_t __real_ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t *error);
ncclResult_t __wrap_ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t *error);
ncclResult_t __wrap_ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t *error)
{
    const ncclResult_t result = __real_ncclCommGetAsyncError(communicator, error);

    if (is_planted("asynchronous errors not looked at"))
        *error = ncclSuccess;
    return result;
}

}
