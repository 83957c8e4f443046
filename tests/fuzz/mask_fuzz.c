/* A regular expression: refused, or an automaton whose every way leads to a match. */
#include <string.h>

#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"
#include "worker/engine/masks/automaton_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err;
    joust_automaton *a = NULL;
    const int64_t live = joust_alloc_live();
    char *pattern = joust_strndup((const char *)data, n);
    if (pattern && joust_automaton_compile(pattern, &a, &err) == JOUST_OK)
        for (uint64_t i = 0; i < (uint64_t)a->n_states * a->n_classes; i++)
            fuzz_require(a->next[i] == JOUST_DEAD || a->next[i] < a->n_states);
    joust_automaton_free(&a);
    joust_free(pattern);
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
