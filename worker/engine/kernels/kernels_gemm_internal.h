/* The matrix product, over `lanes`: a part of kernels_template_internal.h. */
#ifndef JOUST_WORKER_ENGINE_KERNELS_KERNELS_GEMM_INTERNAL_H
#define JOUST_WORKER_ENGINE_KERNELS_KERNELS_GEMM_INTERNAL_H

/* Steps of a strided b that are copied side by side at a time. */
#define GEMM_BLOCK   192u
/* A transposed a whose steps are so far apart is copied, so many rows together; their distance is no
 * power of two. */
#define GEMM_FAR     4096u
#define GEMM_ROWS    64u
#define GEMM_ROWS_LD 80u

/* A tile's chains, which begin from c or 0 and end in c. rows and panels are constants to the compiler. */
typedef lanes_chain gemm_sums[8][8];

LANES_INLINE void sums_begin(gemm_sums sum, const joust_gemm *g, uint32_t row, uint32_t panel,
                             const uint32_t rows, const uint32_t panels)
{
    const float *c = g->c + row * g->c_row + panel * JOUST_LANES;
    uint32_t width = g->n - panel * JOUST_LANES; /* from the first panel to the end of the row */
    LANES_UNROLL
    for (uint32_t i = 0; i < rows; i++)
        LANES_UNROLL
    for (uint32_t j = 0; j < panels; j++)
        sum[i][j] = lanes_chain_begin(g->add ? lanes_at(c + i * g->c_row, j * JOUST_LANES, width, 0)
                                             : lanes_set(0));
}

LANES_INLINE void sums_end(gemm_sums sum, const joust_gemm *g, uint32_t row, uint32_t panel,
                           const uint32_t rows, const uint32_t panels)
{
    float *c = g->c + row * g->c_row + panel * JOUST_LANES;
    uint32_t width = g->n - panel * JOUST_LANES;
    LANES_UNROLL
    for (uint32_t i = 0; i < rows; i++)
        LANES_UNROLL
    for (uint32_t j = 0; j < panels; j++)
        lanes_put(c + i * g->c_row, j * JOUST_LANES, width, lanes_chain_end(sum[i][j]));
}

/* One step of a tile: the outputs' chains go on by a step of each row, a[0] on, with `from`. */
LANES_INLINE void sums_add(gemm_sums sum, const float *a, size_t a_row, const lanes from[8],
                           const uint32_t rows, const uint32_t panels)
{
    LANES_UNROLL
    for (uint32_t i = 0; i < rows; i++) {
        lanes one = lanes_set(a[i * a_row]);
        LANES_UNROLL
        for (uint32_t j = 0; j < panels; j++)
            lanes_chain_add(&sum[i][j], one, from[j]);
    }
}

/* rows x panels outputs, all in registers, over k steps. A full tile fetches a line of `ahead` at each step, a panel that a
 * later tile reads. */
LANES_INLINE void gemm_tile(const joust_gemm *g, uint32_t row, uint32_t panel, const float *ahead,
                            const uint32_t rows, const uint32_t panels)
{
    gemm_sums sum;
    sums_begin(sum, g, row, panel, rows, panels);
    const float *a = g->a + row * g->a_row, *b = g->b + panel * g->b_panel;
    for (uint32_t s = 0; s < g->k; s++, a += g->a_step, b += g->b_step) {
        lanes from[8];
        LANES_UNROLL
        for (uint32_t j = 0; j < panels; j++)
            from[j] = lanes_load(b + j * g->b_panel);
        if (rows == TILE_ROWS)
            __builtin_prefetch(ahead + (size_t)s * JOUST_LANES, 0, 2);
        sums_add(sum, a, g->a_row, from, rows, panels);
    }
    sums_end(sum, g, row, panel, rows, panels);
}

/* The same from a b in pairs: its steps are widened to float two by two, so the chain is a float's. */
LANES_INLINE void pairs_tile(const joust_gemm *g, uint32_t row, uint32_t panel,
                             const uint32_t *ahead, const uint32_t rows, const uint32_t panels)
{
    gemm_sums sum;
    sums_begin(sum, g, row, panel, rows, panels);
    const float *a = g->a + row * g->a_row;
    const uint32_t *b = g->pairs + panel * g->b_panel;
    lanes from[8];
    for (uint32_t s = 0; s < g->k; s += 2, a += 2, b += JOUST_LANES) {
        LANES_UNROLL
        for (uint32_t j = 0; j < panels; j++)
            from[j] = lanes_low_half(b + j * g->b_panel);
        if (rows == TILE_ROWS)
            __builtin_prefetch(ahead + (size_t)s / 2 * JOUST_LANES, 0, 2);
        sums_add(sum, a, g->a_row, from, rows, panels);
        if (s + 1 == g->k)
            break;
        LANES_UNROLL
        for (uint32_t j = 0; j < panels; j++)
            from[j] = lanes_high_half(b + j * g->b_panel);
        sums_add(sum, a + 1, g->a_row, from, rows, panels);
    }
    sums_end(sum, g, row, panel, rows, panels);
}

