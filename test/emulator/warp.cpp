/* warp.cpp - the tensor-core product, ldmatrix and cp.async of kernels/cuda/ptx.h. */
#include <cstring>

#include "emulator/block.h"

namespace emulator {

namespace {

constexpr unsigned FULL_WARP = 0xffffffffu;

struct product {
    float *d;
    const uint32_t *a, *b;
};

float bf16_value(uint16_t bits)
{
    return bit_copy<float>(static_cast<uint32_t>(bits) << 16);
}

float f16_value(uint16_t bits)
{
    return __half2float(bit_copy<__half>(bits));
}

/* D (16, 8) += A (16, 16) B (16, 8). Lane l holds, for its group g = l / 4 and t = l % 4 * 2:
 * A[g][t..], A[g+8][t..], A[g][t+8..], A[g+8][t+8..]; B[t..][g], B[t+8..][g]; D[g][t..],
 * D[g+8][t..], ".." meaning this element and the next. */
template <float (*value)(uint16_t)> void multiply(void *const lanes[32], unsigned)
{
    float a[16][16], b[16][8], d[16][8] = {};

    for (int lane = 0; lane < 32; lane++) {
        const product &p = *static_cast<product *>(lanes[lane]);
        const int g = lane / 4, t = lane % 4 * 2;
        for (int half = 0; half < 2; half++) {
            const auto element = [&](uint32_t pair) {
                return value(static_cast<uint16_t>(pair >> 16 * half));
            };
            for (int i = 0; i < 4; i++)
                a[g + i % 2 * 8][t + i / 2 * 8 + half] = element(p.a[i]);
            for (int i = 0; i < 2; i++)
                b[t + i * 8 + half][g] = element(p.b[i]);
        }
    }
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++)
                d[i][j] += a[i][k] * b[k][j];
    for (int lane = 0; lane < 32; lane++) {
        const product &p = *static_cast<product *>(lanes[lane]);
        for (int i = 0; i < 4; i++)
            p.d[i] += d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}

struct matrix_load {
    uint32_t *out;
    const void *row;
};

/* Lane l receives elements (l / 4, l % 4 * 2) and the next of each 8x8 matrix, or of its
 * transpose. */
template <int n_matrices, bool transpose> void load_matrices(void *const lanes[32], unsigned)
{
    for (int m = 0; m < n_matrices; m++) {
        uint16_t matrix[8][8];
        for (int i = 0; i < 8; i++)
            memcpy(matrix[i], static_cast<matrix_load *>(lanes[m * 8 + i])->row, 16);
        for (int lane = 0; lane < 32; lane++) {
            const int i = lane / 4, j = lane % 4 * 2;
            const uint32_t low = transpose ? matrix[j][i] : matrix[i][j];
            const uint32_t high = transpose ? matrix[j + 1][i] : matrix[i][j + 1];
            static_cast<matrix_load *>(lanes[lane])->out[m] = low | high << 16;
        }
    }
}

template <int n_matrices, bool transpose>
void ldmatrix(uint32_t *out, const void *row, place where)
{
    matrix_load load = {out, row};

    if (self->lane < n_matrices * 8) {
        if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
            stop_in_kernel("%s:%d: ldmatrix of a row that is not 16-byte aligned", where.file,
                           where.line);
        if (shared_access)
            shared_access(row, 16, false);
    }
    warp_collective(FULL_WARP, &load, load_matrices<n_matrices, transpose>, "ldmatrix", where);
}

}

void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], place where)
{
    product p = {d, a, b};

    warp_collective(FULL_WARP, &p, multiply<bf16_value>, "mma", where);
}

void mma_m16n8k16_f16(float d[4], const uint32_t a[4], const uint32_t b[2], place where)
{
    product p = {d, a, b};

    warp_collective(FULL_WARP, &p, multiply<f16_value>, "mma", where);
}

void ldmatrix_x2(uint32_t out[2], const void *row, place where)
{
    ldmatrix<2, false>(out, row, where);
}

void ldmatrix_x4(uint32_t out[4], const void *row, place where)
{
    ldmatrix<4, false>(out, row, where);
}

void ldmatrix_x2_trans(uint32_t out[2], const void *row, place where)
{
    ldmatrix<2, true>(out, row, where);
}

void ldmatrix_x4_trans(uint32_t out[4], const void *row, place where)
{
    ldmatrix<4, true>(out, row, where);
}

void cp_async(void *shared, const void *global, int bytes, int source_bytes, place where)
{
    async_copies &copies = running_thread_copies();
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(shared) |
                                (source_bytes > 0 ? reinterpret_cast<uintptr_t>(global) : 0);

    if ((bytes != 4 && bytes != 8 && bytes != 16) || source_bytes < 0 || source_bytes > bytes)
        stop_in_kernel("%s:%d: cp.async of %d bytes, %d of them read", where.file, where.line,
                       bytes, source_bytes);
    if (addresses % static_cast<unsigned>(bytes) != 0)
        stop_in_kernel("%s:%d: cp.async between addresses that are not %d-byte aligned", where.file,
                       where.line, bytes);
    if (shared_access)
        shared_access(shared, bytes, true);
    copies.pending.push_back({shared, global, bytes, source_bytes, copies.groups});
}

void cp_async_commit(void)
{
    running_thread_copies().groups++;
}

void cp_async_wait(int groups_in_flight)
{
    async_copies &copies = running_thread_copies();
    const int landed_before = copies.groups - groups_in_flight;
    size_t n_landed = 0;

    for (; n_landed < copies.pending.size(); n_landed++) {
        const async_copy &copy = copies.pending[n_landed];
        if (copy.group >= landed_before)
            break;
        if (shared_access)
            shared_access(copy.shared, copy.bytes, true);
        memcpy(copy.shared, copy.global, static_cast<size_t>(copy.source_bytes));
        memset(static_cast<char *>(copy.shared) + copy.source_bytes, 0,
               static_cast<size_t>(copy.bytes - copy.source_bytes));
    }
    copies.pending.erase(copies.pending.begin(),
                         copies.pending.begin() + static_cast<ptrdiff_t>(n_landed));
}

}
