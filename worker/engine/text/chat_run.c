/* Statements of chat templates. Names live in scopes: a loop's body has one for each turn, a macro's body one whose
 * parent is where the macro stands; an if has none. */
#include <string.h>

#include "chat_internal.h"

typedef enum jump { JUMP_NONE, JUMP_BREAK, JUMP_CONTINUE } jump;

static joust_status execute(chat_run *r, const chat_node *body, jump *ret);

static joust_status set_name(chat_run *r, const char *name, const chat_value *value)
{
    chat_value key = joust_chat_text(name);
    return joust_chat_put(r, &r->scope->names, &key, value);
}

static joust_status set_member(chat_run *r, const chat_node *target, const chat_value *value)
{
    chat_value owner = {0}, key = joust_chat_text(target->name);
    joust_status st = joust_chat_eval(r, target->a, &owner);
    if (st != JOUST_OK)
        return st;
    if (owner.kind != CHAT_NAMESPACE)
        return joust_chat_fail(r, JOUST_INVALID, "set: '%.40s' is %s, not a namespace",
                               target->a->name, joust_chat_kind_name(&owner));
    return joust_chat_put(r, owner.as.mapping, &key, value);
}

joust_status joust_chat_bind(chat_run *r, const chat_node *target, const chat_value *value)
{
    const chat_sequence *items = NULL;
    size_t n = 0;
    r->line = target->line;
    if (target->kind == CHAT_VARIABLE)
        return set_name(r, target->name, value);
    if (target->kind == CHAT_ATTRIBUTE)
        return set_member(r, target, value);
    joust_status st = joust_chat_walk(r, value, &items);
    for (const chat_node *kid = target->kids; kid; kid = kid->next)
        n++;
    if (st == JOUST_OK && n != items->n)
        return joust_chat_fail(r, JOUST_INVALID, "%zu values for %zu names", items->n, n);
    n = 0;
    for (const chat_node *kid = target->kids; st == JOUST_OK && kid; kid = kid->next)
        st = joust_chat_bind(r, kid, &items->items[n++]);
    return st;
}

static joust_status open_scope(chat_run *r, chat_scope *parent, chat_scope **ret)
{
    chat_scope *s = joust_chat_alloc(&r->arena, sizeof(*s));
    if (!s)
        return joust_chat_nomem(r);
    s->parent = parent;
    *ret = s;
    return JOUST_OK;
}

/* Output of body as a text. */
static joust_status capture(chat_run *r, const chat_node *body, jump *ret_jump, chat_value *ret)
{
    chat_output text = {0}, *before = r->to;
    r->to = &text;
    joust_status st = execute(r, body, ret_jump);
    r->to = before;
    return joust_chat_finish(r, st, &text, ret);
}

static joust_status run_set(chat_run *r, const chat_node *node)
{
    chat_value value = {0}, captured = {0};
    jump none = JUMP_NONE;
    joust_status st;
    if (node->b) {
        st = joust_chat_eval(r, node->b, &value);
        return st == JOUST_OK ? joust_chat_bind(r, node->a, &value) : st;
    }
    chat_scope *inner = NULL, *outer = r->scope;
    st = open_scope(r, outer, &inner);
    if (st != JOUST_OK)
        return st;
    r->scope = inner;
    st = capture(r, node->kids, &none, &captured);
    value = captured;
    if (st == JOUST_OK && node->c) {
        const chat_value *before = r->captured;
        r->captured = &captured;
        st = joust_chat_eval(r, node->c, &value);
        r->captured = before;
    }
    r->scope = outer;
    return st == JOUST_OK ? joust_chat_bind(r, node->a, &value) : st;
}

/* The items that pass the loop's filter. */
static joust_status filter_items(chat_run *r, const chat_node *node, chat_scope *outer,
                                 const chat_sequence **items)
{
    chat_value kept = {0};
    joust_status st = joust_chat_sequence(r, CHAT_FORM_LIST, 0, &kept);
    for (size_t i = 0; st == JOUST_OK && i < (*items)->n; i++) {
        chat_value v = {0};
        st = open_scope(r, outer, &r->scope);
        if (st == JOUST_OK)
            st = joust_chat_bind(r, node->a, &(*items)->items[i]);
        if (st == JOUST_OK)
            st = joust_chat_eval(r, node->c, &v);
        if (st == JOUST_OK && joust_chat_truth(&v))
            st = joust_chat_push(r, &kept, &(*items)->items[i]);
    }
    r->scope = outer;
    *items = kept.as.sequence;
    return st;
}

