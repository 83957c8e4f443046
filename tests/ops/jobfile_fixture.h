/* For tests of the job file: a job that a test changes a little, and what is printed about it. */
#ifndef JOUST_TESTS_OPS_JOBFILE_FIXTURE_H
#define JOUST_TESTS_OPS_JOBFILE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "ops/jobfile.h"
#include "proto/base/alloc.h"

/* The job of the reference: what the tests change a little. */
static const char JOB[] = "name: self-rewarding\n"
                          "seed: 7\n"
                          "rounds: 4\n"
                          "models:\n"
                          "  policy: {path: base}\n"
                          "prompts:  {file: problems.jsonl, per_round: 500, order: shuffle}\n"
                          "rollout:  {samples: 8, temperature: 0.8, top_p: 1.0, max_tokens: 26}\n"
                          "judges:\n"
                          "  - {name: self, kind: yes-no, model: policy}\n"
                          "  - {name: exact, kind: rule, rule: steps-and-number, role: evaluate}\n"
                          "pairs:    {build: best-worst, min_chosen: 1.5, max_rejected: 0.0}\n"
                          "train:    {loss: dpo, beta: 0.1, learning_rate: 1e-4}\n"
                          "promote:  {prompts: validation.jsonl, judge: exact}\n"
                          "evaluate: {prompts: test.jsonl, judge: exact, against: [base]}\n";

static inline joust_text_list list_of(const char *const *sets)
{
    joust_text_list list = {0};
    for (; sets && sets[list.n]; list.n++)
        list.items[list.n] = sets[list.n];
    return list;
}

/* Parses text; the lines that are printed must be exactly `expected` ("" for none). */
static inline joust_status parse(const char *text, const char *const *sets, const char *expected,
                                 joust_jobfile *ret)
{
    joust_problems problems = {0};
    joust_text_list list = list_of(sets);
    joust_error err;
    joust_status st =
        joust_jobfile_parse(text, strlen(text), "j.yaml", NULL, &list, ret, &problems, &err);
    joust_buf lines = {0};
    joust_buf_text(&lines, "");
    joust_problems_print(&problems, &lines);
    assert_string_equal(lines.n ? (const char *)lines.data : "", expected);
    assert_int_equal(st, problems.n_errors ? JOUST_INVALID : JOUST_OK);
    joust_buf_fini(&lines);
    joust_problems_fini(&problems);
    return st;
}

/* JOB with its line `number` (from 1) replaced; the caller frees. */
static inline char *with_line(uint32_t number, const char *line)
{
    joust_buf text = {0};
    uint32_t n = 1;
    for (const char *s = JOB; *s; n++) {
        size_t length = strcspn(s, "\n") + 1;
        if (n == number)
            joust_buf_format(&text, "%s\n", line);
        else
            joust_buf_add(&text, s, length);
        s += length;
    }
    return joust_buf_take_text(&text);
}

static inline void refused_line(uint32_t number, const char *line, const char *expected)
{
    joust_jobfile jobfile;
    char *text = with_line(number, line);
    assert_int_equal(parse(text, NULL, expected, &jobfile), JOUST_INVALID);
    joust_free(text);
}

/* Overrides, as `--set` gives them. */
#define SETS(...) ((const char *const[]){__VA_ARGS__, NULL})

#endif
