/* Attention in bf16 and its backward pass by tensor-core products, in the emulator: against double over the same rounded
 * factors, and bit for bit whatever stands beside a row: alone, in pieces, among others, segments shared out or not. */
#include "engine/cuda/gpu_fixture.h"

#include <math.h>

#include "worker/engine/cuda/cuda_model_internal.h"

#define PAGE JOUST_DEVICE_PAGE_POSITIONS

/* Sequences one after the other, n rows in all; pages are NaN where nothing was written. */
typedef struct flash {
    joust_model_config c;
    uint32_t n, n_sequences, length[2], window, ld, width, n_pages;
    float *qkv, *before, *stats, *d_out, *means, *d_qkv, *parts;
    uint16_t *out, *query_half, *out_half;
    uint32_t *positions, *first_page;
    void **pages;
    joust_gpu_tile *tiles;
    joust_gpu_key_tile *key_tiles;
    uint32_t n_tiles, n_key_tiles;
} flash;

static uint32_t heads_of(const flash *f)
{
    return f->c.n_heads + 2 * f->c.n_kv_heads;
}

static void lists_make(flash *f)
{
    f->positions = zeros(f->n);
    f->first_page = zeros(f->n);
    f->tiles = zeros(3 * (size_t)f->n * f->c.n_heads + 6);
    f->key_tiles = zeros(3 * (size_t)f->n);
    f->pages = zeros(2 * (f->n / PAGE + 2));
    const size_t stores = (size_t)2 * f->c.n_kv_heads * f->ld * PAGE;
    for (uint32_t s = 0, row = 0; s < f->n_sequences; s++) {
        const uint32_t first = f->n_pages, n = f->length[s], n_pages = (n + PAGE - 1) / PAGE;
        for (uint32_t i = 0; i < n_pages; i++) {
            f->pages[first + i] = zeros(stores / 2 + 1);
            memset(f->pages[first + i], 0xff, stores * 2);
        }
        f->n_pages += n_pages;
        f->n_tiles += joust_gpu_tiles_fill(&f->c, row, n, f->tiles + f->n_tiles);
        for (uint32_t i = 0; i < n; i += PAGE)
            f->key_tiles[f->n_key_tiles++] = (joust_gpu_key_tile){
                .row = row + i, .n = n - i < PAGE ? n - i : PAGE, .end = row + n};
        for (uint32_t i = 0; i < n; i++, row++) {
            f->positions[row] = i;
            f->first_page[row] = first;
        }
    }
}

static joust_gpu_places places_of(const flash *f)
{
    return (joust_gpu_places){.pages = f->pages,
                              .first_page = f->first_page,
                              .positions = f->positions,
                              .tiles = f->tiles,
                              .n_tiles = f->n_tiles};
}

static joust_gpu_attend_args attend_of(flash *f)
{
    return (joust_gpu_attend_args){.qkv = f->qkv,
                                   .at = places_of(f),
                                   .out = f->out,
                                   .scale = 0.31f,
                                   .stats = f->stats,
                                   .n_heads = f->c.n_heads,
                                   .n_kv_heads = f->c.n_kv_heads,
                                   .d_head = f->c.d_head,
                                   .ld = f->width,
                                   .window = f->window};
}

static joust_gpu_kernel of_width(const flash *f, joust_gpu_kernel narrowest)
{
    return (joust_gpu_kernel)(narrowest + (f->c.d_head > 64) + (f->c.d_head > 128));
}

