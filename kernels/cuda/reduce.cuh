/* reduce.cuh - sums and maxima over a warp or a block, in an order that never changes.
 *
 * Every thread of the warp or block calls them and gets the result. Blocks are whole warps, their
 * threads numbered x first. */
#ifndef OCTET_CUDA_REDUCE_CUH
#define OCTET_CUDA_REDUCE_CUH

#include "kernels/cuda/vector.cuh"

#define ALL_LANES 0xffffffffu

DEVICE_FUNCTION int warp_index(void)
{
    return (int)((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) / LANES);
}
DEVICE_FUNCTION int warps_in_block(void)
{
    return (int)(blockDim.x * blockDim.y * blockDim.z / LANES);
}

template <typename T> DEVICE_FUNCTION T warp_sum(T v)
{
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        v += __shfl_xor_sync(ALL_LANES, v, distance);
    return v;
}

/* A NaN among numbers is overlooked. */
DEVICE_FUNCTION float warp_max(float v)
{
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, distance));
    return v;
}

/* N sums at once, in place. */
template <typename T, int N> DEVICE_FUNCTION void block_sums(T (&v)[N])
{
    __shared__ T partials[N][LANES];
    const int lane = lane_index();

#pragma unroll
    for (int i = 0; i < N; i++)
        v[i] = warp_sum(v[i]);
    __syncthreads();        /* the partials of the call before have been read */
    if (lane == 0)
#pragma unroll
        for (int i = 0; i < N; i++)
            partials[i][warp_index()] = v[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++)
        v[i] = warp_sum(lane < warps_in_block() ? partials[i][lane] : T(0));
}

template <typename T> DEVICE_FUNCTION T block_sum(T v)
{
    T sums[1] = {v};

    block_sums(sums);
    return sums[0];
}

DEVICE_FUNCTION float block_max(float v)
{
    __shared__ float partials[LANES];

    v = warp_max(v);
    __syncthreads();
    if (lane_index() == 0)
        partials[warp_index()] = v;
    __syncthreads();
    return warp_max(partials[lane_index() < warps_in_block() ? lane_index() : 0]);
}

#endif
