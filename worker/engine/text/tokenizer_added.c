/* Added tokens: found in the text before anything else, the leftmost first and the longest of those. */
#include <string.h>

#include "tokenizer_internal.h"
#include "unicode_internal.h"

typedef struct matcher {
    const joust_tokenizer *t;
    const uint8_t *text;
    size_t n;
    const joust_added_rule *rule;
} matcher;

static bool eligible(const matcher *m, const joust_added *a, size_t at)
{
    const joust_added_rule *rule = m->rule;
    if (a->text.n == 0 || (a->special && !rule->special))
        return false;
    if (!a->special || !rule->trust)
        return a->normalized == rule->normalized && !a->trusted_only;
    return !a->normalized && !memchr(rule->trust + at, 0, a->text.n);
}

/* The longest added token that begins at byte `at`. The list is sorted: those that share a prefix with the
 * text are a range, which each further byte narrows. */
static const joust_added *longest_at(const matcher *m, size_t at)
{
    const joust_added *list = m->t->added, *best = NULL;
    uint32_t low = 0, high = m->t->n_added;
    for (size_t depth = 0; low < high && at + depth < m->n; depth++) {
        uint8_t byte = m->text[at + depth];
        uint32_t first = low, last = high;
        while (first <
               last) { /* the first whose byte isn't below; a text that has ended sorts lowest */
            uint32_t middle = first + (last - first) / 2;
            const joust_buf *text = &list[middle].text;
            if (text->n <= depth || text->data[depth] < byte)
                first = middle + 1;
            else
                last = middle;
        }
        low = first;
        last = high;
        while (first < last) {
            uint32_t middle = first + (last - first) / 2;
            if (list[middle].text.data[depth] <= byte)
                first = middle + 1;
            else
                last = middle;
        }
        high = first;
        for (uint32_t i = low; i < high && list[i].text.n == depth + 1; i++) {
            if (eligible(m, &list[i], at))
                best = &list[i];
        }
    }
    return best;
}

static joust_status touches_word(const matcher *m, joust_regex_scratch *regex, size_t begin,
                                 size_t end, bool *ret, joust_error *err)
{
    size_t from, to;
    uint32_t code;
    *ret = false;
    joust_status st = JOUST_END;
    if (begin > 0) {
        size_t length = joust_utf8_previous(m->text, begin, &code);
        st = joust_regex_find(m->t->word, regex, m->text + begin - length, length, 0, &from, &to,
                              err);
    }
    if (st == JOUST_END && end < m->n) {
        size_t length = joust_utf8_next(m->text + end, m->n - end, &code);
        st = joust_regex_find(m->t->word, regex, m->text + end, length, 0, &from, &to, err);
    }
    *ret = st == JOUST_OK;
    return st == JOUST_END ? JOUST_OK : st;
}

static size_t white_before(const uint8_t *text, size_t end, size_t least)
{
    uint32_t code;
    while (end > least) {
        size_t length = joust_utf8_previous(text + least, end - least, &code);
        if (!joust_is_white(code))
            break;
        end -= length;
    }
    return end;
}

static size_t white_after(const uint8_t *text, size_t n, size_t begin)
{
    uint32_t code;
    while (begin < n) {
        size_t length = joust_utf8_next(text + begin, n - begin, &code);
        if (!joust_is_white(code))
            break;
        begin += length;
    }
    return begin;
}

joust_status joust_added_cut(const joust_tokenizer *t, const uint8_t *text, size_t n,
                             const joust_added_rule *rule, joust_regex_scratch *regex,
                             joust_segment_fn *each, void *context, joust_error *err)
{
    matcher m = {.t = t, .text = text, .n = n, .rule = rule};
    joust_status st = JOUST_OK;
    size_t done = 0; /* all before is handed out */
    for (size_t at = 0; st == JOUST_OK && at < n;) {
        const joust_added *a = t->begins[text[at]] ? longest_at(&m, at) : NULL;
        if (!a) {
            at++;
            continue;
        }
        size_t begin = at, end = at + a->text.n;
        at = end;
        if (a->single_word) {
            bool inside;
            st = touches_word(&m, regex, begin, end, &inside, err);
            if (st != JOUST_OK || inside)
                continue;
        }
        if (a->left)
            begin = white_before(text, begin, done);
        if (a->right)
            at = end = white_after(text, n, end);
        if (begin > done)
            st = each(context, text + done, begin - done, JOUST_NO_TOKEN, err);
        if (st == JOUST_OK)
            st = each(context, text + begin, end - begin, a->id, err);
        done = end;
    }
    if (st == JOUST_OK && done < n)
        st = each(context, text + done, n - done, JOUST_NO_TOKEN, err);
    return st;
}
