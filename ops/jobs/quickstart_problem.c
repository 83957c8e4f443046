/* See quickstart_problem.h. */
#include "quickstart_problem.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_NAMES = 12, N_OBJECTS = 12, N_TEMPLATES = 8 };

/* clang-format off */
static const char *const people[N_NAMES][2] = {
    {"Tom", "He"}, {"Anna", "She"}, {"Ben", "He"}, {"Mia", "She"}, {"Sam", "He"}, {"Lucy", "She"},
    {"Max", "He"}, {"Nina", "She"}, {"Paul", "He"}, {"Rosa", "She"}, {"Leo", "He"}, {"Emma", "She"},
};
static const char *const objects[N_OBJECTS] = {
    "apples", "pens", "coins", "books", "cards", "shells",
    "stamps", "eggs", "marbles", "cookies", "buttons", "stickers",
};
/* {N} {M} {K}: three different names, {P}: N's pronoun, {o}: the object, {a} {b} {c} {d}: numbers.
 * The first step takes a and b, each later one the last result and the next number. */
static const struct {
    const char *operations, *text;
} templates[N_TEMPLATES] = {
    {"+-", "{N} has {a} {o}. {P} gets {b} more and gives {c} to {M}."
           " How many {o} does {N} have now?"},
    {"-+-", "{N} had {a} {o}. {P} lost {b}, found {c} and sold {d}. How many {o} are left?"},
    {"+-+", "A box holds {a} red {o} and {b} blue {o}. {N} takes {c} out and puts {d} back."
            " How many {o} are in the box?"},
    {"+-+", "{N} has {a} {o}. {M} gives {N} {b} more. Then {N} drops {c} and finds {d}."
            " How many {o} does {N} have?"},
    {"+-", "{N} made {a} {o} in the morning and {b} in the evening. {P} sold {c}."
           " How many {o} are left?"},
    {"-+-", "{N} drives a bus with {a} people. Then {b} get off, {c} get on and {d} get off."
            " How many people are on the bus?"},
    {"---", "{N} had {a} {o}. {P} used {b} on Monday, {c} on Tuesday and {d} on Friday."
            " How many {o} are left?"},
    {"+-", "{N} has {a} {o}. {M} has {b} more than {N}. {K} has {c} fewer than {M}."
           " How many {o} does {K} have?"},
};
/* clang-format on */

static const struct {
    unsigned first, last; /* share of digest mod 100 */
} shares[N_SPLITS] = {
    [SPLIT_TEST] = {0, 9},
    [SPLIT_VALIDATION] = {10, 19},
    [SPLIT_ROUNDS] = {20, 39},
    [SPLIT_BASE] = {40, 99},
};

static uint64_t mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t quickstart_stream_next(quickstart_stream *s)
{
    s->state += UINT64_C(0x9e3779b97f4a7c15);
    return mix64(s->state);
}

quickstart_stream quickstart_stream_make(long seed, unsigned purpose, long index)
{
    quickstart_stream s = {(uint64_t)seed};
    s.state = quickstart_stream_next(&s) ^ purpose;
    s.state = quickstart_stream_next(&s) ^ (uint64_t)index;
    s.state = quickstart_stream_next(&s);
    return s;
}

int quickstart_draw(quickstart_stream *s, int first, int last)
{
    return first + (int)(quickstart_stream_next(s) % (uint64_t)(last - first + 1));
}

static double draw_unit(quickstart_stream *s)
{
    return (double)(quickstart_stream_next(s) >> 11) * 0x1p-53;
}

static unsigned text_bucket(const char *text)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a, then mixed */
    for (; *text; text++) {
        h = (h ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    }
    return (unsigned)(mix64(h) % 100);
}

void quickstart_append(char *text, const char *format, ...)
{
    size_t used = strlen(text);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text + used, QUICKSTART_MAX_TEXT - used, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= QUICKSTART_MAX_TEXT - used) {
        fprintf(stderr, "quickstart_data: a text is longer than %d bytes: %s\n",
                QUICKSTART_MAX_TEXT, text);
        exit(1);
    }
}

size_t quickstart_token_length(const char *text)
{
    size_t n = 0;
    while (isalpha((unsigned char)text[n])) {
        n++;
    }
    if (n == 0) {
        n = strspn(text, "0123456789");
    }
    return n > 0 ? n : strncmp(text, "####", 4) == 0 ? 4 : 1;
}

void quickstart_answer_text(const quickstart_answer *a, char *text)
{
    text[0] = '\0';
    for (int i = 0; i < a->n_steps; i++) {
        const quickstart_step *s = &a->steps[i];
        quickstart_append(text, "%s%d%c%d=%d", i ? "; " : "", s->left, s->operation, s->right,
                          s->result);
    }
    quickstart_append(text, " #### %d", a->final);
}

static int apply(int left, char operation, int right)
{
    return operation == '+' ? left + right : left - right;
}

static bool in_range(int x)
{
    return x >= 1 && x <= QUICKSTART_MAX_NUMBER;
}

/* Works the operations through the numbers; wrong[i] replaces the result of step i where it is not
 * 0, and later steps go on from it. False if a result leaves 1..40. */
static bool work(const char *operations, const int *numbers, const int *wrong,
                 quickstart_answer *ret)
{
    int x = numbers[0];
    ret->n_steps = (int)strlen(operations);
    for (int i = 0; i < ret->n_steps; i++) {
        quickstart_step s = {.left = x, .right = numbers[i + 1], .operation = operations[i]};
        s.result = wrong && wrong[i] ? wrong[i] : apply(x, s.operation, s.right);
        if (!in_range(s.result)) {
            return false;
        }
        x = s.result;
        ret->steps[i] = s;
    }
    ret->final = x;
    return true;
}

