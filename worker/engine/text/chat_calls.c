/* Functions, and methods of texts and mappings, of chat templates. */
#include <string.h>

#include "chat_internal.h"
#include "unicode_internal.h"

joust_status joust_chat_parameters(chat_run *r, const char *what, const chat_arguments *args,
                                   uint32_t first, const char *names, const chat_value **ret,
                                   uint32_t n)
{
    const char *at = names; /* separated by spaces */
    if (args->n > first + n)
        return joust_chat_fail(r, JOUST_INVALID, "%s takes at most %u arguments", what, n);
    uint32_t n_named = 0;
    for (uint32_t i = 0; i < n; i++) {
        size_t length = strcspn(at, " ");
        ret[i] = first + i < args->n ? &args->items[first + i] : NULL;
        for (uint32_t k = 0; k < args->n_named; k++) {
            if (strlen(args->names[k]) != length || memcmp(args->names[k], at, length) != 0)
                continue;
            if (ret[i])
                return joust_chat_fail(r, JOUST_INVALID, "%s: argument '%.40s' is given twice",
                                       what, args->names[k]);
            ret[i] = &args->named[k];
            n_named++;
        }
        at += length + (at[length] == ' ');
    }
    if (n_named < args->n_named)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "an argument of %s beside: %s", what,
                               *names ? names : "none");
    return JOUST_OK;
}

static joust_status call_range(chat_run *r, const chat_arguments *args, chat_value *ret)
{
    int64_t bounds[3] = {0, 0, 1};
    if (args->n < 1 || args->n > 3 || args->n_named)
        return joust_chat_fail(r, JOUST_INVALID, "range takes 1 to 3 integers");
    for (uint32_t i = 0; i < args->n; i++) {
        if (args->items[i].kind != CHAT_WHOLE)
            return joust_chat_fail(r, JOUST_INVALID, "range: %s is no integer",
                                   joust_chat_kind_name(&args->items[i]));
        bounds[args->n == 1 ? 1 : i] = args->items[i].as.whole;
    }
    if (bounds[2] == 0)
        return joust_chat_fail(r, JOUST_INVALID, "range: its step is 0");
    joust_status st = joust_chat_sequence(r, CHAT_FORM_LIST, 0, ret);
    for (int64_t i = bounds[0];
         st == JOUST_OK && (bounds[2] > 0 ? i < bounds[1] : i > bounds[1]);) {
        chat_value item = joust_chat_whole(i);
        st = joust_chat_push(r, ret, &item);
        if (ret->as.sequence->n > 100000) /* as Jinja's sandbox */
            return joust_chat_fail(r, JOUST_TOO_LARGE, "range: more than 100000 integers");
        if (__builtin_add_overflow(i, bounds[2], &i))
            break;
    }
    return st;
}

static joust_status call_dict(chat_run *r, const char *what, const chat_arguments *args,
                              chat_value *ret)
{
    joust_status st = joust_chat_mapping(r, ret);
    if (st == JOUST_OK && (args->n > 1 || (args->n == 1 && args->items[0].kind != CHAT_MAPPING)))
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "%s of something else than a mapping", what);
    const chat_mapping *from = args->n == 1 ? args->items[0].as.mapping : NULL;
    for (size_t i = 0; st == JOUST_OK && from && i < from->n; i++)
        st = joust_chat_put(r, ret->as.mapping, &from->keys[i], &from->values[i]);
    for (uint32_t i = 0; st == JOUST_OK && i < args->n_named; i++) {
        chat_value key = joust_chat_text(args->names[i]);
        st = joust_chat_put(r, ret->as.mapping, &key, &args->named[i]);
    }
    return st;
}

