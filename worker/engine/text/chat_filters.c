/* Filters of chat templates: what follows "|". args->items[0] is what they are applied to. */
#include <stdlib.h>
#include <string.h>

#include "chat_internal.h"
#include "unicode_internal.h"

static joust_status no_parameters(chat_run *r, const char *name, const chat_arguments *args)
{
    return joust_chat_parameters(r, name, args, 1, "", NULL, 0);
}

bool joust_chat_flag(const chat_value *v)
{
    return v && joust_chat_truth(v);
}

static joust_status do_trim(chat_run *r, const char *name, const chat_arguments *args,
                            chat_value *ret)
{
    const chat_value *p[1];
    chat_value text = {0};
    joust_status st = joust_chat_parameters(r, name, args, 1, "chars", p, 1);
    if (st == JOUST_OK && p[0] && p[0]->kind == CHAT_NONE)
        p[0] = NULL;
    if (st == JOUST_OK && p[0] && p[0]->kind != CHAT_STR)
        st = joust_chat_fail(r, JOUST_INVALID, "trim: chars isn't a text");
    if (st == JOUST_OK)
        st = joust_chat_string(r, &args->items[0], &text);
    if (st == JOUST_OK)
        *ret = joust_chat_strip(&text, p[0], true, true);
    return st;
}

static joust_status do_case(chat_run *r, const char *name, const chat_arguments *args,
                            chat_value *ret)
{
    chat_value text = {0};
    joust_status st = no_parameters(r, name, args);
    if (st == JOUST_OK)
        st = joust_chat_string(r, &args->items[0], &text);
    return st == JOUST_OK ? joust_chat_recased(r, &text, name, ret) : st;
}

/* Words begin after white space, "-" and opening brackets. */
static joust_status do_title(chat_run *r, const char *name, const chat_arguments *args,
                             chat_value *ret)
{
    chat_value text = {0};
    chat_output out = {0};
    bool begins = true;
    joust_status st = no_parameters(r, name, args);
    if (st == JOUST_OK)
        st = joust_chat_string(r, &args->items[0], &text);
    for (size_t at = 0; st == JOUST_OK && at < text.as.text.n;) {
        uint32_t code;
        size_t length = joust_utf8_next(text.as.text.bytes + at, text.as.text.n - at, &code);
        chat_value one = joust_chat_sub(&text, at, at + length);
        bool between = joust_chat_is_white(code) || (code < 0x80 && strchr("-({[<", (int)code));
        if (between)
            joust_chat_output_add(&out, &one);
        else
            st = joust_chat_recase(r, &one, begins ? CHAT_CASE_UPPER : CHAT_CASE_LOWER, &out);
        begins = between;
        at += length;
    }
    return joust_chat_finish(r, st, &out, ret);
}

static joust_status do_length(chat_run *r, const char *name, const chat_arguments *args,
                              chat_value *ret)
{
    int64_t n = 0;
    joust_status st = no_parameters(r, name, args);
    if (st == JOUST_OK)
        st = joust_chat_length(r, &args->items[0], &n);
    *ret = joust_chat_whole(n);
    return st;
}

static joust_status do_end(chat_run *r, const char *name, const chat_arguments *args,
                           chat_value *ret)
{
    const chat_sequence *items = NULL;
    const chat_value *v = &args->items[0];
    bool last = name[0] == 'l';
    joust_status st = no_parameters(r, name, args);
    if (st == JOUST_OK && last && v->kind == CHAT_SEQUENCE &&
        v->as.sequence->form == CHAT_FORM_GENERATOR)
        return joust_chat_fail(r, JOUST_INVALID, "last of a generator; put |list before it");
    if (st == JOUST_OK)
        st = joust_chat_walk(r, v, &items);
    *ret = (chat_value){.kind = CHAT_UNDEFINED};
    if (st == JOUST_OK && items->n > 0)
        *ret = items->items[last ? items->n - 1 : 0];
    return st;
}

static joust_status do_default(chat_run *r, const char *name, const chat_arguments *args,
                               chat_value *ret)
{
    const chat_value *p[2];
    joust_status st = joust_chat_parameters(r, name, args, 1, "default_value boolean", p, 2);
    if (st != JOUST_OK)
        return st;
    *ret = args->items[0];
    if (ret->kind == CHAT_UNDEFINED || (joust_chat_flag(p[1]) && !joust_chat_truth(ret)))
        *ret = p[0] ? *p[0] : joust_chat_text("");
    return st;
}

