#include "engine/cuda/emulator.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/base/alloc.h"

#define MAX_THREADS 256u
#define STACK_BYTES (128u << 10)
#define STACK_STEP  (STACK_BYTES + 320u) /* tops that don't fall into one set of the cache */
#define WARP        32u

/* ---- fibres ---------------------------------------------------------------------------------- */

#if defined(__x86_64__)
typedef struct fibre {
    void *stack_at;
} fibre;

/* Saves what a called function must keep, and the stack, in *from; goes on with *to. */
void emulator_switch(void **from, void *to);
__asm__(".text\n"
        ".globl emulator_switch\n"
        ".type emulator_switch, @function\n"
        "emulator_switch:\n"
        "    push %rbp\n    push %rbx\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
        "    mov %rsp, (%rdi)\n"
        "    mov %rsi, %rsp\n"
        "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbx\n    pop %rbp\n"
        "    ret\n"
        ".size emulator_switch, . - emulator_switch\n"
        ".section .note.GNU-stack,\"\",@progbits\n"
        ".text\n");

static void fibre_begin(fibre *f, unsigned char *stack, void (*entry)(void))
{
    void **top = (void **)(void *)(stack + STACK_BYTES) - 2;
    top[0] = (void *)(uintptr_t)entry; /* the return address; rsp + 8 is then 16 bytes aligned */
    top[1] = NULL;
    for (int i = 1; i <= 6; i++)
        top[-i] = NULL;
    f->stack_at = top - 6;
}

static void fibre_switch(fibre *from, fibre *to)
{
    emulator_switch(&from->stack_at, to->stack_at);
}
#else
#include <ucontext.h>
typedef struct fibre {
    ucontext_t at;
} fibre;

static void fibre_begin(fibre *f, unsigned char *stack, void (*entry)(void))
{
    getcontext(&f->at);
    f->at.uc_stack.ss_sp = stack;
    f->at.uc_stack.ss_size = STACK_BYTES;
    f->at.uc_link = NULL;
    makecontext(&f->at, entry, 0);
}

static void fibre_switch(fibre *from, fibre *to)
{
    swapcontext(&from->at, &to->at);
}
#endif

/* ---- a block --------------------------------------------------------------------------------- */

typedef enum thread_state { RUNS, AT_BARRIER, AT_PRODUCT, AT_SWAP, AT_TURN, LEFT } thread_state;

#define MAX_COPIES 64u

typedef struct copy {
    gpu_words *to;
    const void *from;
    uint32_t group;
    bool there;
} copy;

typedef struct thread {
    fibre fibre;
    thread_state state;
    float *d; /* of the product it waits for */
    const uint32_t *a, *b;
    float x; /* of the swap or turn */
    uint32_t mask, pair;
    copy copies[MAX_COPIES]; /* on their way, oldest first */
    uint32_t n_copies, n_groups;
} thread;

emulator_place emulator_at;
static struct {
    thread threads[MAX_THREADS];
    fibre scheduler;
    unsigned char *stacks;
    void (*body)(const void *args);
    const void *args;
    uint32_t n;
    bool backwards;
} block;

static _Noreturn void die(const char *why)
{
    fprintf(stderr, "emulator: block (%u, %u): %s\n", emulator_at.x, emulator_at.y, why);
    abort();
}

static void wait_as(thread_state state)
{
    thread *t = &block.threads[emulator_at.thread];
    t->state = state;
    fibre_switch(&t->fibre, &block.scheduler);
}

void emulator_sync(void)
{
    wait_as(AT_BARRIER);
}

void emulator_mma(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    thread *t = &block.threads[emulator_at.thread];
    t->d = d;
    t->a = a;
    t->b = b;
    wait_as(AT_PRODUCT);
}

float emulator_swap(float x, uint32_t mask)
{
    thread *t = &block.threads[emulator_at.thread];
    t->x = x;
    t->mask = mask;
    wait_as(AT_SWAP);
    return t->x;
}

uint32_t emulator_turn(uint32_t pair)
{
    thread *t = &block.threads[emulator_at.thread];
    t->pair = pair;
    wait_as(AT_TURN);
    return t->pair;
}

static void copy_do(const copy *c)
{
    if (c->there)
        memcpy(c->to, c->from, sizeof(*c->to));
    else
        memset(c->to, 0, sizeof(*c->to));
}

void emulator_async(gpu_words *to, const void *from, int there)
{
    thread *t = &block.threads[emulator_at.thread];
    const copy c = {.to = to, .from = from, .group = t->n_groups, .there = there != 0};
    if (block.backwards) {
        copy_do(&c);
        return;
    }
    if (t->n_copies == MAX_COPIES)
        die("too many copies on their way");
    t->copies[t->n_copies++] = c;
}

void emulator_async_close(void)
{
    block.threads[emulator_at.thread].n_groups++;
}

void emulator_async_wait(uint32_t n)
{
    thread *t = &block.threads[emulator_at.thread];
    uint32_t done = 0;
    while (done < t->n_copies && t->copies[done].group + n < t->n_groups)
        copy_do(&t->copies[done++]);
    t->n_copies -= done;
    memmove(t->copies, t->copies + done, t->n_copies * sizeof(*t->copies));
}

static void thread_main(void)
{
    block.body(block.args);
    if (block.threads[emulator_at.thread].n_copies > 0)
        die("a thread leaves while its copies are on their way");
    wait_as(LEFT);
    die("a thread that has left runs again");
}

/* ---- a warp's product ------------------------------------------------------------------------ */

