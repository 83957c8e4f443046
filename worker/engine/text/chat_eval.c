/* Expressions of chat templates over values. */
#include <string.h>

#include "chat_internal.h"
#include "unicode_internal.h"

static joust_status eval_variable(chat_run *r, const chat_node *node, chat_value *ret)
{
    for (const chat_scope *s = r->scope; s; s = s->parent) {
        const chat_value *found = joust_chat_find(&s->names, node->name);
        if (found) {
            *ret = *found;
            return joust_chat_step(r, 1);
        }
    }
    uint32_t function = joust_chat_function_find(node->name);
    *ret = (chat_value){.kind = CHAT_UNDEFINED};
    if (function != UINT32_MAX)
        *ret = (chat_value){.kind = CHAT_FUNCTION, .as.function = function};
    return JOUST_OK;
}

static joust_status eval_items(chat_run *r, const chat_node *kids, chat_sequence_form form,
                               chat_value *ret)
{
    joust_status st = joust_chat_sequence(r, form, 0, ret);
    for (const chat_node *kid = kids; st == JOUST_OK && kid; kid = kid->next) {
        chat_value item = {0};
        st = joust_chat_eval(r, kid, &item);
        if (st == JOUST_OK)
            st = joust_chat_push(r, ret, &item);
    }
    return st;
}

static joust_status eval_dict(chat_run *r, const chat_node *node, chat_value *ret)
{
    joust_status st = joust_chat_mapping(r, ret);
    for (const chat_node *kid = node->kids; st == JOUST_OK && kid; kid = kid->next->next) {
        chat_value key = {0}, value = {0};
        st = joust_chat_eval(r, kid, &key);
        if (st == JOUST_OK)
            st = joust_chat_eval(r, kid->next, &value);
        if (st == JOUST_OK)
            st = joust_chat_put(r, ret->as.mapping, &key, &value);
    }
    return st;
}

static joust_status loop_attribute(chat_run *r, const chat_loop *loop, const char *name,
                                   chat_value *ret)
{
    size_t at = loop->at, n = loop->items->n;
    const struct {
        const char *name;
        int64_t whole;
    } numbers[] = {{"index", (int64_t)at + 1},      {"index0", (int64_t)at},
                   {"revindex", (int64_t)(n - at)}, {"revindex0", (int64_t)(n - at - 1)},
                   {"length", (int64_t)n},          {"depth", loop->depth + 1},
                   {"depth0", loop->depth}};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
        if (strcmp(name, numbers[i].name) == 0) {
            *ret = joust_chat_whole(numbers[i].whole);
            return JOUST_OK;
        }
    }
    if (strcmp(name, "first") == 0)
        *ret = joust_chat_boolean(at == 0);
    else if (strcmp(name, "last") == 0)
        *ret = joust_chat_boolean(at + 1 == n);
    else if (strcmp(name, "previtem") == 0 && at > 0)
        *ret = loop->items->items[at - 1];
    else if (strcmp(name, "nextitem") == 0 && at + 1 < n)
        *ret = loop->items->items[at + 1];
    else if (strcmp(name, "cycle") == 0 || strcmp(name, "changed") == 0)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "loop.%s", name);
    return JOUST_OK;
}

static joust_status bind_method(chat_run *r, const chat_value *v, const char *name, chat_value *ret)
{
    chat_method *m = joust_chat_alloc(&r->arena, sizeof(*m));
    if (!m)
        return joust_chat_nomem(r);
    *m = (chat_method){.self = *v, .name = name};
    *ret = (chat_value){.kind = CHAT_METHOD, .as.method = m};
    return JOUST_OK;
}

joust_status joust_chat_attribute(chat_run *r, const chat_value *v, const char *name,
                                  chat_value *ret)
{
    *ret = (chat_value){.kind = CHAT_UNDEFINED};
    if (v->kind == CHAT_UNDEFINED)
        return joust_chat_fail(r, JOUST_INVALID, "'.%.40s' of an undefined value", name);
    if (v->kind == CHAT_LOOP)
        return loop_attribute(r, v->as.loop, name, ret);
    if (v->kind != CHAT_NAMESPACE && joust_chat_has_method(v, name))
        return bind_method(r, v, name, ret);
    if (v->kind == CHAT_MAPPING || v->kind == CHAT_NAMESPACE) {
        const chat_value *found = joust_chat_find(v->as.mapping, name);
        if (found)
            *ret = *found;
        return joust_chat_step(r, 1 + v->as.mapping->n / 8);
    }
    if (v->kind == CHAT_MACRO_VALUE)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "attributes of macros");
    return JOUST_OK;
}

