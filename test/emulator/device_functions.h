/* device_functions.h - CUDA's built-in device functions in C++: barriers, warps, atomics, loads,
 * bits and fast arithmetic. Part of cuda_emulator.h. */
#ifndef OCTET_EMULATOR_DEVICE_FUNCTIONS_H
#define OCTET_EMULATOR_DEVICE_FUNCTIONS_H

/* Barriers */

inline void __syncthreads(emulator::place where = emulator::here())
{
    emulator::block_barrier(0, "__syncthreads", where);
}
inline int __syncthreads_count(int predicate, emulator::place where = emulator::here())
{
    return emulator::block_barrier(predicate != 0, "__syncthreads_count", where);
}
inline int __syncthreads_or(int predicate, emulator::place where = emulator::here())
{
    return emulator::block_barrier(predicate != 0, "__syncthreads_or", where) != 0;
}
inline int __syncthreads_and(int predicate, emulator::place where = emulator::here())
{
    return emulator::block_barrier(predicate == 0, "__syncthreads_and", where) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, emulator::place where = emulator::here())
{
    emulator::warp_collective(mask, nullptr, nullptr, "__syncwarp", where);
}
inline unsigned __activemask(void)
{
    return emulator::warp_active();
}
inline void __threadfence(void) {}
inline void __threadfence_block(void) {}
inline void __threadfence_system(void) {}
[[noreturn]] inline void __trap(void)
{
    __builtin_trap();
}

/* Warps */

