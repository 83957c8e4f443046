/* Allocation: counted, and failable for tests.
 * Thread: any. Every block from here is freed with joust_free, never with free(). */
#ifndef JOUST_PROTO_BASE_ALLOC_H
#define JOUST_PROTO_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* As malloc, calloc, realloc, strdup, strndup; NULL when out of memory. n = 0 gives a block that can be freed.
 * joust_calloc and joust_realloc_array refuse n * size that overflows. */
void *joust_malloc(size_t n_bytes);
void *joust_calloc(size_t n, size_t size);
void *joust_realloc(void *block, size_t n_bytes);
void *joust_realloc_array(void *block, size_t n, size_t size);
char *joust_strdup(const char *s);
char *joust_strndup(const char *s, size_t n);
void *joust_memdup(const void *data, size_t n_bytes);
/* Makes room for one more behind the n elements, of `size` bytes each, of an array that doubles. array: the address of
 * the pointer to it; *capacity: elements it has room for. False when out of memory: then nothing has changed. */
bool joust_grow(void *array, size_t n, size_t *capacity, size_t size);
/* 64-byte aligned, zeroed; for weights and activations. Free with joust_free_aligned. */
void *joust_calloc_aligned(size_t n, size_t size);
void joust_free_aligned(void *block);
void joust_free(void *block); /* NULL is fine */

/* From now on blocks of 4 MiB and more go back to the system when they are freed, so that what is resident follows what is
 * live. For processes that run for days; one that makes and frees tensors pays for it. Where the C library has no such
 * setting: nothing. Source: mallopt(3): M_MMAP_THRESHOLD is otherwise raised to 32 MiB by use. */
void joust_alloc_give_back(void);

/* From now on new threads allocate where the others do, not from heaps of their own whose holes add up: for processes that hold
 * themselves to a budget, before their threads begin. Where the C library has no such setting: nothing. Source: mallopt(3). */
void joust_alloc_one_heap(void);

/* Live blocks, for leak tests. */
int64_t joust_alloc_live(void);
/* The n-th allocation from now (1 = the next) and all after it fail, until called with 0. Tests only. */
void joust_alloc_fail_at(int64_t n);

#endif
