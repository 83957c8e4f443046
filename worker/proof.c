#include "worker/proof.h"

#include <math.h> /* HUGE_VAL alone */
#include <string.h>

#include "proto/base/alloc.h"

#define MOST_IDS 32u /* of a probe */

static const char *const TEXTS[JOUST_PROBES] = {
    "The quick brown fox jumps over the lazy dog. 1 2 3 5 8 13 21. One and one are",
    "Once upon a time there was a king who had three daughters. The eldest",
    "12+30=42 7+8=15 99+1=100 45+23=", "int main(void) { return 0; } /* What does it return? It"};

/* Some ids of the vocabulary, always the same: for a tokenizer that makes too little of a text. */
static joust_status draw_ids(const joust_model_config *config, uint32_t probe, joust_tokens *to,
                             joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < 8; i++) {
        uint32_t id =
            (uint32_t)((1 + probe + (uint64_t)i * JOUST_PROBES) * 7919 % config->vocab_size);
        st = joust_tokens_add(to, &id, 1, err);
    }
    return st;
}

static joust_status make_probe(const joust_model_config *config, const joust_tokenizer *tokenizer,
                               uint32_t probe, joust_tokens *to, joust_error *err)
{
    joust_error ignored;
    joust_tokens text = {0};
    joust_status st = JOUST_OK;
    uint32_t most = config->context / 2 < MOST_IDS ? config->context / 2 : MOST_IDS;
    if (config->bos_token != UINT32_MAX)
        st = joust_tokens_add(to, &config->bos_token, 1, err);
    if (joust_tokenizer_encode(tokenizer, TEXTS[probe], strlen(TEXTS[probe]), false, &text,
                               &ignored) != JOUST_OK)
        text.n = 0;
    if (st == JOUST_OK && text.n < 4)
        st = draw_ids(config, probe, to, err);
    else if (st == JOUST_OK)
        st = joust_tokens_add(to, text.ids, text.n, err);
    if (to->n > most && most)
        to->n = most;
    joust_tokens_fini(&text);
    return st;
}

/* How far an answer is from what weights give. */
typedef struct gap {
    double mean, largest;
    float its, ours; /* where it is largest */
    uint32_t n;
} gap;

static void add_gap(gap *to, const float *ours, const float *its, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        double d = (double)ours[i] - (double)its[i];
        d = d < 0 ? -d : d;
        to->mean += d;
        if (d > to->largest || to->n == 0) {
            to->largest = d;
            to->its = its[i];
            to->ours = ours[i];
        }
        to->n++;
    }
}

/* The answer's tokens behind the probe's, a request a choice. */
typedef struct scoring {
    joust_score_request requests[JOUST_PROOF_SAMPLES];
    uint32_t tokens[JOUST_PROOF_SAMPLES][MOST_IDS + JOUST_PROOF_TOKENS];
    float logps[JOUST_PROOF_SAMPLES][JOUST_PROOF_TOKENS];
} scoring;

static joust_status fill_scoring(const joust_proof *p, uint32_t probe,
                                 const joust_endpoint_answer *a, scoring *to, joust_error *why)
{
    const joust_tokens *text = &p->texts[probe];
    const uint32_t n_vocab = joust_model_get_config(p->model)->vocab_size;
    for (uint32_t i = 0; i < a->n; i++) {
        const joust_endpoint_choice *c = &a->choices[i];
        for (uint32_t k = 0; k < c->n_tokens; k++)
            if (c->tokens[k] >= n_vocab)
                return joust_fail(why, JOUST_STALE, "it answers with token %u of %u", c->tokens[k],
                                  n_vocab);
        memcpy(to->tokens[i], text->ids, text->n * sizeof(uint32_t));
        memcpy(to->tokens[i] + text->n, c->tokens, c->n_tokens * sizeof(uint32_t));
        to->requests[i] = (joust_score_request){.tokens = to->tokens[i],
                                                .n = text->n + c->n_tokens,
                                                .first = text->n,
                                                .ret_logps = to->logps[i]};
    }
    return JOUST_OK;
}

