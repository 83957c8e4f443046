/* Operators of chat templates on numbers, texts and lists: Python's, within 64 bits. */
#include <string.h>

#include "chat_internal.h"

static bool is_whole(const chat_value *v)
{
    return v->kind == CHAT_WHOLE || v->kind == CHAT_BOOLEAN;
}

static int64_t whole_of(const chat_value *v)
{
    return v->kind == CHAT_WHOLE ? v->as.whole : v->as.boolean;
}

static double real_of(const chat_value *v)
{
    return v->kind == CHAT_REAL ? v->as.real : (double)whole_of(v);
}

/* Python's // and %: towards minus infinity. */
static joust_status divide_wholes(chat_run *r, chat_operator op, int64_t x, int64_t y,
                                  chat_value *ret)
{
    if (y == 0)
        return joust_chat_fail(r, JOUST_INVALID, "a division by zero");
    if (op == CHAT_DIVIDE) {
        *ret = (chat_value){.kind = CHAT_REAL, .as.real = (double)x / (double)y};
        return JOUST_OK;
    }
    if (y == -1) { /* the least integer has no negative */
        if (x == INT64_MIN)
            return joust_chat_fail(r, JOUST_UNSUPPORTED, "an integer beyond 64 bits");
        *ret = joust_chat_whole(op == CHAT_REMAINDER ? 0 : -x);
        return JOUST_OK;
    }
    int64_t quotient = x / y, rest = x % y;
    if (rest != 0 && (rest < 0) != (y < 0)) {
        quotient--;
        rest += y;
    }
    *ret = joust_chat_whole(op == CHAT_REMAINDER ? rest : quotient);
    return JOUST_OK;
}

static joust_status raise_power(chat_run *r, int64_t x, int64_t y, chat_value *ret)
{
    int64_t power = 1;
    bool over = y < 0 || y > 64;
    if (x == 0 || x == 1)
        y = y > 0 ? 1 : y;
    over = y < 0 || y > 64;
    for (int64_t i = 0; !over && i < y; i++)
        over = __builtin_mul_overflow(power, x, &power);
    if (over)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "a power that is no integer of 64 bits");
    *ret = joust_chat_whole(power);
    return JOUST_OK;
}

static joust_status compute_wholes(chat_run *r, chat_operator op, int64_t x, int64_t y,
                                   chat_value *ret)
{
    int64_t result = 0;
    bool over;
    if (op == CHAT_POWER)
        return raise_power(r, x, y, ret);
    if (op == CHAT_ADD)
        over = __builtin_add_overflow(x, y, &result);
    else if (op == CHAT_SUBTRACT)
        over = __builtin_sub_overflow(x, y, &result);
    else if (op == CHAT_MULTIPLY)
        over = __builtin_mul_overflow(x, y, &result);
    else
        return divide_wholes(r, op, x, y, ret);
    if (over)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "an integer beyond 64 bits");
    *ret = joust_chat_whole(result);
    return JOUST_OK;
}

static joust_status compute_reals(chat_run *r, chat_operator op, double x, double y,
                                  chat_value *ret)
{
    double result;
    if (op == CHAT_DIVIDE && y == 0)
        return joust_chat_fail(r, JOUST_INVALID, "a division by zero");
    if (op == CHAT_ADD)
        result = x + y;
    else if (op == CHAT_SUBTRACT)
        result = x - y;
    else if (op == CHAT_MULTIPLY)
        result = x * y;
    else if (op == CHAT_DIVIDE)
        result = x / y;
    else
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "//, %% and ** of floats");
    *ret = (chat_value){.kind = CHAT_REAL, .as.real = result};
    return JOUST_OK;
}

static joust_status concat(chat_run *r, const chat_value *const *parts, size_t n, chat_value *ret)
{
    chat_output text = {0};
    joust_status st = JOUST_OK;
    for (size_t i = 0; st == JOUST_OK && i < n; i++)
        st = joust_chat_print(r, parts[i], &text);
    return joust_chat_finish(r, st, &text, ret);
}

static joust_status add_lists(chat_run *r, const chat_value *a, const chat_value *b,
                              chat_value *ret)
{
    const chat_sequence *parts[] = {a->as.sequence, b->as.sequence};
    joust_status st = joust_chat_sequence(r, parts[0]->form, parts[0]->n + parts[1]->n, ret);
    for (size_t k = 0; st == JOUST_OK && k < 2; k++) {
        for (size_t i = 0; st == JOUST_OK && i < parts[k]->n; i++)
            st = joust_chat_push(r, ret, &parts[k]->items[i]);
    }
    return st;
}

static joust_status repeat(chat_run *r, const chat_value *text, int64_t times, chat_value *ret)
{
    chat_output out = {0};
    joust_status st = JOUST_OK;
    for (int64_t i = 0; st == JOUST_OK && text->as.text.n && i < times; i++)
        st = joust_chat_print(r, text, &out);
    return joust_chat_finish(r, st, &out, ret);
}

joust_status joust_chat_compute(chat_run *r, chat_operator op, const chat_value *a,
                                const chat_value *b, chat_value *ret)
{
    bool texts = a->kind == CHAT_STR && b->kind == CHAT_STR;
    if (is_whole(a) && is_whole(b))
        return compute_wholes(r, op, whole_of(a), whole_of(b), ret);
    if ((is_whole(a) || a->kind == CHAT_REAL) && (is_whole(b) || b->kind == CHAT_REAL))
        return compute_reals(r, op, real_of(a), real_of(b), ret);
    if (op == CHAT_ADD && texts) {
        const chat_value *parts[] = {a, b};
        return concat(r, parts, 2, ret);
    }
    if (op == CHAT_ADD && a->kind == CHAT_SEQUENCE && b->kind == CHAT_SEQUENCE &&
        a->as.sequence->form == b->as.sequence->form && a->as.sequence->form <= CHAT_FORM_TUPLE)
        return add_lists(r, a, b, ret);
    if (op == CHAT_MULTIPLY && a->kind == CHAT_STR && is_whole(b))
        return repeat(r, a, whole_of(b), ret);
    if (op == CHAT_MULTIPLY && b->kind == CHAT_STR && is_whole(a))
        return repeat(r, b, whole_of(a), ret);
    if (op == CHAT_REMAINDER && a->kind == CHAT_STR)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "formatting by %%");
    static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "**"};
    return joust_chat_fail(r, JOUST_INVALID, "%s %s %s", joust_chat_kind_name(a), signs[op],
                           joust_chat_kind_name(b));
}
