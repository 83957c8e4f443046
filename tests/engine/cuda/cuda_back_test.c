/* Kernels that training alone, or passes of many rows, run, by the emulator, against their twins or against double, within the bounds that KERNELS.md gives.
 * (Float32's other kernels have the CPU's bits: training_test.c compares whole models with them.) */
#include "engine/cuda/gpu_fixture.h"

#include <math.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/math.h"
#include "worker/engine/kernels/kernels_internal.h"

static void *spoiled(size_t n)
{
    void *x = joust_calloc_aligned(n + JOUST_LANES, 4);
    memset(x, 0xff, n * 4);
    return x;
}

/* ---- products of many rows ------------------------------------------------------------------- */

/* Launches a product by the narrow tiling, or by the one that its rows may have instead. */
static void product_run(const joust_gpu_matrix_args *args, bool head, bool other)
{
    const uint32_t thin = head ? JOUST_GPU_BF16_OUTPUTS : JOUST_GPU_THIN_OUTPUTS;
    if (!other)
        run(head ? JOUST_GPU_head_bf16 : JOUST_GPU_matrix_bf16, (args->n + 31) / 32,
            (args->m + 63) / 64, args);
    else if (args->m <= JOUST_GPU_THIN_ROWS)
        run(head ? JOUST_GPU_head_thin : JOUST_GPU_matrix_thin, (args->n + thin - 1) / thin, 1,
            args);
    else
        run(head ? JOUST_GPU_head_wide : JOUST_GPU_matrix_wide, (args->n + 127) / 128,
            (args->m + 127) / 128, args);
}

