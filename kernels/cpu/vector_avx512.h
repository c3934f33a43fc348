/* vector_avx512.h - vectors of 16 floats, and of what lies in memory for them: only for files that are
 * compiled for AVX-512 alone, and for bfloat16 with its instructions (AVX512_BF16). */
#ifndef OCTET_CPU_VECTOR_AVX512_H
#define OCTET_CPU_VECTOR_AVX512_H

#include <immintrin.h>

#include "kernels/cpu/cpu_ops.h"

typedef __m512 vec;
enum { LANES = 16 };

/* What one lane multiplies in one instruction: STEP neighbours along the sum, in 32 bits. */
typedef uint32_t unit;
#ifdef CPU_REAL_BF16
enum { STEP = 2 };
#else
enum { STEP = 1 };
#endif

/* The first n lanes; n may be any number. */
static inline __mmask16 vec_mask(int64_t n)
{
    return (__mmask16)(n >= LANES ? 0xffff : n <= 0 ? 0 : (1u << n) - 1);
}

/* sum + the products of the lanes' units. */
static inline vec vec_multiply_add(vec sum, __m512i a, __m512i b)
{
#ifdef CPU_REAL_BF16
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#else
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
#endif
}

/* Reals from memory, each in the low bits of its lane. */
static inline __m512i vec_load_bits(const real *x, __mmask16 mask)
{
#ifdef CPU_REAL_BF16
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x));
#else
    return _mm512_maskz_loadu_epi32(mask, x);
#endif
}

static inline vec vec_load(const real *x, __mmask16 mask)
{
#ifdef CPU_REAL_BF16
    return _mm512_castsi512_ps(_mm512_slli_epi32(vec_load_bits(x, mask), 16));
#else
    return _mm512_maskz_loadu_ps(mask, x);
#endif
}

static inline void vec_store(real *to, vec x)
{
#ifdef CPU_REAL_BF16
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x));
#else
    _mm512_storeu_ps(to, x);
#endif
}

static inline void vec_store_some(real *to, vec x, __mmask16 mask)
{
#ifdef CPU_REAL_BF16
    _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(x));
#else
    _mm512_mask_storeu_ps(to, mask, x);
#endif
}

/* STEP vectors side by side: a unit holds one lane of each. */
static inline __m512i vec_units(const vec x[STEP])
{
#ifdef CPU_REAL_BF16
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x[0]));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x[1]));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
#else
    return _mm512_castps_si512(x[0]);
#endif
}

/* As real_exp() in vector_math.h, with the exponent applied by an instruction of its own, down to the
 * smallest numbers; 0 below -104. */
static inline vec vec_exp(vec x)
{
    x = _mm512_max_ps(_mm512_set1_ps(-104.5f), x);      /* in this order NaN stays NaN */
    const vec n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                       _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const vec high = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    const vec r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), high);
    vec p = _mm512_set1_ps(1.98412698e-4f);

    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.38888889e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.33333333e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.16666667e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.66666667e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, n);
}

/* 16 rows of 16 units, turned: row i of the result holds unit i of all rows. */
static inline void vec_transpose(__m512i rows[LANES])
{
    __m512i pairs[LANES];

    for (int i = 0; i < LANES; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    /* rows[i + j]: of rows i to i + 3, unit j of each quarter of a vector. */
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; j++) {
            rows[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
            rows[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
        }
    for (int j = 0; j < 4; j++) {
        const __m512i a = _mm512_shuffle_i32x4(rows[j], rows[j + 4], 0x88);
        const __m512i b = _mm512_shuffle_i32x4(rows[j], rows[j + 4], 0xdd);
        const __m512i c = _mm512_shuffle_i32x4(rows[j + 8], rows[j + 12], 0x88);
        const __m512i d = _mm512_shuffle_i32x4(rows[j + 8], rows[j + 12], 0xdd);
        rows[j] = _mm512_shuffle_i32x4(a, c, 0x88);
        rows[j + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
        rows[j + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        rows[j + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

#endif
