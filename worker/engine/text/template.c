/* Templates of prompts. Literal text is encoded when the template is compiled, once for each place where it can
 * stand; what fills a slot is encoded by itself, without special tokens. */
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/text.h"
#include "tokenizer_internal.h"

#define MAX_TEMPLATE_BYTES (1u << 20)
#define N_PLACES           3

typedef struct part {
    char *slot;                     /* name, or NULL: literal text */
    char *text;                     /* that, where there is no tokenizer, or */
    joust_tokens literal[N_PLACES]; /* by joust_place */
} part;

struct joust_template {
    const joust_tokenizer *tokenizer;
    joust_digest digest;
    part *parts;
    uint32_t n_parts, capacity;
};

/* A template that is being compiled. */
typedef struct compiling {
    joust_template *t;
    const char *const *allowed;
    uint32_t n_allowed;
    joust_buf literal; /* read so far and not yet a part */
    joust_error *err;
} compiling;

static joust_status add_part(compiling *c, part **ret)
{
    joust_template *t = c->t;
    if (t->n_parts == t->capacity) {
        uint32_t capacity = t->capacity ? t->capacity * 2 : 8;
        void *parts = joust_realloc_array(t->parts, capacity, sizeof(*t->parts));
        if (!parts)
            return joust_fail(c->err, JOUST_NOMEM, "template: out of memory");
        t->parts = parts;
        t->capacity = capacity;
    }
    *ret = &t->parts[t->n_parts++];
    memset(*ret, 0, sizeof(**ret));
    return JOUST_OK;
}

static joust_status end_literal(compiling *c)
{
    part *p = NULL;
    if (c->literal.n == 0)
        return joust_buf_status(&c->literal, c->err);
    joust_status st = add_part(c, &p);
    if (st == JOUST_OK && !c->t->tokenizer) {
        p->text = joust_strndup((const char *)c->literal.data, c->literal.n);
        if (!p->text)
            st = joust_fail(c->err, JOUST_NOMEM, "template: out of memory");
    }
    for (int place = 0; st == JOUST_OK && c->t->tokenizer && place < N_PLACES; place++)
        st = joust_tokenizer_encode_at(c->t->tokenizer, (const char *)c->literal.data, c->literal.n,
                                       true, (joust_place)place, &p->literal[place], c->err);
    joust_buf_clear(&c->literal);
    return st == JOUST_OK ? st : joust_blame(c->err, st, "template");
}

static joust_status add_slot(compiling *c, const char *name, size_t n)
{
    part *p = NULL;
    joust_status st = end_literal(c);
    if (st != JOUST_OK)
        return st;
    char *copy = joust_strndup(name, n);
    if (!copy)
        return joust_fail(c->err, JOUST_NOMEM, "template: out of memory");
    bool known = false;
    for (uint32_t i = 0; i < c->n_allowed; i++)
        known |= strcmp(c->allowed[i], copy) == 0;
    if (!known) {
        const char *nearest = joust_text_nearest(copy, c->allowed, c->n_allowed);
        st = joust_fail(c->err, JOUST_INVALID, "template: {%.60s} is no slot here%s%s%s", copy,
                        nearest ? "; did you mean {" : "", nearest ? nearest : "",
                        nearest ? "}" : "");
    } else {
        st = add_part(c, &p);
    }
    if (st == JOUST_OK)
        p->slot = copy;
    else
        joust_free(copy);
    return st;
}

static joust_status compile(compiling *c, const char *text)
{
    joust_status st = JOUST_OK;
    for (const char *at = text; st == JOUST_OK && *at;) {
        const char *close;
        if (*at != '{' && *at != '}') {
            size_t n = strcspn(at, "{}");
            joust_buf_add(&c->literal, at, n);
            at += n;
        } else if (at[1] == *at) {
            joust_buf_u8(&c->literal, (uint8_t)*at);
            at += 2;
        } else if (*at == '}') {
            st = joust_fail(c->err, JOUST_INVALID,
                            "template: byte %zu: } without {; write }} for a brace",
                            (size_t)(at - text));
        } else if (!(close = strchr(at, '}')) || memchr(at + 1, '{', (size_t)(close - at - 1))) {
            st = joust_fail(c->err, JOUST_INVALID,
                            "template: byte %zu: { is not closed; write {{ for a brace",
                            (size_t)(at - text));
        } else {
            st = add_slot(c, at + 1, (size_t)(close - at - 1));
            at = close + 1;
        }
    }
    return st == JOUST_OK ? end_literal(c) : st;
}

