#include "proto/base/math.h"

#include <math.h> /* macros and sqrt only: HUGE_VAL, NAN, isnan */
#include <stdint.h>
#include <string.h>

static uint64_t bits_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static double from_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* 2^k for -1022 <= k <= 1023. */
static double power_of_two(int k)
{
    return from_bits((uint64_t)(k + 1023) << 52);
}

/* Nearest integer, ties to even, for |x| < 2^51. */
static double round_even(double x)
{
    const double shift = 0x1.8p52;
    return x + shift - shift;
}

double joust_exp(double x)
{
    if (isnan(x))
        return x;
    if (x > 709.782712893384)
        return HUGE_VAL;
    if (x < -745.2)
        return 0.0;
    /* x = k ln 2 + r, |r| <= 0.3466; exp(r) by its Taylor series to r^13 / 13!. */
    double k = round_even(x * 1.4426950408889634);
    double r = (x - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33;
    double p = 1.0 / 6227020800.0;
    static const double inverse_factorial[] = {
        1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0,
        1.0 / 5040.0,      1.0 / 720.0,      1.0 / 120.0,     1.0 / 24.0,     1.0 / 6.0,
        0.5,               1.0,              1.0};
    for (unsigned i = 0; i < sizeof(inverse_factorial) / sizeof(*inverse_factorial); i++)
        p = p * r + inverse_factorial[i];
    int n = (int)k, half = n / 2;
    return p * power_of_two(half) * power_of_two(n - half);
}

double joust_log(double x)
{
    if (isnan(x) || x < 0)
        return NAN;
    if (x == 0)
        return -HUGE_VAL;
    if (x > 1.7976931348623157e308)
        return x;
    int e = 0;
    if (x < 2.2250738585072014e-308) { /* subnormal */
        x *= 0x1p54;
        e = -54;
    }
    uint64_t bits = bits_of(x);
    e += (int)(bits >> 52) - 1023;
    double m = from_bits((bits & 0xfffffffffffffu) | (uint64_t)1023 << 52);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e += 1;
    }
    /* log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| <= 0.1716; series to s^21. */
    double s = (m - 1.0) / (m + 1.0), z = s * s, p = 1.0 / 21.0;
    for (int k = 19; k >= 3; k -= 2)
        p = p * z + 1.0 / k;
    double log_m = 2.0 * s + 2.0 * s * z * p;
    return e * 0x1.62e42feep-1 + (e * 0x1.a39ef35793c76p-33 + log_m);
}

/* sin and cos of r, |r| <= pi/4, by Taylor series. */
static double sin_small(double r)
{
    double z = r * r, p = 1.0;
    for (int k = 17; k >= 3; k -= 2)
        p = 1.0 - p * z / (k * (k - 1));
    return r * p;
}

static double cos_small(double r)
{
    double z = r * r, p = 1.0;
    for (int k = 18; k >= 2; k -= 2)
        p = 1.0 - p * z / (k * (k - 1));
    return p;
}

/* sin(x + quarter * pi/2) */
static double sin_quarter(double x, int quarter)
{
    if (!(x <= 0x1p30 && x >= -0x1p30))
        return NAN;
    /* x = k pi/2 + r, pi/2 in three parts of at most 33 bits, so that k * part is exact for k < 2^20. */
    double k = round_even(x * 0.6366197723675814);
    double r = ((x - k * 0x1.921fb544p0) - k * 0x1.0b4611a6p-34) - k * 0x1.3198a2e037073p-69;
    int q = ((int)((int64_t)k & 3) + quarter) & 3;
    double v = q & 1 ? cos_small(r) : sin_small(r);
    return q & 2 ? -v : v;
}

double joust_sin(double x)
{
    return sin_quarter(x, 0);
}

double joust_cos(double x)
{
    return sin_quarter(x, 1);
}

double joust_pow(double x, double y)
{
    return joust_exp(y * joust_log(x));
}

double joust_sigmoid(double x)
{
    if (x >= 0)
        return 1.0 / (1.0 + joust_exp(-x));
    double e = joust_exp(x);
    return e / (1.0 + e);
}

/* log(1 + x) for 0 <= x <= 1, accurate for small x. */
static double log1p_unit(double x)
{
    double u = 1.0 + x;
    return u == 1.0 ? x : joust_log(u) * (x / (u - 1.0));
}

double joust_log_sigmoid(double x)
{
    return x >= 0 ? -log1p_unit(joust_exp(-x)) : x - log1p_unit(joust_exp(x));
}

double joust_log_add(double a, double b)
{
    double high = a > b ? a : b, low = a > b ? b : a;
    if (high == -HUGE_VAL)
        return high;
    return high + log1p_unit(joust_exp(low - high));
}
