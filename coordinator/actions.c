#include "coordinator/actions.h"

#include <stdarg.h>

#include "proto/base/alloc.h"

void joust_actions_fini(joust_actions *a)
{
    joust_free(a->items);
    joust_buf_fini(&a->text);
    *a = (joust_actions){0};
}

void joust_actions_clear(joust_actions *a)
{
    a->n = 0;
    a->failed = false;
    joust_buf_clear(&a->text);
}

joust_status joust_actions_status(const joust_actions *a, joust_error *err)
{
    if (a->failed || !joust_buf_ok(&a->text))
        return joust_fail(err, JOUST_NOMEM, "actions of a step: out of memory");
    return JOUST_OK;
}

joust_action *joust_actions_add(joust_actions *a, joust_action_kind kind)
{
    if (!a->failed)
        a->failed = !joust_grow(&a->items, a->n, &a->capacity, sizeof(*a->items));
    joust_action *action = a->failed ? &a->spare : &a->items[a->n++];
    *action = (joust_action){.kind = kind};
    return action;
}

void joust_actions_set_text(joust_actions *a, const char *format, ...)
{
    va_list args;
    size_t from = a->text.n;
    if (!a->n)
        return;
    va_start(args, format);
    joust_buf_vformat(&a->text, format, args);
    va_end(args);
    a->items[a->n - 1].text = (uint32_t)from;
    a->items[a->n - 1].n_text = (uint32_t)(a->text.n - from);
    joust_buf_u8(&a->text, 0); /* so that each text ends by itself */
}

void joust_actions_set_bytes(joust_actions *a, const void *data, size_t n)
{
    if (!a->n)
        return;
    a->items[a->n - 1].text = (uint32_t)a->text.n;
    a->items[a->n - 1].n_text = (uint32_t)n;
    joust_buf_add(&a->text, data, n);
}

const char *joust_action_text(const joust_actions *a, const joust_action *action)
{
    return action->n_text ? (const char *)a->text.data + action->text : "";
}

joust_span joust_action_bytes(const joust_actions *a, const joust_action *action)
{
    return (joust_span){.data = action->n_text ? a->text.data + action->text : NULL,
                        .n = action->n_text};
}

const char *joust_action_name(joust_action_kind kind)
{
    static const char *const names[JOUST_ACTION_KINDS] = {
        "write",   "hello ack", "lease",      "revoke",     "ack",      "check same", "error",
        "goodbye", "run local", "stage done", "round done", "job done", "warn",       "fenced"};
    return kind < JOUST_ACTION_KINDS ? names[kind] : "unknown";
}
