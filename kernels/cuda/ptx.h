/* ptx.h - the instructions that CUDA C++ has no names for: tensor cores, loads of their operands,
 * asynchronous copies to shared memory, the fast exponential. The emulator has its own of each.
 *
 * How the 32 lanes of a warp hold the parts of a product c (16, 8) += a (16, 16) b (16, 8), with
 * g = lane / 4 and q = lane % 4, two 16-bit numbers in a word, the lower column (of b: row) low:
 *
 *     a[0], a[1]    rows g, g + 8, columns 2q, 2q + 1      a[2], a[3]    the same, columns + 8
 *     b[0], b[1]    column g, rows 2q, 2q + 1 and 2q + 8, 2q + 9
 *     c[0], c[1]    row g, columns 2q, 2q + 1              c[2], c[3]    the same of row g + 8
 *
 * So the results of one product, rounded and paired, are the a of the next. PTX ISA, "Matrix
 * fragments for mma.m16n8k16 with floating point type" and "ldmatrix". */
#ifndef OCTET_CUDA_PTX_H
#define OCTET_CUDA_PTX_H

#include "kernels/cuda/vector.cuh"

#ifdef __CUDACC__

DEVICE_FUNCTION uint32_t ptx_shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* c += a b; the type of a and b is given by the last argument. */
DEVICE_FUNCTION void mma_m16n8k16(float c[4], const uint32_t a[4], const uint32_t b[2],
                                  __nv_bfloat16)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE_FUNCTION void mma_m16n8k16(float c[4], const uint32_t a[4], const uint32_t b[2], __half)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8 x 8 matrices of 16-bit numbers: lane i gives the address of row i % 8 of matrix i / 8, 16
 * bytes in shared memory, and gets in out[m] the columns 2q, 2q + 1 of matrix m's row g. */
DEVICE_FUNCTION void ldmatrix_x4(uint32_t out[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(ptx_shared_address(row)));
}

/* The same, every matrix transposed. */
DEVICE_FUNCTION void ldmatrix_x4_trans(uint32_t out[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(ptx_shared_address(row)));
}

/* Begin to copy 16 or 8 bytes, both sides aligned to as many. The bytes are there after
 * cp_async_wait() of the same thread; other threads need a barrier besides. */
DEVICE_FUNCTION void cp_async_16(void *shared, const void *global)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :: "r"(ptx_shared_address(shared)), "l"(global) : "memory");
}
DEVICE_FUNCTION void cp_async_8(void *shared, const void *global)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;"
                 :: "r"(ptx_shared_address(shared)), "l"(global) : "memory");
}

/* Make a group of the copies begun since the last one. */
DEVICE_FUNCTION void cp_async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Wait until at most `groups` of this thread's groups, the latest, are under way. */
template <int groups> DEVICE_FUNCTION void cp_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" :: "n"(groups) : "memory");
}

/* x, of which the compiler knows nothing any more. Otherwise it may see that x + constant is an
 * "or", and keep a register for each such address: instructions can only add constants. */
DEVICE_FUNCTION int opaque(int x)
{
    asm("" : "+r"(x));
    return x;
}

/* 2^x to about two units in the last place; results below 2^-126 become 0. */
DEVICE_FUNCTION float exp2_fast(float x)
{
    float result;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

#else

DEVICE_FUNCTION void mma_m16n8k16(float c[4], const uint32_t a[4], const uint32_t b[2],
                                  __nv_bfloat16)
{
    emulator::mma_m16n8k16_bf16(c, a, b);
}
DEVICE_FUNCTION void mma_m16n8k16(float c[4], const uint32_t a[4], const uint32_t b[2], __half)
{
    emulator::mma_m16n8k16_f16(c, a, b);
}
DEVICE_FUNCTION void ldmatrix_x4(uint32_t out[4], const void *row)
{
    emulator::ldmatrix_x4(out, row);
}
DEVICE_FUNCTION void ldmatrix_x4_trans(uint32_t out[4], const void *row)
{
    emulator::ldmatrix_x4_trans(out, row);
}
DEVICE_FUNCTION void cp_async_16(void *shared, const void *global)
{
    emulator::cp_async(shared, global, 16, 16);
}
DEVICE_FUNCTION void cp_async_8(void *shared, const void *global)
{
    emulator::cp_async(shared, global, 8, 8);
}
DEVICE_FUNCTION void cp_async_commit(void)
{
    emulator::cp_async_commit();
}
template <int groups> DEVICE_FUNCTION void cp_async_wait(void)
{
    emulator::cp_async_wait(groups);
}
DEVICE_FUNCTION int opaque(int x)
{
    return x;
}
DEVICE_FUNCTION float exp2_fast(float x)
{
    const float result = exp2f(x);

    return result < 0x1p-126f ? 0 : result;
}

#endif
#endif