/* Keys and values into the pages, and all rows' attention. Numbers of a sequence don't depend on the others. */
static void flash_init(flash *f)
{
    const size_t head = (size_t)heads_of(f) * f->c.d_head, out = f->c.n_heads * f->c.d_head;
    f->ld = (f->c.d_head + 7) / 8 * 8;
    f->width = ((uint32_t)out + 31) / 32 * 32;
    f->n = f->length[0] + (f->n_sequences > 1 ? f->length[1] : 0);
    lists_make(f);
    f->qkv = zeros(f->n * head);
    f->d_out = zeros(f->n * out);
    for (uint32_t s = 0, row = 0; s < f->n_sequences; row += f->length[s++]) {
        float *x = numbers(f->length[s] * head, f->length[s], 1),
              *d = numbers(f->length[s] * out, f->length[s] + 1, 1);
        memcpy(f->qkv + row * head, x, f->length[s] * head * sizeof(float));
        memcpy(f->d_out + row * out, d, f->length[s] * out * sizeof(float));
        joust_free_aligned(x);
        joust_free_aligned(d);
    }
    f->before = joust_memdup(f->qkv, f->n * head * sizeof(float));
    f->out = zeros((size_t)f->n * f->width);
    f->stats = zeros((size_t)2 * f->n * f->c.n_heads);
    f->means = zeros((size_t)f->n * f->c.n_heads);
    f->d_qkv = zeros(f->n * head);
    f->parts = zeros((size_t)f->n * f->c.n_heads * 8 * (f->ld + 2));
    f->query_half = zeros((size_t)f->n * heads_of(f) * f->ld);
    f->out_half = zeros((size_t)f->n * f->c.n_heads * f->ld);
    float *angles = zeros((size_t)f->n * f->c.d_head);
    for (size_t i = 0; i < (size_t)f->n * f->c.d_head; i++)
        angles[i] = i % f->c.d_head < f->c.d_head / 2 ? 1 : 0; /* no rotation */
    const joust_gpu_finish_args finish = {.qkv = f->qkv,
                                          .angles = angles,
                                          .at = places_of(f),
                                          .n_heads = f->c.n_heads,
                                          .n_kv_heads = f->c.n_kv_heads,
                                          .d_head = f->c.d_head};
    run(JOUST_GPU_finish_bf16, f->n, heads_of(f), &finish);
    const joust_gpu_attend_args attend = attend_of(f);
    run(of_width(f, JOUST_GPU_flash_64), (f->n_tiles + 3) / 4, f->c.n_kv_heads, &attend);
    joust_free_aligned(angles);
}

static void flash_fini(flash *f)
{
    for (uint32_t i = 0; i < f->n_pages; i++)
        joust_free_aligned(f->pages[i]);
    joust_free(f->before);
    void *const all[] = {f->qkv,       f->stats,      f->d_out, f->means,      f->d_qkv,
                         f->parts,     f->out,        f->pages, f->query_half, f->out_half,
                         f->positions, f->first_page, f->tiles, f->key_tiles};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
        joust_free_aligned(all[i]);
}

/* ---- against double -------------------------------------------------------------------------- */

static double rounded(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return (double)from_bf16((uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16));
}

/* Element i of head `head` of a row of qkv, rounded: query, key and value alike. */
static double element(const flash *f, uint32_t row, uint32_t head, uint32_t i)
{
    return rounded(f->before[((size_t)row * heads_of(f) + head) * f->c.d_head + i]);
}

/* Weights of the keys of one unit (0 where it sees none), rows `first` .. row. */
static void weights_of(const flash *f, uint32_t row, uint32_t head, double *p)
{
    const uint32_t kv = f->c.n_heads + head / (f->c.n_heads / f->c.n_kv_heads),
                   first = row - f->positions[row];
    double max = -INFINITY, sum = 0;
    for (uint32_t j = first; j <= row; j++) {
        p[j] = -INFINITY;
        if (f->window && row - j >= f->window)
            continue;
        p[j] = 0;
        for (uint32_t i = 0; i < f->c.d_head; i++)
            p[j] += element(f, row, head, i) * element(f, j, kv, i);
        p[j] *= (double)0.31f;
        max = p[j] > max ? p[j] : max;
    }
    for (uint32_t j = first; j <= row; j++)
        sum += p[j] = exp(p[j] - max);
    for (uint32_t j = first; j <= row; j++)
        p[j] /= sum;
}

static void check_forward(const flash *f)
{
    double *p = joust_calloc(f->n, sizeof(*p));
    for (uint32_t row = 0; row<f->n; row += f->n> 100 ? 61 : 3)
        for (uint32_t head = 0; head < f->c.n_heads; head++) {
            const uint32_t value =
                f->c.n_heads + f->c.n_kv_heads + head / (f->c.n_heads / f->c.n_kv_heads);
            weights_of(f, row, head, p);
            for (uint32_t i = 0; i < f->c.d_head; i++) {
                double sum = 0, size = 0;
                for (uint32_t j = row - f->positions[row]; j <= row; j++) {
                    sum += p[j] * element(f, j, value, i);
                    size += p[j] * fabs(element(f, j, value, i));
                }
                const double got =
                    (double)from_bf16(f->out[(size_t)row * f->width + head * f->c.d_head + i]);
                if (!(fabs(got - sum) <= 6e-3 * size + 1e-6))
                    fail_msg("row %u head %u: %.6g, expected %.6g", row, head, got, sum);
            }
        }
    for (uint32_t i = f->c.n_heads * f->c.d_head; i < f->width; i++)
        assert_int_equal(f->out[i], 0);
    joust_free(p);
}

