/* Filters of chat templates that compare items: sort, dictsort, unique. */
#include "chat_internal.h"

/* Keys that are compared without their case, as Jinja does for texts. */
static joust_status fold(chat_run *r, const chat_value *v, chat_value *ret)
{
    *ret = *v;
    return v->kind == CHAT_STR ? joust_chat_recased(r, v, "lower", ret) : JOUST_OK;
}

/* Puts item behind all that are not greater than it by their keys. */
static joust_status insert(chat_run *r, chat_value *list, chat_value *keys, const chat_value *item,
                           const chat_value *key, bool reverse)
{
    int order = 0;
    joust_status st = joust_chat_push(r, list, item);
    if (st == JOUST_OK)
        st = joust_chat_push(r, keys, key);
    chat_value *items = list->as.sequence->items, *by = keys->as.sequence->items;
    for (size_t at = list->as.sequence->n - 1; st == JOUST_OK && at > 0; at--) {
        st = joust_chat_order(r, key, &by[at - 1], &order);
        if (reverse ? order <= 0 : order >= 0)
            break;
        items[at] = items[at - 1];
        by[at] = by[at - 1];
        items[at - 1] = *item;
        by[at - 1] = *key;
    }
    return st;
}

/* sort, and dictsort by keys */
joust_status joust_chat_sort(chat_run *r, const char *name, const chat_arguments *args,
                             chat_value *ret)
{
    const chat_value *p[3];
    const chat_sequence *items = NULL;
    chat_value pairs = args->items[0], keys = {0}, first = joust_chat_whole(0);
    bool dict = name[0] == 'd';
    joust_status st =
        dict ? joust_chat_parameters(r, name, args, 1, "case_sensitive by reverse", p, 3)
             : joust_chat_parameters(r, name, args, 1, "reverse case_sensitive attribute", p, 3);
    if (st == JOUST_OK && dict && p[1] && !joust_chat_is_text(p[1], "key"))
        st = joust_chat_fail(r, JOUST_UNSUPPORTED, "dictsort by values");
    if (st != JOUST_OK)
        return st;
    bool reverse = joust_chat_flag(p[dict ? 2 : 0]), cased = joust_chat_flag(p[dict ? 0 : 1]);
    const chat_value *path = dict ? &first : p[2];
    chat_arguments one = {.n = 1, .items = {args->items[0]}};
    if (dict)
        st = joust_chat_items(r, "dictsort", &one, &pairs);
    if (st == JOUST_OK)
        st = joust_chat_walk(r, &pairs, &items);
    if (st == JOUST_OK)
        st = joust_chat_sequence(r, CHAT_FORM_LIST, items->n, ret);
    if (st == JOUST_OK)
        st = joust_chat_sequence(r, CHAT_FORM_LIST, items->n, &keys);
    for (size_t i = 0; st == JOUST_OK && i < items->n; i++) {
        chat_value key = items->items[i], folded = {0};
        if (path && path->kind != CHAT_NONE)
            st = joust_chat_deep_attribute(r, &items->items[i], path, &key);
        folded = key;
        if (st == JOUST_OK && !cased)
            st = fold(r, &key, &folded);
        if (st == JOUST_OK)
            st = insert(r, ret, &keys, &items->items[i], &folded, reverse);
    }
    return st;
}

joust_status joust_chat_unique(chat_run *r, const char *name, const chat_arguments *args,
                               chat_value *ret)
{
    const chat_sequence *items = NULL;
    chat_value keys = {0};
    joust_status st = joust_chat_parameters(r, name, args, 1, "", NULL, 0);
    if (st == JOUST_OK)
        st = joust_chat_walk(r, &args->items[0], &items);
    if (st == JOUST_OK)
        st = joust_chat_sequence(r, CHAT_FORM_GENERATOR, 0, ret);
    if (st == JOUST_OK)
        st = joust_chat_sequence(r, CHAT_FORM_LIST, 0, &keys);
    for (size_t i = 0; st == JOUST_OK && i < items->n; i++) {
        chat_value key = {0};
        bool seen = false;
        st = fold(r, &items->items[i], &key);
        if (st == JOUST_OK)
            st = joust_chat_contains(r, &keys, &key, &seen);
        if (st == JOUST_OK && !seen)
            st = joust_chat_push(r, &keys, &key);
        if (st == JOUST_OK && !seen)
            st = joust_chat_push(r, ret, &items->items[i]);
    }
    return st;
}