/* Python's separators=(items, keys). */
static joust_status read_separators(chat_run *r, const chat_value *v, chat_json_form *form)
{
    if (!v || v->kind == CHAT_NONE)
        return JOUST_OK;
    if (v->kind != CHAT_SEQUENCE || v->as.sequence->form > CHAT_FORM_TUPLE ||
        v->as.sequence->n != 2 || v->as.sequence->items[0].kind != CHAT_STR ||
        v->as.sequence->items[1].kind != CHAT_STR)
        return joust_chat_fail(r, JOUST_INVALID, "tojson: separators are two texts");
    form->item_separator = &v->as.sequence->items[0];
    form->key_separator = &v->as.sequence->items[1];
    return JOUST_OK;
}

static joust_status read_indent(chat_run *r, const chat_value *v, chat_value *space,
                                chat_json_form *form)
{
    if (!v || v->kind == CHAT_NONE)
        return JOUST_OK;
    if (v->kind != CHAT_STR && (v->kind != CHAT_WHOLE || v->as.whole < 0 || v->as.whole > 32))
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "an indent beyond 32 spaces");
    *space = joust_chat_text("                                ");
    if (v->kind == CHAT_WHOLE)
        *space = joust_chat_sub(space, 0, (size_t)v->as.whole);
    form->indent = v->kind == CHAT_STR ? v : space;
    form->indented = true;
    return JOUST_OK;
}

static joust_status do_tojson(chat_run *r, const char *name, const chat_arguments *args,
                              chat_value *ret)
{
    const chat_value *p[4];
    chat_json_form form = {0};
    chat_value space = {0};
    chat_output out = {0};
    joust_status st =
        joust_chat_parameters(r, name, args, 1, "ensure_ascii indent separators sort_keys", p, 4);
    if (st != JOUST_OK)
        return st;
    form.ascii = joust_chat_flag(p[0]);
    form.sorted = joust_chat_flag(p[3]);
    st = read_indent(r, p[1], &space, &form);
    if (st == JOUST_OK)
        st = read_separators(r, p[2], &form);
    if (st == JOUST_OK)
        st = joust_chat_to_json(r, &args->items[0], &form, &out);
    return joust_chat_finish(r, st, &out, ret);
}

/* item.a.b for "a.b"; parts that are numbers are indices. */
joust_status joust_chat_deep_attribute(chat_run *r, const chat_value *item, const chat_value *path,
                                       chat_value *ret)
{
    joust_status st = JOUST_OK;
    *ret = *item;
    if (path->kind == CHAT_WHOLE)
        return joust_chat_item(r, item, path, ret);
    if (path->kind != CHAT_STR)
        return joust_chat_fail(r, JOUST_INVALID, "an attribute's name is %s",
                               joust_chat_kind_name(path));
    for (size_t at = 0; st == JOUST_OK && at <= path->as.text.n;) {
        size_t end = at;
        bool number = true;
        for (; end < path->as.text.n && path->as.text.bytes[end] != '.'; end++)
            number &= path->as.text.bytes[end] >= '0' && path->as.text.bytes[end] <= '9';
        chat_value key = joust_chat_sub(path, at, end), owner = *ret;
        if (number && end > at && end - at < 10)
            key = joust_chat_whole(strtoll((const char *)path->as.text.bytes + at, NULL, 10));
        st = joust_chat_item(r, &owner, &key, ret);
        at = end + 1;
    }
    return st;
}

static joust_status do_join(chat_run *r, const char *name, const chat_arguments *args,
                            chat_value *ret)
{
    const chat_value *p[2];
    const chat_sequence *items = NULL;
    chat_output out = {0};
    joust_status st = joust_chat_parameters(r, name, args, 1, "d attribute", p, 2);
    if (st == JOUST_OK)
        st = joust_chat_walk(r, &args->items[0], &items);
    for (size_t i = 0; st == JOUST_OK && i < items->n; i++) {
        chat_value item = items->items[i];
        if (i > 0 && p[0])
            st = joust_chat_print(r, p[0], &out);
        if (st == JOUST_OK && p[1] && p[1]->kind != CHAT_NONE)
            st = joust_chat_deep_attribute(r, &items->items[i], p[1], &item);
        if (st == JOUST_OK)
            st = joust_chat_print(r, &item, &out);
    }
    return joust_chat_finish(r, st, &out, ret);
}

