/* Each kernel of the CUDA plugin, its body run by the emulator, against its twin on the CPU: bit for bit where the formula
 * is the CPU's, else against double within the bound that KERNELS.md gives; and rows alone against rows among others. */
#include "engine/cuda/gpu_fixture.h"

#include <math.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "worker/engine/kernels/kernels_internal.h"
#include "worker/engine/sampler_internal.h"

/* ---- place, embed ---------------------------------------------------------------------------- */

static void test_place_and_embed(void **state)
{
    (void)state;
    enum { ROWS = 5, K = 37, LD = 64, N = 3 };
    float *x = numbers(ROWS * K, 1, 3), out[N * K];
    x[0] = 1.00390625f; /* halfway between two bf16: to even */
    x[1] = 1.01171875f;
    x[2] = NAN;
    x[3] = -INFINITY;
    x[4] = 3.3961775e38f; /* rounds to infinity */
    uint16_t *stored = bf16_rows(x, ROWS, K, LD);
    assert_int_equal(stored[0], 0x3f80);
    assert_int_equal(stored[1], 0x3f82);
    assert_true(isnan(from_bf16(stored[2])));
    assert_true(from_bf16(stored[3]) == -INFINITY && from_bf16(stored[4]) == INFINITY);
    for (uint32_t i = 5; i < K; i++)
        assert_true(fabsf(from_bf16(stored[i]) - x[i]) <= fabsf(x[i]) / 256);
    for (uint32_t i = K; i < LD; i++)
        assert_int_equal(stored[LD + i], 0);
    const uint32_t tokens[N] = {4, 1, 4};
    joust_gpu_embed_args embed = {.table = stored, .tokens = tokens, .x = out, .d = K, .ld = LD};
    run(JOUST_GPU_embed_bf16, N, 1, &embed);
    for (uint32_t r = 0; r < N; r++)
        for (uint32_t i = 0; i < K; i++)
            assert_true(out[r * K + i] == from_bf16(stored[tokens[r] * LD + i]));
    embed.table = x;
    embed.ld = K;
    run(JOUST_GPU_embed_f32, N, 1, &embed);
    for (uint32_t r = 0; r < N; r++)
        assert_memory_equal(out + r * K, x + tokens[r] * K, K * sizeof(float));
    joust_free_aligned(stored);
    joust_free_aligned(x);
}

/* ---- norm, swiglu ---------------------------------------------------------------------------- */

static void test_norm(void **state)
{
    (void)state;
    const uint32_t widths[] = {1, 16, 20, 137, 600};
    for (uint32_t w = 0; w < sizeof(widths) / sizeof(*widths); w++) {
        const uint32_t d = widths[w], ld = joust_lanes_up(d) + 16, which[2] = {2, 0};
        float *x = numbers(3 * d, d, 2), *gain = numbers(d, d + 1, 1), *y = zeros(2 * ld);
        float *row = zeros(d + 16), *expected = zeros(d + 16);
        uint16_t *half = zeros(2 * ld);
        joust_gpu_norm_args args = {
            .x = x, .gain = gain, .which = which, .y = y, .eps = 1e-5f, .d = d, .ld = ld};
        run(JOUST_GPU_norm_f32, 2, 1, &args);
        args.y = half;
        run(JOUST_GPU_norm_bf16, 2, 1, &args);
        for (uint32_t r = 0; r < 2; r++) {
            memcpy(row, x + which[r] * d, d * sizeof(float));
            (void)joust_kernels_portable()->norm(row, gain, d, 1e-5f, expected);
            assert_memory_equal(y + r * ld, expected, d * sizeof(float)); /* the CPU's bits */
            for (uint32_t i = 0; i < d; i++)
                assert_true(fabsf(from_bf16(half[r * ld + i]) - expected[i]) <=
                            0.005f * fabsf(expected[i]));
            for (uint32_t i = d; i < ld; i++)
                assert_true(y[r * ld + i] == 0 && half[r * ld + i] == 0);
        }
        joust_free_aligned(x);
        joust_free_aligned(gain);
        joust_free_aligned(y);
        joust_free_aligned(row);
        joust_free_aligned(expected);
        joust_free_aligned(half);
    }
}

