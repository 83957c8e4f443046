/* Matrix products y = a . w transposed, w (out, in) as the checkpoint has it. An output's sum has one shape, whatever the
 * number of rows or their places:
 *   float32: a chain in order of k, one FMA each, from y or 0: the CPU's.
 *   bf16:    k is cut into eight segments of whole chunks of 32, each a chain of tensor-core products, added in order.
 *            Three tilings have these same bits: a thin one for the next tokens of a few sequences, a narrow one for few rows,
 *            whose warps share out the segments, and a wide one for many, whose warps have outputs of their own and go
 *            through the segments in turn.
 * The head's variants also reduce each tile of outputs to its maximum and sum of exponentials, so that logits needn't be
 * kept (joust_gpu_matrix_args). */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_MATRIX_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_MATRIX_INTERNAL_H

#include "cuda_block_internal.h"
#include "cuda_kernels_internal.h"

/* ---- bounds ---------------------------------------------------------------------------------- */

GPU_FUNCTION void gpu_read(const joust_gpu_read_args *p)
{
    const uint64_t first = (uint64_t)GPU_BLOCK_X * GPU_THREADS + GPU_THREAD,
                   step = (uint64_t)GPU_BLOCKS_X * GPU_THREADS;
    const gpu_words *from = (const gpu_words *)p->from;
    uint32_t sum = 0;
    for (uint64_t i = first; i < p->n; i += step) {
        const gpu_words w = from[i];
        sum ^= w.x ^ w.y ^ w.z ^ w.w;
    }
    p->sums[first] = sum;
}

GPU_FUNCTION void gpu_products(const joust_gpu_products_args *p)
{
    const uint32_t one = 0x3f803f80u, a[4] = {one, one, one, one}, b[2] = {one, one};
    float acc[JOUST_GPU_CHAINS][4] = {{0}}, sum = 0.0f;
    for (uint32_t round = 0; round < p->rounds; round++)
        GPU_UNROLL
    for (uint32_t i = 0; i < JOUST_GPU_CHAINS; i++)
        gpu_mma(acc[i], a, b);
    for (uint32_t i = 0; i < JOUST_GPU_CHAINS; i++)
        sum += acc[i][0];
    p->sums[GPU_BLOCK_X * GPU_THREADS + GPU_THREAD] = sum;
}

/* ---- the head -------------------------------------------------------------------------------- */