static joust_status measure(const joust_proof *p, joust_model *model, scoring *s,
                            const joust_endpoint_answer *a, gap *ret, joust_error *why)
{
    joust_status st = joust_score(p->engine, model, s->requests, a->n, NULL, NULL, why);
    *ret = (gap){0};
    for (uint32_t i = 0; st == JOUST_OK && i < a->n; i++)
        add_gap(ret, s->logps[i], a->choices[i].logps, a->choices[i].n_tokens);
    ret->mean /= ret->n ? ret->n : 1;
    return st;
}

static joust_status judge(const joust_proof *p, scoring *s, const joust_endpoint_answer *a,
                          double *ret_mean, joust_error *why)
{
    gap now, before = {.mean = HUGE_VAL};
    joust_status st = measure(p, p->model, s, a, &now, why);
    if (st == JOUST_OK && p->before)
        st = measure(p, p->before, s, a, &before, why);
    if (st != JOUST_OK)
        return st;
    *ret_mean = now.mean;
    if (now.mean > p->calibrated || now.largest > JOUST_PROOF_OUTLIER * p->calibrated)
        return joust_fail(why, JOUST_STALE,
                          "other weights: its log-probs are off by %.4f on average (tolerance %g), "
                          "at most %.4f against %.4f%s",
                          now.mean, p->calibrated, (double)now.its, (double)now.ours,
                          before.mean <= p->calibrated ? "; they are those of the version before"
                                                       : "");
    if (now.mean > before.mean)
        return joust_fail(why, JOUST_STALE,
                          "the weights of the version before: its log-probs are off by %.5f on "
                          "average, from those of the version before by %.5f",
                          now.mean, before.mean);
    return JOUST_OK;
}

/* An answer of the server's look fits, by that mean; after the last one the look is a measure for all servers. */
static void calibrate(joust_proof *p, const joust_endpoint_probed *what, double mean)
{
    double *look = &p->looks[what->server];
    *look = what->exchange == 0 || mean > *look ? mean : *look;
    if (what->exchange + 1 < what->n_exchanges)
        return;
    double allowed = JOUST_PROOF_SLACK * *look;
    allowed = allowed > JOUST_PROOF_FLOOR ? allowed : JOUST_PROOF_FLOOR;
    p->calibrated = allowed < p->calibrated ? allowed : p->calibrated;
}

static joust_status fits(void *context, const joust_endpoint_probed *what,
                         const joust_endpoint_answer *a, joust_error *why)
{
    joust_proof *p = context;
    double mean = 0;
    scoring *s = joust_calloc(1, sizeof(*s));
    if (!s)
        return joust_fail(why, JOUST_NOMEM, "proof: out of memory");
    joust_status st = fill_scoring(p, what->probe, a, s, why);
    if (st == JOUST_OK)
        st = judge(p, s, a, &mean, why);
    joust_free(s);
    if (st == JOUST_OK)
        calibrate(p, what, mean);
    return st == JOUST_STALE ? joust_blame(why, st, "probe %u", what->probe) : st;
}

joust_status joust_proof_init(joust_engine *engine, joust_model *model,
                              const joust_tokenizer *tokenizer, double tolerance, joust_proof *to,
                              joust_error *err)
{
    joust_status st = JOUST_OK;
    *to = (joust_proof){
        .engine = engine, .model = model, .tolerance = tolerance, .calibrated = tolerance};
    to->proof = (joust_endpoint_proof){
        .n = JOUST_PROBES, .probes = to->ids, .n_ids = to->n_ids, .fits = fits, .context = to};
    for (uint32_t i = 0; st == JOUST_OK && i < JOUST_PROBES; i++) {
        st = make_probe(joust_model_get_config(model), tokenizer, i, &to->texts[i], err);
        to->ids[i] = to->texts[i].ids;
        to->n_ids[i] = to->texts[i].n;
    }
    if (st != JOUST_OK)
        joust_proof_fini(to);
    return st;
}

void joust_proof_fini(joust_proof *proof)
{
    for (uint32_t i = 0; i < JOUST_PROBES; i++)
        joust_tokens_fini(&proof->texts[i]);
}
