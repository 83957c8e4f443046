/* What a thread does with the logits of its pass. */
#include "batch_internal.h"

#include "proto/base/alloc.h"
#include "proto/base/math.h"

static bool is_end(const joust_model_config *c, uint32_t token)
{
    const uint32_t *ends, n = joust_model_config_stops(c, &ends);
    for (uint32_t i = 0; i < n; i++)
        if (ends[i] == token)
            return true;
    return false;
}

/* End tokens that may not be drawn as response token n. */
static uint32_t banned(const joust_model_config *c, const joust_generate_request *r, uint32_t n,
                       const uint32_t **ret)
{
    const uint32_t n_ends = joust_model_config_stops(c, ret);
    return !r->ignore_end && n < r->sampling.min_tokens ? n_ends : 0;
}

/* ---- what a device answered -------------------------------------------------------------------- */

bool joust_lane_device_draws(const joust_model_config *c, const joust_generate_request *r,
                             uint32_t n)
{
    const joust_sampling *s = &r->sampling;
    const uint32_t *ends;
    return !r->guide && !banned(c, r, n, &ends) && s->repetition_penalty == 0 && s->top_k == 0 &&
           s->top_p >= 1;
}

static joust_log_sum log_sum_of(const joust_device_wanted *w)
{
    return (joust_log_sum){w->max, (float)joust_log((double)w->sum)};
}

/* As joust_sampler_draw, from what the device drew. */
static joust_status answer_take(joust_lane *lane, const joust_sampling *sampling, joust_draw *ret,
                                joust_error *err)
{
    const joust_device_draw *d = &lane->answers->draws[lane->next_draw++];
    const joust_log_sum sum = log_sum_of(&lane->answers->wanted[d->wanted]);
    joust_status st = joust_log_sum_check(sum, err);
    if (st)
        return st;
    const float raw = (d->x - sum.max) - sum.log_sum;
    *ret = (joust_draw){.token = d->token, .raw_logp = raw};
    if (sampling->temperature > 0)
        ret->logp = sampling->temperature == 1 && !(sampling->min_p > 0)
                        ? raw
                        : (float)((double)((d->x - sum.max) * d->scale) - joust_log(d->total));
    return JOUST_OK;
}

/* The same for the log-probs of given tokens. */
static joust_status answers_pick(joust_lane *lane, uint32_t n, float *ret, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < n && !st; i++) {
        const joust_device_pick *p = &lane->answers->picks[lane->next_pick++];
        const joust_log_sum sum = log_sum_of(&lane->answers->wanted[p->wanted]);
        st = joust_log_sum_check(sum, err);
        ret[i] = (p->x - sum.max) - sum.log_sum;
    }
    return st;
}

/* ---- drawing --------------------------------------------------------------------------------- */

/* Draws the sample's next token, or ends it where none is allowed. logits: NULL where a device has drawn it. */
static joust_status sample_draw(joust_lane *lane, joust_sequence *s, const float *logits,
                                joust_error *err)
{
    const joust_generate_request *r = s->group->request;
    const joust_model_config *c = &lane->model->config;
    const uint32_t *ends, n_banned = banned(c, r, s->n, &ends);
    const joust_draw_rules rules = {
        .prompt = r->prompt,
        .n_prompt = r->n_prompt,
        .tokens = s->tokens,
        .n = s->n,
        .banned = ends,
        .n_banned = n_banned,
        .guide = r->guide,
        .context = r->context,
        .request = s->index,
        .sample = s->sample};
    joust_draw draw;
    s->drew = true;
    joust_status st =
        logits ? joust_sampler_draw(&lane->sampler, logits, &rules, &r->sampling,
                                    joust_stream_float(&r->streams[s->sample], s->n), &draw, err)
               : answer_take(lane, &r->sampling, &draw, err);
    if (!st && !draw.none && lane->answers && logits) /* the sum that scoring has, too */
        draw.raw_logp =
            joust_logp(logits, log_sum_of(&lane->answers->wanted[lane->at_wanted]), draw.token);
    if (!st && draw.none) {
        s->finish = JOUST_FINISH_ABORTED;
        return JOUST_OK;
    }
    if (!st)
        st = joust_sequence_add(s, draw.token, draw.raw_logp, draw.logp, err);
    if (st)
        return st;
    if (!r->ignore_end && is_end(c, draw.token))
        s->finish = JOUST_FINISH_STOP;
    else if (s->n == s->group->limit)
        s->finish = JOUST_FINISH_LENGTH;
    return JOUST_OK;
}

/* The end of a prompt: every sample takes the forced tokens and draws its first. */
static joust_status samples_draw(joust_lane *lane, joust_group *o, const float *logits,
                                 joust_error *err)
{
    const joust_generate_request *r = o->request;
    joust_status st = JOUST_OK;
    for (uint32_t k = 0; k < r->n_samples && !st; k++) {
        for (uint32_t i = 0; i < r->n_forced && !st; i++)
            st = joust_sequence_add(&o->samples[k], r->forced[i], o->forced_logps[i], 0, err);
        if (!st)
            st = sample_draw(lane, &o->samples[k], logits, err);
    }
    return st;
}

static joust_status raw_logp(joust_lane *lane, const float *logits, const uint32_t *tokens,
                             uint32_t n, float *ret, joust_error *err)
{
    if (lane->answers)
        return answers_pick(lane, n, ret, err);
    joust_log_sum sum = lane->sampler.kernels->log_sum(logits, lane->sampler.n);
    joust_status st = joust_log_sum_check(sum, err);
    for (uint32_t i = 0; i < n && !st; i++)
        ret[i] = joust_logp(logits, sum, tokens[i]);
    return st;
}

static joust_status prompt_use(joust_lane *lane, joust_sequence *s, uint32_t position,
                               const float *logits, joust_error *err)
{
    joust_group *o = s->group;
    if (position + 1 == s->n_known)
        return samples_draw(lane, o, logits, err);
    uint32_t i = position + 1 - s->n_head;
    return raw_logp(lane, logits, &o->request->forced[i], 1, &o->forced_logps[i], err);
}

static joust_status score_use(joust_lane *lane, joust_score_request *r, uint32_t position,
                              const float *logits, joust_error *err)
{
    uint32_t after = position + 1;
    if (after < r->n)
        return raw_logp(lane, logits, &r->tokens[after], 1, &r->ret_logps[after - r->first], err);
    return raw_logp(lane, logits, r->next, r->n_next, r->ret_next_logps, err);
}

joust_status joust_lane_use(joust_lane *lane, joust_error *err)
{
    const size_t ld = joust_lanes_up(lane->model->config.vocab_size);
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < lane->n_wanted && !st; i++) {
        const float *logits = lane->answers
                                  ? lane->answers->wanted[lane->first_wanted + i].ret_logits
                                  : lane->logits + i * ld;
        joust_sequence *s = lane->wanted[i].sequence;
        lane->at_wanted = lane->first_wanted + i;
        if (s->kind == JOUST_SEQUENCE_SAMPLE)
            st = sample_draw(lane, s, logits, err);
        else if (s->kind == JOUST_SEQUENCE_PROMPT)
            st = prompt_use(lane, s, lane->wanted[i].position, logits, err);
        else
            st = score_use(lane, s->score, lane->wanted[i].position, logits, err);
    }
    return st;
}