/* Byte at which character `at` of a text begins. */
static size_t character_at(const chat_value *text, size_t at)
{
    size_t byte = 0;
    while (byte < text->as.text.n) {
        if ((text->as.text.bytes[byte] & 0xc0) != 0x80 && at-- == 0)
            break;
        byte++;
    }
    return byte;
}

joust_status joust_chat_item(chat_run *r, const chat_value *v, const chat_value *key,
                             chat_value *ret)
{
    const chat_value *found = NULL;
    joust_status st = JOUST_OK;
    int64_t n = 0;
    *ret = (chat_value){.kind = CHAT_UNDEFINED};
    if (v->kind == CHAT_UNDEFINED)
        return joust_chat_fail(r, JOUST_INVALID, "an item of an undefined value");
    if (v->kind == CHAT_MAPPING) {
        st = joust_chat_get(r, v->as.mapping, key, &found);
        if (st != JOUST_OK)
            return st;
        if (found) {
            *ret = *found;
            return JOUST_OK;
        }
    }
    bool list = v->kind == CHAT_SEQUENCE && v->as.sequence->form <= CHAT_FORM_TUPLE;
    bool number = key->kind == CHAT_WHOLE || key->kind == CHAT_BOOLEAN;
    if ((list || v->kind == CHAT_STR) && number) {
        int64_t at = key->kind == CHAT_WHOLE ? key->as.whole : key->as.boolean;
        st = joust_chat_length(r, v, &n);
        if (st != JOUST_OK)
            return st;
        at += at < 0 ? n : 0;
        if (at < 0 || at >= n)
            return JOUST_OK;
        if (list) {
            *ret = v->as.sequence->items[at];
        } else {
            size_t begin = character_at(v, (size_t)at);
            uint32_t code;
            *ret = joust_chat_sub(
                v, begin,
                begin + joust_utf8_next(v->as.text.bytes + begin, v->as.text.n - begin, &code));
        }
        return JOUST_OK;
    }
    if (key->kind != CHAT_STR) /* no key of this: Jinja has an undefined value then */
        return JOUST_OK;
    char *name = joust_chat_alloc(&r->arena, key->as.text.n + 1);
    if (!name)
        return joust_chat_nomem(r);
    memcpy(name, key->as.text.bytes, key->as.text.n);
    if (v->kind == CHAT_MAPPING) {
        if (joust_chat_has_method(v, name))
            return bind_method(r, v, name, ret);
        return JOUST_OK;
    }
    return joust_chat_attribute(r, v, name, ret);
}

/* One bound of a slice: absent or none gives the default. */
static joust_status slice_bound(chat_run *r, const chat_node *node, int64_t by_default,
                                int64_t *ret)
{
    chat_value v = {.kind = CHAT_NONE};
    joust_status st = node ? joust_chat_eval(r, node, &v) : JOUST_OK;
    if (st != JOUST_OK)
        return st;
    if (v.kind != CHAT_NONE && v.kind != CHAT_WHOLE)
        return joust_chat_fail(r, JOUST_INVALID, "a slice's bound is %s", joust_chat_kind_name(&v));
    *ret = v.kind == CHAT_NONE ? by_default : v.as.whole;
    return JOUST_OK;
}

static int64_t clamp(int64_t at, int64_t n, int64_t least, int64_t most)
{
    if (at < 0)
        at = at < -n ? -1 : at + n;
    else if (at > n)
        at = n;
    return at < least ? least : at > most ? most : at;
}

static joust_status slice_list(chat_run *r, const chat_sequence *s, int64_t begin, int64_t end,
                               int64_t step, chat_value *ret)
{
    joust_status st = joust_chat_sequence(r, s->form, 0, ret);
    int64_t n = (int64_t)s->n;
    for (int64_t i = begin; st == JOUST_OK && (step > 0 ? i < end : i > end);) {
        st = joust_chat_push(r, ret, &s->items[i]);
        if (step > 0 ? step > n - i : step < -1 - i)
            break;
        i += step;
    }
    return st;
}

