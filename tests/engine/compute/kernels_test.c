/* Each kernel on its own: against its formula in double, and every instruction set against the
 * portable one. */
#include "engine/compute/fixture.h"

#include <math.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "worker/engine/kernels/kernels_internal.h"

static uint32_t kernels_list(const joust_kernels *ret[3])
{
    joust_isa isas[3];
    uint32_t n = fixture_isas(isas);
    for (uint32_t i = 0; i < n; i++)
        ret[i] = isas[i] == JOUST_ISA_PORTABLE ? joust_kernels_portable()
                 : isas[i] == JOUST_ISA_AVX2   ? joust_kernels_avx2()
                                               : joust_kernels_avx512();
    return n;
}

static float *numbers(uint32_t n, uint64_t seed, double scale)
{
    joust_stream stream = fixture_stream(seed, 1);
    float *x = joust_calloc_aligned(n + JOUST_LANES, sizeof(*x));
    for (uint32_t i = 0; i < n; i++)
        x[i] = (float)(scale * joust_stream_normal(&stream, i));
    return x;
}

static void check_gemm(const joust_kernels *k, uint32_t m, uint32_t n, uint32_t steps, bool strided,
                       bool add, const joust_kernels *portable)
{
    uint32_t ld = joust_lanes_up(n), b_row = strided ? ld : JOUST_LANES;
    float *a = numbers(m * steps, 1, 1), *b = numbers(ld * steps, 2, 1), *c = numbers(m * ld, 3, 1);
    float *before = joust_memdup(c, m * ld * sizeof(*c)), *other = numbers(m * ld, 3, 1);
    joust_gemm g = {.a = a,
                    .a_row = steps,
                    .a_step = 1,
                    .b = b,
                    .b_panel = strided ? JOUST_LANES : (size_t)steps * JOUST_LANES,
                    .b_step = b_row,
                    .c = c,
                    .c_row = ld,
                    .m = m,
                    .n = n,
                    .k = steps,
                    .add = add};
    k->gemm(&g);
    for (uint32_t i = 0; i < m; i++)
        for (uint32_t j = 0; j < ld; j++) {
            double sum = add ? (double)before[i * ld + j] : 0;
            for (uint32_t s = 0; s < steps; s++)
                sum += (double)a[i * steps + s] *
                       (double)b[j / JOUST_LANES * g.b_panel + s * b_row + j % JOUST_LANES];
            if (j >= n) /* past the end of the row: untouched */
                assert_memory_equal(&c[i * ld + j], &before[i * ld + j], sizeof(float));
            else if (!(fabs(sum - (double)c[i * ld + j]) < 1e-5 * (steps + 1)))
                fail_msg("%s gemm %u x %u x %u: c[%u][%u] = %.9g, expected %.9g", k->name, m, n,
                         steps, i, j, (double)c[i * ld + j], sum);
        }
    g.c = other;
    portable->gemm(&g);
    assert_memory_equal(c, other, m * ld * sizeof(*c));
    joust_free_aligned(a);
    joust_free_aligned(b);
    joust_free_aligned(c);
    joust_free_aligned(other);
    joust_free(before);
}

static void test_gemm(void **state)
{
    (void)state;
    const joust_kernels *all[3];
    uint32_t n_kernels = kernels_list(all);
    const uint32_t widths[] = {1, 15, 16, 33, 48, 150};
    for (uint32_t i = 0; i < n_kernels; i++)
        for (uint32_t m = 1; m <= 19; m++)
            for (uint32_t w = 0; w < sizeof(widths) / sizeof(*widths); w++)
                for (uint32_t how = 0; how < 4; how++)
                    check_gemm(all[i], m, widths[w], 1 + (m * 7 + w) % 23, how & 1, how & 2,
                               all[0]);
    for (uint32_t i = 0; i < n_kernels; i++) /* longer than a block of steps */
        check_gemm(all[i], 11, 40, 450, true, false, all[0]);
}

