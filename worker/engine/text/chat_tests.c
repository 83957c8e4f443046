/* Tests of chat templates: what follows "is". */
#include <string.h>

#include "chat_internal.h"

typedef bool kind_test(const chat_value *v);

static bool is_defined(const chat_value *v)
{
    return v->kind != CHAT_UNDEFINED;
}

static bool is_undefined(const chat_value *v)
{
    return v->kind == CHAT_UNDEFINED;
}

static bool is_none(const chat_value *v)
{
    return v->kind == CHAT_NONE;
}

static bool is_string(const chat_value *v)
{
    return v->kind == CHAT_STR;
}

static bool is_boolean(const chat_value *v)
{
    return v->kind == CHAT_BOOLEAN;
}

static bool is_true(const chat_value *v)
{
    return v->kind == CHAT_BOOLEAN && v->as.boolean;
}

static bool is_false(const chat_value *v)
{
    return v->kind == CHAT_BOOLEAN && !v->as.boolean;
}

static bool is_integer(const chat_value *v)
{
    return v->kind == CHAT_WHOLE;
}

static bool is_float(const chat_value *v)
{
    return v->kind == CHAT_REAL;
}

static bool is_number(const chat_value *v)
{
    return v->kind == CHAT_WHOLE || v->kind == CHAT_REAL || v->kind == CHAT_BOOLEAN;
}

static bool is_mapping(const chat_value *v)
{
    return v->kind == CHAT_MAPPING;
}

static bool is_iterable(const chat_value *v)
{
    return v->kind == CHAT_STR || v->kind == CHAT_SEQUENCE || v->kind == CHAT_MAPPING ||
           v->kind == CHAT_UNDEFINED || v->kind == CHAT_LOOP;
}

/* What has a length and items: Jinja counts mappings, and (by their methods) undefined values. */
static bool is_sequence(const chat_value *v)
{
    return v->kind == CHAT_STR || v->kind == CHAT_MAPPING || v->kind == CHAT_UNDEFINED ||
           (v->kind == CHAT_SEQUENCE && v->as.sequence->form <= CHAT_FORM_TUPLE);
}

static bool is_callable(const chat_value *v)
{
    return v->kind == CHAT_FUNCTION || v->kind == CHAT_METHOD || v->kind == CHAT_MACRO_VALUE ||
           v->kind == CHAT_UNDEFINED || v->kind == CHAT_LOOP;
}

enum { PARITY_ODD = 100, PARITY_EVEN, DIVISIBLE };

static const struct {
    const char *name;
    kind_test *test; /* or NULL: by `op` against an argument */
    int op;
} tests[] = {{"defined", is_defined, 0},
             {"undefined", is_undefined, 0},
             {"none", is_none, 0},
             {"string", is_string, 0},
             {"boolean", is_boolean, 0},
             {"true", is_true, 0},
             {"false", is_false, 0},
             {"integer", is_integer, 0},
             {"float", is_float, 0},
             {"number", is_number, 0},
             {"mapping", is_mapping, 0},
             {"iterable", is_iterable, 0},
             {"sequence", is_sequence, 0},
             {"callable", is_callable, 0},
             {"equalto", NULL, CHAT_EQUAL},
             {"eq", NULL, CHAT_EQUAL},
             {"==", NULL, CHAT_EQUAL},
             {"ne", NULL, CHAT_UNEQUAL},
             {"!=", NULL, CHAT_UNEQUAL},
             {"lt", NULL, CHAT_LESS},
             {"<", NULL, CHAT_LESS},
             {"lessthan", NULL, CHAT_LESS},
             {"le", NULL, CHAT_LESS_EQUAL},
             {"<=", NULL, CHAT_LESS_EQUAL},
             {"gt", NULL, CHAT_GREATER},
             {">", NULL, CHAT_GREATER},
             {"greaterthan", NULL, CHAT_GREATER},
             {"ge", NULL, CHAT_GREATER_EQUAL},
             {">=", NULL, CHAT_GREATER_EQUAL},
             {"in", NULL, CHAT_IN},
             {"odd", NULL, PARITY_ODD},
             {"even", NULL, PARITY_EVEN},
             {"divisibleby", NULL, DIVISIBLE}};

uint32_t joust_chat_test_find(const char *name)
{
    for (uint32_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
        if (strcmp(tests[i].name, name) == 0)
            return i;
    }
    return UINT32_MAX;
}

static joust_status test_number(chat_run *r, const char *name, int op, const chat_arguments *args,
                                bool *ret)
{
    bool divisible = op == DIVISIBLE;
    int64_t by = 2;
    if (args->n != (divisible ? 2 : 1) || args->items[0].kind != CHAT_WHOLE ||
        (divisible && args->items[1].kind != CHAT_WHOLE))
        return joust_chat_fail(r, JOUST_INVALID, "test '%s': expected integers", name);
    if (divisible)
        by = args->items[1].as.whole;
    if (by == 0)
        return joust_chat_fail(r, JOUST_INVALID, "a division by zero");
    int64_t rest = by == -1 ? 0 : args->items[0].as.whole % by;
    *ret = (rest == 0) == (op != PARITY_ODD);
    return JOUST_OK;
}

joust_status joust_chat_test(chat_run *r, uint32_t index, const chat_arguments *args, bool *ret)
{
    joust_status st = joust_chat_step(r, 1);
    if (st != JOUST_OK)
        return st;
    uint32_t n = tests[index].test ? 1 : 2;
    if (!tests[index].test && tests[index].op >= PARITY_ODD)
        return test_number(r, tests[index].name, tests[index].op, args, ret);
    if (args->n != n || args->n_named)
        return joust_chat_fail(r, JOUST_INVALID, "test '%s' takes %u arguments", tests[index].name,
                               n - 1);
    if (!tests[index].test)
        return joust_chat_compare(r, (chat_operator)tests[index].op, &args->items[0],
                                  &args->items[1], ret);
    *ret = tests[index].test(&args->items[0]);
    return JOUST_OK;
}