/* Squares beyond float: NaN, which the log-sum then shows, as on the CPU. */
static void test_norm_overflow(void **state)
{
    (void)state;
    const float x[4] = {1e30f, 1, 1, 1}, gain[4] = {1, 1, 1, 1};
    float y[4] = {0};
    const joust_gpu_norm_args args = {.x = x, .gain = gain, .y = y, .d = 4, .ld = 4};
    run(JOUST_GPU_norm_f32, 1, 1, &args);
    for (uint32_t i = 0; i < 4; i++)
        assert_true(isnan(y[i]));
}

static void test_swiglu(void **state)
{
    (void)state;
    enum { FF = 300, LD = 320, ROWS = 2 };
    float *x = numbers(ROWS * 2 * FF, 7, 20), *h = zeros(ROWS * LD), *expected = zeros(FF + 16);
    uint16_t *half = zeros(ROWS * LD);
    joust_gpu_swiglu_args args = {.gate_up = x, .h = h, .d_ff = FF, .ld = LD};
    run(JOUST_GPU_swiglu_f32, 2, ROWS, &args);
    args.h = half;
    run(JOUST_GPU_swiglu_bf16, 2, ROWS, &args);
    for (uint32_t r = 0; r < ROWS; r++) {
        joust_kernels_portable()->swiglu(x + (size_t)r * 2 * FF, FF, expected);
        assert_memory_equal(h + r * LD, expected, FF * sizeof(float));
        for (uint32_t i = 0; i < LD; i++) {
            const float exact = i < FF ? expected[i] : 0;
            assert_true(fabsf(from_bf16(half[r * LD + i]) - exact) <= fabsf(exact) / 256);
            assert_true(i < FF || h[r * LD + i] == 0);
        }
    }
    joust_free_aligned(x);
    joust_free_aligned(h);
    joust_free_aligned(expected);
    joust_free_aligned(half);
}

/* ---- low ------------------------------------------------------------------------------------- */

static void test_low(void **state)
{
    (void)state;
    enum { ROWS = 3, PARTS = 2, K = 5, LD = 32, FROM = PARTS * K + 4 };
    float *x = numbers(ROWS * FROM, 1, 2), *y = zeros(PARTS * ROWS * LD);
    uint16_t *half = zeros(PARTS * ROWS * LD);
    memset(y, 0xff, PARTS * ROWS * LD * sizeof(*y));
    joust_gpu_low_args args = {.from = x,
                               .to = y,
                               .scale = 0.7f,
                               .rows = ROWS,
                               .k = K,
                               .ld = LD,
                               .from_ld = FROM,
                               .n = (uint64_t)PARTS * ROWS * LD};
    run(JOUST_GPU_low_f32, 1, 1, &args);
    args.to = half;
    run(JOUST_GPU_low_bf16, 1, 1, &args);
    for (uint32_t p = 0; p < PARTS; p++)
        for (uint32_t r = 0; r < ROWS; r++)
            for (uint32_t i = 0; i < LD; i++) {
                const float exact = i < K ? x[r * FROM + p * K + i] * 0.7f : 0;
                const size_t at = (size_t)(p * ROWS + r) * LD + i;
                assert_true(y[at] == exact);
                assert_true(from_bf16(half[at]) == joust_bf16_rounded(exact));
            }
    joust_free_aligned(x);
    joust_free_aligned(y);
    joust_free_aligned(half);
}

/* ---- matrix ---------------------------------------------------------------------------------- */

static void check_matrix_f32(uint32_t m, uint32_t n, uint32_t k, bool add)
{
    float *a = numbers(m * k, 1, 1), *w = numbers(n * k, 2, 1), *y = numbers(m * n, 3, 1),
          *c = numbers(m * n, 3, 1);
    float *packed = zeros((size_t)joust_lanes_up(n) * k);
    for (uint32_t j = 0; j < n; j++)
        for (uint32_t s = 0; s < k; s++)
            packed[(size_t)(j / 16) * k * 16 + s * 16 + j % 16] = w[j * k + s];
    const joust_gpu_matrix_args args = {
        .a = a, .w = w, .y = y, .m = m, .n = n, .k = k, .ld = k, .add = add};
    run(JOUST_GPU_matrix_f32, (n + 63) / 64, (m + 31) / 32, &args);
    const joust_gemm g = {.a = a,
                          .a_row = k,
                          .a_step = 1,
                          .b = packed,
                          .b_panel = (size_t)k * 16,
                          .b_step = 16,
                          .c = c,
                          .c_row = n,
                          .m = m,
                          .n = n,
                          .k = k,
                          .add = add};
    joust_kernels_portable()->gemm(&g);
    assert_memory_equal(y, c, m * n * sizeof(*y)); /* the CPU's bits */
    joust_free_aligned(a);
    joust_free_aligned(w);
    joust_free_aligned(y);
    joust_free_aligned(c);
    joust_free_aligned(packed);
}

