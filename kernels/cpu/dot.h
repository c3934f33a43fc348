/* dot.h - the sum of the products of two rows, at the speed at which memory brings them. */
#ifndef OCTET_CPU_DOT_H
#define OCTET_CPU_DOT_H

#include "kernels/cpu/cpu_ops.h"

#if defined __AVX512F__ && !defined CPU_REAL_DOUBLE

#include "kernels/cpu/vector_avx512.h"

static inline calc dot(const real *a, const real *b, int64_t n)
{
    enum { WIDTH = LANES * STEP };
    vec even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    int64_t i = 0;

    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        even = vec_multiply_add(even, _mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i));
        odd = vec_multiply_add(odd, _mm512_loadu_si512(a + i + WIDTH),
                               _mm512_loadu_si512(b + i + WIDTH));
    }
    for (; i < n; i += LANES) {
        const __mmask16 mask = vec_mask(n - i);
        even = _mm512_fmadd_ps(vec_load(a + i, mask), vec_load(b + i, mask), even);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
}

#else

static inline calc dot(const real *a, const real *b, int64_t n)
{
    calc sum = 0;

    VECTOR_SUM(sum)
    for (int64_t i = 0; i < n; i++)
        sum += widen(a[i]) * widen(b[i]);
    return sum;
}

#endif
#endif
