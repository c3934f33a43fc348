/* stall.h - work on a stream that is not over before the test says so: a GPU that hangs. */
#ifndef OCTET_TEST_STALL_H
#define OCTET_TEST_STALL_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Until *until, which is set with __atomic_store_n, is not 0. */
void stream_stall(cudaStream_t stream, const int *until);

#ifdef __cplusplus
}
#endif
#endif
