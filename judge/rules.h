/* Rules: what a text is compared with when no model is asked. Pure functions of two texts; a
 * wrong-looking answer is data (false), never an error. Numbers are compared as decimals, digit by
 * digit: "1,000.50" equals "1000.5" and no floating point is involved. All run in time linear in
 * the texts and allocate nothing. Thread: any. */
#ifndef JOUST_JUDGE_RULES_H
#define JOUST_JUDGE_RULES_H

#include <stdbool.h>

#include "proto/base/status.h"

typedef enum joust_rule_result {
    JOUST_RULE_FALSE = 0,
    JOUST_RULE_TRUE = 1,
    JOUST_RULE_NO_REFERENCE = 2, /* the reference is absent or lacks what the rule compares */
    JOUST_RULE_LIMIT = 3         /* the pattern reached its match limit */
} joust_rule_result;

/* The last number after the last "####", or the last number of a text without "####", equals the
 * reference's. A number: an optional sign that doesn't follow a letter, digit or closing
 * parenthesis, digits (with commas between groups of three), and an optional fraction. reference
 * may be NULL. */
joust_rule_result joust_rule_final_number(const char *response, const char *reference);

/* As above, and every step of the response "a + b = c" (one or more of + - * / x between numbers,
 * then "=" and a number) equals the reference's step at the same place, and there are as many.
 * White space and "$" don't count. GSM8K's "48/2 = <<48/2=24>>24" is one step: what stands between
 * the angle brackets. */
joust_rule_result joust_rule_steps_and_number(const char *response, const char *reference);

/* The texts are equal after trimming white space at both ends. */
joust_rule_result joust_rule_exact(const char *response, const char *reference);

/* A compiled regular expression (PCRE2, UTF-8, Unicode classes). */
typedef struct joust_rule_pattern joust_rule_pattern;
/* Errors: JOUST_INVALID with the offset in the pattern; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_rule_pattern_compile(const char *pattern,
                                                       joust_rule_pattern **ret, joust_error *err);
void joust_rule_pattern_free(joust_rule_pattern **pattern);
/* Whether the pattern matches somewhere in the response, within a fixed number of steps, so that
 * the answer is the same on every machine. Thread: one at a time a pattern. */
joust_rule_result joust_rule_pattern_match(const joust_rule_pattern *pattern, const char *response);

#endif
