#include "sampler_internal.h"

#include <math.h> /* isfinite, INFINITY */
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/math.h"

joust_status joust_sampling_check(const joust_sampling *s, joust_error *err)
{
    if (!(s->temperature >= 0 && isfinite(s->temperature)) ||
        (s->temperature > 0 && !isfinite(1.0f / s->temperature)))
        return joust_fail(err, JOUST_INVALID,
                          "sampling: temperature must be 0 or a positive number");
    if (!(s->top_p > 0 && s->top_p <= 1))
        return joust_fail(err, JOUST_INVALID,
                          "sampling: top_p is %g, must be above 0 and at most 1", (double)s->top_p);
    if (!(s->min_p >= 0 && s->min_p <= 1))
        return joust_fail(err, JOUST_INVALID, "sampling: min_p is %g, must be from 0 to 1",
                          (double)s->min_p);
    if (!(s->repetition_penalty >= 0 && isfinite(s->repetition_penalty)) ||
        (s->repetition_penalty > 0 && !isfinite(1.0f / s->repetition_penalty)))
        return joust_fail(
            err, JOUST_INVALID,
            "sampling: repetition_penalty is %g, must be 0 (off) or a positive number",
            (double)s->repetition_penalty);
    if (s->max_tokens == 0)
        return joust_fail(err, JOUST_INVALID, "sampling: max_tokens must be at least 1");
    if (s->min_tokens > s->max_tokens)
        return joust_fail(err, JOUST_INVALID, "sampling: min_tokens is %u, max_tokens only %u",
                          s->min_tokens, s->max_tokens);
    return JOUST_OK;
}

joust_status joust_sampler_init(joust_sampler *s, const joust_kernels *kernels, uint32_t n,
                                joust_error *err)
{
    *s = (joust_sampler){.kernels = kernels, .n = n};
    s->weights = joust_calloc_aligned(joust_lanes_up(n), sizeof(*s->weights));
    s->candidates = joust_calloc(n, sizeof(*s->candidates));
    s->marks = joust_calloc(n / JOUST_MARK_STEP + 1, sizeof(*s->marks));
    if (s->weights && s->candidates && s->marks)
        return JOUST_OK;
    joust_sampler_fini(s);
    return joust_fail(err, JOUST_NOMEM, "sampler: no memory for a vocabulary of %u", n);
}

void joust_sampler_fini(joust_sampler *s)
{
    joust_free_aligned(s->weights);
    joust_free(s->candidates);
    joust_free(s->marks);
    joust_free_aligned(s->edited);
    joust_free(s->seen);
    *s = (joust_sampler){0};
}

float joust_logp(const float *logits, joust_log_sum sum, uint32_t token)
{
    return (logits[token] - sum.max) - sum.log_sum;
}

joust_status joust_log_sum_check(joust_log_sum sum, joust_error *err)
{
    if (isfinite(sum.max) && isfinite(sum.log_sum))
        return JOUST_OK;
    return joust_fail(
        err, JOUST_NOT_FINITE,
        "the model's logits are not finite: its weights are damaged or training diverged");
}

/* The first of the largest logits; max is one of them. */
static uint32_t likeliest(const float *logits, float max)
{
    uint32_t i = 0;
    while (logits[i] < max)
        i++;
    return i;
}

/* Whether candidate a comes before b. */
static bool before(const float *logits, uint32_t a, uint32_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static void heap_sink(uint32_t *heap, uint32_t n, uint32_t at, const float *logits)
{
    for (uint32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(logits, heap[child + 1], heap[child]))
            child++;
        if (!before(logits, heap[child], heap[at]))
            return;
        uint32_t swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
    }
}

/* Leaves the weights of the likeliest tokens only: at most top_k, then the fewest that hold top_p
 * of those. */
static void keep_likeliest(joust_sampler *s, const float *logits, uint32_t top_k, float top_p)
{
    uint32_t n = s->n, n_kept = top_k && top_k < n ? top_k : n;
    uint32_t *heap = s->candidates;
    for (uint32_t i = 0; i < n; i++)
        heap[i] = i;
    for (uint32_t i = n / 2; i-- > 0;)
        heap_sink(heap, n, i, logits);
    double total = 0, held = 0;
    uint32_t left = n;
    for (uint32_t k = 0; k < n_kept;
         k++) { /* taken candidates stand behind the heap, likeliest last */
        uint32_t taken = heap[0];
        total += (double)s->weights[taken];
        heap[0] = heap[--left];
        heap_sink(heap, left, 0, logits);
        heap[left] = taken;
    }
    for (uint32_t i = 0; i < left; i++)
        s->weights[heap[i]] = 0;
    for (uint32_t k = 0; top_p < 1 && k < n_kept; k++) {
        uint32_t token = heap[n - 1 - k];
        if (k > 0 && held >= (double)top_p * total)
            s->weights[token] = 0;
        else
            held += (double)s->weights[token];
    }
}

/* The sum of the weights by id, in double, once some were left out; marks as the kernel's. */
static double weights_sum(joust_sampler *s)
{
    double sum = 0;
    for (uint32_t first = 0; first < s->n; first += JOUST_MARK_STEP) {
        const uint32_t end = s->n - first < JOUST_MARK_STEP ? s->n : first + JOUST_MARK_STEP;
        s->marks[first / JOUST_MARK_STEP] = sum;
        for (uint32_t i = first; i < end; i++)
            sum += (double)s->weights[i];
    }
    return sum;
}

/* The token at which the running sum of weights, by id, passes uniform * total; where none does, the
 * last that weighs anything. */
