/* The portable fused multiply-add, alone and in a matrix product, against fmaf() on numbers drawn
 * to be hard: halfway cases and their neighbours, subnormal results, cancellation, overflow.
 * usage: engine_lanes_test [millions of triples [seed]] */
#include "engine/compute/fixture.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/engine/kernels/kernels_internal.h"
#include "worker/engine/kernels/lanes_portable_internal.h"

static uint64_t n_triples = 24000000, seed = 1;

/* splitmix64: a stream of the engine would take longer than what is tested. */
static uint64_t draw(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* From first to last. */
static int draw_int(uint64_t *state, int first, int last)
{
    return first + (int)(draw(state) % (uint64_t)(last - first + 1));
}

static float of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

static float draw_sign(uint64_t *state, float x)
{
    return draw(state) & 1 ? -x : x;
}

/* A float of either sign whose biased exponent is from first to last; 0: subnormal or zero. */
static float draw_float(uint64_t *state, int first, int last)
{
    uint32_t exponent = (uint32_t)draw_int(state, first, last);
    return of_bits(((uint32_t)draw(state) & 0x807fffffu) | exponent << 23);
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

/* The neighbour of x that is n floats away. */
static float beside(float x, int n)
{
    return of_bits(bits_of(x) + (uint32_t)n);
}

/* x[0] * x[1] = 2^exponent (1 - k^2 2^-46), -150 <= exponent <= 104: a double that differs from
 * the power of two by less than what a sum can keep, or, if k is 0, doesn't. */
static void draw_power(uint64_t *state, int exponent, float x[3])
{
    int k = draw(state) % 4 == 0 ? 0 : draw_int(state, 1, 300);
    int first = exponent / 2 + draw_int(state, -8, 8);
    x[0] = ldexpf((float)(0x800000 + k), first - 23);
    x[1] = draw_sign(state, ldexpf((float)(0x1000000 - 2 * k), exponent - first - 24));
}

typedef void draw_triple(uint64_t *state, float x[3]);

static void draw_any(uint64_t *state, float x[3])
{
    for (int i = 0; i < 3; i++)
        x[i] = of_bits((uint32_t)draw(state));
}

static void draw_near_each_other(uint64_t *state, float x[3])
{
    for (int i = 0; i < 3; i++)
        x[i] = draw_float(state, 126, 129);
}

static void draw_small(uint64_t *state, float x[3])
{
    for (int i = 0; i < 3; i++)
        x[i] = i < 2 ? draw_float(state, 40, 75) : draw_float(state, 0, 5);
}

/* c + p near the middle between c and the next float, of any size of c. */
static void draw_half_of_c(uint64_t *state, float x[3])
{
    x[2] = draw_float(state, 0, 254);
    draw_power(state, (ilogbf(x[2]) < -126 || x[2] == 0 ? -126 : ilogbf(x[2])) - 24, x);
}

/* p in the middle between two floats, c next to nothing or nothing. */
static void draw_half_of_p(uint64_t *state, float x[3])
{
    int low = draw_int(state, -40, 40), high = draw_int(state, -40, 40);
    x[0] = ldexpf((float)(draw_int(state, 0x400, 0x7ff) * 2 + 1), low);
    x[1] = draw_sign(state, ldexpf((float)(draw_int(state, 0x800, 0xfff) * 2 + 1), high));
    x[2] = draw(state) % 8 == 0
               ? draw_sign(state, 0)
               : ldexpf(draw_float(state, 127, 127), low + high - draw_int(state, 20, 120));
}

/* Few bits below the last subnormal bit: 2^-150 and what rounds to it in double. */
static void draw_half_subnormal(uint64_t *state, float x[3])
{
    draw_power(state, -150 + draw_int(state, 0, 3), x);
    x[2] = draw_sign(state, ldexpf((float)draw_int(state, 0, 1 << draw_int(state, 0, 24)), -149));
}

static void draw_cancelling(uint64_t *state, float x[3])
{
    int first = draw_int(state, 1, 200), last = draw_int(state, 1, 200);
    x[0] = draw_float(state, first, first);
    x[1] = draw_float(state, last, last);
    x[2] = beside(-(x[0] * x[1]), draw_int(state, -2, 2));
}

/* Results about the ends of the fast way's range and of floats. */
static void draw_at_edge(uint64_t *state, float x[3])
{
    static const int edges[] = {-149, -126, -96, -95, -94, 32, 33, 34, 127};
    int edge = edges[draw(state) % (sizeof(edges) / sizeof(*edges))];
    float c = edge == 127 ? FLT_MAX : ldexpf(1, edge);
    x[2] = draw_sign(state, beside(c, draw_int(state, -3, edge == 127 ? 0 : 3)));
    if (draw(state) & 1) {
        draw_power(state, edge - draw_int(state, 22, 28) < -150 ? -150 : edge - 24, x);
    } else {
        int first = edge / 2 + draw_int(state, -5, 5);
        x[0] = ldexpf(draw_float(state, 127, 127), first);
        x[1] = ldexpf(draw_float(state, 127, 127), edge - first - draw_int(state, 0, 30));
    }
}

/* Weights of eight bits: many exact halves; and zeros of both signs. */
static void draw_few_bits(uint64_t *state, float x[3])
{
    uint64_t how = draw(state);
    for (int i = 0; i < 3; i++) {
        uint32_t bits = (uint32_t)draw(state) & 0x807f0000u;
        x[i] = how >> (8 * i) & 7 ? of_bits(bits | (uint32_t)draw_int(state, 120, 130) << 23)
                                  : draw_sign(state, 0);
    }
    if (how >> 32 & 1)
        x[2] = draw_float(state, 120, 130);
}

static void draw_special(uint64_t *state, float x[3])
{
    static const float special[] = {0,       1,           INFINITY, NAN,     FLT_MAX,
                                    FLT_MIN, 0x1p-149f,   0x1p-75f, 0x1p64f, 0x1.fffffep-127f,
                                    1e-20f,  0x1.8p+127f, 3};
    for (int i = 0; i < 3; i++)
        x[i] = draw_sign(state, special[draw(state) % (sizeof(special) / sizeof(*special))]);
}

static draw_triple *const kinds[] = {draw_any,        draw_near_each_other, draw_small,
                                     draw_half_of_c,  draw_half_of_p,       draw_half_subnormal,
                                     draw_cancelling, draw_at_edge,         draw_few_bits,
                                     draw_special};
enum { N_KINDS = sizeof(kinds) / sizeof(*kinds) };

static bool same(float a, float b)
{
    return bits_of(a) == bits_of(b) || (isnan(a) && isnan(b));
}

static void check_lane(float (*x)[JOUST_LANES], uint32_t lane, float got)
{
    float a = x[0][lane], b = x[1][lane], c = x[2][lane], expected = fmaf(a, b, c);
    if (!same(got, expected))
        fail_msg("fma(%a, %a, %a) = %a, expected %a", (double)a, (double)b, (double)c, (double)got,
                 (double)expected);
}

/* Each triple among others of its kind, then alone among easy ones, so that nobody else makes the
 * slow way be taken. */
static void test_fma_is_exact(void **state)
{
    (void)state;
    uint64_t at = seed, n_double = 0; /* triples where rounding twice would be wrong */
    for (uint64_t n = 0; n < n_triples; n += JOUST_LANES) {
        float x[3][JOUST_LANES], got[JOUST_LANES];
        for (uint32_t i = 0; i < JOUST_LANES; i++) {
            float triple[3];
            kinds[n / JOUST_LANES % N_KINDS](&at, triple);
            for (uint32_t k = 0; k < 3; k++)
                x[k][i] = triple[k];
            n_double += !same((float)((double)x[0][i] * (double)x[1][i] + (double)x[2][i]),
                              fmaf(x[0][i], x[1][i], x[2][i]));
        }
        lanes_store(got, lanes_fma(lanes_load(x[0]), lanes_load(x[1]), lanes_load(x[2])));
        for (uint32_t i = 0; i < JOUST_LANES; i++)
            check_lane(x, i, got[i]);
        for (uint32_t i = 0; i < JOUST_LANES; i++) {
            float alone[3][JOUST_LANES];
            for (uint32_t k = 0; k < 3; k++) {
                lanes_store(alone[k], lanes_set(1.7f));
                alone[k][i] = x[k][i];
            }
            lanes_store(
                got, lanes_fma(lanes_load(alone[0]), lanes_load(alone[1]), lanes_load(alone[2])));
            check_lane(x, i, got[i]);
            check_lane(alone, (i + 1) % JOUST_LANES, got[(i + 1) % JOUST_LANES]);
        }
    }
    if (n_double < n_triples / 50)
        fail_msg("only %llu hard triples", (unsigned long long)n_double);
}

/* Chains of them in the kernel itself: a, b and c of a product are those of triples. */
static void test_products_are_exact(void **state)
{
    (void)state;
    enum { M = 5, K = 4, N = JOUST_LANES, N_C = M * N };
    uint64_t at = seed + 1, n_products = n_triples / 8 / (K * N_C);
    for (uint64_t n = 0; n < n_products; n++) {
        float a[M * K], b[K * N], c[N_C], expected[N_C], triple[3];
        for (uint32_t i = 0; i < N_C; i++) {
            kinds[n % N_KINDS](&at, triple);
            a[i % (M * K)] = triple[0];
            b[i % (K * N)] = triple[1];
            c[i] = triple[2];
        }
        for (uint32_t i = 0; i < N_C; i++) {
            expected[i] = c[i];
            for (uint32_t s = 0; s < K; s++)
                expected[i] = fmaf(a[i / N * K + s], b[s * N + i % N], expected[i]);
        }
        joust_gemm g = {.a = a,
                        .a_row = K,
                        .a_step = 1,
                        .b = b,
                        .b_panel = K * N,
                        .b_step = N,
                        .c = c,
                        .c_row = N,
                        .m = M,
                        .n = N,
                        .k = K,
                        .add = true};
        joust_kernels_portable()->gemm(&g);
        for (uint32_t i = 0; i < N_C; i++)
            if (!same(c[i], expected[i]))
                fail_msg("product %llu: c[%u] = %a, expected %a", (unsigned long long)n, i,
                         (double)c[i], (double)expected[i]);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        n_triples = strtoull(argv[1], NULL, 10) * 1000000;
    if (argc > 2)
        seed = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fma_is_exact),
        cmocka_unit_test(test_products_are_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