static joust_status join_characters(chat_run *r, const chat_value *list, chat_value *ret)
{
    chat_output text = {0};
    const chat_sequence *s = list->as.sequence;
    for (size_t i = 0; i < s->n; i++)
        joust_chat_output_add(&text, &s->items[i]);
    return joust_chat_finish(r, JOUST_OK, &text, ret);
}

static joust_status eval_slice(chat_run *r, const chat_node *node, chat_value *ret)
{
    chat_value v = {0}, list = {0};
    int64_t n = 0, begin = 0, end = 0, step = 1;
    const chat_sequence *items = NULL;
    joust_status st = joust_chat_eval(r, node->a, &v);
    if (st != JOUST_OK)
        return st;
    r->line = node->line;
    bool text = v.kind == CHAT_STR;
    if (!text && !(v.kind == CHAT_SEQUENCE && v.as.sequence->form <= CHAT_FORM_TUPLE))
        return joust_chat_fail(r, JOUST_INVALID, "a slice of %s", joust_chat_kind_name(&v));
    st = joust_chat_length(r, &v, &n);
    if (st == JOUST_OK)
        st = slice_bound(r, node->d, 1, &step);
    if (st == JOUST_OK && step == 0)
        st = joust_chat_fail(r, JOUST_INVALID, "a slice's step is 0");
    if (st == JOUST_OK)
        st = slice_bound(r, node->b, step > 0 ? 0 : INT64_MAX, &begin);
    if (st == JOUST_OK)
        st = slice_bound(r, node->c, step > 0 ? INT64_MAX : INT64_MIN, &end);
    if (st != JOUST_OK)
        return st;
    begin = clamp(begin, n, step > 0 ? 0 : -1, step > 0 ? n : n - 1);
    end = clamp(end, n, step > 0 ? 0 : -1, step > 0 ? n : n - 1);
    if (text && step == 1) {
        size_t from = character_at(&v, (size_t)begin);
        size_t to = begin < end ? character_at(&v, (size_t)end) : from;
        *ret = joust_chat_sub(&v, from, to);
        return joust_chat_step(r, v.as.text.n / 32);
    }
    st = joust_chat_walk(r, &v, &items);
    if (st == JOUST_OK)
        st = slice_list(r, items, begin, end, step, text ? &list : ret);
    return st == JOUST_OK && text ? join_characters(r, &list, ret) : st;
}

static joust_status eval_arguments(chat_run *r, const chat_node *kids, chat_arguments *to)
{
    joust_status st = JOUST_OK;
    for (const chat_node *kid = kids; st == JOUST_OK && kid; kid = kid->next) {
        if (to->n == JOUST_CHAT_MAX_ARGS || to->n_named == JOUST_CHAT_MAX_ARGS)
            return joust_chat_fail(r, JOUST_UNSUPPORTED, "more than %u arguments",
                                   JOUST_CHAT_MAX_ARGS);
        if (kid->kind == CHAT_KEYWORD) {
            st = joust_chat_eval(r, kid->a, &to->named[to->n_named]);
            to->names[to->n_named++] = kid->name;
        } else {
            st = joust_chat_eval(r, kid, &to->items[to->n++]);
        }
    }
    return st;
}

static joust_status call(chat_run *r, const chat_value *callee, const chat_arguments *args,
                         chat_value *ret)
{
    switch (callee->kind) {
    case CHAT_FUNCTION:
        return joust_chat_function(r, callee->as.function, args, ret);
    case CHAT_METHOD:
        return joust_chat_method(r, callee->as.method, args, ret);
    case CHAT_MACRO_VALUE:
        return joust_chat_call_macro(r, callee->as.macro, args, ret);
    case CHAT_LOOP:
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "a call of loop");
    default:
        return joust_chat_fail(r, JOUST_INVALID, "a call of %s", joust_chat_kind_name(callee));
    }
}

