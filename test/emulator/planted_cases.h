/* planted_cases.h - runs the planted kernels and tells whether the result is right. */
#ifndef OCTET_EMULATOR_PLANTED_CASES_H
#define OCTET_EMULATOR_PLANTED_CASES_H

#include "emulator/device_array.h"
#include "emulator/planted.h"

inline std::vector<float> counted(size_t n)
{
    std::vector<float> numbers(n);

    for (size_t i = 0; i < n; i++)
        numbers[i] = static_cast<float>(i % 251);
    return numbers;
}

inline bool row_sums_are_right(row_sums variant)
{
    const std::vector<float> x = counted(5 * 256);
    const device_array<float> device_x(x), sums(5);
    bool right = true;

    launch_row_sums(variant, sums, device_x, 5, nullptr);
    const std::vector<float> result = sums.values();
    for (size_t row = 0; row < 5; row++) {
        float sum = 0;
        for (size_t i = 0; i < 256; i++)
            sum += x[row * 256 + i];
        right = right && result[row] == sum;
    }
    return right;
}

inline bool reverse_is_right(reverse variant)
{
    const std::vector<float> x = counted(192);
    const device_array<float> device_x(x), y(192);
    bool right = true;

    launch_reverse(variant, y, device_x, 192, nullptr);
    const std::vector<float> result = y.values();
    for (size_t i = 0; i < 192; i++)
        right = right && result[i] == x[i / 64 * 64 + 63 - i % 64];
    return right;
}

inline bool rotation_is_right(bool with_syncwarp)
{
    const std::vector<float> x = counted(256);
    const device_array<float> device_x(x), y(256);
    bool right = true;

    launch_rotate(with_syncwarp, y, device_x, 256, nullptr);
    const std::vector<float> result = y.values();
    for (size_t i = 0; i < 256; i++)
        right = right && result[i] == x[i / 32 * 32 + (i + 1) % 32];
    return right;
}

/* Small whole numbers: exact in both types, and so are their products. */
inline bool product_is_right(bool f16, bool b_transposed)
{
    std::vector<unsigned short> a(256), b(128);
    std::vector<float> a_values(256), b_values(128);
    const auto bits = [&](int value) -> unsigned short {    /* of 0, 1, 2, 3, 4 */
        static const unsigned short bf16_bits[] = {0, 0x3f80, 0x4000, 0x4040, 0x4080};
        static const unsigned short f16_bits[] = {0, 0x3c00, 0x4000, 0x4200, 0x4400};
        return f16 ? f16_bits[value] : bf16_bits[value];
    };
    bool right = true;

    for (int i = 0; i < 256; i++) {
        const int value = (i * 7 + i / 16) % 5;
        a_values[i] = static_cast<float>(value);
        a[i] = bits(value);
    }
    for (int i = 0; i < 128; i++) {
        const int value = (i * 3 + i / 8) % 5, k = i / 8, column = i % 8;
        b_values[i] = static_cast<float>(value);
        b[b_transposed ? column * 16 + k : i] = bits(value);
    }
    const device_array<unsigned short> device_a(a), device_b(b);
    const device_array<float> d(128);
    launch_product(f16, b_transposed, d, device_a, device_b, nullptr);
    const std::vector<float> result = d.values();
    for (int i = 0; i < 128; i++) {
        float sum = 0;
        for (int k = 0; k < 16; k++)
            sum += a_values[i / 8 * 16 + k] * b_values[k * 8 + i % 8];
        right = right && result[i] == sum;
    }
    return right;
}

inline bool counts_are_right(void)
{
    std::vector<int> x(1000), expected(8);

    for (int i = 0; i < 1000; i++) {
        x[i] = i * i % 8;
        expected[x[i]]++;
    }
    const device_array<int> device_x(x), counts(std::vector<int>(8));
    launch_count(counts, device_x, 1000, nullptr);
    return counts.values() == expected;
}

inline bool warp_functions_are_right(void)
{
    const device_array<int> right(6);

    launch_warp_functions(right, 6, nullptr);
    return right.values() == std::vector<int>(6, 1);
}

inline bool early_returns_are_right(int n)
{
    const device_array<int> out(static_cast<size_t>(n));
    bool right = true;

    launch_early_return(out, n, nullptr);
    const std::vector<int> result = out.values();
    for (int i = 0; i < n; i++)
        right = right && result[i] == n - 1 - (i ^ 1);
    return right;
}

inline bool all_kernels_are_right(void)
{
    return row_sums_are_right(SUMS_RIGHT) && reverse_is_right(REVERSE_RIGHT) &&
           rotation_is_right(true) && product_is_right(false, false) &&
           product_is_right(false, true) && product_is_right(true, false) &&
           product_is_right(true, true) && counts_are_right() && warp_functions_are_right() &&
           early_returns_are_right(6) && early_returns_are_right(40) &&
           early_returns_are_right(64);
}

#endif