static void backward_run(flash *f)
{
    const struct {
        const float *from;
        uint16_t *to;
        uint32_t heads;
    } halves[] = {{f->qkv, f->query_half, heads_of(f)}, {f->d_out, f->out_half, f->c.n_heads}};
    for (uint32_t i = 0; i < 2; i++) {
        const joust_gpu_place_args place = {.from = halves[i].from,
                                            .to = halves[i].to,
                                            .k = f->c.d_head,
                                            .ld = f->ld,
                                            .n = (uint64_t)f->n * halves[i].heads * f->ld};
        run(JOUST_GPU_place_bf16, (uint32_t)((place.n + 255) / 256), 1, &place);
    }
    const joust_gpu_attend_back_args args = {.qkv = f->qkv,
                                             .stats = f->stats,
                                             .d_out = f->d_out,
                                             .means = f->means,
                                             .d_qkv = f->d_qkv,
                                             .at = places_of(f),
                                             .scale = 0.31f,
                                             .n_heads = f->c.n_heads,
                                             .n_kv_heads = f->c.n_kv_heads,
                                             .d_head = f->c.d_head,
                                             .window = f->window,
                                             .n_rows = f->n,
                                             .query_half = f->query_half,
                                             .out_half = f->out_half,
                                             .key_tiles = f->key_tiles};
    run(of_width(f, JOUST_GPU_flash_rows_64), (f->n_tiles + 3) / 4, f->c.n_kv_heads, &args);
    run(of_width(f, JOUST_GPU_flash_keys_64), f->n_key_tiles, f->c.n_kv_heads, &args);
}

/* Every gradient in double, by the formulas of KERNELS.md. */
static void expected_make(const flash *f, double *to)
{
    const uint32_t d = f->c.d_head, group = f->c.n_heads / f->c.n_kv_heads;
    double *p = joust_calloc(f->n, sizeof(*p)), *dp = joust_calloc(f->n, sizeof(*dp));
    for (uint32_t row = 0; row < f->n; row++)
        for (uint32_t head = 0; head < f->c.n_heads; head++) {
            const float *d_out = f->d_out + ((size_t)row * f->c.n_heads + head) * d;
            const uint32_t key = f->c.n_heads + head / group, value = key + f->c.n_kv_heads,
                           first = row - f->positions[row];
            double mean = 0;
            weights_of(f, row, head, p);
            for (uint32_t j = first; j <= row; j++) {
                dp[j] = 0;
                for (uint32_t i = 0; i < d; i++)
                    dp[j] += rounded(d_out[i]) * element(f, j, value, i);
                mean += p[j] * dp[j];
            }
            for (uint32_t j = first; j <= row; j++)
                for (uint32_t i = 0; i < d; i++) {
                    const double ds = p[j] * (dp[j] - mean) * (double)0.31f;
                    to[((size_t)row * heads_of(f) + head) * d + i] += ds * element(f, j, key, i);
                    to[((size_t)j * heads_of(f) + key) * d + i] += ds * element(f, row, head, i);
                    to[((size_t)j * heads_of(f) + value) * d + i] += p[j] * rounded(d_out[i]);
                }
        }
    joust_free(p);
    joust_free(dp);
}

static void check_backward(flash *f)
{
    const size_t n = (size_t)f->n * heads_of(f) * f->c.d_head;
    double *expected = joust_calloc(n, sizeof(*expected)), largest = 0;
    expected_make(f, expected);
    for (size_t i = 0; i < n; i++)
        largest = fabs(expected[i]) > largest ? fabs(expected[i]) : largest;
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)f->d_qkv[i] - expected[i]) <= 6e-3 * largest))
            fail_msg("element %zu: %.6g, expected %.6g, the largest is %.6g", i,
                     (double)f->d_qkv[i], expected[i], largest);
    joust_free(expected);
}

static const flash shapes[] = {
    {.c = {.n_heads = 2, .n_kv_heads = 1, .d_head = 6}, .n_sequences = 1, .length = {1}},
    {.c = {.n_heads = 6, .n_kv_heads = 2, .d_head = 16}, .n_sequences = 1, .length = {75}},
    {.c = {.n_heads = 2, .n_kv_heads = 2, .d_head = 40}, .n_sequences = 2, .length = {33, 50}},
    {.c = {.n_heads = 20, .n_kv_heads = 1, .d_head = 72}, .n_sequences = 1, .length = {19}},
    {.c = {.n_heads = 1, .n_kv_heads = 1, .d_head = 256},
     .n_sequences = 1,
     .length = {37},
     .window = 5},
    {.c = {.n_heads = 4, .n_kv_heads = 2, .d_head = 12},
     .n_sequences = 1,
     .length = {200},
     .window = 70}};

