/* number.h - a double that knows how far a float32 computation of it may be off.
 *
 * `error` is counted in roundings, of 2^-24 each: every operation below adds the size of what it
 * rounds to the errors that it inherits, to first order (running error analysis: Higham, "Accuracy
 * and stability of numerical algorithms", section 3.3). A sum is charged with the sizes of its
 * operands rather than that of its result, because another order of the terms has other partial
 * sums; so a result is trusted relative to what was added up, not relative to itself. */
#ifndef OCTET_TEST_NUMBER_H
#define OCTET_TEST_NUMBER_H

#include <math.h>

struct number {
    double value, error;
};

static inline struct number exact(double value)
{
    return (struct number){value, 0};
}

/* A number that came through memory as a float32. */
static inline struct number rounded(double value)
{
    return (struct number){value, fabs(value)};
}

static inline struct number add(struct number a, struct number b)
{
    return (struct number){a.value + b.value,
                           a.error + b.error + fabs(a.value) + fabs(b.value)};
}

static inline struct number subtract(struct number a, struct number b)
{
    return (struct number){a.value - b.value,
                           a.error + b.error + fabs(a.value) + fabs(b.value)};
}

static inline void accumulate(struct number *total, struct number term)
{
    *total = add(*total, term);
}

static inline struct number multiply(struct number a, struct number b)
{
    const double product = a.value * b.value;

    return (struct number){product, fabs(a.value) * b.error + fabs(b.value) * a.error +
                           fabs(product)};
}

static inline struct number scaled(struct number a, double factor)
{
    return multiply(a, exact(factor));
}

static inline struct number divide(struct number a, struct number b)
{
    const double quotient = a.value / b.value;

    return (struct number){quotient, (a.error + fabs(quotient) * b.error) / fabs(b.value) +
                           fabs(quotient)};
}

static inline struct number square_root(struct number a)
{
    const double root = sqrt(a.value);

    return (struct number){root, (root > 0 ? a.error / (2 * root) : 0) + root};
}

static inline struct number logarithm(struct number a)
{
    const double result = log(a.value);

    return (struct number){result, a.error / a.value + fabs(result)};
}

/* Exponentials are asked for to 4 roundings, 2.4e-7; those below the smallest normal float32 may
 * become zero. */
static inline struct number exponential(struct number a)
{
    const double result = exp(a.value);

    return (struct number){result, result * (a.error + 4) + 0x1p-126 / 0x1p-24};
}

/* The normal distribution's density. */
static inline struct number normal_density(struct number x)
{
    const struct number half_square = scaled(multiply(x, x), -0.5);

    return scaled(exponential(half_square), 0.3989422804014327);
}

/* The normal distribution, asked for to 7 roundings of 1, 4.2e-7: its formulas are good in absolute
 * terms, not in relative ones. */
static inline struct number normal_cumulative(struct number x)
{
    return (struct number){0.5 * erfc(-x.value * 0.7071067811865476),
                           normal_density(x).value * x.error + 7};
}

#endif