static joust_status call_raise(chat_run *r, const chat_arguments *args)
{
    chat_value text = {0};
    if (args->n != 1)
        return joust_chat_fail(r, JOUST_INVALID, "raise_exception takes one text");
    joust_status st = joust_chat_string(r, &args->items[0], &text);
    if (st != JOUST_OK)
        return st;
    char why[201]; /* it comes from somebody else's folder, and may go to a terminal */
    size_t n = text.as.text.n < 200 ? text.as.text.n : 200;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text.as.text.bytes[i];
        why[i] = c < 0x20 || c == 0x7f ? ' ' : (char)c;
    }
    why[n] = '\0';
    return joust_chat_fail(r, JOUST_INVALID, "the template refuses the conversation: %s", why);
}

static const char *const functions[] = {"range", "namespace", "dict", "raise_exception"};

uint32_t joust_chat_function_find(const char *name)
{
    for (uint32_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
        if (strcmp(functions[i], name) == 0)
            return i;
    }
    return UINT32_MAX;
}

joust_status joust_chat_function(chat_run *r, uint32_t index, const chat_arguments *args,
                                 chat_value *ret)
{
    joust_status st;
    switch (index) {
    case 0:
        return call_range(r, args, ret);
    case 1:
        st = call_dict(r, functions[index], args, ret);
        ret->kind = CHAT_NAMESPACE;
        return st;
    case 2:
        return call_dict(r, functions[index], args, ret);
    default:
        return call_raise(r, args);
    }
}

/* --- methods --- */
typedef joust_status method_fn(chat_run *r, const chat_method *m, const chat_arguments *args,
                               chat_value *ret);

/* The i-th argument as text; absent or none gives NULL. */
static joust_status text_argument(chat_run *r, const chat_method *m, const chat_arguments *args,
                                  uint32_t i, const chat_value **ret)
{
    *ret = NULL;
    if (i >= args->n || args->items[i].kind == CHAT_NONE)
        return JOUST_OK;
    if (args->items[i].kind != CHAT_STR)
        return joust_chat_fail(r, JOUST_INVALID, "%s: %s is no text", m->name,
                               joust_chat_kind_name(&args->items[i]));
    *ret = &args->items[i];
    return JOUST_OK;
}

static joust_status need_text(chat_run *r, const chat_method *m, const chat_arguments *args,
                              uint32_t i, const chat_value **ret)
{
    joust_status st = text_argument(r, m, args, i, ret);
    if (st == JOUST_OK && !*ret)
        st = joust_chat_fail(r, JOUST_INVALID, "%s: a text is missing", m->name);
    return st;
}

static joust_status whole_argument(chat_run *r, const chat_method *m, const chat_arguments *args,
                                   uint32_t i, int64_t by_default, int64_t *ret)
{
    *ret = by_default;
    if (i >= args->n)
        return JOUST_OK;
    if (args->items[i].kind != CHAT_WHOLE)
        return joust_chat_fail(r, JOUST_INVALID, "%s: %s is no integer", m->name,
                               joust_chat_kind_name(&args->items[i]));
    *ret = args->items[i].as.whole;
    return JOUST_OK;
}

static joust_status do_strip(chat_run *r, const chat_method *m, const chat_arguments *args,
                             chat_value *ret)
{
    const chat_value *characters = NULL;
    joust_status st = text_argument(r, m, args, 0, &characters);
    if (st == JOUST_OK)
        *ret = joust_chat_strip(&m->self, characters, m->name[0] != 'r', m->name[0] != 'l');
    return st == JOUST_OK ? joust_chat_step(r, m->self.as.text.n / 32) : st;
}

static joust_status do_case(chat_run *r, const chat_method *m, const chat_arguments *args,
                            chat_value *ret)
{
    (void)args;
    return joust_chat_recased(r, &m->self, m->name, ret);
}

/* Python's str.title: a letter after something else than a letter is a capital. */
static joust_status do_title(chat_run *r, const chat_method *m, const chat_arguments *args,
                             chat_value *ret)
{
    chat_output out = {0};
    bool inside = false;
    joust_status st = JOUST_OK;
    (void)args;
    for (size_t at = 0; st == JOUST_OK && at < m->self.as.text.n; at++) {
        uint8_t c = m->self.as.text.bytes[at];
        chat_value one = joust_chat_sub(&m->self, at, at + 1);
        if (c >= 0x80)
            st = joust_chat_fail(r, JOUST_UNSUPPORTED, "title of letters beyond ASCII");
        else
            st = joust_chat_recase(r, &one, inside ? CHAT_CASE_LOWER : CHAT_CASE_UPPER, &out);
        inside = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    }
    return joust_chat_finish(r, st, &out, ret);
}