static uint32_t pick(const joust_sampler *s, float uniform, double total)
{
    const double at = (double)uniform * total;
    uint32_t block = (s->n - 1) / JOUST_MARK_STEP;
    if (!(total > at)) {
        uint32_t last = s->n - 1;
        while (last > 0 && !(s->weights[last] > 0))
            last--;
        return last;
    }
    while (s->marks[block] > at)
        block--;
    double sum = s->marks[block];
    uint32_t i = block * JOUST_MARK_STEP;
    while (!((sum += (double)s->weights[i]) > at))
        i++;
    return i;
}

/* Each token of prompt and response once: a logit above 0 is divided by the penalty, another
 * multiplied. Source: Keskar et al. 2019 as in transformers' RepetitionPenaltyLogitsProcessor. */
static void penalise(joust_sampler *s, const joust_draw_rules *rules, float penalty)
{
    memset(s->seen, 0, ((size_t)s->n + 63) / 64 * sizeof(*s->seen));
    for (uint32_t i = 0; i < rules->n_prompt + rules->n; i++) {
        uint32_t token =
            i < rules->n_prompt ? rules->prompt[i] : rules->tokens[i - rules->n_prompt];
        uint64_t bit = (uint64_t)1 << (token % 64);
        if (s->seen[token / 64] & bit)
            continue;
        s->seen[token / 64] |= bit;
        float *logit = &s->edited[token];
        *logit = *logit > 0 ? *logit / penalty : *logit * penalty;
    }
}

/* Copies the logits and changes them by the rules. */
static joust_status edit(joust_sampler *s, const float *logits, const joust_draw_rules *rules,
                         float penalty, joust_error *err)
{
    if (!s->edited)
        s->edited = joust_calloc_aligned(joust_lanes_up(s->n), sizeof(*s->edited));
    if (!s->seen)
        s->seen = joust_calloc(((size_t)s->n + 63) / 64, sizeof(*s->seen));
    if (!s->edited || !s->seen)
        return joust_fail(err, JOUST_NOMEM, "sampler: no memory for a vocabulary of %u", s->n);
    memcpy(s->edited, logits, s->n * sizeof(*logits));
    if (penalty > 0)
        penalise(s, rules, penalty);
    joust_status st = JOUST_OK;
    if (rules->guide)
        st = rules->guide(rules->context, rules->request, rules->sample, rules->tokens, rules->n,
                          s->edited, s->n, err);
    for (uint32_t i = 0; i < rules->n_banned; i++)
        if (rules->banned[i] < s->n)
            s->edited[rules->banned[i]] = -INFINITY;
    return st;
}

/* The log-sum of logits; at temperature 1 the weights come with it, and *total, what they sum to. */
static joust_log_sum sum_of(joust_sampler *s, const float *logits, const joust_sampling *sampling,
                            double *total)
{
    return sampling->temperature == 1
               ? s->kernels->log_sum_keep(logits, s->n, s->weights, s->marks, total)
               : s->kernels->log_sum(logits, s->n);
}

/* Draws from logits whose log-sum is sum_of's, the last that it was asked for; *total becomes what the weights of those left
 * in sum to. */
static uint32_t draw_by_weight(joust_sampler *s, const float *logits, joust_log_sum sum,
                               const joust_sampling *sampling, float uniform, double *total)
{
    if (sampling->temperature != 1)
        *total = s->kernels->exponentials(logits, s->n, sum.max, 1.0f / sampling->temperature,
                                          s->weights, s->marks);
    if (sampling->top_k || sampling->top_p < 1)
        keep_likeliest(s, logits, sampling->top_k, sampling->top_p);
    for (uint32_t i = 0; sampling->min_p > 0 && i < s->n; i++)
        if (s->weights[i] < sampling->min_p) /* the likeliest weighs 1 */
            s->weights[i] = 0;
    if (sampling->top_k || sampling->top_p < 1 || sampling->min_p > 0)
        *total = weights_sum(s);
    return pick(s, uniform, *total);
}

joust_status joust_sampler_draw(joust_sampler *s, const float *logits,
                                const joust_draw_rules *rules, const joust_sampling *sampling,
                                float uniform, joust_draw *ret, joust_error *err)
{
    const float *from = logits;
    bool edited = rules && (sampling->repetition_penalty > 0 || rules->guide || rules->n_banned);
    double total = 0;
    const joust_log_sum raw =
        edited ? s->kernels->log_sum(logits, s->n) : sum_of(s, logits, sampling, &total);
    joust_log_sum sum = raw;
    joust_status st = joust_log_sum_check(raw, err);
    if (!st && edited) {
        st = edit(s, logits, rules, sampling->repetition_penalty, err);
        from = s->edited;
        if (!st)
            sum = sum_of(s, from, sampling, &total);
        if (!st && sum.max == -INFINITY) {
            *ret = (joust_draw){.none = true};
            return JOUST_OK;
        }
        if (!st && !(isfinite(sum.max) && isfinite(sum.log_sum)))
            st = joust_fail(err, JOUST_NOT_FINITE, "the guide's logits are not finite");
    }
    if (st)
        return st;
    joust_draw draw = {0};
    if (sampling->temperature == 0) {
        draw.token = likeliest(from, sum.max);
        draw.raw_logp = joust_logp(logits, raw, draw.token);
    } else {
        draw.token = draw_by_weight(s, from, sum, sampling, uniform, &total);
        draw.logp = draw.raw_logp = joust_logp(logits, raw, draw.token);
        if (edited || sampling->top_k || sampling->top_p < 1 || sampling->min_p > 0 ||
            sampling->temperature != 1)
            draw.logp =
                (float)((double)((from[draw.token] - sum.max) * (1.0f / sampling->temperature)) -
                        joust_log(total));
    }
    *ret = draw;
    return JOUST_OK;
}