static float half_of(uint32_t pair, uint32_t i)
{
    const uint32_t bits = i ? pair & 0xffff0000u : pair << 16;
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* Lane 4 g + t holds of a: rows g (words 0, 2) and g + 8 (words 1, 3), columns 2 t, 2 t + 1 (words 0, 1) and those + 8
 * (words 2, 3); of b: rows 2 t, 2 t + 1 (word 0) and those + 8 (word 1) of column g; of d: rows g, g + 8, columns 2 t,
 * 2 t + 1. */
static void warp_product(thread *lanes)
{
    float a[16][16], b[16][8];
    for (uint32_t lane = 0; lane < WARP; lane++) {
        const uint32_t g = lane / 4, t = lane % 4;
        for (uint32_t word = 0; word < 4; word++)
            for (uint32_t i = 0; i < 2; i++)
                a[g + word % 2 * 8][2 * t + word / 2 * 8 + i] = half_of(lanes[lane].a[word], i);
        for (uint32_t word = 0; word < 2; word++)
            for (uint32_t i = 0; i < 2; i++)
                b[2 * t + word * 8 + i][g] = half_of(lanes[lane].b[word], i);
    }
    for (uint32_t lane = 0; lane < WARP; lane++)
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
            double sum = (double)lanes[lane].d[i];
            for (uint32_t k = 0; k < 16; k++)
                sum += (double)a[row][k] * (double)b[k][column];
            lanes[lane].d[i] = (float)sum;
        }
}

static void warp_swap(thread *lanes)
{
    float x[WARP];
    for (uint32_t i = 0; i < WARP; i++)
        x[i] = lanes[i].x;
    for (uint32_t i = 0; i < WARP; i++)
        lanes[i].x = x[i ^ lanes[i].mask];
}

/* Lane 4 g + t holds (g, 2 t) and (g, 2 t + 1) of an 8 x 8 matrix. */
static void warp_turn(thread *lanes)
{
    uint16_t x[8][8];
    for (uint32_t i = 0; i < WARP; i++) {
        x[i / 4][2 * (i % 4)] = (uint16_t)lanes[i].pair;
        x[i / 4][2 * (i % 4) + 1] = (uint16_t)(lanes[i].pair >> 16);
    }
    for (uint32_t i = 0; i < WARP; i++)
        lanes[i].pair = x[2 * (i % 4)][i / 4] | (uint32_t)x[2 * (i % 4) + 1][i / 4] << 16;
}

/* Warps whose threads all wait for the same of what a warp does together get it; returns whether any did. */
static bool together_do(thread_state state, void (*what)(thread *lanes))
{
    bool any = false;
    for (uint32_t first = 0; first < block.n; first += WARP) {
        uint32_t n = 0;
        for (uint32_t i = first; i < first + WARP && i < block.n; i++)
            n += block.threads[i].state == state;
        if (n == 0)
            continue;
        if (n < WARP)
            die("a part of a warp waits for what a warp does together");
        what(&block.threads[first]);
        for (uint32_t i = first; i < first + WARP; i++)
            block.threads[i].state = RUNS;
        any = true;
    }
    return any;
}

/* ---- blocks and grids ------------------------------------------------------------------------ */

static uint32_t count(thread_state state)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < block.n; i++)
        n += block.threads[i].state == state;
    return n;
}

static void threads_resume(void)
{
    for (uint32_t i = 0; i < block.n; i++) {
        const uint32_t k = block.backwards ? block.n - 1 - i : i;
        if (block.threads[k].state != RUNS)
            continue;
        emulator_at.thread = k;
        fibre_switch(&block.scheduler, &block.threads[k].fibre);
    }
}

extern unsigned char __start_emulator_shared[], __stop_emulator_shared[];

static void shared_spoil(void)
{
    memset(__start_emulator_shared, 0xff,
           (size_t)(__stop_emulator_shared - __start_emulator_shared));
}

static void block_run(void)
{
    shared_spoil();
    for (uint32_t i = 0; i < block.n; i++) {
        block.threads[i].state = RUNS;
        block.threads[i].n_copies = block.threads[i].n_groups = 0;
        fibre_begin(&block.threads[i].fibre, block.stacks + (size_t)i * STACK_STEP, thread_main);
    }
    for (;;) {
        threads_resume();
        if (count(LEFT) == block.n)
            return;
        const bool products = together_do(AT_PRODUCT, warp_product),
                   swaps = together_do(AT_SWAP, warp_swap), turns = together_do(AT_TURN, warp_turn);
        if (products || swaps || turns)
            continue;
        if (count(AT_BARRIER) != block.n)
            die("threads wait at a barrier that others have left behind");
        for (uint32_t i = 0; i < block.n; i++)
            block.threads[i].state = RUNS;
        block.backwards = !block.backwards;
    }
}

static void stacks_free(void)
{
    free(block.stacks);
}

void emulator_run(void (*body)(const void *args), const void *args, uint32_t threads,
                  uint32_t grid_x, uint32_t grid_y)
{
    if (threads > MAX_THREADS || grid_y > 65535)
        die("a launch that no GPU takes");
    if (!block.stacks) {
        block.stacks = aligned_alloc(64, (size_t)MAX_THREADS * STACK_STEP);
        if (!block.stacks)
            die("no memory for stacks");
        atexit(stacks_free);
    }
    block.body = body;
    block.args = args;
    block.n = threads;
    emulator_at.threads = threads;
    emulator_at.n_x = grid_x;
    for (uint32_t y = 0; y < grid_y; y++)
        for (uint32_t x = 0; x < grid_x; x++) {
            emulator_at.x = x;
            emulator_at.y = y;
            block_run();
        }
}