/* What becomes of one row of a finished tile, number `tile`: n logits x of tokens first ..., by one thread, in order. */
GPU_FUNCTION void gpu_head_row(const joust_gpu_matrix_args *p, uint32_t row, uint32_t tile,
                               uint32_t first, uint32_t n, const float *x)
{
    float max = x[0], sum = 0.0f;
    for (uint32_t i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (uint32_t i = 0; i < n; i++)
        sum += gpu_exp(x[i] - max);
    const uint32_t token = p->target[row];
    if (token >= first && token < first + n)
        p->picked[row] = x[token - first];
    float *to = p->partial + ((size_t)row * p->n_tiles + tile) * 2;
    to[0] = max;
    to[1] = sum;
}

GPU_FUNCTION size_t gpu_y_ld(const joust_gpu_matrix_args *p)
{
    return p->y_ld ? p->y_ld : p->n;
}

/* A finished tile (rows, outputs) in shared memory, rows tile_ld apart: to y, by all threads. */
GPU_FUNCTION void gpu_tile_store(const joust_gpu_matrix_args *p, uint32_t first_row,
                                 uint32_t n_rows, uint32_t first, uint32_t n_outputs,
                                 const float *tile, uint32_t tile_ld, int head)
{
    const uint32_t rows = p->m - first_row < n_rows ? p->m - first_row : n_rows,
                   n = p->n - first < n_outputs ? p->n - first : n_outputs;
    for (uint32_t i = GPU_THREAD; i < rows * n_outputs; i += GPU_THREADS) {
        const uint32_t row = i / n_outputs, column = i % n_outputs;
        const uint32_t to = head ? p->slot[first_row + row] : first_row + row;
        if (column >= n || to == JOUST_GPU_NONE)
            continue;
        float *y = p->y + to * gpu_y_ld(p) + first + column;
        const float x = tile[row * tile_ld + column];
        *y = p->add ? *y + x : x;
    }
}

/* The head's part of it: row `row` of the tile, if there is one. */
GPU_FUNCTION void gpu_tile_head(const joust_gpu_matrix_args *p, uint32_t first_row, uint32_t row,
                                uint32_t first, uint32_t n_outputs, const float *tile,
                                uint32_t tile_ld)
{
    const uint32_t n = p->n - first < n_outputs ? p->n - first : n_outputs;
    if (row < p->m - first_row)
        gpu_head_row(p, first_row + row, first / n_outputs, first, n, tile + row * tile_ld);
}

/* ---- float32 --------------------------------------------------------------------------------- */

/* Threads (8, 16) of a tile of 32 rows and 64 outputs: thread (i, j) has rows 4 i .. 4 i + 3 and outputs j, j + 16 ... */
#define F32_STEPS  16u
#define F32_EACH   4u
#define F32_ACROSS 16u

typedef struct gpu_f32_tiles {
    float a[F32_STEPS][JOUST_GPU_F32_ROWS + 1], w[F32_STEPS][JOUST_GPU_F32_OUTPUTS + 1];
} gpu_f32_tiles;

/* Factors first .. of the block's rows and outputs, 0 outside. */
GPU_FUNCTION void gpu_f32_load(const joust_gpu_matrix_args *p, gpu_f32_tiles *t, uint32_t row,
                               uint32_t output, uint32_t first)
{
    const float *a = (const float *)p->a, *w = (const float *)p->w;
    const uint32_t s = GPU_THREAD % F32_STEPS;
    for (uint32_t i = GPU_THREAD / F32_STEPS; i < JOUST_GPU_F32_ROWS; i += GPU_THREADS / F32_STEPS)
        t->a[s][i] =
            row + i < p->m && first + s < p->k ? a[(size_t)(row + i) * p->ld + first + s] : 0.0f;
    for (uint32_t i = GPU_THREAD / F32_STEPS; i < JOUST_GPU_F32_OUTPUTS;
         i += GPU_THREADS / F32_STEPS)
        t->w[s][i] = output + i < p->n && first + s < p->k
                         ? w[(size_t)(output + i) * p->ld + first + s]
                         : 0.0f;
}

GPU_FUNCTION void gpu_f32_steps(const gpu_f32_tiles *t, uint32_t n, uint32_t i, uint32_t j,
                                float acc[F32_EACH][F32_EACH])
{
    for (uint32_t s = 0; s < n; s++)
        GPU_UNROLL
    for (uint32_t r = 0; r < F32_EACH; r++)
        GPU_UNROLL
    for (uint32_t c = 0; c < F32_EACH; c++)
        acc[r][c] = fmaf(t->a[s][F32_EACH * i + r], t->w[s][j + F32_ACROSS * c], acc[r][c]);
}

GPU_FUNCTION void gpu_matrix_f32(const joust_gpu_matrix_args *p, int head)
{
    GPU_SHARED gpu_f32_tiles tiles;
    GPU_SHARED float done[JOUST_GPU_F32_ROWS * (JOUST_GPU_F32_OUTPUTS + 1)];
    const uint32_t i = GPU_THREAD / F32_ACROSS, j = GPU_THREAD % F32_ACROSS,
                   row = GPU_BLOCK_Y * JOUST_GPU_F32_ROWS,
                   output = GPU_BLOCK_X * JOUST_GPU_F32_OUTPUTS;
    float acc[F32_EACH][F32_EACH] = {{0}};
    for (uint32_t r = 0; p->add && r < F32_EACH; r++)
        for (uint32_t c = 0; c < F32_EACH; c++) {
            const uint32_t y_row = row + F32_EACH * i + r, y_column = output + j + F32_ACROSS * c;
            if (y_row < p->m && y_column < p->n)
                acc[r][c] = p->y[y_row * gpu_y_ld(p) + y_column];
        }
    for (uint32_t first = 0; first < p->k; first += F32_STEPS) {
        GPU_SYNC();
        gpu_f32_load(p, &tiles, row, output, first);
        GPU_SYNC();
        gpu_f32_steps(&tiles, p->k - first < F32_STEPS ? p->k - first : F32_STEPS, i, j, acc);
    }
    for (uint32_t r = 0; r < F32_EACH; r++)
        for (uint32_t c = 0; c < F32_EACH; c++)
            done[(F32_EACH * i + r) * (JOUST_GPU_F32_OUTPUTS + 1) + j + F32_ACROSS * c] = acc[r][c];
    GPU_SYNC();
    joust_gpu_matrix_args to = *p;
    to.add = 0; /* the chains began from y */
    gpu_tile_store(&to, row, JOUST_GPU_F32_ROWS, output, JOUST_GPU_F32_OUTPUTS, done,
                   JOUST_GPU_F32_OUTPUTS + 1, head);
    if (head && GPU_THREAD < JOUST_GPU_F32_ROWS)
        gpu_tile_head(&to, row, GPU_THREAD, output, JOUST_GPU_F32_OUTPUTS, done,
                      JOUST_GPU_F32_OUTPUTS + 1);
}

/* ---- bf16 ------------------------------------------------------------------------------------ */

/* A tile is 4 x 4 products of 16 rows and 8 outputs. Each warp has the whole tile for a segment of k of its own. Of a chunk
 * of 32 factors a lane loads eight neighbours at once: lane 4 g + t factors 8 t .. 8 t + 7 of row g, of row g + 8, of
 * output g. The first product takes the pairs 0 and 1 of every lane, the second the pairs 2 and 3: a's and w's factors stand
 * at the same places, so each meets its own. */
#define MMA_ROWS    16u
#define MMA_OUTPUTS 8u
#define MMA_DOWN    (JOUST_GPU_BF16_ROWS / MMA_ROWS)
#define MMA_ACROSS  (JOUST_GPU_BF16_OUTPUTS / MMA_OUTPUTS)
#define BF16_LD     (JOUST_GPU_BF16_OUTPUTS + 1)

typedef struct gpu_bf16_lane {
    uint32_t g, t, n_down; /* n_down: products down the tile that hold rows at all */
    uint32_t row, output;  /* of the tile */
} gpu_bf16_lane;

/* Eight factors of a row, 0 outside. */
GPU_FUNCTION gpu_words gpu_bf16_load(const void *from, uint32_t row, uint32_t n, uint32_t ld,
                                     uint32_t k)
{
    gpu_words zero = {0, 0, 0, 0};
    return row < n ? *(const gpu_words *)((const uint16_t *)from + (size_t)row * ld + k) : zero;
}

/* acc += the chunk of factors k .. k + 31. */
GPU_FUNCTION void gpu_bf16_chunk(const joust_gpu_matrix_args *p, const gpu_bf16_lane *l, uint32_t k,
                                 float acc[MMA_DOWN][MMA_ACROSS][4])
{
    gpu_words w[MMA_ACROSS];
    GPU_UNROLL
    for (uint32_t c = 0; c < MMA_ACROSS; c++)
        w[c] = gpu_bf16_load(p->w, l->output + c * MMA_OUTPUTS + l->g, p->n, p->ld, k + 8 * l->t);
    GPU_UNROLL
    for (uint32_t r = 0; r < MMA_DOWN; r++) {
        if (r >= l->n_down)
            continue;
        const uint32_t row = l->row + r * MMA_ROWS + l->g;
        const gpu_words low = gpu_bf16_load(p->a, row, p->m, p->ld, k + 8 * l->t),
                        high = gpu_bf16_load(p->a, row + 8, p->m, p->ld, k + 8 * l->t);
        const uint32_t first[4] = {low.x, high.x, low.y, high.y},
                       second[4] = {low.z, high.z, low.w, high.w};
        GPU_UNROLL
        for (uint32_t c = 0; c < MMA_ACROSS; c++) {
            const uint32_t w_first[2] = {w[c].x, w[c].y}, w_second[2] = {w[c].z, w[c].w};
            gpu_mma(acc[r][c], first, w_first);
            gpu_mma(acc[r][c], second, w_second);
        }
    }
}

/* done = or += the warp's sums: lane 4 g + t has of each product (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1). */
GPU_FUNCTION void gpu_bf16_add(const gpu_bf16_lane *l, int first,
                               float acc[MMA_DOWN][MMA_ACROSS][4], float *done)
{
    GPU_UNROLL
    for (uint32_t r = 0; r < MMA_DOWN; r++)
        GPU_UNROLL
    for (uint32_t c = 0; c < MMA_ACROSS; c++)
        GPU_UNROLL
    for (uint32_t i = 0; i < 4; i++) {
        float *to = done + (r * MMA_ROWS + l->g + (i / 2) * 8) * BF16_LD + c * MMA_OUTPUTS +
                    2 * l->t + i % 2;
        *to = first ? acc[r][c][i] : *to + acc[r][c][i];
    }
}

GPU_FUNCTION void gpu_matrix_bf16(const joust_gpu_matrix_args *p, int head)
{
    GPU_SHARED float done[JOUST_GPU_BF16_ROWS * BF16_LD];
    const uint32_t warp = GPU_THREAD / GPU_WARP, lane = GPU_THREAD % GPU_WARP,
                   n_chunks = p->ld / JOUST_GPU_CHUNK;
    gpu_bf16_lane l = {lane / 4, lane % 4, 0, GPU_BLOCK_Y * JOUST_GPU_BF16_ROWS,
                       GPU_BLOCK_X * JOUST_GPU_BF16_OUTPUTS};
    l.n_down = (p->m - l.row + MMA_ROWS - 1) / MMA_ROWS;
    float acc[MMA_DOWN][MMA_ACROSS][4] = {{{0}}};
    const uint32_t end = (uint32_t)((uint64_t)n_chunks * (warp + 1) / JOUST_GPU_SEGMENTS);
    for (uint32_t chunk = (uint32_t)((uint64_t)n_chunks * warp / JOUST_GPU_SEGMENTS); chunk < end;
         chunk++)
        gpu_bf16_chunk(p, &l, chunk * JOUST_GPU_CHUNK, acc);
    for (uint32_t turn = 0; turn < JOUST_GPU_SEGMENTS; turn++) {
        if (turn == warp)
            gpu_bf16_add(&l, turn == 0, acc, done);
        GPU_SYNC();
    }
    gpu_tile_store(p, l.row, JOUST_GPU_BF16_ROWS, l.output, JOUST_GPU_BF16_OUTPUTS, done, BF16_LD,
                   head);
    if (head && GPU_THREAD < JOUST_GPU_BF16_ROWS)
        gpu_tile_head(p, l.row, GPU_THREAD, l.output, JOUST_GPU_BF16_OUTPUTS, done, BF16_LD);
}

/* ---- bf16, thin ------------------------------------------------------------------------------ */

/* At most eight rows (one product's, of which the others are zeros), 8 across outputs; each warp a segment, as in the narrow
 * tiling. All that bounds it is how fast weights come: a lane has loads of several chunks under way, and a block few
 * outputs, so that every multiprocessor has some. */
#define THIN_ROWS  JOUST_GPU_THIN_ROWS
#define THIN_AHEAD 4u
#define THIN_MOST  4u /* of across */

/* acc += `ahead` chunks, a constant. Past the last row or output another one stands: nobody asks for what comes of it. */
GPU_FUNCTION void gpu_thin_chunks(const joust_gpu_matrix_args *p, uint32_t output, uint32_t chunk,
                                  uint32_t ahead, float acc[THIN_MOST][4], uint32_t across)
{
    const uint32_t lane = GPU_THREAD % GPU_WARP, g = lane / 4, t = lane % 4,
                   row = g < p->m ? g : p->m - 1, k = chunk * JOUST_GPU_CHUNK + 8 * t;
    const uint16_t *of_a = (const uint16_t *)p->a + (size_t)row * p->ld + k;
    gpu_words a[THIN_AHEAD], w[THIN_AHEAD][THIN_MOST];
    GPU_UNROLL
    for (uint32_t c = 0; c < across; c++) {
        const uint32_t output_c = output + c * MMA_OUTPUTS + g,
                       j = output_c < p->n ? output_c : p->n - 1;
        const uint16_t *of_w = (const uint16_t *)p->w + (size_t)j * p->ld + k;
        GPU_UNROLL
        for (uint32_t i = 0; i < ahead; i++)
            w[i][c] = gpu_read_once((const gpu_words *)(of_w + i * JOUST_GPU_CHUNK));
    }
    GPU_UNROLL
    for (uint32_t i = 0; i < ahead; i++)
        a[i] = *(const gpu_words *)(of_a + i * JOUST_GPU_CHUNK);
    GPU_UNROLL
    for (uint32_t i = 0; i < ahead; i++) {
        const uint32_t first[4] = {a[i].x, 0, a[i].y, 0}, second[4] = {a[i].z, 0, a[i].w, 0};
        GPU_UNROLL
        for (uint32_t c = 0; c < across; c++) {
            const uint32_t w_first[2] = {w[i][c].x, w[i][c].y},
                           w_second[2] = {w[i][c].z, w[i][c].w};
            gpu_mma(acc[c], first, w_first);
            gpu_mma(acc[c], second, w_second);
        }
    }
}

/* across: products of eight outputs, a constant. */
GPU_FUNCTION void gpu_matrix_thin(const joust_gpu_matrix_args *p, uint32_t across, int head)
{
    GPU_SHARED float sums[JOUST_GPU_SEGMENTS][THIN_ROWS * BF16_LD];
    GPU_SHARED float done[THIN_ROWS * BF16_LD];
    const uint32_t warp = GPU_THREAD / GPU_WARP, lane = GPU_THREAD % GPU_WARP, g = lane / 4,
                   t = lane % 4, n_chunks = p->ld / JOUST_GPU_CHUNK, wide = across * MMA_OUTPUTS,
                   output = GPU_BLOCK_X * wide,
                   end = (uint32_t)((uint64_t)n_chunks * (warp + 1) / JOUST_GPU_SEGMENTS);
    float acc[THIN_MOST][4] = {{0}};
    uint32_t chunk = (uint32_t)((uint64_t)n_chunks * warp / JOUST_GPU_SEGMENTS);
    for (; chunk + THIN_AHEAD <= end; chunk += THIN_AHEAD)
        gpu_thin_chunks(p, output, chunk, THIN_AHEAD, acc, across);
    for (; chunk < end; chunk++)
        gpu_thin_chunks(p, output, chunk, 1, acc, across);
    GPU_UNROLL
    for (uint32_t c = 0; c < across; c++) {
        sums[warp][g * BF16_LD + c * MMA_OUTPUTS + 2 * t] = acc[c][0];
        sums[warp][g * BF16_LD + c * MMA_OUTPUTS + 2 * t + 1] = acc[c][1];
    }
    GPU_SYNC();
    for (uint32_t i = GPU_THREAD; i < THIN_ROWS * wide; i += GPU_THREADS) {
        const uint32_t at = i / wide * BF16_LD + i % wide;
        float sum = sums[0][at];
        for (uint32_t s = 1; s < JOUST_GPU_SEGMENTS; s++)
            sum += sums[s][at];
        done[at] = sum;
    }
    GPU_SYNC();
    gpu_tile_store(p, 0, THIN_ROWS, output, wide, done, BF16_LD, head);
    if (head && GPU_THREAD < THIN_ROWS)
        gpu_tile_head(p, 0, GPU_THREAD, output, wide, done, BF16_LD);
}

/* ---- bf16, wide ------------------------------------------------------------------------------ */

/* Eight warps, two down and four across a tile, each 64 rows and 32 outputs. A chunk of both factors lies in shared memory as
 * rows of 64 bytes, which lanes read as they would from global memory; the next two are on their way meanwhile. */
#define WIDE_ROWS    JOUST_GPU_WIDE_ROWS
#define WIDE_OUTPUTS JOUST_GPU_WIDE_OUTPUTS
#define WIDE_EACH    4u /* products of 16 rows down a warp's part, of 8 outputs across */
#define WIDE_WORDS                                                                                 \
    (WIDE_ROWS * JOUST_GPU_CHUNK * 2 / 16) /* of a chunk of either factor, 16 bytes each */
#define WIDE_ACROSS (WIDE_OUTPUTS / JOUST_GPU_BF16_OUTPUTS)
#define WIDE_STAGES 3u

typedef struct gpu_wide_stage {
    gpu_words a[WIDE_WORDS], w[WIDE_WORDS];
} gpu_wide_stage;

/* Sends for the thread's share of a chunk, if there is one more: 0 outside of the factors. */
GPU_FUNCTION void gpu_wide_load(const joust_gpu_matrix_args *p, uint32_t row, uint32_t output,
                                uint32_t chunk, gpu_wide_stage *to)
{
    const uint16_t *a = (const uint16_t *)p->a, *w = (const uint16_t *)p->w;
    for (uint32_t at = GPU_THREAD; at < WIDE_WORDS && chunk < p->ld / JOUST_GPU_CHUNK; at += 256u) {
        const uint32_t k = chunk * JOUST_GPU_CHUNK + at % 4 * 8, i = row + at / 4,
                       j = output + at / 4;
        gpu_async(&to->a[at], a + (size_t)(i < p->m ? i : 0) * p->ld + k, i < p->m);
        gpu_async(&to->w[at], w + (size_t)(j < p->n ? j : 0) * p->ld + k, j < p->n);
    }
    gpu_async_close();
}

/* acc += a chunk, each product with the same factors at the same places as in gpu_bf16_chunk. */
GPU_FUNCTION void gpu_wide_chunk(const gpu_wide_stage *from, const gpu_bf16_lane *l,
                                 float acc[WIDE_EACH][WIDE_EACH][4])
{
    gpu_words w[WIDE_EACH];
    GPU_UNROLL
    for (uint32_t c = 0; c < WIDE_EACH; c++)
        w[c] = from->w[(l->output + c * MMA_OUTPUTS + l->g) * 4 + l->t];
    GPU_UNROLL
    for (uint32_t r = 0; r < WIDE_EACH; r++) {
        const uint32_t row = l->row + r * MMA_ROWS + l->g;
        const gpu_words low = from->a[row * 4 + l->t], high = from->a[(row + 8) * 4 + l->t];
        const uint32_t first[4] = {low.x, high.x, low.y, high.y},
                       second[4] = {low.z, high.z, low.w, high.w};
        GPU_UNROLL
        for (uint32_t c = 0; c < WIDE_EACH; c++) {
            const uint32_t w_first[2] = {w[c].x, w[c].y}, w_second[2] = {w[c].z, w[c].w};
            gpu_mma(acc[r][c], first, w_first);
            gpu_mma(acc[r][c], second, w_second);
        }
    }
}

/* A segment is over: total = or += acc, which begins again. */
GPU_FUNCTION void gpu_wide_segment(int first, float acc[WIDE_EACH][WIDE_EACH][4],
                                   float total[WIDE_EACH][WIDE_EACH][4])
{
    GPU_UNROLL
    for (uint32_t r = 0; r < WIDE_EACH; r++)
        GPU_UNROLL
    for (uint32_t c = 0; c < WIDE_EACH; c++)
        GPU_UNROLL
    for (uint32_t i = 0; i < 4; i++) {
        total[r][c][i] = first ? acc[r][c][i] : total[r][c][i] + acc[r][c][i];
        acc[r][c][i] = 0.0f;
    }
}

GPU_FUNCTION uint32_t gpu_segment_end(uint32_t n_chunks, uint32_t segment)
{
    return (uint32_t)((uint64_t)n_chunks * (segment + 1) / JOUST_GPU_SEGMENTS);
}

/* The tile's sums, in order of chunks. */
GPU_FUNCTION void gpu_wide_sum(const joust_gpu_matrix_args *p, const gpu_bf16_lane *l, uint32_t row,
                               uint32_t output, gpu_wide_stage stages[WIDE_STAGES],
                               float total[WIDE_EACH][WIDE_EACH][4])
{
    const uint32_t n_chunks = p->ld / JOUST_GPU_CHUNK;
    float acc[WIDE_EACH][WIDE_EACH][4] = {{{0}}};
    uint32_t segment = 0;
    gpu_wide_load(p, row, output, 0, &stages[0]);
    gpu_wide_load(p, row, output, 1, &stages[1]);
    for (uint32_t chunk = 0; chunk < n_chunks; chunk++) {
        gpu_async_wait(1);
        GPU_SYNC(); /* the chunk is there, and all are done with the one before */
        gpu_wide_load(p, row, output, chunk + 2, &stages[(chunk + 2) % WIDE_STAGES]);
        for (; chunk == gpu_segment_end(n_chunks, segment); segment++)
            gpu_wide_segment(segment == 0, acc, total);
        gpu_wide_chunk(&stages[chunk % WIDE_STAGES], l, acc);
    }
    for (; segment < JOUST_GPU_SEGMENTS; segment++)
        gpu_wide_segment(segment == 0, acc, total);
    gpu_async_wait(0);
    GPU_SYNC();
}

/* The tile leaves through shared memory, half of its outputs at a time: (2, WIDE_ROWS, BF16_LD). */
GPU_FUNCTION void gpu_wide_store(const joust_gpu_matrix_args *p, const gpu_bf16_lane *l,
                                 uint32_t row, uint32_t output, float *done,
                                 float total[WIDE_EACH][WIDE_EACH][4], int head)
{
    const uint32_t across = l->output / JOUST_GPU_BF16_OUTPUTS, half = WIDE_ROWS * BF16_LD;
    for (uint32_t turn = 0; turn < WIDE_ACROSS; turn += 2) {
        if (across / 2 == turn / 2)
            gpu_bf16_add(l, 1, total, done + across % 2 * half + l->row * BF16_LD);
        GPU_SYNC();
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t first = output + (turn + i) * JOUST_GPU_BF16_OUTPUTS;
            const float *tile = done + i * half;
            if (first >= p->n)
                continue;
            gpu_tile_store(p, row, WIDE_ROWS, first, JOUST_GPU_BF16_OUTPUTS, tile, BF16_LD, head);
            if (head && GPU_THREAD / WIDE_ROWS == i)
                gpu_tile_head(p, row, GPU_THREAD % WIDE_ROWS, first, JOUST_GPU_BF16_OUTPUTS, tile,
                              BF16_LD);
        }
        GPU_SYNC();
    }
}

GPU_FUNCTION void gpu_matrix_wide(const joust_gpu_matrix_args *p, int head)
{
    GPU_SHARED gpu_wide_stage stages[WIDE_STAGES];
    const uint32_t warp = GPU_THREAD / GPU_WARP, lane = GPU_THREAD % GPU_WARP,
                   across = warp % WIDE_ACROSS, row = GPU_BLOCK_Y * WIDE_ROWS,
                   output = GPU_BLOCK_X * WIDE_OUTPUTS;
    const gpu_bf16_lane l = {lane / 4, lane % 4, 0, warp / WIDE_ACROSS * (WIDE_EACH * MMA_ROWS),
                             across * JOUST_GPU_BF16_OUTPUTS};
    float total[WIDE_EACH][WIDE_EACH][4];
    gpu_wide_sum(p, &l, row, output, stages, total);
    gpu_wide_store(p, &l, row, output, (float *)(void *)stages, total, head);
}

#endif
