/* Random streams against the paper's vectors, our functions against long double libm, statistics by
 * hand. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/math.h"
#include "proto/base/random.h"
#include "proto/base/stats.h"

/* Known answers of Philox4x32-10 (Random123's kat_vectors). */
static void test_philox(void **state)
{
    (void)state;
    uint32_t block[4];
    joust_stream zero = {{0, 0}, {0, 0}};
    joust_stream_block(&zero, 0, block);
    const uint32_t first[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    assert_memory_equal(block, first, sizeof(block));
    joust_stream ones = {{UINT32_MAX, UINT32_MAX}, {UINT32_MAX, UINT32_MAX}};
    joust_stream_block(&ones, UINT64_MAX, block);
    const uint32_t second[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
    assert_memory_equal(block, second, sizeof(block));
    joust_stream pi = {{0xa4093822, 0x299f31d0}, {0x13198a2e, 0x03707344}};
    joust_stream_block(&pi, 0x85a308d3243f6a88ull, block);
    const uint32_t third[4] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
    assert_memory_equal(block, third, sizeof(block));
}

static void test_streams(void **state)
{
    (void)state;
    joust_stream_name name = {.job_seed = 1,
                              .stage = 2,
                              .round = 3,
                              .prompt = 4,
                              .sample = 5,
                              .purpose = JOUST_PURPOSE_TEST};
    joust_stream base = joust_stream_open(&name), same = joust_stream_open(&name);
    assert_memory_equal(&base, &same, sizeof(base));
    joust_stream_name others[6];
    for (int i = 0; i < 6; i++)
        others[i] = name;
    others[0].job_seed++;
    others[1].stage++;
    others[2].round++;
    others[3].prompt++;
    others[4].sample++;
    others[5].purpose++;
    for (int i = 0; i < 6; i++) {
        joust_stream other = joust_stream_open(&others[i]);
        assert_memory_not_equal(&base, &other, sizeof(base));
    }
    double sum = 0, square = 0;
    enum { N = 20000 };
    for (uint64_t i = 0; i < N; i++) {
        double u = joust_stream_double(&base, i), z = joust_stream_normal(&base, i);
        float f = joust_stream_float(&base, i);
        assert_true(u >= 0 && u < 1 && f >= 0 && f < 1);
        assert_true(joust_stream_below(&base, i, 7) == (uint64_t)(u * 7)); /* multiply-shift */
        sum += z;
        square += z * z;
    }
    assert_true(fabs(sum / N) < 0.03);
    assert_true(fabs(square / N - 1) < 0.05);
    assert_int_equal(joust_stream_below(&base, 1, 1), 0);
    uint32_t items[100], seen[100] = {0};
    for (uint32_t i = 0; i < 100; i++)
        items[i] = i;
    joust_stream_shuffle(&base, items, 100);
    uint32_t moved = 0;
    for (uint32_t i = 0; i < 100; i++) {
        seen[items[i]]++;
        moved += items[i] != i;
    }
    for (uint32_t i = 0; i < 100; i++)
        assert_int_equal(seen[i], 1);
    assert_true(moved > 80);
}

/* The largest error over random points: relative, or absolute where `absolute` is set. */
static double worst(double (*ours)(double), long double (*reference)(long double), double low,
                    double high, int absolute)
{
    joust_stream_name name = {.purpose = JOUST_PURPOSE_TEST};
    joust_stream s = joust_stream_open(&name);
    double most = 0;
    for (uint64_t i = 0; i < 200000; i++) {
        double x = low + (high - low) * joust_stream_double(&s, i);
        long double r = reference((long double)x), e = (long double)ours(x) - r;
        if (!absolute && r != 0)
            e /= r;
        most = fmax(most, (double)fabsl(e));
    }
    return most;
}

#define check_below(value, bound)                                                                  \
    do {                                                                                           \
        double check_value = (value);                                                              \
        if (!(check_value < (bound)))                                                              \
            fail_msg("%s: %g, expected below %g", #value, check_value, (double)(bound));           \
    } while (0)

static void test_math(void **state)
{
    (void)state;
    check_below(worst(joust_exp, expl, -700, 700, 0), 2e-15);
    check_below(worst(joust_exp, expl, -1, 1, 0), 2e-15);
    check_below(worst(joust_log, logl, 1e-3, 0.9, 0), 2e-15);
    check_below(worst(joust_log, logl, 1.1, 1e6, 0), 2e-15);
    check_below(worst(joust_log, logl, 0.9, 1.1, 1), 1e-15);
    check_below(worst(joust_sin, sinl, -10, 10, 1), 1e-15);
    check_below(worst(joust_cos, cosl, -10, 10, 1), 1e-15);
    check_below(worst(joust_sin, sinl, -1048576, 1048576, 1), 1e-15);
    check_below(worst(joust_cos, cosl, -1048576, 1048576, 1), 1e-15);
}

static long double log_sigmoid_reference(long double x)
{
    return x >= 0 ? -log1pl(expl(-x)) : x - log1pl(expl(x));
}

static void test_math_edges(void **state)
{
    (void)state;
    check_below(worst(joust_log_sigmoid, log_sigmoid_reference, -50, 50, 0), 1e-14);
    assert_true(joust_exp(0) == 1);
    assert_true(joust_exp(-INFINITY) == 0);
    assert_true(isinf(joust_exp(INFINITY)));
    assert_true(isinf(joust_exp(710)));
    assert_true(joust_exp(-746) == 0);
    assert_true(joust_exp(-744) > 0); /* subnormal */
    assert_true(isnan(joust_exp(NAN)));
    assert_true(joust_log(1) == 0);
    assert_true(isinf(joust_log(0)) && joust_log(0) < 0);
    assert_true(isnan(joust_log(-1)));
    assert_true(isinf(joust_log(INFINITY)));
    check_below(fabs(joust_log(0x1p-1074) - (double)logl(0x1p-1074L)), 1e-12);
    assert_true(isnan(joust_sin(INFINITY)));
    assert_true(isnan(joust_cos(2e9)));
    assert_true(joust_cos(0) == 1 && joust_sin(0) == 0);
    check_below(fabs(joust_pow(2, 10) - 1024), 1e-11);
    assert_true(joust_sigmoid(0) == 0.5);
    assert_true(joust_sigmoid(-800) == 0 && joust_sigmoid(800) == 1);
    assert_true(joust_log_sigmoid(-800) == -800);
    check_below(fabs(joust_log_sigmoid(0) + 0.6931471805599453), 1e-16);
    check_below(fabs(joust_log_add(-1000, -1000) - (-1000 + 0.6931471805599453)), 1e-12);
    assert_true(joust_log_add(-INFINITY, -3) == -3);
    assert_true(isinf(joust_log_add(-INFINITY, -INFINITY)));
}

static void test_statistics(void **state)
{
    (void)state;
    double x[] = {2, 4, 4, 4, 5, 5, 7, 9};
    assert_true(joust_mean(x, 8) == 5);
    check_below(fabs(joust_standard_deviation(x, 8) - 2.138089935299395), 1e-15);
    assert_true(joust_mean(x, 0) == 0 && joust_standard_deviation(x, 1) == 0);
    joust_interval w = joust_wilson(7, 10); /* by the formula, with z = 1.959963984540054 */
    check_below(fabs(w.low - 0.39677815370232), 1e-6);
    check_below(fabs(w.high - 0.89220883250595), 1e-6);
    w = joust_wilson(0, 10);
    assert_true(w.mean == 0 && w.low == 0 && w.high > 0.2 && w.high < 0.4);
    w = joust_wilson(0, 0);
    assert_true(w.low == 0 && w.high == 1);
    joust_interval d = joust_paired_difference(1, 5, 4);
    check_below(fabs(d.mean - 0.3), 1e-15);
    check_below(fabs((d.high - d.low) / 2 - 1.959963984540054 * sqrt((0.5 - 0.09) / 9)), 1e-15);
    double scores[] = {0.1, 0.4, 0.35, 0.8};
    uint8_t labels[] = {0, 0, 1, 1}, ones[] = {1, 1, 1, 1};
    assert_true(joust_auc(scores, labels, 4) == 0.75);
    double ties[] = {1, 1, 1, 1};
    assert_true(joust_auc(ties, labels, 4) == 0.5);
    assert_true(isnan(joust_auc(scores, ones, 4)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),     cmocka_unit_test(test_streams),
        cmocka_unit_test(test_math),       cmocka_unit_test(test_math_edges),
        cmocka_unit_test(test_statistics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