/* *ret_whole: whether a turn ran to its end, without break or continue. */
static joust_status run_turns(chat_run *r, const chat_node *node, const chat_sequence *items,
                              chat_scope *outer, bool *ret_whole)
{
    chat_loop *loop = joust_chat_alloc(&r->arena, sizeof(*loop));
    joust_status st = loop ? JOUST_OK : joust_chat_nomem(r);
    if (st != JOUST_OK)
        return st;
    *loop = (chat_loop){.items = items, .depth = r->n_loops};
    chat_value value = {.kind = CHAT_LOOP, .as.loop = loop};
    r->n_loops++;
    for (; st == JOUST_OK && loop->at < items->n; loop->at++) {
        jump out = JUMP_NONE;
        st = open_scope(r, outer, &r->scope);
        if (st == JOUST_OK)
            st = set_name(r, "loop", &value);
        if (st == JOUST_OK)
            st = joust_chat_bind(r, node->a, &items->items[loop->at]);
        if (st == JOUST_OK)
            st = execute(r, node->kids, &out);
        *ret_whole |= out == JUMP_NONE;
        if (out == JUMP_BREAK)
            break;
    }
    r->n_loops--;
    r->scope = outer;
    return st;
}

static joust_status run_for(chat_run *r, const chat_node *node, jump *ret)
{
    chat_value iterable = {0};
    const chat_sequence *items = NULL;
    chat_scope *outer = r->scope;
    joust_status st = joust_chat_eval(r, node->b, &iterable);
    r->line = node->line;
    if (st == JOUST_OK)
        st = joust_chat_walk(r, &iterable, &items);
    if (st == JOUST_OK && node->c)
        st = filter_items(r, node, outer, &items);
    if (st != JOUST_OK)
        return st;
    bool whole = false;
    if (items->n > 0)
        st = run_turns(r, node, items, outer, &whole);
    if (st != JOUST_OK ||
        whole) /* as Jinja: else is for loops none of whose turns came to its end */
        return st;
    st = open_scope(r, outer, &r->scope);
    if (st == JOUST_OK)
        st = execute(r, node->others, ret);
    r->scope = outer;
    return st;
}

static joust_status run_if(chat_run *r, const chat_node *node, jump *ret)
{
    for (;;) { /* over elifs */
        chat_value v = {0};
        joust_status st = joust_chat_eval(r, node->a, &v);
        if (st != JOUST_OK)
            return st;
        bool truth = joust_chat_truth(&v);
        const chat_node *body = truth ? node->kids : node->others;
        if (truth || !body || body->kind != CHAT_IF || body->next)
            return execute(r, body, ret);
        node = body;
    }
}

static joust_status run_macro(chat_run *r, const chat_node *node)
{
    chat_macro *macro = joust_chat_alloc(&r->arena, sizeof(*macro));
    if (!macro)
        return joust_chat_nomem(r);
    *macro = (chat_macro){.node = node, .scope = r->scope};
    chat_value value = {.kind = CHAT_MACRO_VALUE, .as.macro = macro};
    return set_name(r, node->name, &value);
}

static joust_status run_with(chat_run *r, const chat_node *node, jump *ret)
{
    chat_scope *inner = NULL, *outer = r->scope;
    joust_status st = open_scope(r, outer, &inner);
    for (const chat_node *set = node->others; st == JOUST_OK && set; set = set->next) {
        chat_value value = {0};
        st = joust_chat_eval(r, set->b, &value); /* in the outer scope */
        if (st != JOUST_OK)
            break;
        r->scope = inner;
        st = joust_chat_bind(r, set->a, &value);
        r->scope = outer;
    }
    r->scope = inner;
    if (st == JOUST_OK)
        st = execute(r, node->kids, ret);
    r->scope = outer;
    return st;
}