namespace emulator {

template <class T> struct shuffle {
    T value, result;
    int source;

    static void run(void *const lanes[32], unsigned mask)
    {
        for (int i = 0; i < 32; i++) {
            if (!(mask >> i & 1))
                continue;
            shuffle *lane = static_cast<shuffle *>(lanes[i]);
            if (mask >> lane->source & 1)
                lane->result = static_cast<shuffle *>(lanes[lane->source])->value;
            else        /* undefined in CUDA: make it conspicuous */
                memset(static_cast<void *>(&lane->result), 0xff, sizeof lane->result);
        }
    }
};

template <class T>
T shuffle_from(unsigned mask, T value, int source, const char *name, place where)
{
    shuffle<T> lane = {value, value, source};

    warp_collective(mask, &lane, shuffle<T>::run, name, where);
    return lane.result;
}

/* Every lane gets the fold of all lanes' values, in lane order. */
template <class T, class Fold> struct reduction {
    T value;

    static void run(void *const lanes[32], unsigned mask)
    {
        const int first = __builtin_ctz(mask);
        T total = static_cast<reduction *>(lanes[first])->value;

        for (int i = first + 1; i < 32; i++)
            if (mask >> i & 1)
                total = Fold()(total, static_cast<reduction *>(lanes[i])->value);
        for (int i = first; i < 32; i++)
            if (mask >> i & 1)
                static_cast<reduction *>(lanes[i])->value = total;
    }
};

template <class Fold, class T> T reduce(unsigned mask, T value, const char *name, place where)
{
    reduction<T, Fold> lane = {value};

    warp_collective(mask, &lane, reduction<T, Fold>::run, name, where);
    return lane.value;
}

struct smaller {
    template <class T> T operator()(T a, T b) const { return b < a ? b : a; }
};
struct larger {
    template <class T> T operator()(T a, T b) const { return a < b ? b : a; }
};

}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              emulator::place where = emulator::here())
{
    const int group = emulator::self->lane & ~(width - 1);

    return emulator::shuffle_from(mask, value, group | (source & (width - 1)), "__shfl_sync",
                                  where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                  emulator::place where = emulator::here())
{
    const int lane = emulator::self->lane, source = lane ^ bits;
    const bool beyond = (source & ~(width - 1)) > (lane & ~(width - 1));

    return emulator::shuffle_from(mask, value, beyond ? lane : source, "__shfl_xor_sync", where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                   emulator::place where = emulator::here())
{
    const int lane = emulator::self->lane, delta = static_cast<int>(by);
    const bool beyond = (lane & (width - 1)) + delta >= width;

    return emulator::shuffle_from(mask, value, beyond ? lane : lane + delta, "__shfl_down_sync",
                                  where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32,
                 emulator::place where = emulator::here())
{
    const int lane = emulator::self->lane, delta = static_cast<int>(by);
    const bool beyond = (lane & (width - 1)) < delta;

    return emulator::shuffle_from(mask, value, beyond ? lane : lane - delta, "__shfl_up_sync",
                                  where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              emulator::place where = emulator::here())
{
    const unsigned bit = predicate ? 1u << emulator::self->lane : 0;

    return emulator::reduce<std::bit_or<unsigned>>(mask, bit, "__ballot_sync", where);
}
inline int __any_sync(unsigned mask, int predicate, emulator::place where = emulator::here())
{
    return emulator::reduce<std::bit_or<int>>(mask, int(predicate != 0), "__any_sync", where);
}
inline int __all_sync(unsigned mask, int predicate, emulator::place where = emulator::here())
{
    return emulator::reduce<std::bit_and<int>>(mask, int(predicate != 0), "__all_sync", where);
}
template <class T>
T __reduce_add_sync(unsigned mask, T value, emulator::place where = emulator::here())
{
    return emulator::reduce<std::plus<T>>(mask, value, "__reduce_add_sync", where);
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, emulator::place where = emulator::here())
{
    return emulator::reduce<emulator::smaller>(mask, value, "__reduce_min_sync", where);
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, emulator::place where = emulator::here())
{
    return emulator::reduce<emulator::larger>(mask, value, "__reduce_max_sync", where);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value,
                                 emulator::place where = emulator::here())
{
    return emulator::reduce<std::bit_or<unsigned>>(mask, value, "__reduce_or_sync", where);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value,
                                  emulator::place where = emulator::here())
{
    return emulator::reduce<std::bit_and<unsigned>>(mask, value, "__reduce_and_sync", where);
}

/* Atomics: two devices may run at once, so they are real ones. */

namespace emulator {

template <class T, class Change> T atomic_change(T *address, Change change)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA has atomics of 4 and 8 bytes");
    using word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    word *target = reinterpret_cast<word *>(address);
    word before = __atomic_load_n(target, __ATOMIC_RELAXED), after;
    T value;

    do {
        memcpy(&value, &before, sizeof value);
        const T changed = change(value);
        memcpy(&after, &changed, sizeof after);
    } while (!__atomic_compare_exchange_n(target, &before, after, false, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return value;
}

/* The second parameter of atomicAdd(T *, T) must not take part in deducing T. */
template <class T> struct same_as {
    using type = T;
};
template <class T> using exactly = typename same_as<T>::type;

}

template <class T> T atomicAdd(T *address, emulator::exactly<T> value)
{
    return emulator::atomic_change(address, [=](T old) { return T(old + value); });
}
template <class T> T atomicSub(T *address, emulator::exactly<T> value)
{
    return emulator::atomic_change(address, [=](T old) { return T(old - value); });
}
template <class T> T atomicMin(T *address, emulator::exactly<T> value)
{
    return emulator::atomic_change(address, [=](T old) { return value < old ? value : old; });
}
template <class T> T atomicMax(T *address, emulator::exactly<T> value)
{
    return emulator::atomic_change(address, [=](T old) { return old < value ? value : old; });
}
template <class T> T atomicAnd(T *address, emulator::exactly<T> value)
{
    return emulator::atomic_change(address, [=](T old) { return T(old & value); });
}
template <class T> T atomicOr(T *address, emulator::exactly<T> value)
{
    return emulator::atomic_change(address, [=](T old) { return T(old | value); });
}
template <class T> T atomicXor(T *address, emulator::exactly<T> value)
{
    return emulator::atomic_change(address, [=](T old) { return T(old ^ value); });
}
template <class T> T atomicExch(T *address, emulator::exactly<T> value)
{
    return emulator::atomic_change(address, [=](T) { return value; });
}
template <class T>
T atomicCAS(T *address, emulator::exactly<T> expected, emulator::exactly<T> value)
{
    return emulator::atomic_change(address, [=](T old) { return old == expected ? value : old; });
}
inline unsigned atomicInc(unsigned *address, unsigned limit)
{
    return emulator::atomic_change(address,
                                   [=](unsigned old) { return old >= limit ? 0 : old + 1; });
}

/* Loads and stores with cache hints */

template <class T> T __ldg(const T *address) { return *address; }
template <class T> T __ldca(const T *address) { return *address; }
template <class T> T __ldcg(const T *address) { return *address; }
template <class T> T __ldcs(const T *address) { return *address; }
template <class T> T __ldlu(const T *address) { return *address; }
template <class T> T __ldcv(const T *address) { return *address; }
template <class T> void __stwb(T *address, emulator::exactly<T> value) { *address = value; }
template <class T> void __stcg(T *address, emulator::exactly<T> value) { *address = value; }
template <class T> void __stcs(T *address, emulator::exactly<T> value) { *address = value; }
template <class T> void __stwt(T *address, emulator::exactly<T> value) { *address = value; }

/* Bits */

namespace emulator {

template <class To, class From> To bit_copy(From from)
{
    static_assert(sizeof(To) == sizeof(From), "a copy of bits changes no size");
    To to;

    memcpy(static_cast<void *>(&to), &from, sizeof to);
    return to;
}

}

inline unsigned __float_as_uint(float x) { return emulator::bit_copy<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emulator::bit_copy<float>(x); }
inline int __float_as_int(float x) { return emulator::bit_copy<int>(x); }
inline float __int_as_float(int x) { return emulator::bit_copy<float>(x); }
inline long long __double_as_longlong(double x) { return emulator::bit_copy<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator::bit_copy<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline unsigned __brev(unsigned x)
{
    unsigned reversed = 0;

    for (int i = 0; i < 32; i++)
        reversed |= (x >> i & 1) << (31 - i);
    return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b)
{
    return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline int __mulhi(int a, int b)
{
    return static_cast<int>(static_cast<int64_t>(a) * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    __extension__ typedef unsigned __int128 wide;

    return static_cast<unsigned long long>(static_cast<wide>(a) * b >> 64);
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
    unsigned picked = 0;

    for (int i = 0; i < 4; i++)
        picked |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return picked;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by)
{
    return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) << (by & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by)
{
    return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (by & 31));
}

/* Arithmetic. The C library owns the names __expf and the like, hence macros. */

#define __expf(x) expf(x)
#define __exp10f(x) powf(10.0f, (x))
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __powf(x, y) powf((x), (y))
#define __sincosf(x, sine, cosine) sincosf((x), (sine), (cosine))

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline unsigned __float2uint_rz(float x) { return static_cast<unsigned>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

/* CUDA's min and max take any pair of arithmetic types, and prefer a number to a NaN. */
template <class A, class B> constexpr std::common_type_t<A, B> min(A a, B b)
{
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return std::is_same_v<T, float> ? fminf(a, b) : fmin(a, b);
    else
        return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <class A, class B> constexpr std::common_type_t<A, B> max(A a, B b)
{
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return std::is_same_v<T, float> ? fmaxf(a, b) : fmax(a, b);
    else
        return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}

#endif