static bool begins(const chat_value *text, const chat_value *what)
{
    return text->as.text.n >= what->as.text.n &&
           (what->as.text.n == 0 ||
            memcmp(text->as.text.bytes, what->as.text.bytes, what->as.text.n) == 0);
}

static bool ends(const chat_value *text, const chat_value *what)
{
    size_t n = what->as.text.n;
    return text->as.text.n >= n && (n == 0 || memcmp(text->as.text.bytes + text->as.text.n - n,
                                                     what->as.text.bytes, n) == 0);
}

static joust_status do_begins(chat_run *r, const chat_method *m, const chat_arguments *args,
                              chat_value *ret)
{
    const chat_value *items = args->items;
    size_t n = 1;
    bool found = false, tail = m->name[0] == 'e';
    if (args->n != 1 || args->n_named)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "%s with bounds", m->name);
    if (items[0].kind == CHAT_SEQUENCE && items[0].as.sequence->form == CHAT_FORM_TUPLE) {
        n = items[0].as.sequence->n;
        items = items[0].as.sequence->items;
    }
    for (size_t i = 0; i < n; i++) {
        if (items[i].kind != CHAT_STR)
            return joust_chat_fail(r, JOUST_INVALID, "%s: %s is no text", m->name,
                                   joust_chat_kind_name(&items[i]));
        found |= tail ? ends(&m->self, &items[i]) : begins(&m->self, &items[i]);
    }
    *ret = joust_chat_boolean(found);
    return JOUST_OK;
}

static joust_status do_remove(chat_run *r, const chat_method *m, const chat_arguments *args,
                              chat_value *ret)
{
    const chat_value *what = NULL;
    joust_status st = need_text(r, m, args, 0, &what);
    if (st != JOUST_OK)
        return st;
    size_t n = m->self.as.text.n;
    *ret = m->self;
    if (strcmp(m->name, "removeprefix") == 0 && begins(&m->self, what))
        *ret = joust_chat_sub(&m->self, what->as.text.n, n);
    else if (strcmp(m->name, "removesuffix") == 0 && ends(&m->self, what))
        *ret = joust_chat_sub(&m->self, 0, n - what->as.text.n);
    return JOUST_OK;
}

static joust_status do_replace(chat_run *r, const chat_method *m, const chat_arguments *args,
                               chat_value *ret)
{
    const chat_value *before = NULL, *after = NULL;
    int64_t most = -1;
    joust_status st = need_text(r, m, args, 0, &before);
    if (st == JOUST_OK)
        st = need_text(r, m, args, 1, &after);
    if (st == JOUST_OK)
        st = whole_argument(r, m, args, 2, -1, &most);
    return st == JOUST_OK ? joust_chat_replace(r, &m->self, before, after, most, ret) : st;
}

/* Where `what` stands at or after byte `from` (backwards: ends at or before it); SIZE_MAX if nowhere. */
static size_t search(const chat_value *text, const chat_value *what, size_t from, bool backwards)
{
    size_t n = text->as.text.n, length = what->as.text.n;
    for (size_t i = backwards ? n - from : from; i + length <= n; i++) {
        size_t at = backwards ? n - length - i : i;
        if (length == 0 || memcmp(text->as.text.bytes + at, what->as.text.bytes, length) == 0)
            return at;
    }
    return SIZE_MAX;
}