static joust_status do_list(chat_run *r, const char *name, const chat_arguments *args,
                            chat_value *ret)
{
    const chat_sequence *items = NULL;
    joust_status st = no_parameters(r, name, args);
    if (st == JOUST_OK)
        st = joust_chat_walk(r, &args->items[0], &items);
    if (st == JOUST_OK)
        st = joust_chat_sequence(r, CHAT_FORM_LIST, items->n, ret);
    for (size_t i = 0; st == JOUST_OK && i < items->n; i++)
        st = joust_chat_push(r, ret, &items->items[i]);
    return st;
}

static joust_status do_string(chat_run *r, const char *name, const chat_arguments *args,
                              chat_value *ret)
{
    joust_status st = no_parameters(r, name, args);
    return st == JOUST_OK ? joust_chat_string(r, &args->items[0], ret) : st;
}

joust_status joust_chat_items(chat_run *r, const char *name, const chat_arguments *args,
                              chat_value *ret)
{
    const chat_value *v = &args->items[0];
    chat_arguments none = {0};
    joust_status st = no_parameters(r, name, args);
    if (st == JOUST_OK && v->kind == CHAT_UNDEFINED)
        return joust_chat_sequence(r, CHAT_FORM_GENERATOR, 0, ret);
    if (st == JOUST_OK && v->kind != CHAT_MAPPING)
        return joust_chat_fail(r, JOUST_INVALID, "items of %s", joust_chat_kind_name(v));
    chat_method m = {.self = *v, .name = "items"};
    if (st == JOUST_OK)
        st = joust_chat_method(r, &m, &none, ret);
    if (st == JOUST_OK)
        ret->as.sequence->form = CHAT_FORM_GENERATOR;
    return st;
}

static joust_status do_reverse(chat_run *r, const char *name, const chat_arguments *args,
                               chat_value *ret)
{
    const chat_sequence *items = NULL;
    chat_value list = {0};
    chat_output out = {0};
    bool text = args->items[0].kind == CHAT_STR;
    joust_status st = no_parameters(r, name, args);
    if (st == JOUST_OK)
        st = joust_chat_walk(r, &args->items[0], &items);
    if (st == JOUST_OK)
        st = joust_chat_sequence(r, CHAT_FORM_GENERATOR, items->n, &list);
    for (size_t i = 0; st == JOUST_OK && i < items->n; i++) {
        const chat_value *item = &items->items[items->n - 1 - i];
        if (text)
            joust_chat_output_add(&out, item);
        else
            st = joust_chat_push(r, &list, item);
    }
    *ret = list;
    return text ? joust_chat_finish(r, st, &out, ret) : st;
}

/* The name in v, a text, for a table. */
static joust_status copy_name(chat_run *r, const chat_value *v, char to[32])
{
    if (v->kind != CHAT_STR || v->as.text.n >= 32)
        return joust_chat_fail(r, JOUST_INVALID, "a filter's or test's name is expected");
    memcpy(to, v->as.text.bytes, v->as.text.n);
    to[v->as.text.n] = 0;
    return JOUST_OK;
}

static joust_status apply_test(chat_run *r, const chat_value *value, const chat_arguments *args,
                               uint32_t at, bool *ret)
{
    char name[32];
    if (at >= args->n) {
        *ret = joust_chat_truth(value);
        return JOUST_OK;
    }
    joust_status st = copy_name(r, &args->items[at], name);
    if (st != JOUST_OK)
        return st;
    uint32_t test = joust_chat_test_find(name);
    if (test == UINT32_MAX)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "test '%s'", name);
    chat_arguments given = {.n = args->n - at};
    given.items[0] = *value;
    memcpy(given.items + 1, args->items + at + 1, (given.n - 1) * sizeof(*given.items));
    return joust_chat_test(r, test, &given, ret);
}

/* select, reject, selectattr, rejectattr */
static joust_status do_select(chat_run *r, const char *name, const chat_arguments *args,
                              chat_value *ret)
{
    const chat_sequence *items = NULL;
    bool reject = name[0] == 'r', attribute = strlen(name) > 6;
    if (args->n_named || (attribute && args->n < 2))
        return joust_chat_fail(r, JOUST_INVALID, "%s: %s", name,
                               args->n_named ? "a keyword argument" : "no attribute's name");
    joust_status st = joust_chat_walk(r, &args->items[0], &items);
    if (st == JOUST_OK)
        st = joust_chat_sequence(r, CHAT_FORM_GENERATOR, 0, ret);
    for (size_t i = 0; st == JOUST_OK && i < items->n; i++) {
        chat_value value = items->items[i];
        bool truth = false;
        if (attribute)
            st = joust_chat_deep_attribute(r, &items->items[i], &args->items[1], &value);
        if (st == JOUST_OK)
            st = apply_test(r, &value, args, attribute ? 2 : 1, &truth);
        if (st == JOUST_OK && truth != reject)
            st = joust_chat_push(r, ret, &items->items[i]);
    }
    return st;
}