/* The thin and the wide tiling have the narrow one's bits: products, added or not, and all that the head makes of them. */
static void check_wide(uint32_t m, uint32_t n, uint32_t k, bool head, bool add)
{
    const uint32_t ld = (k + 31) / 32 * 32, n_tiles = (n + 31) / 32;
    float *a = numbers(m * k, 1, 1), *w = numbers(n * k, 2, 1), *y[2], *partial[2], *picked[2];
    uint16_t *a16 = bf16_rows(a, m, k, ld), *w16 = bf16_rows(w, n, k, ld);
    uint32_t *lists = zeros(2 * m);
    for (uint32_t i = 0; i < m; i++) {
        lists[i] = i % 3 ? i : JOUST_GPU_NONE; /* slots; targets */
        lists[m + i] = i % 2 ? i * 37 % n : JOUST_GPU_NONE;
    }
    for (uint32_t wide = 0; wide < 2; wide++) {
        y[wide] = numbers(m * n, 3, 1);
        partial[wide] = zeros(2 * m * n_tiles);
        picked[wide] = zeros(m);
        const joust_gpu_matrix_args args = {.a = a16,
                                            .w = w16,
                                            .y = y[wide],
                                            .m = m,
                                            .n = n,
                                            .k = k,
                                            .ld = ld,
                                            .add = add,
                                            .partial = partial[wide],
                                            .n_tiles = n_tiles,
                                            .slot = lists,
                                            .target = lists + m,
                                            .picked = picked[wide]};
        product_run(&args, head, wide);
    }
    assert_memory_equal(y[0], y[1], m * n * sizeof(float));
    assert_memory_equal(partial[0], partial[1], 2 * m * n_tiles * sizeof(float));
    assert_memory_equal(picked[0], picked[1], m * sizeof(float));
    void *const all[] = {a,    w,          a16,        w16,       lists,    y[0],
                         y[1], partial[0], partial[1], picked[0], picked[1]};
    for (uint32_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        joust_free_aligned(all[i]);
}

static void test_wide(void **state)
{
    (void)state;
    const uint32_t sizes[][3] = {{65, 129, 20}, {130, 70, 300}, {128, 256, 512}, {200, 33, 96},
                                 {1, 1, 1},     {1, 100, 300},  {5, 40, 33},     {8, 65, 1700}};
    for (uint32_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
        for (uint32_t kind = 0; kind < 3; kind++)
            check_wide(sizes[i][0], sizes[i][1], sizes[i][2], kind == 2, kind == 1);
}

/* ---- layout ---------------------------------------------------------------------------------- */

static void test_transpose(void **state)
{
    (void)state;
    enum { ROWS = 37, COLUMNS = 70, LD = 96, TO = 64 };
    float *x = numbers((size_t)ROWS * LD, 1, 2), *y = spoiled((size_t)COLUMNS * TO);
    uint16_t *half = bf16_rows(x, ROWS, LD, LD), *z = spoiled((size_t)COLUMNS * TO);
    joust_gpu_transpose_args args = {.from = x,
                                     .to = y,
                                     .rows = ROWS,
                                     .columns = COLUMNS,
                                     .from_ld = LD,
                                     .to_ld = TO,
                                     .of_floats = 1};
    for (uint32_t turn = 0; turn < 3; turn++) { /* floats, floats to bf16, bf16 */
        args.from = turn < 2 ? (void *)x : (void *)half;
        args.to = turn ? (void *)z : (void *)y;
        args.of_floats = turn == 1;
        run(turn ? JOUST_GPU_transpose_bf16 : JOUST_GPU_transpose_f32, 3, 2, &args);
        for (uint32_t c = 0; c < COLUMNS; c++)
            for (uint32_t r = 0; r < TO; r++) {
                const float got = turn ? from_bf16(z[c * TO + r]) : y[c * TO + r],
                            whole = r < ROWS ? x[r * LD + c] : 0.0f,
                            rounded = r < ROWS ? from_bf16(half[r * LD + c]) : 0.0f;
                assert_true(got == (turn ? rounded : whole));
            }
    }
    joust_free_aligned(x);
    joust_free_aligned(y);
    joust_free_aligned(z);
    joust_free_aligned(half);
}

static void test_fork(void **state)
{
    (void)state;
    enum { KV = 2, D = 6, N = 5, LAYER = 2 * KV * D * 16 };
    float *x = numbers(2 * LAYER, 2, 1),
          *to[2] = {numbers(2 * LAYER, 3, 1), numbers(2 * LAYER, 4, 1)};
    float *before = numbers(2 * LAYER, 3, 1);
    const joust_gpu_fork_args args = {.from = {x, x},
                                      .to = {to[0], to[1]},
                                      .layer = LAYER, /* the second */
                                      .n = N,
                                      .n_kv_heads = KV,
                                      .d_head = D};
    run(JOUST_GPU_fork_f32, 2, KV, &args);
    assert_memory_equal(to[0], before, LAYER * sizeof(float)); /* the first is as it was */
    for (uint32_t i = 0; i < KV * D * 16; i++) {               /* keys, then values */
        const uint32_t value = KV * D * 16 + i;
        assert_true(to[0][LAYER + i] == (i % 16 < N ? x : before)[LAYER + i]);
        assert_true(to[0][LAYER + value] == (i / D % 16 < N ? x : before)[LAYER + value]);
        assert_true(i % 16 >= N || to[1][LAYER + i] == x[LAYER + i]);
    }
    joust_free_aligned(x);
    joust_free_aligned(before);
    joust_free_aligned(to[0]);
    joust_free_aligned(to[1]);
}

/* ---- the loss -------------------------------------------------------------------------------- */

/* Two chunks of a vocabulary against one row of the CPU's: a pull, two pulls, a single logit. */
static void test_slopes(void **state)
{
    (void)state;
    enum { N = 600, ROWS = 3, CUT = 333 };
    float *x = numbers((size_t)ROWS * N, 5, 3),
          *expected = joust_calloc_aligned(N + 16, sizeof(float));
    const joust_gpu_slope slopes[] = {{JOUST_DEVICE_SLOPE_LOGP, 5, 0.7f, 0},
                                      {JOUST_DEVICE_SLOPE_LOGP, 400, -0.3f, 0},
                                      {JOUST_DEVICE_SLOPE_LOGP, 332, 1.1f, 0},
                                      {JOUST_DEVICE_SLOPE_LOGIT, 9, 0.25f, 0}};
    const uint32_t first[ROWS + 1] = {0, 1, 3, 4};
    float sums[2 * ROWS], *chunks[2];
    for (uint32_t r = 0; r < ROWS; r++) {
        const joust_log_sum s = joust_kernels_portable()->log_sum(x + r * N, N);
        sums[2 * r] = s.max;
        sums[2 * r + 1] = s.log_sum;
    }
    for (uint32_t k = 0; k < 2; k++) {
        const uint32_t from = k ? CUT : 0, n = k ? N - CUT : CUT;
        chunks[k] = spoiled((size_t)ROWS * n);
        for (uint32_t r = 0; r < ROWS; r++)
            memcpy(chunks[k] + r * n, x + r * N + from, n * sizeof(float));
        const joust_gpu_slopes_args args = {.x = chunks[k],
                                            .sums = sums,
                                            .slopes = slopes,
                                            .first_slope = first,
                                            .first = from,
                                            .n = n};
        run(JOUST_GPU_slopes, (n + 255) / 256, ROWS, &args);
    }
    for (uint32_t r = 0; r < ROWS; r++) {
        memset(expected, 0, N * sizeof(float));
        for (uint32_t k = first[r]; k < first[r + 1]; k++) {
            if (slopes[k].kind == JOUST_DEVICE_SLOPE_LOGP)
                joust_kernels_portable()->softmax_add(x + r * N, N,
                                                      (joust_log_sum){sums[2 * r], sums[2 * r + 1]},
                                                      -slopes[k].factor, expected);
            expected[slopes[k].token] += slopes[k].factor;
        }
        assert_memory_equal(chunks[0] + r * CUT, expected, CUT * sizeof(float));
        assert_memory_equal(chunks[1] + r * (N - CUT), expected + CUT, (N - CUT) * sizeof(float));
    }
    joust_free_aligned(x);
    joust_free_aligned(expected);
    joust_free_aligned(chunks[0]);
    joust_free_aligned(chunks[1]);
}

static void test_entropy(void **state)
{
    (void)state;
    enum { N = 700 };
    float *x = numbers(N, 6, 4);
    const joust_log_sum s = joust_kernels_portable()->log_sum(x, N);
    const float sums[2] = {s.max, s.log_sum};
    double entropy = 0, expected = 0;
    x[3] = -200; /* of no probability */
    for (uint32_t first = 0; first < N; first += 400) {
        const joust_gpu_entropy_args args = {.x = x + first,
                                             .sums = sums,
                                             .entropies = &entropy,
                                             .n = N - first < 400 ? N - first : 400};
        run(JOUST_GPU_entropy, 1, 1, &args);
    }
    for (uint32_t i = 0; i < N; i++) {
        const double logp = (double)x[i] - (double)s.max - (double)s.log_sum;
        expected -= joust_exp(logp) * logp;
    }
    assert_true(fabs(entropy - expected) < 1e-5 * (1 + expected));
    const joust_gpu_slope slope = {JOUST_DEVICE_SLOPE_ENTROPY, 0, 0.4f, (float)expected};
    const uint32_t first_slope[2] = {0, 1};
    float *d = joust_memdup(x, N * sizeof(float));
    const joust_gpu_slopes_args args = {
        .x = d, .sums = sums, .slopes = &slope, .first_slope = first_slope, .n = N};
    run(JOUST_GPU_slopes, 3, 1, &args);
    for (uint32_t i = 0; i < N; i++) {
        const double logp = (double)x[i] - (double)s.max - (double)s.log_sum;
        assert_true(fabs((double)d[i] + 0.4 * joust_exp(logp) * (logp + expected)) < 1e-6);
    }
    joust_free(d);
    joust_free_aligned(x);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static double largest_of(const double *x, uint32_t n)
{
    double largest = 0;
    for (uint32_t i = 0; i < n; i++)
        largest = fabs(x[i]) > largest ? fabs(x[i]) : largest;
    return largest;
}

/* Both precisions' sums against double; dx collects, rows are named. */
static void check_norm_back(bool bf16)
{
    enum { D = 300, ROWS = 2 };
    float *x = numbers(3 * D, 7, 2), *gain = numbers(D, 8, 1), *dy = numbers(ROWS * D, 9, 1);
    float *dx = numbers(3 * D, 10, 1), *before = numbers(3 * D, 10, 1), r[ROWS];
    const uint32_t which[ROWS] = {2, 0};
    const joust_gpu_norm_back_args args = {
        .x = x, .gain = gain, .dy = dy, .which = which, .dx = dx, .r = r, .eps = 1e-5f, .d = D};
    run(bf16 ? JOUST_GPU_norm_back_bf16 : JOUST_GPU_norm_back_f32, ROWS, 1, &args);
    for (uint32_t k = 0; k < ROWS; k++) {
        const float *at = x + which[k] * D;
        double squares = 0, dot = 0, exact[D];
        for (uint32_t i = 0; i < D; i++) {
            squares += (double)at[i] * (double)at[i];
            dot += (double)dy[k * D + i] * (double)gain[i] * (double)at[i];
        }
        const double by = 1 / sqrt(squares / D + 1e-5);
        assert_true(fabs((double)r[k] - by) < 1e-6 * by);
        for (uint32_t i = 0; i < D; i++)
            exact[i] = (double)before[which[k] * D + i] +
                       (double)dy[k * D + i] * (double)gain[i] * by -
                       (double)at[i] * by * by * by / D * dot;
        for (uint32_t i = 0; i < D; i++)
            assert_true(fabs((double)dx[which[k] * D + i] - exact[i]) <
                        1e-6 * largest_of(exact, D));
    }
    assert_memory_equal(dx + D, before + D, D * sizeof(float)); /* a row that nobody named */
    float *const all[] = {x, gain, dy, dx, before};
    for (uint32_t i = 0; i < 5; i++)
        joust_free_aligned(all[i]);
}

static void test_norm_back(void **state)
{
    (void)state;
    check_norm_back(false);
    check_norm_back(true);
}

/* Plain sums and gains of several parts a row, against double; float32's in order of rows, bit for bit. */
static void test_columns(void **state)
{
    (void)state;
    enum { ROWS = 45, INNER = 3, N = 40, LD = 130, PARTS = ROWS * INNER };
    float *dy = numbers(ROWS * LD, 11, 1), *x = numbers(ROWS * LD, 12, 1),
          *r = numbers(PARTS, 13, 1), y[N];
    joust_gpu_columns_args args = {.dy = dy,
                                   .to = y,
                                   .n = N,
                                   .n_rows = ROWS,
                                   .n_inner = INNER,
                                   .dy_ld = LD,
                                   .x_ld = LD,
                                   .r_ld = INNER};
    for (uint32_t turn = 0; turn < 4; turn++) {
        args.x = turn & 1 ? x : NULL;
        args.r = turn & 1 ? r : NULL;
        run(turn < 2 ? JOUST_GPU_columns_f32 : JOUST_GPU_columns_bf16, (N + 31) / 32, 1, &args);
        for (uint32_t i = 0; i < N; i++) {
            float in_order = 0;
            double exact = 0, sizes = 0;
            for (uint32_t k = 0; k < PARTS; k++) {
                const size_t at = (size_t)(k / INNER) * LD + k % INNER * N + i;
                in_order = turn & 1 ? fmaf(dy[at], x[at] * r[k], in_order) : in_order + dy[at];
                const double term = (double)dy[at] * (turn & 1 ? (double)x[at] * (double)r[k] : 1);
                exact += term;
                sizes += fabs(term);
            }
            assert_true(turn >= 2 || y[i] == in_order);
            assert_true(fabs((double)y[i] - exact) <= 1e-6 * (1 + sizes));
        }
    }
    joust_free_aligned(dy);
    joust_free_aligned(x);
    joust_free_aligned(r);
}

static void test_swiglu_back(void **state)
{
    (void)state;
    enum { FF = 300, ROWS = 2 };
    float *gate_up = numbers(ROWS * 2 * FF, 14, 3), *dh = numbers(ROWS * FF + 16, 15, 1);
    float *got = spoiled(ROWS * 2 * FF), *expected = spoiled(2 * FF + 16);
    const joust_gpu_swiglu_back_args args = {
        .gate_up = gate_up, .dh = dh, .d_gate_up = got, .d_ff = FF};
    run(JOUST_GPU_swiglu_back, 2, ROWS, &args);
    for (uint32_t r = 0; r < ROWS; r++) {
        joust_kernels_portable()->swiglu_backward(gate_up + r * 2 * FF, dh + r * FF, FF, expected);
        assert_memory_equal(got + r * 2 * FF, expected, 2 * FF * sizeof(float));
    }
    joust_free_aligned(gate_up);
    joust_free_aligned(dh);
    joust_free_aligned(got);
    joust_free_aligned(expected);
}

int main(void)
{
    joust_error err = {0};
    if (joust_gpu_open(&(joust_device_options){0}, &gpu, &err))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wide),    cmocka_unit_test(test_transpose),
        cmocka_unit_test(test_fork),    cmocka_unit_test(test_slopes),
        cmocka_unit_test(test_entropy), cmocka_unit_test(test_norm_back),
        cmocka_unit_test(test_columns), cmocka_unit_test(test_swiglu_back)};
    const int n = cmocka_run_group_tests(tests, NULL, NULL);
    gpu->close(gpu);
    return n;
}