static joust_status do_find(chat_run *r, const chat_method *m, const chat_arguments *args,
                            chat_value *ret)
{
    const chat_value *what = NULL;
    bool backwards = m->name[0] == 'r';
    joust_status st = need_text(r, m, args, 0, &what);
    if (st == JOUST_OK && args->n > 1)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "%s with bounds", m->name);
    if (st != JOUST_OK)
        return st;
    size_t at = search(&m->self, what, backwards ? m->self.as.text.n : 0, backwards);
    chat_value before = joust_chat_sub(&m->self, 0, at == SIZE_MAX ? 0 : at);
    *ret = joust_chat_whole(at == SIZE_MAX ? -1 : (int64_t)joust_chat_count(&before));
    return joust_chat_step(r, m->self.as.text.n);
}

static joust_status do_count(chat_run *r, const chat_method *m, const chat_arguments *args,
                             chat_value *ret)
{
    const chat_value *what = NULL;
    int64_t n = 0;
    joust_status st = need_text(r, m, args, 0, &what);
    if (st == JOUST_OK && (args->n > 1 || what->as.text.n == 0))
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "count with bounds, or of nothing");
    for (size_t at = 0; st == JOUST_OK; n++) {
        at = search(&m->self, what, at, false);
        if (at == SIZE_MAX)
            break;
        at += what->as.text.n;
        st = joust_chat_step(r, 1 + at / 16);
    }
    *ret = joust_chat_whole(n);
    return st;
}

static joust_status split_white(chat_run *r, const chat_value *text, int64_t most, chat_value *ret)
{
    joust_status st = joust_chat_sequence(r, CHAT_FORM_LIST, 0, ret);
    chat_value rest = joust_chat_strip(text, NULL, true, false);
    while (st == JOUST_OK && rest.as.text.n > 0) {
        size_t end = 0, n = rest.as.text.n;
        uint32_t code = 0;
        while (end < n && most != 0) {
            size_t length = joust_utf8_next(rest.as.text.bytes + end, n - end, &code);
            if (joust_chat_is_white(code))
                break;
            end += length;
        }
        if (most == 0) {
            rest = joust_chat_strip(&rest, NULL, false, true);
            end = n = rest.as.text.n;
        }
        chat_value word = joust_chat_sub(&rest, 0, end), after = joust_chat_sub(&rest, end, n);
        st = joust_chat_push(r, ret, &word);
        rest = joust_chat_strip(&after, NULL, true, false);
        most--;
    }
    return st;
}

static joust_status split_backwards(chat_run *r, const chat_value *text, const chat_value *by,
                                    int64_t most, chat_value *ret)
{
    chat_value reversed = {0}, rest = *text;
    joust_status st = joust_chat_sequence(r, CHAT_FORM_LIST, 0, &reversed);
    for (; st == JOUST_OK && most != 0; most--) {
        size_t at = search(&rest, by, rest.as.text.n, true);
        if (at == SIZE_MAX)
            break;
        chat_value word = joust_chat_sub(&rest, at + by->as.text.n, rest.as.text.n);
        st = joust_chat_push(r, &reversed, &word);
        rest = joust_chat_sub(&rest, 0, at);
    }
    if (st == JOUST_OK)
        st = joust_chat_push(r, &reversed, &rest);
    if (st == JOUST_OK)
        st = joust_chat_sequence(r, CHAT_FORM_LIST, 0, ret);
    for (size_t i = 0; st == JOUST_OK && i < reversed.as.sequence->n; i++)
        st = joust_chat_push(r, ret, &reversed.as.sequence->items[reversed.as.sequence->n - 1 - i]);
    return st;
}