static void write_question(quickstart_problem *p, int template_index, quickstart_stream *random)
{
    const char *who[3], *pronoun = NULL;
    for (int i = 0; i < 3; i++) {
        int k;
        do {
            k = quickstart_draw(random, 0, N_NAMES - 1);
            who[i] = people[k][0];
        } while ((i > 0 && who[i] == who[0]) || (i > 1 && who[i] == who[1]));
        pronoun = i == 0 ? people[k][1] : pronoun;
    }
    const char *object = objects[quickstart_draw(random, 0, N_OBJECTS - 1)];
    p->text[0] = '\0';
    for (const char *t = templates[template_index].text; *t; t++) {
        if (*t != '{') {
            quickstart_append(p->text, "%c", *t);
            continue;
        }
        if (t[1] >= 'a' && t[1] <= 'd') {
            quickstart_append(p->text, "%d", p->numbers[t[1] - 'a']);
        } else {
            quickstart_append(p->text, "%s",
                              t[1] == 'N'   ? who[0]
                              : t[1] == 'M' ? who[1]
                              : t[1] == 'K' ? who[2]
                              : t[1] == 'P' ? pronoun
                                            : object);
        }
        t += 2;
    }
}

quickstart_problem quickstart_problem_make(long seed, quickstart_split part, long index)
{
    quickstart_problem p;
    quickstart_stream random =
        quickstart_stream_make(seed, PURPOSE_PROBLEM + (unsigned)part, index);
    for (;;) {
        int t = quickstart_draw(&random, 0, N_TEMPLATES - 1);
        p.operations = templates[t].operations;
        p.numbers[0] = quickstart_draw(&random, 5, 20);
        for (int i = 1; i <= QUICKSTART_MAX_STEPS; i++) {
            p.numbers[i] = quickstart_draw(&random, 2, 9);
        }
        if (!work(p.operations, p.numbers, NULL, &p.gold)) {
            continue;
        }
        write_question(&p, t, &random);
        unsigned bucket = text_bucket(p.text);
        if (bucket >= shares[part].first && bucket <= shares[part].last) {
            return p;
        }
    }
}

static bool needs_carry(const quickstart_step *s)
{
    return s->operation == '+' ? s->left % 10 + s->right % 10 >= 10 : s->left % 10 < s->right % 10;
}

int quickstart_slip(const quickstart_step *s)
{
    int x = s->result + (s->operation == '+' ? -10 : 10);
    return needs_carry(s) && in_range(x) ? x : 0;
}

quickstart_answer quickstart_answer_sloppy(const quickstart_problem *p, long slip_percent,
                                           quickstart_stream *random)
{
    int wrong[QUICKSTART_MAX_STEPS] = {0};
    quickstart_answer a = p->gold;
    for (int i = 0; i < a.n_steps; i++) {
        int x = quickstart_slip(&a.steps[i]);
        if (!x || draw_unit(random) * 100 >= (double)slip_percent) {
            continue;
        }
        wrong[i] = x;
        if (!work(p->operations, p->numbers, wrong, &a)) {
            wrong[i] = 0; /* a later step would leave 1..40: this slip is not made */
            work(p->operations, p->numbers, wrong, &a);
        }
    }
    return a;
}

int quickstart_perturb(int x, quickstart_stream *random)
{
    static const int by[] = {1, 1, 2, 3, 9, 10, 10, 11};
    int y;
    do {
        int d = by[quickstart_draw(random, 0, 7)];
        y = quickstart_draw(random, 0, 1) ? x + d : x - d;
    } while (!in_range(y));
    return y;
}

quickstart_answer quickstart_answer_wrong(const quickstart_problem *p, quickstart_stream *random)
{
    for (;;) {
        quickstart_answer a = p->gold;
        int wrong[QUICKSTART_MAX_STEPS] = {0}, numbers[QUICKSTART_MAX_STEPS + 1];
        int n = a.n_steps, i = quickstart_draw(random, 0, n - 1);
        char operations[QUICKSTART_MAX_STEPS + 1];
        double u = draw_unit(random);
        bool worked;
        memcpy(numbers, p->numbers, sizeof(numbers));
        strcpy(operations, p->operations);
        if (u < 0.5) {
            wrong[i] = quickstart_perturb(a.steps[i].result, random);
            worked = work(operations, numbers, wrong, &a);
        } else if (u < 0.65) {
            operations[i] = operations[i] == '+' ? '-' : '+';
            worked = work(operations, numbers, NULL, &a);
        } else if (u < 0.9) {
            int k = quickstart_draw(random, 0, n);
            numbers[k] = quickstart_draw(random, 0, 1) ? p->numbers[quickstart_draw(random, 0, n)]
                         : k == 0                      ? quickstart_draw(random, 5, 20)
                                                       : quickstart_draw(random, 2, 9);
            worked = numbers[k] != p->numbers[k] && work(operations, numbers, NULL, &a);
        } else {
            int copied = quickstart_perturb(a.steps[i].result, random);
            worked = true;
            for (int j = i + 1; j < n && worked; j++) {
                a.steps[j].left = j == i + 1 ? copied : a.steps[j - 1].result;
                a.steps[j].result = apply(a.steps[j].left, operations[j], numbers[j + 1]);
                worked = in_range(a.steps[j].result);
            }
            a.final = i == n - 1 ? copied : a.steps[n - 1].result;
        }
        if (worked) {
            return a;
        }
    }
}

const char *quickstart_words(int i)
{
    if (i < N_TEMPLATES) {
        return templates[i].text;
    }
    i -= N_TEMPLATES;
    if (i < 2 * N_NAMES) {
        return people[i / 2][i % 2];
    }
    i -= 2 * N_NAMES;
    return i < N_OBJECTS ? objects[i] : NULL;
}
