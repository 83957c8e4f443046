/* A block of GPU threads on the CPU: the language of worker/engine/cuda/cuda_block_internal.h for the tests, and a joust_gpu that
 * runs the same kernel bodies. Threads are fibres; a barrier lets all run up to it; a tensor-core product, or what else a warp does
 * together, lets its warp run up to it and is then computed by the fragments' documented layout (PTX ISA, "mma.m16n8k16"). Blocks run one after the
 * other, their threads forwards and backwards by turns, so that what lacks a barrier shows as other bits. Shared memory and
 * memory just allocated begin as NaN. A thread that waits where another has left is an error: the process aborts.
 * Thread: one at a time. */
#ifndef JOUST_TESTS_ENGINE_CUDA_EMULATOR_H
#define JOUST_TESTS_ENGINE_CUDA_EMULATOR_H

#include <stdint.h>
#include <string.h>

#define GPU_FUNCTION static inline __attribute__((unused))
#define GPU_SHARED   static __attribute__((section("emulator_shared")))
#define GPU_UNROLL
#define GPU_THREAD   emulator_at.thread
#define GPU_THREADS  emulator_at.threads
#define GPU_BLOCK_X  emulator_at.x
#define GPU_BLOCK_Y  emulator_at.y
#define GPU_BLOCKS_X emulator_at.n_x
#define GPU_SYNC()   emulator_sync()

typedef struct emulator_place {
    uint32_t thread, threads, x, y, n_x;
} emulator_place;
extern emulator_place emulator_at; /* of the thread that runs */

typedef struct gpu_words {
    _Alignas(16) uint32_t x;
    uint32_t y, z, w;
} gpu_words;
typedef struct gpu_pair {
    _Alignas(8) uint32_t x;
    uint32_t y;
} gpu_pair;

void emulator_sync(void);
void emulator_mma(float d[4], const uint32_t a[4], const uint32_t b[2]);

GPU_FUNCTION void gpu_mma(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    emulator_mma(d, a, b);
}

GPU_FUNCTION uint32_t gpu_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

GPU_FUNCTION float gpu_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* Copies happen when they are waited for, or at once, by turns of the block: either way of a GPU's is met. */
void emulator_async(gpu_words *to, const void *from, int there);
void emulator_async_close(void);
void emulator_async_wait(uint32_t n);
float emulator_swap(float x, uint32_t mask);
uint32_t emulator_turn(uint32_t pair);

#define gpu_read_once(from)        (*(from))
#define gpu_async(to, from, there) emulator_async(to, from, there)
#define gpu_async_close()          emulator_async_close()
#define gpu_async_wait(n)          emulator_async_wait(n)
#define gpu_swap(x, mask)          emulator_swap(x, mask)
#define gpu_turn(pair)             emulator_turn(pair)

/* Runs body(args) for every thread of a grid. */
void emulator_run(void (*body)(const void *args), const void *args, uint32_t threads,
                  uint32_t grid_x, uint32_t grid_y);

/* For tests of the emulator's joust_gpu. */
extern uint64_t emulator_memory;     /* bytes that may be allocated at once; 0: any number */
extern uint64_t emulator_used;       /* now */
extern uint64_t emulator_peak;       /* most of that; a test may lower it */
extern uint64_t emulator_n_launches; /* so far, replayed ones too */
extern uint64_t emulator_n_replays;

#endif