/* A transposed a, its steps near or far, gives the bits of the same a by rows: over several blocks of rows and steps. */
static void test_gemm_transposed(void **state)
{
    (void)state;
    enum { M = 150, N = 70, K = 200, LD = 80 };
    const uint32_t steps[] = {M, 5000};
    const joust_kernels *all[3];
    uint32_t n_kernels = kernels_list(all);
    float *a = numbers(M * K, 1, 1), *b = numbers(K * LD, 2, 1), *c = numbers(M * LD, 3, 1),
          *other = numbers(M * LD, 3, 1), *turned = joust_calloc_aligned(5000 * K, sizeof(*turned));
    for (uint32_t i = 0; i < n_kernels; i++)
        for (uint32_t far = 0; far < 2; far++) {
            joust_gemm g = {.a = a,
                            .a_row = K,
                            .a_step = 1,
                            .b = b,
                            .b_panel = JOUST_LANES,
                            .b_step = LD,
                            .c = c,
                            .c_row = LD,
                            .m = M,
                            .n = N,
                            .k = K};
            all[0]->gemm(&g);
            for (uint32_t s = 0; s < K; s++)
                for (uint32_t row = 0; row < M; row++)
                    turned[s * steps[far] + row] = a[row * K + s];
            g.a = turned;
            g.a_row = 1;
            g.a_step = steps[far];
            g.c = other;
            all[i]->gemm(&g);
            assert_memory_equal(c, other, M * LD * sizeof(*c));
        }
    joust_free_aligned(a);
    joust_free_aligned(b);
    joust_free_aligned(c);
    joust_free_aligned(other);
    joust_free_aligned(turned);
}

/* A row of a product alone has the bits that it has among others. */
static void test_gemm_rows_alone(void **state)
{
    (void)state;
    const joust_kernels *all[3];
    uint32_t n_kernels = kernels_list(all);
    enum { M = 21, N = 70, K = 50 };
    float *a = numbers(M * K, 1, 1), *b = numbers(K * 80, 2, 1), c[M * N], one[N];
    for (uint32_t i = 0; i < n_kernels; i++) {
        joust_gemm g = {.a = a,
                        .a_row = K,
                        .a_step = 1,
                        .b = b,
                        .b_panel = K * JOUST_LANES,
                        .b_step = JOUST_LANES,
                        .c = c,
                        .c_row = N,
                        .m = M,
                        .n = N,
                        .k = K};
        all[i]->gemm(&g);
        for (uint32_t row = 0; row < M; row++) {
            g.a = a + row * K;
            g.c = one;
            g.m = 1;
            all[i]->gemm(&g);
            assert_memory_equal(one, c + row * N, sizeof(one));
        }
    }
    joust_free_aligned(a);
    joust_free_aligned(b);
}

/* exp through `exponentials`: relative error below 2e-7, 0 far below, NaN kept. */
static void test_exponential(void **state)
{
    (void)state;
    const joust_kernels *all[3];
    uint32_t n_kernels = kernels_list(all);
    enum { N = 4099 };
    float *x = joust_calloc_aligned(N + JOUST_LANES, sizeof(*x)),
          *y = joust_calloc_aligned(N + JOUST_LANES, sizeof(*y));
    float *other = joust_calloc_aligned(N + JOUST_LANES, sizeof(*y));
    double marks[N / JOUST_MARK_STEP + 1];
    for (uint32_t i = 0; i < N; i++)
        x[i] = -87.3f + 175.6f * (float)i / N;
    for (uint32_t i = 0; i < n_kernels; i++) {
        double total = all[i]->exponentials(x, N, 0, 1, y, marks), sum = 0;
        for (uint32_t k = 0; k < N; k++) {
            assert_true(fabs((double)y[k] / exp((double)x[k]) - 1) < 2e-7);
            assert_true(k % JOUST_MARK_STEP || marks[k / JOUST_MARK_STEP] == sum);
            sum += (double)y[k];
        }
        assert_true(total == sum);
        (void)all[0]->exponentials(x, N, 0, 1, other, marks);
        assert_memory_equal(y, other, N * sizeof(*y));
        float edges[] = {-1e30f, -INFINITY, -88, NAN, 0}, of_edges[JOUST_LANES];
        (void)all[i]->exponentials(edges, 5, 0, 1, of_edges, marks);
        assert_true(of_edges[0] == 0 && of_edges[1] == 0 && of_edges[2] == 0 && isnan(of_edges[3]));
        assert_true(of_edges[4] == 1);
    }
    joust_free_aligned(x);
    joust_free_aligned(y);
    joust_free_aligned(other);
}

