#include "proto/base/alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#define LARGE_BYTES (4 << 20)
#define KEPT_BYTES  (64 << 20) /* free at the end of the heap, given back only beyond that */

static atomic_int_least64_t live_blocks;
static atomic_int_least64_t fail_countdown; /* 0: never fail */

void joust_alloc_give_back(void)
{
#ifdef M_MMAP_THRESHOLD
    (void)mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
#endif
}

void joust_alloc_one_heap(void)
{
#ifdef M_ARENA_MAX
    (void)mallopt(M_ARENA_MAX, 1);
#endif
}

int64_t joust_alloc_live(void)
{
    return atomic_load(&live_blocks);
}

void joust_alloc_fail_at(int64_t n)
{
    atomic_store(&fail_countdown, n);
}

static int must_fail(void)
{
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) == 0)
        return 0;
    /* Counts down to 1 and stays there: that and every later allocation fails. */
    int_least64_t left = atomic_load(&fail_countdown);
    while (left > 1)
        if (atomic_compare_exchange_weak(&fail_countdown, &left, left - 1))
            return 0;
    return left == 1;
}

static void *counted(void *block)
{
    if (block)
        atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
    return block;
}

void *joust_malloc(size_t n_bytes)
{
    return must_fail() ? NULL : counted(malloc(n_bytes ? n_bytes : 1));
}

void *joust_calloc(size_t n, size_t size)
{
    if (size && n > SIZE_MAX / size)
        return NULL;
    return must_fail() ? NULL : counted(calloc(n ? n : 1, size ? size : 1));
}

void *joust_realloc(void *block, size_t n_bytes)
{
    if (!block)
        return joust_malloc(n_bytes);
    return must_fail() ? NULL : realloc(block, n_bytes ? n_bytes : 1);
}

void *joust_realloc_array(void *block, size_t n, size_t size)
{
    if (size && n > SIZE_MAX / size)
        return NULL;
    return joust_realloc(block, n * size);
}

bool joust_grow(void *array, size_t n, size_t *capacity, size_t size)
{
    void *block;
    if (n < *capacity)
        return true;
    size_t grown = *capacity ? 2 * *capacity : 8;
    memcpy(&block, array, sizeof(block)); /* a pointer of whatever type */
    block = joust_realloc_array(block, grown, size);
    if (!block)
        return false;
    memcpy(array, &block, sizeof(block));
    *capacity = grown;
    return true;
}

char *joust_strndup(const char *s, size_t n)
{
    size_t length = strnlen(s, n);
    char *copy = joust_malloc(length + 1);
    if (copy) {
        memcpy(copy, s, length);
        copy[length] = '\0';
    }
    return copy;
}

char *joust_strdup(const char *s)
{
    return joust_strndup(s, SIZE_MAX);
}

void *joust_memdup(const void *data, size_t n_bytes)
{
    void *copy = joust_malloc(n_bytes);
    if (copy && n_bytes)
        memcpy(copy, data, n_bytes);
    return copy;
}

/* Weights are read from end to end at every step: with small pages the processor looks up thousands of addresses a step, and
 * its prefetching stops at each page's end. A hint, whose refusal changes nothing. */
static void ask_huge_pages(void *block, size_t n_bytes)
{
#ifdef MADV_HUGEPAGE
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)block,
                    first = (begin + page - 1) / page * page, end = (begin + n_bytes) / page * page;
    madvise((void *)first, end - first, MADV_HUGEPAGE);
#else
    (void)block;
    (void)n_bytes;
#endif
}

void *joust_calloc_aligned(size_t n, size_t size)
{
    if ((size && n > (SIZE_MAX - 64) / size) || must_fail())
        return NULL;
    size_t n_bytes = (n * size + 63) / 64 * 64;
    void *block = aligned_alloc(64, n_bytes ? n_bytes : 64);
    if (block && n_bytes >= LARGE_BYTES)
        ask_huge_pages(block, n_bytes);
    if (block)
        memset(block, 0, n_bytes ? n_bytes : 64);
    return counted(block);
}

void joust_free_aligned(void *block)
{
    joust_free(block);
}

void joust_free(void *block)
{
    if (!block)
        return;
    atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
    free(block);
}
