/* The regular-expression rule: the sole user of PCRE2. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "judge/rules.h"
#include "proto/base/alloc.h"

/* Bounds of one match; reached only by patterns that backtrack without end. */
#define MATCH_STEPS  1000000u
#define MATCH_MEMORY 16384u /* KiB of heap */

struct joust_rule_pattern {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

joust_status joust_rule_pattern_compile(const char *pattern, joust_rule_pattern **ret,
                                        joust_error *err)
{
    int number = 0;
    PCRE2_SIZE offset = 0;
    joust_rule_pattern *p = joust_calloc(1, sizeof(*p));
    if (!p)
        return joust_fail(err, JOUST_NOMEM, "pattern: out of memory");
    p->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                            &number, &offset, NULL);
    if (!p->code) {
        PCRE2_UCHAR reason[256];
        if (pcre2_get_error_message(number, reason, sizeof(reason)) < 0)
            reason[0] = 0;
        joust_rule_pattern_free(&p);
        return joust_fail(err, JOUST_INVALID, "pattern '%s': %s, at byte %zu", pattern,
                          (const char *)reason, (size_t)offset);
    }
    p->match = pcre2_match_data_create(1, NULL);
    p->limits = pcre2_match_context_create(NULL);
    if (!p->match || !p->limits) {
        joust_rule_pattern_free(&p);
        return joust_fail(err, JOUST_NOMEM, "pattern: out of memory");
    }
    pcre2_set_match_limit(p->limits, MATCH_STEPS);
    pcre2_set_heap_limit(p->limits, MATCH_MEMORY);
    *ret = p;
    return JOUST_OK;
}

void joust_rule_pattern_free(joust_rule_pattern **pattern)
{
    joust_rule_pattern *p = *pattern;
    if (!p)
        return;
    pcre2_match_context_free(p->limits);
    pcre2_match_data_free(p->match);
    pcre2_code_free(p->code);
    joust_free(p);
    *pattern = NULL;
}

joust_rule_result joust_rule_pattern_match(const joust_rule_pattern *pattern, const char *response)
{
    int found = pcre2_match(pattern->code, (PCRE2_SPTR)response, strlen(response), 0, 0,
                            pattern->match, pattern->limits);
    if (found >= 0)
        return JOUST_RULE_TRUE;
    return found == PCRE2_ERROR_NOMATCH ? JOUST_RULE_FALSE : JOUST_RULE_LIMIT;
}