joust_status joust_template_compile(const joust_tokenizer *t, const char *text,
                                    const char *const *allowed, uint32_t n_allowed,
                                    joust_template **ret, joust_error *err)
{
    size_t n = strlen(text);
    if (n > MAX_TEMPLATE_BYTES)
        return joust_fail(err, JOUST_TOO_LARGE, "template: longer than %u bytes",
                          MAX_TEMPLATE_BYTES);
    compiling c = {.allowed = allowed, .n_allowed = n_allowed, .err = err};
    c.t = joust_calloc(1, sizeof(*c.t));
    if (!c.t)
        return joust_fail(err, JOUST_NOMEM, "template: out of memory");
    c.t->tokenizer = t;
    c.t->digest = joust_digest_of(text, n);
    joust_status st = compile(&c, text);
    joust_buf_fini(&c.literal);
    if (st == JOUST_OK)
        *ret = c.t;
    else
        joust_template_free(&c.t);
    return st;
}

static joust_status render_slot(const joust_template *t, const joust_slot *slot, joust_tokens *to,
                                joust_error *err)
{
    if (slot->tokens)
        return joust_tokens_add(to, slot->tokens, slot->n_tokens, err);
    const char *text = slot->text ? slot->text : "";
    joust_status st =
        joust_tokenizer_encode_at(t->tokenizer, text, strlen(text), false,
                                  joust_tokenizer_place_after(t->tokenizer, to), to, err);
    return st == JOUST_OK ? st : joust_blame(err, st, "slot {%s}", slot->name);
}

static joust_status find_slot(const part *p, const joust_slot *slots, uint32_t n_slots,
                              const joust_slot **ret, joust_error *err)
{
    for (uint32_t i = 0; i < n_slots; i++)
        if (strcmp(slots[i].name, p->slot) == 0) {
            *ret = &slots[i];
            return JOUST_OK;
        }
    return joust_fail(err, JOUST_INVALID, "template: nothing fills {%s}", p->slot);
}

static joust_status render(const joust_template *t, const joust_slot *slots, uint32_t n_slots,
                           joust_tokens *to, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < t->n_parts; i++) {
        const part *p = &t->parts[i];
        const joust_slot *slot = NULL;
        if (!p->slot) {
            const joust_tokens *literal =
                &p->literal[joust_tokenizer_place_after(t->tokenizer, to)];
            st = joust_tokens_add(to, literal->ids, literal->n, err);
            continue;
        }
        st = find_slot(p, slots, n_slots, &slot, err);
        if (st == JOUST_OK)
            st = render_slot(t, slot, to, err);
    }
    return st;
}

joust_status joust_template_render(const joust_template *t, const joust_slot *slots,
                                   uint32_t n_slots, joust_tokens *to, joust_error *err)
{
    uint32_t n_before = to->n;
    joust_status st = render(t, slots, n_slots, to, err);
    if (st != JOUST_OK)
        to->n = n_before;
    return st;
}

joust_status joust_template_render_text(const joust_template *t, const joust_slot *slots,
                                        uint32_t n_slots, joust_buf *to, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < t->n_parts; i++) {
        const part *p = &t->parts[i];
        const joust_slot *slot = NULL;
        if (!p->slot) {
            joust_buf_text(to, p->text);
            continue;
        }
        st = find_slot(p, slots, n_slots, &slot, err);
        if (st == JOUST_OK && (slot->tokens || !slot->text))
            st = joust_fail(err, JOUST_INVALID, "template: {%s} has no text", p->slot);
        if (st == JOUST_OK)
            joust_buf_text(to, slot->text);
    }
    return st == JOUST_OK ? joust_buf_status(to, err) : st;
}

joust_digest joust_template_digest(const joust_template *t)
{
    return t->digest;
}

void joust_template_free(joust_template **pointer)
{
    joust_template *t = *pointer;
    if (!t)
        return;
    for (uint32_t i = 0; i < t->n_parts; i++) {
        joust_free(t->parts[i].slot);
        joust_free(t->parts[i].text);
        for (int place = 0; place < N_PLACES; place++)
            joust_tokens_fini(&t->parts[i].literal[place]);
    }
    joust_free(t->parts);
    joust_free(t);
    *pointer = NULL;
}