/* Methods that this subset lacks are missed here: on lists all of them, and Python's others on texts. */
static joust_status blame_callee(chat_run *r, const chat_node *node, const chat_value *callee)
{
    const chat_node *a = node->a;
    if (callee->kind != CHAT_UNDEFINED)
        return JOUST_OK;
    if (a->kind == CHAT_ATTRIBUTE)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "method '.%.40s()' of this value", a->name);
    if (a->kind == CHAT_VARIABLE)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "function '%.40s'", a->name);
    return JOUST_OK;
}

static joust_status eval_call(chat_run *r, const chat_node *node, chat_value *ret)
{
    chat_value callee = {0};
    chat_arguments args = {0};
    joust_status st = joust_chat_eval(r, node->a, &callee);
    r->line = node->line;
    if (st == JOUST_OK)
        st = blame_callee(r, node, &callee);
    if (st == JOUST_OK)
        st = eval_arguments(r, node->kids, &args);
    r->line = node->line;
    return st == JOUST_OK ? call(r, &callee, &args, ret) : st;
}

static joust_status eval_filter(chat_run *r, const chat_node *node, bool test, chat_value *ret)
{
    chat_arguments args = {.n = 1};
    bool truth = false;
    joust_status st = joust_chat_eval(r, node->a, &args.items[0]);
    if (st == JOUST_OK)
        st = eval_arguments(r, node->kids, &args);
    r->line = node->line;
    if (st != JOUST_OK || !test)
        return st == JOUST_OK ? joust_chat_filter(r, node->index, &args, ret) : st;
    st = joust_chat_test(r, node->index, &args, &truth);
    *ret = joust_chat_boolean(truth);
    return st;
}

joust_status joust_chat_compare(chat_run *r, chat_operator op, const chat_value *a,
                                const chat_value *b, bool *ret)
{
    int order = 0;
    joust_status st;
    if (op == CHAT_IN || op == CHAT_NOT_IN) {
        st = joust_chat_contains(r, b, a, ret);
        *ret = *ret == (op == CHAT_IN);
        return st;
    }
    if (op == CHAT_EQUAL || op == CHAT_UNEQUAL) {
        st = joust_chat_equal(r, a, b, ret);
        *ret = *ret == (op == CHAT_EQUAL);
        return st;
    }
    st = joust_chat_order(r, a, b, &order);
    *ret = op == CHAT_LESS         ? order < 0
           : op == CHAT_LESS_EQUAL ? order <= 0
           : op == CHAT_GREATER    ? order > 0
                                   : order >= 0;
    return st;
}

static joust_status eval_comparison(chat_run *r, const chat_node *node, chat_value *ret)
{
    chat_value left = {0}, right = {0};
    bool truth = true;
    joust_status st = joust_chat_eval(r, node->a, &left);
    for (const chat_node *kid = node->kids; st == JOUST_OK && truth && kid; kid = kid->next) {
        st = joust_chat_eval(r, kid->a, &right);
        r->line = node->line;
        if (st == JOUST_OK)
            st = joust_chat_compare(r, (chat_operator)kid->index, &left, &right, &truth);
        left = right;
    }
    *ret = joust_chat_boolean(truth);
    return st;
}

static joust_status eval_arithmetic(chat_run *r, const chat_node *node, chat_value *ret)
{
    chat_value a = {0}, b = {0};
    joust_status st = joust_chat_eval(r, node->a, &a);
    if (st == JOUST_OK)
        st = joust_chat_eval(r, node->b, &b);
    r->line = node->line;
    return st == JOUST_OK ? joust_chat_compute(r, (chat_operator)node->index, &a, &b, ret) : st;
}

static joust_status eval_sign(chat_run *r, const chat_node *node, chat_value *ret)
{
    chat_value v = {0}, zero = joust_chat_whole(0);
    joust_status st = joust_chat_eval(r, node->a, &v);
    r->line = node->line;
    if (st != JOUST_OK)
        return st;
    if (v.kind == CHAT_REAL) {
        *ret = v;
        ret->as.real = node->kind == CHAT_NEGATIVE ? -v.as.real : v.as.real;
        return JOUST_OK;
    }
    return joust_chat_compute(r, node->kind == CHAT_NEGATIVE ? CHAT_SUBTRACT : CHAT_ADD, &zero, &v,
                              ret);
}