#define GEMM_TILE(rows, panels)                                                                    \
    case (rows)*16 + (panels):                                                                     \
        if (g->pairs)                                                                              \
            pairs_tile(g, row, panel, g->pairs + ahead, (rows), (panels));                         \
        else                                                                                       \
            gemm_tile(g, row, panel, g->b + ahead, (rows), (panels));                              \
        break
/* ahead: where in b the panel to fetch begins. */
static void gemm_tile_of(const joust_gemm *g, uint32_t row, uint32_t panel, size_t ahead,
                         uint32_t rows, uint32_t panels)
{
    switch (rows * 16 + panels) {
        GEMM_TILES
    }
}

/* All tiles of g, whose b is read where it lies. While the rows of some panels are at work, each tile of rows fetches one
 * of the panels that come next: the memory is asked evenly, not by the first rows alone. */
static void gemm_tiles(const joust_gemm *g)
{
    static const uint8_t wide[] = TILES_WIDE;
    uint32_t n_panels = joust_lanes_up(g->n) / JOUST_LANES;
    uint32_t usual = g->m < TILE_ROWS ? wide[g->m - 1] : TILE_PANELS, panels;
    for (uint32_t panel = 0; panel < n_panels; panel += panels) {
        panels = n_panels - panel >= usual ? usual : 1;
        const uint32_t later = panel + panels,
                       end = later + panels < n_panels ? later + panels : n_panels;
        for (uint32_t row = 0, next = later; row < g->m; row += TILE_ROWS, next++)
            gemm_tile_of(g, row, panel, (next < end ? next : panel) * g->b_panel,
                         g->m - row < TILE_ROWS ? g->m - row : TILE_ROWS, panels);
    }
}

/* Columns of b, side by side in whole panels. */
static void side_copy(const joust_gemm *g, uint32_t column, uint32_t width, uint32_t first,
                      uint32_t k, float *side)
{
    for (uint32_t j = 0; j < width; j += JOUST_LANES) {
        const float *from = g->b + (column + j) / JOUST_LANES * g->b_panel + first * g->b_step;
        for (uint32_t s = 0; s < k; s++, side += JOUST_LANES)
            lanes_store(side, lanes_load(from + s * g->b_step));
    }
}

/* The rows of a that `block` has, step after step; their own steps lie far apart, often in the same
 * set of a cache. */
static void rows_copy(joust_gemm *block, float *rows)
{
    for (uint32_t s = 0; s < block->k; s++)
        for (uint32_t i = 0; i < block->m; i++)
            rows[s * GEMM_ROWS_LD + i] = block->a[s * block->a_step + i];
    block->a = rows;
    block->a_step = GEMM_ROWS_LD;
}

/* A strided b is copied side by side, a few panels and a block of steps at a time, and so is an a
 * whose steps aren't neighbours; the sums go on from block to block through c, which changes no
 * bit. */
static void gemm_strided(const joust_gemm *g)
{
    float side[TILE_PANELS * GEMM_BLOCK * JOUST_LANES] __attribute__((aligned(64)));
    float rows[GEMM_BLOCK * GEMM_ROWS_LD] __attribute__((aligned(64)));
    const uint32_t width = TILE_PANELS * JOUST_LANES;
    const bool copies_rows = g->a_row == 1 && g->a_step >= GEMM_FAR;
    const uint32_t height = copies_rows ? GEMM_ROWS : g->m;
    for (uint32_t first = 0; first < g->k; first += GEMM_BLOCK)
        for (uint32_t row = 0; row < g->m; row += height) {
            joust_gemm block = *g;
            block.m = g->m - row < height ? g->m - row : height;
            block.k = g->k - first < GEMM_BLOCK ? g->k - first : GEMM_BLOCK;
            block.a = g->a + row * g->a_row + first * g->a_step;
            block.b = side;
            block.b_step = JOUST_LANES;
            block.b_panel = (size_t)block.k * JOUST_LANES;
            block.add = g->add || first > 0;
            if (copies_rows)
                rows_copy(&block, rows);
            for (uint32_t column = 0; column < g->n; column += width) {
                block.n = g->n - column < width ? g->n - column : width;
                block.c = g->c + row * g->c_row + column;
                side_copy(g, column, block.n, first, block.k, side);
                gemm_tiles(&block);
            }
        }
}

static void gemm(const joust_gemm *g)
{
    if (g->m == 0 || g->n == 0)
        return;
    if (g->pairs || g->b_step == JOUST_LANES || g->m <= TILE_ROWS)
        gemm_tiles(g);
    else
        gemm_strided(g);
}

#endif