static joust_status apply_filter(chat_run *r, const chat_value *value, const chat_arguments *args,
                                 chat_value *ret)
{
    char name[32];
    joust_status st = copy_name(r, &args->items[1], name);
    if (st != JOUST_OK)
        return st;
    uint32_t filter = joust_chat_filter_find(name);
    if (filter == UINT32_MAX)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "filter '%s'", name);
    chat_arguments given = *args;
    given.n = args->n - 1;
    memmove(given.items, args->items + 1, given.n * sizeof(*given.items));
    given.items[0] = *value;
    return joust_chat_filter(r, filter, &given, ret);
}

static joust_status do_map(chat_run *r, const char *name, const chat_arguments *args,
                           chat_value *ret)
{
    const chat_sequence *items = NULL;
    const chat_value *p[2] = {NULL, NULL};
    joust_status st = JOUST_OK;
    if (args->n == 1)
        st = joust_chat_parameters(r, name, args, 1, "attribute default", p, 2);
    if (st == JOUST_OK && args->n == 1 && !p[0])
        st = joust_chat_fail(r, JOUST_INVALID, "map: no attribute and no filter");
    if (st == JOUST_OK)
        st = joust_chat_walk(r, &args->items[0], &items);
    if (st == JOUST_OK)
        st = joust_chat_sequence(r, CHAT_FORM_GENERATOR, items->n, ret);
    for (size_t i = 0; st == JOUST_OK && i < items->n; i++) {
        chat_value value = {0};
        if (p[0])
            st = joust_chat_deep_attribute(r, &items->items[i], p[0], &value);
        else
            st = apply_filter(r, &items->items[i], args, &value);
        if (p[1] && value.kind == CHAT_UNDEFINED)
            value = *p[1];
        if (st == JOUST_OK)
            st = joust_chat_push(r, ret, &value);
    }
    return st;
}

static joust_status do_replace(chat_run *r, const char *name, const chat_arguments *args,
                               chat_value *ret)
{
    const chat_value *p[3];
    chat_value text = {0}, before = {0}, after = {0};
    int64_t most = -1;
    joust_status st = joust_chat_parameters(r, name, args, 1, "old new count", p, 3);
    if (st == JOUST_OK && (!p[0] || !p[1] || (p[2] && p[2]->kind > CHAT_WHOLE)))
        st = joust_chat_fail(r, JOUST_INVALID, "replace takes two texts and a count");
    if (st == JOUST_OK)
        st = joust_chat_string(r, &args->items[0], &text);
    if (st == JOUST_OK)
        st = joust_chat_string(r, p[0], &before);
    if (st == JOUST_OK)
        st = joust_chat_string(r, p[1], &after);
    if (st == JOUST_OK && p[2] && p[2]->kind == CHAT_WHOLE)
        most = p[2]->as.whole;
    return st == JOUST_OK ? joust_chat_replace(r, &text, &before, &after, most, ret) : st;
}

static joust_status do_indent(chat_run *r, const char *name, const chat_arguments *args,
                              chat_value *ret)
{
    const chat_value *p[3];
    chat_value text = {0}, lines = {0}, space = {0}, four = joust_chat_whole(4);
    chat_json_form form = {0};
    chat_output out = {0};
    joust_status st = joust_chat_parameters(r, name, args, 1, "width first blank", p, 3);
    if (st != JOUST_OK)
        return st;
    bool first = joust_chat_flag(p[1]), blank = joust_chat_flag(p[2]);
    st = read_indent(r, p[0] ? p[0] : &four, &space, &form);
    if (st == JOUST_OK && !form.indented)
        st = joust_chat_fail(r, JOUST_INVALID, "indent: no width");
    if (st == JOUST_OK)
        st = joust_chat_string(r, &args->items[0], &text);
    if (st == JOUST_OK) { /* Jinja adds a line break before it splits: an empty last line counts */
        joust_chat_output_add(&out, &text);
        joust_chat_output_bytes(&out, "\n", 1, true);
        st = joust_chat_finish(r, st, &out, &text);
    }
    if (st == JOUST_OK)
        st = joust_chat_lines(r, &text, false, &lines);
    for (size_t i = 0; st == JOUST_OK && i < lines.as.sequence->n; i++) {
        const chat_value *line = &lines.as.sequence->items[i];
        if (i > 0)
            joust_chat_output_bytes(&out, "\n", 1, true);
        if (i == 0 ? first : blank || line->as.text.n > 0)
            joust_chat_output_add(&out, form.indent);
        st = joust_chat_print(r, line, &out);
    }
    return joust_chat_finish(r, st, &out, ret);
}

