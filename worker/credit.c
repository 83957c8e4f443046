#include "worker/credit.h"

#include <math.h> /* isfinite, sqrt */
#include <stdlib.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "worker/answer.h"
#include "worker/engine/lora.h"
#include "worker/engine/train/policy_gradient.h"
#include "worker/trainer_internal.h"

#define AT_ONCE      JOUST_PAIR_FEED_AHEAD
#define WHITEN_FLOOR 1e-8 /* added to the variance, as TRL does */

typedef struct answer_place {
    uint64_t ordinal;
    size_t first; /* of its tokens */
    uint32_t n;
    double reward;
} answer_place;

struct joust_credit {
    bool of_ppo;
    answer_place *places; /* (n_places) in the feed's order; by ordinal once complete */
    uint32_t n_places, longest;
    size_t places_capacity, n_tokens, capacity;
    uint8_t *forced; /* these (n_tokens) each */
    float *logps, *values, *ref_logps;
    double *advantages, *returns;
};

joust_status joust_credit_create(bool of_ppo, joust_credit **ret, joust_error *err)
{
    joust_credit *c = joust_calloc(1, sizeof(*c));
    if (!c)
        return joust_fail(err, JOUST_NOMEM, "credit: out of memory");
    c->of_ppo = of_ppo;
    *ret = c;
    return JOUST_OK;
}

void joust_credit_free(joust_credit **credit)
{
    joust_credit *c = *credit;
    if (!c)
        return;
    joust_free(c->places);
    joust_free(c->forced);
    joust_free(c->logps);
    joust_free(c->values);
    joust_free(c->ref_logps);
    joust_free(c->advantages);
    joust_free(c->returns);
    joust_free(c);
    *credit = NULL;
}

/* Answers ---------------------------------------------------------------------------------------- */

/* array: the address of a pointer to n elements at most. */
static bool widen(void *array, size_t n, size_t size)
{
    void *old;
    memcpy(&old, array, sizeof(old));
    void *grown = joust_realloc_array(old, n, size);
    if (grown)
        memcpy(array, &grown, sizeof(grown));
    return grown != NULL;
}

static joust_status reserve(joust_credit *c, size_t n, joust_error *err)
{
    if (c->n_tokens + n <= c->capacity)
        return JOUST_OK;
    const size_t room = c->n_tokens + n > 2 * c->capacity ? c->n_tokens + n : 2 * c->capacity;
    bool grown =
        widen(&c->forced, room, sizeof(*c->forced)) && widen(&c->logps, room, sizeof(*c->logps));
    if (grown && c->of_ppo)
        grown = widen(&c->values, room, sizeof(*c->values)) &&
                widen(&c->ref_logps, room, sizeof(*c->ref_logps)) &&
                widen(&c->advantages, room, sizeof(*c->advantages)) &&
                widen(&c->returns, room, sizeof(*c->returns));
    if (!grown)
        return joust_fail(err, JOUST_NOMEM, "credit: no memory for %zu tokens", room);
    c->capacity = room;
    return JOUST_OK;
}

joust_status joust_credit_add(joust_credit *c, const joust_train_row_pair *row,
                              const uint8_t *forced, const float *logps, joust_error *err)
{
    joust_status st = reserve(c, row->n_chosen, err);
    if (st != JOUST_OK)
        return st;
    if (c->n_places == UINT32_MAX ||
        !joust_grow(&c->places, c->n_places, &c->places_capacity, sizeof(*c->places)))
        return joust_fail(err, JOUST_NOMEM, "credit: more than %u answers", c->n_places);
    const size_t at = c->n_tokens;
    memcpy(c->forced + at, forced, row->n_chosen);
    memcpy(c->logps + at, logps, row->n_chosen * sizeof(*logps));
    c->places[c->n_places++] = (answer_place){
        .ordinal = row->ordinal, .first = at, .n = row->n_chosen, .reward = row->margin};
    c->n_tokens += row->n_chosen;
    c->longest = row->n_chosen > c->longest ? row->n_chosen : c->longest;
    return JOUST_OK;
}

/* Models ----------------------------------------------------------------------------------------- */

/* A pass over all answers by one model. */
typedef struct reading {
    joust_credit *credit;
    const joust_policy_source *from;
    joust_model *model;
    bool values;     /* asked for, not log-probs */
    bool base_alone; /* without its adapter */
    uint64_t
        drew; /* answers of this version have the model's log-probs already; UINT64_MAX: none do */
    float *into; /* of all tokens */
} reading;

static joust_status ask(const reading *r, const joust_answer *answers, uint32_t n, joust_error *err)
{
    joust_engine *engine = r->from->training->engine;
    if (r->values)
        return joust_answers_values(engine, r->model, answers, n, err);
    joust_model_adapter_switch(r->model, !r->base_alone);
    joust_status st = joust_answers_score(engine, r->model, answers, n, err);
    joust_model_adapter_switch(r->model, true);
    return st;
}