static void test_matrix_f32(void **state)
{
    (void)state;
    const uint32_t sizes[][3] = {{1, 1, 1}, {1, 64, 16}, {3, 65, 17}, {33, 70, 40}, {64, 128, 33}};
    for (uint32_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
        for (uint32_t add = 0; add < 2; add++)
            check_matrix_f32(sizes[i][0], sizes[i][1], sizes[i][2], add);
}

/* The product of bf16 factors in double; each row the same bits alone, and wherever it stands. */
static void check_matrix_bf16(uint32_t m, uint32_t n, uint32_t k, bool add)
{
    const uint32_t ld = (k + 31) / 32 * 32;
    float *a = numbers(m * k, 1, 1), *w = numbers(n * k, 2, 1), *y = numbers(m * n, 3, 1);
    float *before = joust_memdup(y, m * n * sizeof(*y)), *one = zeros(n);
    uint16_t *a16 = bf16_rows(a, m, k, ld), *w16 = bf16_rows(w, n, k, ld);
    joust_gpu_matrix_args args = {
        .a = a16, .w = w16, .y = y, .m = m, .n = n, .k = k, .ld = ld, .add = add};
    run(JOUST_GPU_matrix_bf16, (n + 31) / 32, (m + 63) / 64, &args);
    for (uint32_t i = 0; i < m; i++) {
        for (uint32_t j = 0; j < n; j++) {
            double sum = add ? (double)before[i * n + j] : 0, size = fabs(sum);
            for (uint32_t s = 0; s < k; s++) {
                const double part =
                    (double)from_bf16(a16[i * ld + s]) * (double)from_bf16(w16[j * ld + s]);
                sum += part;
                size += fabs(part);
            }
            if (!(fabs((double)y[i * n + j] - sum) <= 1e-6 * (size + 1)))
                fail_msg("%u x %u x %u: y[%u][%u] = %.9g, expected %.9g", m, n, k, i, j,
                         (double)y[i * n + j], sum);
        }
        memcpy(one, before + i * n, n * sizeof(*one));
        args.a = a16 + i * ld;
        args.y = one;
        args.m = 1;
        if (i % 7 == 0) {
            run(JOUST_GPU_matrix_bf16, (n + 31) / 32, 1, &args);
            assert_memory_equal(one, y + i * n, n * sizeof(*one));
        }
    }
    joust_free_aligned(a);
    joust_free_aligned(w);
    joust_free_aligned(y);
    joust_free(before);
    joust_free_aligned(one);
    joust_free_aligned(a16);
    joust_free_aligned(w16);
}

static void test_matrix_bf16(void **state)
{
    (void)state;
    const uint32_t sizes[][3] = {
        {1, 1, 1}, {1, 40, 32}, {17, 33, 70}, {66, 35, 320}, {130, 8, 512}};
    for (uint32_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
        for (uint32_t add = 0; add < 2; add++)
            check_matrix_bf16(sizes[i][0], sizes[i][1], sizes[i][2], add);
}

/* Into some columns of a wider y: what stands beside them stays, and each row has its bits. */
static void test_matrix_into(void **state)
{
    (void)state;
    enum { M = 70, N = 130, K = 40, LD = 64, Y_LD = N + 9, FIRST = 4 };
    float *a = numbers(M * K, 1, 1), *w = numbers(N * K, 2, 1), *y = numbers(M * Y_LD, 3, 1);
    uint16_t *a16 = bf16_rows(a, M, K, LD), *w16 = bf16_rows(w, N, K, LD);
    float *before = joust_memdup(y, M * Y_LD * sizeof(*y)), *narrow = zeros(M * N);
    const joust_gpu_kernel kernels[] = {JOUST_GPU_matrix_f32, JOUST_GPU_matrix_bf16,
                                        JOUST_GPU_matrix_wide};
    const uint32_t outputs[] = {64, 32, 128}, rows[] = {32, 64, 128};
    for (uint32_t i = 0; i < 6; i++) {
        const uint32_t kind = i / 2, across = (N + outputs[kind] - 1) / outputs[kind],
                       down = (M + rows[kind] - 1) / rows[kind];
        joust_gpu_matrix_args args = {.a = kind ? (void *)a16 : (void *)a,
                                      .w = kind ? (void *)w16 : (void *)w,
                                      .y = y + FIRST,
                                      .m = M,
                                      .n = N,
                                      .k = K,
                                      .ld = kind ? LD : K,
                                      .y_ld = Y_LD,
                                      .add = i % 2};
        memcpy(y, before, M * Y_LD * sizeof(*y));
        for (uint32_t r = 0; r < M; r++)
            memcpy(narrow + r * N, before + r * Y_LD + FIRST, N * sizeof(*y));
        run(kernels[kind], across, down, &args);
        args.y = narrow;
        args.y_ld = 0;
        run(kernels[kind], across, down, &args);
        for (uint32_t r = 0; r < M; r++) {
            const float *row = y + r * Y_LD, *was = before + r * Y_LD;
            assert_memory_equal(row + FIRST, narrow + r * N, N * sizeof(*y));
            assert_memory_equal(row, was, FIRST * sizeof(*y));
            assert_memory_equal(row + FIRST + N, was + FIRST + N, (Y_LD - FIRST - N) * sizeof(*y));
        }
    }
    joust_free_aligned(a);
    joust_free_aligned(w);
    joust_free_aligned(y);
    joust_free_aligned(a16);
    joust_free_aligned(w16);
    joust_free_aligned(narrow);
    joust_free(before);
}

/* ---- the head and its sums ------------------------------------------------------------------- */

/* Logits kept of one row, none of another, a target of a third: sums as the CPU's, the same whatever is kept. */
static void check_head(bool bf16, uint32_t n)
{
    enum { M = 3, K = 64 };
    const uint32_t tile = bf16 ? JOUST_GPU_BF16_OUTPUTS : JOUST_GPU_F32_OUTPUTS,
                   n_tiles = (n + tile - 1) / tile;
    const uint32_t all[M] = {0, 1, 2}, slot[M] = {1, JOUST_GPU_NONE, 0},
                   target[M] = {JOUST_GPU_NONE, n - 1, n / 2};
    float *a = numbers(M * K, 5, 1), *w = numbers(n * K, 6, 1), *logits = zeros(M * n),
          *some = zeros(M * n);
    float *partial = zeros(M * n_tiles * 2), sums[M][2], again[M][2], picked[M] = {0};
    uint16_t *a16 = bf16_rows(a, M, K, K), *w16 = bf16_rows(w, n, K, K);
    joust_gpu_matrix_args args = {.a = bf16 ? (void *)a16 : a,
                                  .w = bf16 ? (void *)w16 : w,
                                  .y = logits,
                                  .m = M,
                                  .n = n,
                                  .k = K,
                                  .ld = K,
                                  .partial = partial,
                                  .n_tiles = n_tiles,
                                  .slot = all,
                                  .target = target,
                                  .picked = picked};
    joust_gpu_log_sum_args sum = {.partial = partial, .sums = sums[0], .n_tiles = n_tiles};
    const joust_gpu_kernel head = bf16 ? JOUST_GPU_head_bf16 : JOUST_GPU_head_f32;
    run(head, n_tiles, 1, &args);
    run(JOUST_GPU_log_sum, M, 1, &sum);
    args.slot = slot;
    args.y = some;
    sum.sums = again[0];
    run(head, n_tiles, 1, &args);
    run(JOUST_GPU_log_sum, M, 1, &sum);
    assert_memory_equal(sums, again, sizeof(sums));
    assert_memory_equal(some + n, logits, n * sizeof(float));
    assert_memory_equal(some, logits + 2 * n, n * sizeof(float));
    assert_true(picked[0] == 0 && picked[1] == logits[n + n - 1] &&
                picked[2] == logits[2 * n + n / 2]);
    for (uint32_t i = 0; i < M; i++) {
        float *row = zeros(n);
        memcpy(row, logits + i * n, n * sizeof(float));
        const joust_log_sum expected = joust_kernels_portable()->log_sum(row, n);
        assert_true(sums[i][0] == expected.max);
        assert_true(fabs(log((double)sums[i][1]) - (double)expected.log_sum) < 1e-6);
        joust_free_aligned(row);
    }
    joust_gpu_pick_item items[2] = {{.slot = 1, .token = n - 1}, {.slot = 0, .token = 0}};
    const joust_gpu_pick_args pick = {.logits = logits, .items = items, .n = n, .n_items = 2};
    run(JOUST_GPU_pick, 1, 1, &pick);
    assert_true(items[0].x == logits[n + n - 1] && items[1].x == logits[0]);
    joust_free_aligned(a);
    joust_free_aligned(w);
    joust_free_aligned(logits);
    joust_free_aligned(some);
    joust_free_aligned(partial);
    joust_free_aligned(a16);
    joust_free_aligned(w16);
}

static void test_head(void **state)
{
    (void)state;
    const uint32_t widths[] = {1, 31, 64, 65, 700};
    for (uint32_t i = 0; i < sizeof(widths) / sizeof(*widths); i++) {
        check_head(false, widths[i]);
        check_head(true, widths[i]);
    }
}

/* A NaN or an infinity anywhere in the logits is noticed in the sums. */
static void test_log_sum_not_finite(void **state)
{
    (void)state;
    enum { TILES = 300 };
    for (uint32_t bad = 0; bad < TILES; bad += 37)
        for (uint32_t kind = 0; kind < 3; kind++) {
            float partial[TILES][2], sums[2];
            for (uint32_t i = 0; i < TILES; i++) {
                partial[i][0] = (float)i / 100;
                partial[i][1] = 1;
            }
            partial[bad][0] = kind == 0 ? NAN : kind == 1 ? INFINITY : 0;
            partial[bad][1] = NAN; /* what such a tile sums to */
            const joust_gpu_log_sum_args args = {
                .partial = partial[0], .sums = sums, .n_tiles = TILES};
            run(JOUST_GPU_log_sum, 1, 1, &args);
            assert_false(isfinite(sums[0]) && isfinite(sums[1]));
        }
}

/* ---- drawing --------------------------------------------------------------------------------- */

/* The token that the CPU's sampler draws, for many uniforms and settings; the total within rounding. */
static void check_draw(uint32_t n, float temperature, float min_p, double spread)
{
    enum { DRAWS = 41 };
    joust_error err = {0};
    float *x = numbers(n, n + 1, spread);
    joust_gpu_draw_item items[DRAWS];
    const uint32_t n_tiles = (n + JOUST_GPU_DRAW_TILE - 1) / JOUST_GPU_DRAW_TILE;
    double *marks = zeros((size_t)2 * DRAWS * n_tiles);
    joust_sampler s;
    check_ok(joust_sampler_init(&s, joust_kernels_portable(), n, &err));
    if (n > 3)
        x[n - 1] = x[n / 2]; /* a tie somewhere */
    const joust_log_sum sum = joust_kernels_portable()->log_sum(x, n);
    const float sums[2] = {sum.max, 1};
    for (uint32_t i = 0; i < DRAWS; i++)
        items[i] = (joust_gpu_draw_item){.scale = temperature > 0 ? 1 / temperature : 0,
                                         .uniform = i == DRAWS - 1 ? 0.99999994f : (float)i / DRAWS,
                                         .min_p = min_p};
    const joust_gpu_draw_args args = {
        .logits = x, .sums = sums, .items = items, .marks = marks, .n = n, .n_tiles = n_tiles};
    run(JOUST_GPU_draw, DRAWS, 1, &args);
    for (uint32_t i = 0; i < DRAWS; i++) {
        const joust_sampling how = {
            .temperature = temperature, .top_p = 1, .min_p = min_p, .max_tokens = 1};
        joust_draw draw;
        check_ok(joust_sampler_draw(&s, x, NULL, &how, items[i].uniform, &draw, &err));
        assert_int_equal(items[i].token, draw.token);
        assert_true(items[i].x == x[draw.token]);
        if (temperature > 0 && (temperature < 1 || min_p > 0))
            assert_true(fabs((double)((items[i].x - sum.max) * items[i].scale) -
                             log(items[i].total) - (double)draw.logp) < 1e-5);
    }
    joust_sampler_fini(&s);
    joust_free_aligned(marks);
    joust_free_aligned(x);
}

static void test_draw(void **state)
{
    (void)state;
    const uint32_t sizes[] = {1, 2, 511, 512, 513, 3000};
    for (uint32_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        check_draw(sizes[i], 1, 0, 2);
        check_draw(sizes[i], 0.5f, 0, 3);
        check_draw(sizes[i], 0.9f, 0.05f, 3);
        check_draw(sizes[i], 0, 0, 3);
        check_draw(sizes[i], 1, 0, 100); /* nearly all weights are 0 */
    }
}

/* Equal logits: the lowest id, wherever the others stand. */
static void test_draw_ties(void **state)
{
    (void)state;
    enum { N = 1000 };
    float x[N];
    const float sums[2] = {1, 1};
    double marks[2];
    for (uint32_t first = 0; first < N; first += 111) {
        for (uint32_t i = 0; i < N; i++)
            x[i] = i >= first ? 1 : 0;
        joust_gpu_draw_item item = {.scale = 0};
        const joust_gpu_draw_args args = {
            .logits = x, .sums = sums, .items = &item, .marks = marks, .n = N, .n_tiles = 2};
        run(JOUST_GPU_draw, 1, 1, &args);
        assert_int_equal(item.token, first);
    }
}

/* ---- attention ------------------------------------------------------------------------------- */

/* One sequence's pages, filled by the finishing kernel row by row; each row's attention against the CPU's on the same keys. */
typedef struct attention {
    uint32_t n, n_heads, n_kv, d_head, window;
} attention;

#define MAX_PAGES 20u

static void check_row(const attention *a, const float *qkv, void *const *pages, const float *out,
                      uint32_t position)
{
    const uint32_t head_ld = joust_lanes_up(a->d_head), n_pages = position / 16 + 1;
    const size_t keys = (size_t)a->n_kv * a->d_head * 16, values = (size_t)a->n_kv * 16 * head_ld;
    float *copy = zeros(n_pages * (keys + values)), *scores = zeros(n_pages * 16 + 32);
    float *expected = zeros((size_t)a->n_heads * a->d_head);
    joust_kv_span spans[MAX_PAGES];
    for (uint32_t p = 0; p < n_pages; p++) { /* the CPU pads values to lanes */
        float *to = copy + p * (keys + values);
        const float *from = pages[p];
        memcpy(to, from, keys * sizeof(float));
        for (uint32_t i = 0; i < a->n_kv * 16; i++)
            memcpy(to + keys + (size_t)i * head_ld, from + keys + (size_t)i * a->d_head,
                   a->d_head * sizeof(float));
        spans[p] = (joust_kv_span){.keys = to, .values = to + keys, .capacity = 16, .n = 16};
    }
    spans[n_pages - 1].n = position % 16 + 1;
    const uint32_t first = a->window && position >= a->window ? position - a->window + 1 : 0;
    joust_attention of = {.n_heads = a->n_heads,
                          .n_kv_heads = a->n_kv,
                          .d_head = a->d_head,
                          .head_ld = head_ld,
                          .n_spans = n_pages - first / 16,
                          .end_head = a->n_heads,
                          .masked = first % 16,
                          .scale = 0.37f,
                          .query = qkv,
                          .spans = spans + first / 16,
                          .out = expected,
                          .scores = scores};
    joust_kernels_portable()->attend(&of);
    assert_memory_equal(out, expected, (size_t)a->n_heads * a->d_head * sizeof(float));
    joust_free_aligned(copy);
    joust_free_aligned(scores);
    joust_free_aligned(expected);
}

static void check_attention(const attention *a)
{
    const uint32_t heads = a->n_heads + 2 * a->n_kv, width = a->n_heads * a->d_head, ld = width + 5;
    float *qkv = numbers((size_t)a->n * heads * a->d_head, 11, 1),
          *angles = numbers((size_t)a->n * a->d_head, 12, 1);
    float *out = zeros((size_t)a->n * ld);
    uint32_t positions[MAX_PAGES * 16], first_page[MAX_PAGES * 16] = {0};
    void *pages[MAX_PAGES];
    for (uint32_t i = 0; i < MAX_PAGES; i++) {
        pages[i] = zeros((size_t)2 * a->n_kv * a->d_head * 16);
        memset(pages[i], 0xff, (size_t)2 * a->n_kv * a->d_head * 16 * sizeof(float));
    }
    for (uint32_t i = 0; i < a->n; i++)
        positions[i] = i;
    const joust_gpu_places at = {.pages = pages, .first_page = first_page, .positions = positions};
    const joust_gpu_finish_args finish = {.qkv = qkv,
                                          .angles = angles,
                                          .at = at,
                                          .n_heads = a->n_heads,
                                          .n_kv_heads = a->n_kv,
                                          .d_head = a->d_head};
    const joust_gpu_attend_args attend = {.qkv = qkv,
                                          .at = at,
                                          .out = out,
                                          .scale = 0.37f,
                                          .n_heads = a->n_heads,
                                          .n_kv_heads = a->n_kv,
                                          .d_head = a->d_head,
                                          .ld = ld,
                                          .window = a->window};
    float *before = joust_memdup(qkv, (size_t)a->n * heads * a->d_head * sizeof(float));
    run(JOUST_GPU_finish_f32, a->n, heads, &finish);
    run(JOUST_GPU_attend_f32, a->n_heads, a->n, &attend);
    for (uint32_t i = 0; i < a->n; i++) {
        float *row = before + (size_t)i * heads * a->d_head;
        joust_kernels_portable()->rope(row, a->n_heads, a->d_head, angles + (size_t)i * a->d_head,
                                       false);
        assert_memory_equal(row, qkv + (size_t)i * heads * a->d_head, width * sizeof(float));
        if (i % 5 == 0 || i + 1 == a->n)
            check_row(a, qkv + (size_t)i * heads * a->d_head, pages, out + (size_t)i * ld, i);
        for (uint32_t k = width; k < ld; k++)
            assert_true(out[(size_t)i * ld + k] == 0);
    }
    for (uint32_t i = 0; i < MAX_PAGES; i++)
        joust_free_aligned(pages[i]);
    joust_free(before);
    joust_free_aligned(qkv);
    joust_free_aligned(angles);
    joust_free_aligned(out);
}

static void test_attention(void **state)
{
    (void)state;
    const attention all[] = {{1, 2, 1, 8, 0},     {40, 4, 2, 6, 0},   {150, 2, 2, 16, 0},
                             {170, 1, 1, 32, 40}, {60, 2, 1, 256, 1}, {300, 1, 1, 4, 139}};
    for (uint32_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        check_attention(&all[i]);
}

/* ---- bounds ---------------------------------------------------------------------------------- */

/* Every word is read once, every product made: what the benchmark divides by is what was done. */
static void test_bounds(void **state)
{
    (void)state;
    enum { BLOCKS = 3, THREADS = BLOCKS * 256, N = 5000 };
    uint32_t *words = zeros((size_t)4 * N), *sums = zeros(THREADS), all = 0, got = 0;
    float *products = zeros(THREADS);
    for (uint32_t i = 0; i < 4 * N; i++)
        all ^= words[i] = i * 2654435761u;
    const joust_gpu_read_args of_read = {.from = words, .sums = sums, .n = N};
    run(JOUST_GPU_read, BLOCKS, 1, &of_read);
    for (uint32_t i = 0; i < THREADS; i++)
        got ^= sums[i];
    assert_int_equal(got, all);
    const joust_gpu_products_args of_products = {.sums = products, .rounds = 5};
    run(JOUST_GPU_products, BLOCKS, 1, &of_products);
    for (uint32_t i = 0; i < THREADS; i++)
        assert_true(products[i] == 16.0f * 5 * JOUST_GPU_CHAINS);
    joust_free_aligned(words);
    joust_free_aligned(sums);
    joust_free_aligned(products);
}

int main(void)
{
    joust_error err = {0};
    check_ok(joust_gpu_open(&(joust_device_options){.precision = JOUST_PRECISION_F32}, &gpu, &err));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_place_and_embed),
                                       cmocka_unit_test(test_norm),
                                       cmocka_unit_test(test_norm_overflow),
                                       cmocka_unit_test(test_swiglu),
                                       cmocka_unit_test(test_low),
                                       cmocka_unit_test(test_matrix_into),
                                       cmocka_unit_test(test_matrix_f32),
                                       cmocka_unit_test(test_matrix_bf16),
                                       cmocka_unit_test(test_head),
                                       cmocka_unit_test(test_log_sum_not_finite),
                                       cmocka_unit_test(test_draw),
                                       cmocka_unit_test(test_draw_ties),
                                       cmocka_unit_test(test_attention),
                                       cmocka_unit_test(test_bounds)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    gpu->close(gpu);
    return failed;
}