static joust_status do_split(chat_run *r, const chat_method *m, const chat_arguments *given,
                             chat_value *ret)
{
    const chat_value *parameters[2], *by;
    joust_status st = joust_chat_parameters(r, m->name, given, 0, "sep maxsplit", parameters, 2);
    if (st != JOUST_OK)
        return st;
    int64_t most = -1;
    by = parameters[0];
    if (parameters[1] && parameters[1]->kind == CHAT_WHOLE)
        most = parameters[1]->as.whole;
    if ((by && by->kind != CHAT_STR && by->kind != CHAT_NONE) ||
        (parameters[1] && parameters[1]->kind != CHAT_WHOLE))
        return joust_chat_fail(r, JOUST_INVALID, "%s: expected a text and an integer", m->name);
    bool backwards = m->name[0] == 'r';
    st = joust_chat_step(r, m->self.as.text.n);
    if (st == JOUST_OK && (!by || by->kind == CHAT_NONE)) {
        if (backwards && most >= 0)
            return joust_chat_fail(r, JOUST_UNSUPPORTED, "rsplit at white space with a limit");
        return split_white(r, &m->self, most, ret);
    }
    if (st == JOUST_OK && by->as.text.n == 0)
        return joust_chat_fail(r, JOUST_INVALID, "%s: an empty separator", m->name);
    if (st == JOUST_OK && backwards)
        return split_backwards(r, &m->self, by, most, ret);
    if (st == JOUST_OK)
        st = joust_chat_sequence(r, CHAT_FORM_LIST, 0, ret);
    chat_value rest = m->self;
    for (; st == JOUST_OK && most != 0; most--) {
        size_t at = search(&rest, by, 0, false);
        if (at == SIZE_MAX)
            break;
        chat_value word = joust_chat_sub(&rest, 0, at);
        st = joust_chat_push(r, ret, &word);
        rest = joust_chat_sub(&rest, at + by->as.text.n, rest.as.text.n);
    }
    return st == JOUST_OK ? joust_chat_push(r, ret, &rest) : st;
}

static joust_status do_lines(chat_run *r, const chat_method *m, const chat_arguments *args,
                             chat_value *ret)
{
    bool keep = joust_chat_flag(args->n > 0 ? &args->items[0] : NULL);
    return joust_chat_lines(r, &m->self, keep, ret);
}

static joust_status do_join(chat_run *r, const chat_method *m, const chat_arguments *args,
                            chat_value *ret)
{
    const chat_sequence *items = NULL;
    chat_output out = {0};
    if (args->n != 1)
        return joust_chat_fail(r, JOUST_INVALID, "join takes one argument");
    joust_status st = joust_chat_walk(r, &args->items[0], &items);
    for (size_t i = 0; st == JOUST_OK && i < items->n; i++) {
        if (items->items[i].kind != CHAT_STR)
            st = joust_chat_fail(r, JOUST_INVALID, "join: %s is no text",
                                 joust_chat_kind_name(&items->items[i]));
        if (st == JOUST_OK && i > 0)
            st = joust_chat_print(r, &m->self, &out);
        if (st == JOUST_OK)
            st = joust_chat_print(r, &items->items[i], &out);
    }
    return joust_chat_finish(r, st, &out, ret);
}

static joust_status do_is(chat_run *r, const chat_method *m, const chat_arguments *args,
                          chat_value *ret)
{
    bool white = strcmp(m->name, "isspace") == 0, all = m->self.as.text.n > 0;
    (void)args;
    for (size_t at = 0; all && at < m->self.as.text.n;) {
        uint32_t code;
        at += joust_utf8_next(m->self.as.text.bytes + at, m->self.as.text.n - at, &code);
        if (!white && code >= 0x80)
            return joust_chat_fail(r, JOUST_UNSUPPORTED, "%s of characters beyond ASCII", m->name);
        all = white ? joust_chat_is_white(code) : code >= '0' && code <= '9';
    }
    *ret = joust_chat_boolean(all);
    return JOUST_OK;
}

static joust_status do_get(chat_run *r, const chat_method *m, const chat_arguments *args,
                           chat_value *ret)
{
    const chat_value *found = NULL;
    if (args->n < 1 || args->n > 2 || args->n_named)
        return joust_chat_fail(r, JOUST_INVALID, "get takes a key and a default");
    joust_status st = joust_chat_get(r, m->self.as.mapping, &args->items[0], &found);
    *ret = found ? *found : (chat_value){.kind = CHAT_NONE};
    if (!found && args->n == 2)
        *ret = args->items[1];
    return st;
}