/* Answers first .. first + n - 1, n <= AT_ONCE. */
static joust_status read_batch(const reading *r, uint32_t first, uint32_t n, joust_error *err)
{
    joust_answer answers[AT_ONCE] = {{0}};
    uint32_t which[AT_ONCE], n_asked = 0;
    joust_status st = joust_pair_feed_need(r->from->feed, first, n, err);
    for (uint32_t i = 0; i < n && st == JOUST_OK; i++) {
        const joust_train_row_pair *row = joust_pair_feed_row(r->from->feed, first + i);
        const answer_place *place = &r->credit->places[first + i];
        if (row->ordinal != place->ordinal || row->n_chosen != place->n)
            st = joust_fail(err, JOUST_MALFORMED, "row %u: another answer than before", first + i);
        else if (row->chosen_policy == r->drew)
            memcpy(r->into + place->first, row->chosen_logps, place->n * sizeof(*r->into));
        else if ((st = joust_answer_make(row, &answers[n_asked], err)) == JOUST_OK)
            which[n_asked++] = first + i;
    }
    if (st == JOUST_OK)
        st = ask(r, answers, n_asked, err);
    for (uint32_t i = 0; i < n_asked; i++) {
        const answer_place *place = &r->credit->places[which[i]];
        if (st == JOUST_OK)
            memcpy(r->into + place->first, answers[i].numbers, place->n * sizeof(*r->into));
        joust_answer_fini(&answers[i]);
    }
    return st;
}

static joust_status read_all(const reading *r, joust_error *err)
{
    const joust_upstream *up = r->from->training->up;
    const uint32_t n = r->credit->n_places;
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < n && st == JOUST_OK; i += AT_ONCE) {
        st = read_batch(r, i, n - i < AT_ONCE ? n - i : AT_ONCE, err);
        if (st == JOUST_OK)
            st = up->check(up->context, i, err);
    }
    return st;
}

/* The same by a model that is loaded for it. */
static joust_status read_by(reading *r, const joust_model_ref *ref, joust_error *err)
{
    joust_model *loaded = NULL;
    joust_status st = joust_training_load(r->from->training, ref, &loaded, err);
    r->model = loaded;
    if (st == JOUST_OK)
        st = read_all(r, err);
    joust_model_free(&loaded);
    return st;
}

static joust_status read_values(joust_credit *c, const joust_policy_source *from, joust_error *err)
{
    reading r = {.credit = c,
                 .from = from,
                 .values = true,
                 .model = from->model,
                 .drew = UINT64_MAX,
                 .into = c->values};
    return from->of_critic ? read_all(&r, err) : read_by(&r, &from->unit->partner, err);
}

/* What the rewards' divergence is counted from: the policy's log-probs, where no pass of its own gave them, and the
 * reference's. */
static joust_status read_divergence(joust_credit *c, const joust_policy_source *from,
                                    joust_error *err)
{
    const joust_lease_unit *unit = from->unit;
    reading policy = {.credit = c, .from = from, .drew = UINT64_MAX, .into = c->logps};
    reading reference = {.credit = c,
                         .from = from,
                         .model = from->model,
                         .base_alone = true,
                         .drew = from->served ? UINT64_MAX : unit->reference.version,
                         .into = c->ref_logps};
    joust_status st = JOUST_OK;
    if (from->of_critic && from->served)
        st = read_by(&policy, &unit->partner, err);
    if (st != JOUST_OK)
        return st;
    if (from->reference_is_base)
        return read_all(&reference, err);
    reference.base_alone = false;
    return read_by(&reference, &unit->reference, err);
}

/* Credit ----------------------------------------------------------------------------------------- */

/* Scratch of one answer: its tokens that count, close together. */
typedef struct scratch {
    double *rewards, *advantages, *returns;
    float *values;
    uint32_t *at; /* which token it was */
} scratch;

static void scratch_fini(scratch *s)
{
    joust_free(s->rewards);
    joust_free(s->advantages);
    joust_free(s->returns);
    joust_free(s->values);
    joust_free(s->at);
}

static joust_status scratch_make(scratch *s, uint32_t n, joust_error *err)
{
    *s = (scratch){.rewards = joust_calloc(n, sizeof(*s->rewards)),
                   .advantages = joust_calloc(n, sizeof(*s->advantages)),
                   .returns = joust_calloc(n, sizeof(*s->returns)),
                   .values = joust_calloc(n, sizeof(*s->values)),
                   .at = joust_calloc(n, sizeof(*s->at))};
    if (s->rewards && s->advantages && s->returns && s->values && s->at)
        return JOUST_OK;
    scratch_fini(s);
    return joust_fail(err, JOUST_NOMEM, "credit: %u tokens", n);
}

static void credit_answer(joust_credit *c, const answer_place *place,
                          const joust_job_critic *critic, double kl_weight, scratch *s, double *kl)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < place->n; i++) {
        const size_t at = place->first + i;
        c->advantages[at] = c->returns[at] = 0;
        if (c->forced[at])
            continue;
        const double ratio = kl_weight > 0 ? (double)c->logps[at] - (double)c->ref_logps[at] : 0;
        *kl += ratio;
        s->rewards[n] = -kl_weight * ratio;
        s->values[n] = c->values[at];
        s->at[n++] = i;
    }
    if (n == 0)
        return;
    s->rewards[n - 1] += place->reward;
    joust_gae(s->rewards, s->values, n, critic->gamma, critic->lambda, s->advantages, s->returns);
    for (uint32_t i = 0; i < n; i++) {
        c->advantages[place->first + s->at[i]] = s->advantages[i];
        c->returns[place->first + s->at[i]] = s->returns[i];
    }
}