static void test_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        flash f = shapes[i];
        flash_init(&f);
        check_forward(&f);
        backward_run(&f);
        check_backward(&f);
        flash_fini(&f);
    }
}

/* ---- equal bits ------------------------------------------------------------------------------ */

/* Rows first .. first + n - 1 in a pass of their own, as whole tiles or by segments: bits of the pass of all rows. */
static void check_piece(flash *f, uint32_t first, uint32_t n, uint32_t n_parts)
{
    joust_gpu_tile tiles[64];
    const size_t row = (size_t)heads_of(f) * f->c.d_head, out = (size_t)n * f->width,
                 stats = (size_t)2 * n * f->c.n_heads;
    uint16_t *got = zeros(out);
    float *of = zeros(stats);
    joust_gpu_attend_args a = attend_of(f);
    a.qkv += first * row;
    a.out = got;
    a.stats = of;
    a.parts = f->parts;
    a.n_parts = n_parts;
    a.at.positions += first;
    a.at.first_page += first;
    a.at.tiles = tiles;
    a.at.n_tiles = joust_gpu_tiles_fill(&f->c, 0, n, tiles);
    memset(f->parts, 0xff, (size_t)f->n * f->c.n_heads * 8 * (f->ld + 2) * sizeof(float));
    if (n_parts) {
        const uint32_t y = a.at.n_tiles * f->c.n_kv_heads;
        run(of_width(f, JOUST_GPU_parts_64), (n_parts + 3) / 4, y, &a);
        run(JOUST_GPU_merge, JOUST_GPU_TILE_UNITS, y, &a);
    } else {
        run(of_width(f, JOUST_GPU_flash_64), (a.at.n_tiles + 3) / 4, f->c.n_kv_heads, &a);
    }
    assert_memory_equal(got, f->out + (size_t)first * f->width, out * sizeof(*got));
    assert_memory_equal(of, f->stats + (size_t)2 * first * f->c.n_heads, stats * sizeof(*of));
    joust_free_aligned(got);
    joust_free_aligned(of);
}

static void test_pieces(void **state)
{
    (void)state;
    const uint32_t windows[] = {0, 1, 100, 300};
    for (uint32_t w = 0; w < 4; w++) {
        flash f = {.c = {.n_heads = 6, .n_kv_heads = 2, .d_head = 8},
                   .n_sequences = 1,
                   .length = {w ? 530 : 1100},
                   .window = windows[w]};
        flash_init(&f);
        if (w < 3)
            check_forward(&f);
        const uint32_t firsts[] = {0, 1, 63, 64, 255, 256, 300, 511, f.n - 9};
        for (uint32_t i = 0; i < sizeof(firsts) / sizeof(*firsts); i++) {
            check_piece(&f, firsts[i], 1, 0);
            check_piece(&f, firsts[i], 1, 8);
            check_piece(&f, firsts[i], 9, i % 2 * 8);
        }
        flash_fini(&f);
    }
}

/* Two sequences in one pass: each has the bits that it has alone, forward and back. */
static void test_packed(void **state)
{
    (void)state;
    const joust_model_config c = {.n_heads = 6, .n_kv_heads = 2, .d_head = 24};
    flash both = {.c = c, .n_sequences = 2, .length = {37, 90}};
    flash_init(&both);
    backward_run(&both);
    for (uint32_t s = 0, row = 0; s < 2; row += both.length[s++]) {
        flash one = {.c = c, .n_sequences = 1, .length = {both.length[s]}};
        flash_init(&one);
        backward_run(&one);
        const size_t each = (size_t)heads_of(&one) * c.d_head;
        assert_memory_equal(one.out, both.out + (size_t)row * one.width,
                            (size_t)one.n * one.width * sizeof(*one.out));
        assert_memory_equal(one.d_qkv, both.d_qkv + row * each, one.n * each * sizeof(float));
        flash_fini(&one);
    }
    flash_fini(&both);
}

int main(void)
{
    joust_error err = {0};
    check_ok(
        joust_gpu_open(&(joust_device_options){.precision = JOUST_PRECISION_BF16}, &gpu, &err));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_pieces),
                                       cmocka_unit_test(test_packed)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    gpu->close(gpu);
    return failed;
}