static joust_status eval_concat(chat_run *r, const chat_node *node, chat_value *ret)
{
    chat_output text = {0};
    joust_status st = JOUST_OK;
    for (const chat_node *kid = node->kids; st == JOUST_OK && kid; kid = kid->next) {
        chat_value v = {0};
        st = joust_chat_eval(r, kid, &v);
        if (st == JOUST_OK)
            st = joust_chat_print(r, &v, &text);
    }
    return joust_chat_finish(r, st, &text, ret);
}

/* and, or: the operand that decides. */
static joust_status eval_logic(chat_run *r, const chat_node *node, chat_value *ret)
{
    joust_status st = joust_chat_eval(r, node->a, ret);
    if (st != JOUST_OK || joust_chat_truth(ret) == (node->kind == CHAT_OR))
        return st;
    return joust_chat_eval(r, node->b, ret);
}

static joust_status eval_choice(chat_run *r, const chat_node *node, chat_value *ret)
{
    joust_status st = joust_chat_eval(r, node->b, ret);
    if (st != JOUST_OK)
        return st;
    bool truth = joust_chat_truth(ret);
    *ret = (chat_value){.kind = CHAT_UNDEFINED};
    if (truth)
        return joust_chat_eval(r, node->a, ret);
    return node->c ? joust_chat_eval(r, node->c, ret) : JOUST_OK;
}

static joust_status eval_not(chat_run *r, const chat_node *node, chat_value *ret)
{
    joust_status st = joust_chat_eval(r, node->a, ret);
    if (st == JOUST_OK)
        *ret = joust_chat_boolean(!joust_chat_truth(ret));
    return st;
}

static joust_status eval_attribute(chat_run *r, const chat_node *node, chat_value *ret)
{
    chat_value owner = {0}, key = {0};
    joust_status st = joust_chat_eval(r, node->a, &owner);
    if (st == JOUST_OK && node->kind == CHAT_ITEM)
        st = joust_chat_eval(r, node->b, &key);
    r->line = node->line;
    if (st != JOUST_OK)
        return st;
    return node->kind == CHAT_ITEM ? joust_chat_item(r, &owner, &key, ret)
                                   : joust_chat_attribute(r, &owner, node->name, ret);
}

static joust_status eval(chat_run *r, const chat_node *node, chat_value *ret)
{
    switch (node->kind) {
    case CHAT_CONSTANT:
        *ret = node->value;
        return JOUST_OK;
    case CHAT_CAPTURED:
        *ret = *r->captured;
        return JOUST_OK;
    case CHAT_VARIABLE:
        return eval_variable(r, node, ret);
    case CHAT_LIST:
        return eval_items(r, node->kids, CHAT_FORM_LIST, ret);
    case CHAT_TUPLE:
        return eval_items(r, node->kids, CHAT_FORM_TUPLE, ret);
    case CHAT_DICT:
        return eval_dict(r, node, ret);
    case CHAT_ATTRIBUTE:
    case CHAT_ITEM:
        return eval_attribute(r, node, ret);
    case CHAT_SLICE:
        return eval_slice(r, node, ret);
    case CHAT_CALL:
        return eval_call(r, node, ret);
    case CHAT_FILTER:
        return eval_filter(r, node, false, ret);
    case CHAT_TEST:
        return eval_filter(r, node, true, ret);
    case CHAT_NOT:
        return eval_not(r, node, ret);
    case CHAT_AND:
    case CHAT_OR:
        return eval_logic(r, node, ret);
    case CHAT_NEGATIVE:
    case CHAT_POSITIVE:
        return eval_sign(r, node, ret);
    case CHAT_ARITHMETIC:
        return eval_arithmetic(r, node, ret);
    case CHAT_COMPARE:
        return eval_comparison(r, node, ret);
    case CHAT_CONCAT:
        return eval_concat(r, node, ret);
    case CHAT_CHOICE:
        return eval_choice(r, node, ret);
    default:
        return joust_chat_fail(r, JOUST_BUG, "an expression of kind %d", (int)node->kind);
    }
}

joust_status joust_chat_eval(chat_run *r, const chat_node *node, chat_value *ret)
{
    r->line = node->line;
    joust_status st = joust_chat_step(r, 1);
    if (st == JOUST_OK)
        st = joust_chat_deeper(r);
    if (st != JOUST_OK)
        return st;
    st = eval(r, node, ret);
    r->nesting--;
    return st;
}