/* Sums in the feed's order, which the job alone decides. */
static double mean_of(const joust_credit *c, const double *x, const float *less, uint64_t n)
{
    double sum = 0;
    for (size_t i = 0; i < c->n_tokens; i++)
        sum += c->forced[i] ? 0 : x[i] - (less ? (double)less[i] : 0);
    return sum / (double)n;
}

/* Σ (x − less − about)² */
static double squares_of(const joust_credit *c, const double *x, const float *less, double about)
{
    double sum = 0;
    for (size_t i = 0; i < c->n_tokens; i++) {
        const double off = x[i] - (less ? (double)less[i] : 0) - about;
        sum += c->forced[i] ? 0 : off * off;
    }
    return sum;
}

static void whiten(joust_credit *c, uint64_t n)
{
    const double mean = mean_of(c, c->advantages, NULL, n),
                 variance = squares_of(c, c->advantages, NULL, mean) / (double)(n - 1),
                 deviation = sqrt(variance + WHITEN_FLOOR);
    for (size_t i = 0; i < c->n_tokens; i++)
        c->advantages[i] = c->forced[i] ? 0 : (c->advantages[i] - mean) / deviation;
}

static joust_credit_figures figures_of(const joust_credit *c, uint64_t n, double kl)
{
    const double mean = mean_of(c, c->returns, NULL, n),
                 spread = squares_of(c, c->returns, NULL, mean),
                 off = mean_of(c, c->returns, c->values, n),
                 left = squares_of(c, c->returns, c->values, off);
    return (joust_credit_figures){.value_loss =
                                      squares_of(c, c->returns, c->values, 0) / (double)n / 2,
                                  .explained_variance = spread > 0 ? 1 - left / spread : 0,
                                  .kl = kl / (double)n,
                                  .n = n};
}

static joust_status make_credit(joust_credit *c, const joust_job_train *params,
                                joust_credit_figures *ret, joust_error *err)
{
    const double kl_weight = params->critic.kl_in_reward ? params->policy.kl_weight : 0;
    scratch s;
    double kl = 0;
    uint64_t n = 0;
    joust_status st = scratch_make(&s, c->longest, err);
    if (st != JOUST_OK)
        return st;
    for (uint32_t i = 0; i < c->n_places; i++)
        credit_answer(c, &c->places[i], &params->critic, kl_weight, &s, &kl);
    scratch_fini(&s);
    for (size_t i = 0; i < c->n_tokens; i++) {
        n += !c->forced[i];
        if (!isfinite(c->advantages[i]) || !isfinite(c->returns[i]))
            return joust_fail(err, JOUST_NOT_FINITE,
                              "an advantage is not finite: a value, a reward or a log-prob of the "
                              "reference isn't");
    }
    if (n > 0)
        *ret = figures_of(c, n, kl);
    if (n > 1 && params->critic.whiten)
        whiten(c, n);
    return JOUST_OK;
}

static int by_ordinal(const void *a, const void *b)
{
    const uint64_t x = ((const answer_place *)a)->ordinal, y = ((const answer_place *)b)->ordinal;
    return x < y ? -1 : x > y;
}

joust_status joust_credit_complete(joust_credit *c, const joust_policy_source *from,
                                   joust_credit_figures *ret, joust_error *err)
{
    const joust_job_train *params = &from->training->stage->train;
    joust_status st = JOUST_OK;
    if (c->of_ppo) {
        st = read_values(c, from, err);
        if (st == JOUST_OK && params->critic.kl_in_reward && params->policy.kl_weight > 0)
            st = read_divergence(c, from, err);
        if (st == JOUST_OK)
            st = make_credit(c, params, ret, err);
    }
    if (st == JOUST_OK && c->n_places > 0)
        qsort(c->places, c->n_places, sizeof(*c->places), by_ordinal);
    return st;
}

joust_status joust_credit_find(const joust_credit *c, uint64_t ordinal, uint32_t n,
                               joust_credit_tokens *ret, joust_error *err)
{
    const answer_place key = {.ordinal = ordinal};
    const answer_place *place =
        c->n_places ? bsearch(&key, c->places, c->n_places, sizeof(key), by_ordinal) : NULL;
    if (!place || place->n != n)
        return joust_fail(err, JOUST_MALFORMED, "answer %llu was not in the first pass",
                          (unsigned long long)ordinal);
    *ret = (joust_credit_tokens){
        .n = n, .forced = c->forced + place->first, .logps = c->logps + place->first};
    if (c->of_ppo) {
        ret->values = c->values + place->first;
        ret->advantages = c->advantages + place->first;
        ret->returns = c->returns + place->first;
    }
    return JOUST_OK;
}
