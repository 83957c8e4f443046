/* A grammar, or behind a '{' a JSON schema: refused, or a pushdown that goes on from every set that it gives. */
#include <string.h>

#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"
#include "worker/engine/grammar/grammar.h"
#include "worker/engine/grammar/pushdown_internal.h"
#include "worker/engine/grammar/schema_internal.h"

enum { STEPS = 64 };

/* From a set that doesn't accept some byte goes on: the least that does is taken. */
static void walk(const joust_grammar *g)
{
    joust_pushdown *p = NULL;
    joust_error err;
    uint32_t set = JOUST_NO_SET;
    if (joust_pushdown_create(g, &p, &err) != JOUST_OK)
        return;
    joust_status st = joust_pushdown_start(p, &set, &err);
    for (int i = 0; i < STEPS && st == JOUST_OK && set != JOUST_NO_SET; i++) {
        uint32_t next = JOUST_NO_SET, top = JOUST_NO_SET, below = JOUST_NO_SET;
        st = joust_pushdown_part(p, set, (uint32_t)i % 9, &top, &below, &err);
        for (uint32_t c = 0; c < g->n_classes && st == JOUST_OK && next == JOUST_NO_SET; c++)
            st = joust_pushdown_step(p, set, g->of_class[(c + (uint32_t)i) % g->n_classes], &next,
                                     &err);
        fuzz_require(st != JOUST_OK || next != JOUST_NO_SET || joust_pushdown_accepts(p, set));
        set = next;
    }
    fuzz_require(st == JOUST_OK || st == JOUST_TOO_LARGE);
    joust_pushdown_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err = {0};
    joust_grammar *g = NULL;
    char *gbnf = NULL;
    const int64_t live = joust_alloc_live();
    char *text = joust_strndup((const char *)data, n);
    if (text && text[0] == '{') {
        if (joust_schema_check(text, "f", &err) != JOUST_OK)
            fuzz_require(err.text[0] != 0);
        if (joust_schema_gbnf(text, &gbnf, &err) == JOUST_OK) {
            joust_status st = joust_grammar_compile(gbnf, NULL, &g, &err);
            fuzz_require(st != JOUST_INVALID || strstr(err.text, "no text of root ever ends"));
        }
    } else if (text) {
        if (joust_grammar_compile(text, NULL, &g, &err) != JOUST_OK)
            fuzz_require(!g && err.text[0] >= '1' && err.text[0] <= '9');
    }
    if (g)
        walk(g);
    joust_grammar_free(&g);
    joust_free(gbnf);
    joust_free(text);
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