/* What a call gives a parameter: by position, by name, its default, or nothing. */
static joust_status bind_parameter(chat_run *r, const chat_node *parameter, uint32_t at,
                                   const chat_arguments *args, uint32_t *n_used)
{
    chat_value value = {.kind = CHAT_UNDEFINED};
    bool given = at < args->n;
    joust_status st = JOUST_OK;
    if (given)
        value = args->items[at];
    for (uint32_t i = 0; i < args->n_named; i++) {
        if (strcmp(args->names[i], parameter->name) != 0)
            continue;
        if (given)
            return joust_chat_fail(r, JOUST_INVALID, "argument '%.40s' is given twice",
                                   parameter->name);
        given = true;
        value = args->named[i];
        ++*n_used;
    }
    if (!given && parameter->a)
        st = joust_chat_eval(r, parameter->a, &value);
    return st == JOUST_OK ? set_name(r, parameter->name, &value) : st;
}

static joust_status bind_parameters(chat_run *r, const chat_macro *macro,
                                    const chat_arguments *args)
{
    joust_status st = JOUST_OK;
    uint32_t n = 0, n_named = 0, line = r->line;
    for (const chat_node *p = macro->node->others; st == JOUST_OK && p; p = p->next)
        st = bind_parameter(r, p, n++, args, &n_named);
    r->line = line;
    if (st == JOUST_OK && (args->n > n || n_named < args->n_named))
        st = joust_chat_fail(r, JOUST_INVALID, "macro '%.40s' has no such argument",
                             macro->node->name);
    return st;
}

joust_status joust_chat_call_macro(chat_run *r, const chat_macro *macro, const chat_arguments *args,
                                   chat_value *ret)
{
    chat_scope *caller = r->scope;
    uint32_t n_loops = r->n_loops;
    jump none = JUMP_NONE;
    joust_status st = joust_chat_deeper(r);
    if (st != JOUST_OK)
        return st;
    st = open_scope(r, macro->scope, &r->scope);
    r->n_loops = 0;
    if (st == JOUST_OK)
        st = bind_parameters(r, macro, args);
    if (st == JOUST_OK)
        st = capture(r, macro->node->kids, &none, ret);
    r->scope = caller;
    r->n_loops = n_loops;
    r->nesting--;
    return st;
}

static joust_status run_print(chat_run *r, const chat_node *node)
{
    chat_value v = {0};
    joust_status st = joust_chat_eval(r, node->a, &v);
    r->line = node->line;
    return st == JOUST_OK ? joust_chat_print(r, &v, r->to) : st;
}

/* The body of {% generation %} is a block of its own in Jinja: it has a scope, but no break. */
static joust_status run_generation(chat_run *r, const chat_node *node)
{
    jump none = JUMP_NONE;
    chat_scope *outer = r->scope;
    joust_status st = open_scope(r, outer, &r->scope);
    if (st == JOUST_OK)
        st = execute(r, node->kids, &none);
    r->scope = outer;
    return st;
}

static joust_status execute_one(chat_run *r, const chat_node *node, jump *ret)
{
    switch (node->kind) {
    case CHAT_TEXT:
        return joust_chat_print(r, &node->value, r->to);
    case CHAT_PRINT:
        return run_print(r, node);
    case CHAT_IF:
        return run_if(r, node, ret);
    case CHAT_FOR:
        return run_for(r, node, ret);
    case CHAT_SET:
        return run_set(r, node);
    case CHAT_MACRO:
        return run_macro(r, node);
    case CHAT_WITH:
        return run_with(r, node, ret);
    case CHAT_GENERATION:
        return run_generation(r, node);
    case CHAT_BREAK:
        *ret = JUMP_BREAK;
        return JOUST_OK;
    case CHAT_CONTINUE:
        *ret = JUMP_CONTINUE;
        return JOUST_OK;
    default:
        return joust_chat_fail(r, JOUST_BUG, "a statement of kind %d", (int)node->kind);
    }
}

static joust_status execute(chat_run *r, const chat_node *body, jump *ret)
{
    joust_status st = joust_chat_deeper(r);
    if (st != JOUST_OK)
        return st;
    for (; st == JOUST_OK && body && *ret == JUMP_NONE; body = body->next) {
        r->line = body->line;
        st = joust_chat_step(r, 1);
        if (st == JOUST_OK)
            st = execute_one(r, body, ret);
    }
    r->nesting--;
    return st;
}

joust_status joust_chat_execute(chat_run *r, const chat_node *body)
{
    jump none = JUMP_NONE;
    return execute(r, body, &none);
}
