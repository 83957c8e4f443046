#include "judge/rules.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A decimal number as it stands in a text: [at, end), without its sign. */
typedef struct number {
    const char *at, *end;
    bool negative;
} number;

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* What a minus sign after it belongs to: an operand, so the sign is an operator. */
static bool ends_operand(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == ')' ||
           (unsigned char)c >= 0x80;
}

/* The digits from `at` on, with commas between groups of three and a fraction. */
static const char *number_end(const char *at)
{
    while (is_digit(*at))
        at++;
    while (at[0] == ',' && is_digit(at[1]) && is_digit(at[2]) && is_digit(at[3]) &&
           !is_digit(at[4]))
        at += 4;
    if (at[0] == '.' && is_digit(at[1])) {
        at++;
        while (is_digit(*at))
            at++;
    }
    return at;
}

/* The first number at or after `from`; `start` is where the text begins. False: there is none. */
static bool find_number(const char *start, const char *from, number *ret)
{
    const char *at = from;
    while (*at && !is_digit(*at))
        at++;
    if (!*at)
        return false;
    bool minus = at > from && at[-1] == '-';
    ret->negative = minus && (at - 1 == start || !ends_operand(at[-2]));
    ret->at = at;
    ret->end = number_end(at);
    return true;
}

/* The last number of the text. */
static bool last_number(const char *text, number *ret)
{
    bool found = false;
    number n;
    for (const char *at = text; find_number(text, at, &n); at = n.end) {
        *ret = n;
        found = true;
    }
    return found;
}

/* The last number after the last "####", or of the whole text where there is no such mark. */
static bool final_number(const char *text, number *ret)
{
    const char *tail = text;
    for (const char *mark = strstr(text, "####"); mark; mark = strstr(tail, "####"))
        tail = mark + 4;
    return last_number(tail, ret);
}

/* Digits of a number one by one, without commas and zeros that don't count. */
typedef struct digits {
    const char *at, *end;
} digits;

static digits whole_digits(const number *n)
{
    digits d = {n->at, n->at};
    while (d.end < n->end && *d.end != '.')
        d.end++;
    while (d.at < d.end && (*d.at == '0' || *d.at == ','))
        d.at++;
    return d;
}

static digits fraction_digits(const number *n)
{
    digits d = {n->at, n->end};
    while (d.at < d.end && *d.at != '.')
        d.at++;
    if (d.at < d.end)
        d.at++;
    while (d.at < d.end && d.end[-1] == '0')
        d.end--;
    return d;
}

static char next_digit(digits *d)
{
    while (d->at < d->end && *d->at == ',')
        d->at++;
    return d->at < d->end ? *d->at++ : '\0';
}

static bool digits_equal(digits a, digits b)
{
    for (;;) {
        char x = next_digit(&a), y = next_digit(&b);
        if (x != y)
            return false;
        if (!x)
            return true;
    }
}

static bool digits_empty(digits d)
{
    return next_digit(&d) == '\0';
}

static bool numbers_equal(const number *a, const number *b)
{
    digits aw = whole_digits(a), bw = whole_digits(b);
    digits af = fraction_digits(a), bf = fraction_digits(b);
    if (!digits_equal(aw, bw) || !digits_equal(af, bf))
        return false;
    return a->negative == b->negative || (digits_empty(aw) && digits_empty(af));
}

joust_rule_result joust_rule_final_number(const char *response, const char *reference)
{
    number is, should;
    if (!reference || !final_number(reference, &should))
        return JOUST_RULE_NO_REFERENCE;
    return final_number(response, &is) && numbers_equal(&is, &should) ? JOUST_RULE_TRUE
                                                                      : JOUST_RULE_FALSE;
}

/* A walk over the steps of a text. */
typedef struct steps {
    const char *start, *at;
} steps;

/* One step as a walk over its parts: number, operator, number … "=", number. */
typedef struct step {
    const char *at, *end;
} step;

static const char *skip_blank(const char *at)
{
    while (is_space(*at) || *at == '$')
        at++;
    return at;
}

/* Reads an operator of a step at *at: one of + - * / =, or 0. "x" and the multiplication sign count
 * as "*". */
static char read_operator(const char **at)
{
    char c = **at;
    if (c == '+' || c == '-' || c == '*' || c == '/' || c == '=') {
        (*at)++;
        return c;
    }
    if (c == 'x' || c == 'X') {
        (*at)++;
        return '*';
    }
    if (strncmp(*at, "\xc3\x97", 2) == 0) { /* multiplication sign */
        *at += 2;
        return '*';
    }
    if (strncmp(*at, "\xe2\x88\x92", 3) == 0) { /* minus sign */
        *at += 3;
        return '-';
    }
    return 0;
}

/* Reads a number that stands right here, with an optional minus sign of its own. */
static bool read_number(const char **at, number *ret)
{
    const char *p = *at;
    bool negative = *p == '-';
    if (negative)
        p = skip_blank(p + 1);
    if (!is_digit(*p))
        return false;
    *ret = (number){.at = p, .end = number_end(p), .negative = negative};
    *at = ret->end;
    return true;
}

/* The next step at or after s->at. A chain of operands that ends in no "= number" is passed over
 * whole: none of its tails could be a step either, and the walk stays linear. */
static bool next_step(steps *s, step *ret)
{
    number n;
    while (find_number(s->start, s->at, &n)) {
        const char *begin = n.negative ? n.at - 1 : n.at;
        const char *at = n.end;
        uint32_t operators = 0;
        for (;;) {
            s->at = at;
            const char *p = skip_blank(at);
            char sign = read_operator(&p);
            if (!sign || (sign == '=' && operators == 0))
                break;
            p = skip_blank(p);
            if (!read_number(&p, &n))
                break;
            at = p;
            operators++;
            if (sign == '=') {
                s->at = at;
                *ret = (step){begin, at};
                return true;
            }
        }
    }
    return false;
}

static bool steps_equal(const step *a, const step *b)
{
    const char *p = a->at, *q = b->at;
    for (;;) {
        number x, y;
        if (!read_number(&p, &x) || !read_number(&q, &y) || !numbers_equal(&x, &y))
            return false;
        if (p >= a->end || q >= b->end)
            return p >= a->end && q >= b->end;
        p = skip_blank(p);
        q = skip_blank(q);
        if (read_operator(&p) != read_operator(&q))
            return false;
        p = skip_blank(p);
        q = skip_blank(q);
    }
}

joust_rule_result joust_rule_steps_and_number(const char *response, const char *reference)
{
    joust_rule_result number_result = joust_rule_final_number(response, reference);
    if (number_result != JOUST_RULE_TRUE)
        return number_result;
    steps is = {response, response}, should = {reference, reference};
    for (;;) {
        step a, b;
        bool has_a = next_step(&is, &a), has_b = next_step(&should, &b);
        if (!has_a && !has_b)
            return JOUST_RULE_TRUE;
        if (has_a != has_b || !steps_equal(&a, &b))
            return JOUST_RULE_FALSE;
    }
}

joust_rule_result joust_rule_exact(const char *response, const char *reference)
{
    if (!reference)
        return JOUST_RULE_NO_REFERENCE;
    const char *texts[2] = {response, reference};
    size_t n[2];
    for (int i = 0; i < 2; i++) {
        while (is_space(*texts[i]))
            texts[i]++;
        n[i] = strlen(texts[i]);
        while (n[i] > 0 && is_space(texts[i][n[i] - 1]))
            n[i]--;
    }
    return n[0] == n[1] && memcmp(texts[0], texts[1], n[0]) == 0 ? JOUST_RULE_TRUE
                                                                 : JOUST_RULE_FALSE;
}