static void test_log_sum(void **state)
{
    (void)state;
    const joust_kernels *all[3];
    uint32_t n_kernels = kernels_list(all);
    const uint32_t sizes[] = {1, 2, 15, 16, 17, 130, 1000};
    for (uint32_t w = 0; w < sizeof(sizes) / sizeof(*sizes); w++) {
        uint32_t n = sizes[w];
        float *x = numbers(n, n, 5), *e = numbers(n, 1, 1), *kept = numbers(n, 1, 1);
        double marks[4], kept_marks[4], total;
        double largest = -INFINITY, sum = 0;
        for (uint32_t i = 0; i < n; i++)
            largest = fmax(largest, (double)x[i]);
        for (uint32_t i = 0; i < n; i++)
            sum += exp((double)x[i] - largest);
        for (uint32_t i = 0; i < n_kernels; i++) {
            joust_log_sum got = all[i]->log_sum(x, n), first = all[0]->log_sum(x, n);
            assert_true((double)got.max == largest);
            assert_true(fabs((double)got.log_sum - log(sum)) < 1e-6);
            assert_memory_equal(&got, &first, sizeof(got));
            first = all[i]->log_sum_keep(x, n, kept, kept_marks, &total);
            assert_memory_equal(&got, &first, sizeof(got));
            assert_true(total == all[i]->exponentials(x, n, got.max, 1, e, marks));
            assert_memory_equal(e, kept, n * sizeof(*e));
            assert_memory_equal(marks, kept_marks, (n + 511) / 512 * sizeof(*marks));
            for (uint32_t bad = 0; bad < n; bad += 7) { /* a NaN anywhere is noticed */
                float keep = x[bad];
                x[bad] = NAN;
                got = all[i]->log_sum(x, n);
                assert_false(isfinite(got.max) && isfinite(got.log_sum));
                x[bad] = keep;
            }
        }
        joust_free_aligned(x);
        joust_free_aligned(e);
        joust_free_aligned(kept);
    }
}

/* square_sum and adam: whole blocks, every width the same bits. */
static void test_blocks(void **state)
{
    (void)state;
    const joust_kernels *all[3];
    uint32_t n_kernels = kernels_list(all);
    enum { N = 1003 };
    float *g = numbers(N, 5, 1);
    double expected = 0;
    for (uint32_t i = 0; i < N; i++)
        expected += (double)g[i] * (double)g[i];
    const joust_adam how = {.beta1 = 0.9f,
                            .beta2 = 0.98f,
                            .eps = 1e-8f,
                            .step_size = 0.01f,
                            .correction = 0.5f,
                            .decay = 0.999f,
                            .scale = 0.7f};
    float *first = NULL;
    for (uint32_t i = 0; i < n_kernels; i++) {
        double sum = all[i]->square_sum(g, N), portable = all[0]->square_sum(g, N);
        assert_true(fabs(sum - expected) < 1e-10 * expected);
        assert_memory_equal(&sum, &portable, sizeof(sum));
        float *w = numbers(N, 6, 1), *m = numbers(N, 7, 1),
              *v = joust_calloc_aligned(N, sizeof(*v));
        all[i]->adam(&how, g, m, v, w, N);
        if (!first)
            first = joust_memdup(w, N * sizeof(*w));
        assert_memory_equal(first, w, N * sizeof(*w));
        joust_free_aligned(w);
        joust_free_aligned(m);
        joust_free_aligned(v);
    }
    joust_free(first);
    joust_free_aligned(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_gemm_transposed),
        cmocka_unit_test(test_gemm_rows_alone),
        cmocka_unit_test(test_exponential),
        cmocka_unit_test(test_log_sum),
        cmocka_unit_test(test_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