static joust_status do_view(chat_run *r, const chat_method *m, const chat_arguments *args,
                            chat_value *ret)
{
    const chat_mapping *map = m->self.as.mapping;
    joust_status st = joust_chat_sequence(r, CHAT_FORM_VIEW, map->n, ret);
    (void)args;
    for (size_t i = 0; st == JOUST_OK && i < map->n; i++) {
        chat_value pair = {0};
        if (strcmp(m->name, "items") == 0) {
            st = joust_chat_sequence(r, CHAT_FORM_TUPLE, 2, &pair);
            if (st == JOUST_OK)
                st = joust_chat_push(r, &pair, &map->keys[i]);
            if (st == JOUST_OK)
                st = joust_chat_push(r, &pair, &map->values[i]);
        } else {
            pair = m->name[0] == 'k' ? map->keys[i] : map->values[i];
        }
        if (st == JOUST_OK)
            st = joust_chat_push(r, ret, &pair);
    }
    return st;
}

static joust_status do_refuse(chat_run *r, const chat_method *m, const chat_arguments *args,
                              chat_value *ret)
{
    (void)args;
    (void)ret;
    return joust_chat_fail(r, JOUST_UNSUPPORTED, "method '.%s()'", m->name);
}

static const struct {
    const char *name;
    chat_kind kind;
    method_fn *call;
} methods[] = {{"strip", CHAT_STR, do_strip},
               {"lstrip", CHAT_STR, do_strip},
               {"rstrip", CHAT_STR, do_strip},
               {"split", CHAT_STR, do_split},
               {"rsplit", CHAT_STR, do_split},
               {"splitlines", CHAT_STR, do_lines},
               {"startswith", CHAT_STR, do_begins},
               {"endswith", CHAT_STR, do_begins},
               {"removeprefix", CHAT_STR, do_remove},
               {"removesuffix", CHAT_STR, do_remove},
               {"replace", CHAT_STR, do_replace},
               {"upper", CHAT_STR, do_case},
               {"lower", CHAT_STR, do_case},
               {"capitalize", CHAT_STR, do_case},
               {"title", CHAT_STR, do_title},
               {"find", CHAT_STR, do_find},
               {"rfind", CHAT_STR, do_find},
               {"count", CHAT_STR, do_count},
               {"join", CHAT_STR, do_join},
               {"isdigit", CHAT_STR, do_is},
               {"isspace", CHAT_STR, do_is},
               {"get", CHAT_MAPPING, do_get},
               {"items", CHAT_MAPPING, do_view},
               {"keys", CHAT_MAPPING, do_view},
               {"values", CHAT_MAPPING, do_view},
               /* what a mapping has too, and hides its members of that name: */
               {"copy", CHAT_MAPPING, do_refuse},
               {"pop", CHAT_MAPPING, do_refuse},
               {"popitem", CHAT_MAPPING, do_refuse},
               {"update", CHAT_MAPPING, do_refuse},
               {"clear", CHAT_MAPPING, do_refuse},
               {"setdefault", CHAT_MAPPING, do_refuse},
               {"fromkeys", CHAT_MAPPING, do_refuse}};

static uint32_t find_method(const chat_value *v, const char *name)
{
    for (uint32_t i = 0; i < sizeof(methods) / sizeof(*methods); i++) {
        if (methods[i].kind == v->kind && strcmp(methods[i].name, name) == 0)
            return i;
    }
    return UINT32_MAX;
}

bool joust_chat_has_method(const chat_value *v, const char *name)
{
    return find_method(v, name) != UINT32_MAX;
}

joust_status joust_chat_method(chat_run *r, const chat_method *m, const chat_arguments *args,
                               chat_value *ret)
{
    uint32_t i = find_method(&m->self, m->name);
    if (args->n_named && methods[i].call != do_split)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "keyword arguments of .%s()", m->name);
    return methods[i].call(r, m, args, ret);
}
