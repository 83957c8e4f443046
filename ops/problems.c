#include "ops/problems.h"

#include <stdlib.h>
#include <string.h>

#include "proto/base/alloc.h"

/* What several stages find is one problem. */
static bool is_there(const joust_problems *problems, joust_place place, const char *text)
{
    for (uint32_t i = 0; text && i < problems->n; i++) {
        const joust_problem *p = &problems->items[i];
        if (memcmp(&p->place, &place, sizeof(place)) == 0 && p->text && strcmp(p->text, text) == 0)
            return true;
    }
    return false;
}

static void add(joust_problems *problems, bool warning, joust_place place, const char *format,
                va_list args)
{
    joust_buf text = {0};
    joust_buf_vformat(&text, format, args);
    joust_problem problem = {
        .place = place, .warning = warning, .text = joust_buf_take_text(&text)};
    joust_buf_fini(&text);
    const bool known = is_there(problems, place, problem.text);
    if (!known && warning)
        problems->n_warnings++;
    else if (!known)
        problems->n_errors++;
    if (known || problems->n == JOUST_MAX_PROBLEMS)
        joust_free(problem.text);
    else
        problems->items[problems->n++] = problem;
}

void joust_problem_add(joust_problems *problems, joust_place place, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add(problems, false, place, format, args);
    va_end(args);
}

void joust_warning_add(joust_problems *problems, joust_place place, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add(problems, true, place, format, args);
    va_end(args);
}

static int compare_u32(uint32_t a, uint32_t b)
{
    return (a > b) - (a < b);
}

static int compare_places(const void *a, const void *b)
{
    const joust_place *p = &((const joust_problem *)a)->place;
    const joust_place *q = &((const joust_problem *)b)->place;
    int order = compare_u32(p->origin, q->origin);
    if (!order)
        order = compare_u32(p->line, q->line);
    return order ? order : compare_u32(p->column, q->column);
}

/* What a file or an argument says may hold line ends and other control characters: a problem is one line. */
static void flatten(joust_buf *text, size_t from)
{
    for (size_t i = from; i < text->n; i++)
        if (text->data[i] < 0x20 || text->data[i] == 0x7f)
            text->data[i] = ' ';
}

static void print_problem(const joust_problems *problems, const joust_problem *p, joust_buf *to)
{
    const char *warning = p->warning ? "warning: " : "";
    const char *text = p->text ? p->text : "out of memory";
    uint32_t origin = p->place.origin;
    size_t from = to->n;
    if (!origin || !problems->sets || origin > problems->sets->n) {
        joust_buf_format(to, "%s:%u:%u: %s%s", problems->file, p->place.line, p->place.column,
                         warning, text);
    } else {
        const char *set = problems->sets->items[origin - 1];
        size_t n = strcspn(set, "=");
        if (strncmp(text, set, n) == 0 && strncmp(text + n, ": ", 2) == 0)
            text += n + 2; /* the key stands before it already */
        joust_buf_format(to, "--set %.*s: %s%s", (int)n, set, warning, text);
    }
    flatten(to, from);
    joust_buf_text(to, "\n");
}

void joust_problems_print(joust_problems *problems, joust_buf *to)
{
    qsort(problems->items, problems->n, sizeof(problems->items[0]), compare_places);
    for (uint32_t i = 0; i < problems->n; i++)
        print_problem(problems, &problems->items[i], to);
    uint32_t rest = problems->n_errors + problems->n_warnings - problems->n;
    if (rest)
        joust_buf_format(to, "%s: %u more\n", problems->file, rest);
}

void joust_problems_fini(joust_problems *problems)
{
    for (uint32_t i = 0; i < problems->n; i++)
        joust_free(problems->items[i].text);
    *problems = (joust_problems){0};
}