static joust_status do_int(chat_run *r, const char *name, const chat_arguments *args,
                           chat_value *ret)
{
    const chat_value *p[1], *v = &args->items[0];
    joust_status st = joust_chat_parameters(r, name, args, 1, "default", p, 1);
    double real = 0;
    *ret = *v;
    if (st != JOUST_OK || v->kind == CHAT_WHOLE)
        return st;
    *ret = p[0] ? *p[0] : joust_chat_whole(0);
    if (v->kind == CHAT_BOOLEAN) {
        *ret = joust_chat_whole(v->as.boolean);
        return st;
    }
    if (v->kind == CHAT_REAL) {
        real = v->as.real;
    } else if (v->kind == CHAT_STR) {
        char digits[64], *end = digits;
        chat_value text = joust_chat_strip(v, NULL, true, true);
        size_t n = text.as.text.n;
        if (n == 0 || n >= sizeof(digits) || memchr(text.as.text.bytes, '_', n) ||
            memchr(text.as.text.bytes, 'x', n) || memchr(text.as.text.bytes, 'X', n))
            return JOUST_OK;
        memcpy(digits, text.as.text.bytes, n);
        digits[n] = 0;
        if (strspn(digits, "+-0123456789") == n && n < 18) {
            int64_t whole = strtoll(digits, &end, 10);
            if (*end == 0)
                *ret = joust_chat_whole(whole);
            return JOUST_OK;
        }
        real = strtod(digits, &end);
        if (*end != 0)
            return JOUST_OK;
    } else {
        return JOUST_OK;
    }
    if (!(real > -9e18 && real < 9e18))
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "int of a number beyond 64 bits");
    *ret = joust_chat_whole((int64_t)real);
    return JOUST_OK;
}

static joust_status do_abs(chat_run *r, const char *name, const chat_arguments *args,
                           chat_value *ret)
{
    joust_status st = no_parameters(r, name, args);
    *ret = args->items[0];
    if (st == JOUST_OK && ret->kind == CHAT_REAL)
        ret->as.real = ret->as.real < 0 ? -ret->as.real : ret->as.real;
    else if (st == JOUST_OK && ret->kind == CHAT_WHOLE && ret->as.whole > INT64_MIN)
        ret->as.whole = ret->as.whole < 0 ? -ret->as.whole : ret->as.whole;
    else if (st == JOUST_OK)
        st = joust_chat_fail(r, JOUST_INVALID, "abs of %s", joust_chat_kind_name(ret));
    return st;
}

static const struct {
    const char *name;
    chat_filter_fn *apply;
} filters[] = {{"trim", do_trim},
               {"tojson", do_tojson},
               {"length", do_length},
               {"count", do_length},
               {"first", do_end},
               {"last", do_end},
               {"join", do_join},
               {"upper", do_case},
               {"lower", do_case},
               {"capitalize", do_case},
               {"title", do_title},
               {"default", do_default},
               {"d", do_default},
               {"list", do_list},
               {"string", do_string},
               {"items", joust_chat_items},
               {"reverse", do_reverse},
               {"select", do_select},
               {"reject", do_select},
               {"selectattr", do_select},
               {"rejectattr", do_select},
               {"map", do_map},
               {"replace", do_replace},
               {"indent", do_indent},
               {"int", do_int},
               {"abs", do_abs},
               {"sort", joust_chat_sort},
               {"dictsort", joust_chat_sort},
               {"unique", joust_chat_unique}};

uint32_t joust_chat_filter_find(const char *name)
{
    for (uint32_t i = 0; i < sizeof(filters) / sizeof(*filters); i++) {
        if (strcmp(filters[i].name, name) == 0)
            return i;
    }
    return UINT32_MAX;
}

joust_status joust_chat_filter(chat_run *r, uint32_t index, const chat_arguments *args,
                               chat_value *ret)
{
    joust_status st = joust_chat_step(r, 1);
    return st == JOUST_OK ? filters[index].apply(r, filters[index].name, args, ret) : st;
}
