#include "worker/engine/masks/mask.h"

#include <math.h> /* INFINITY */
#include <pthread.h>
#include <string.h>

#include "automaton_internal.h"
#include "proto/base/alloc.h"
#include "worker/engine/masks/trie.h"
#include "worker/engine/text/tokenizer_internal.h"

#define MAX_CACHED_BYTES (64u << 20)

/* What each token adds to a response's text. */
typedef struct token_texts {
    joust_buf bytes;
    uint32_t *at; /* (n_vocab + 1) */
} token_texts;

struct joust_mask {
    uint32_t n_vocab, n_forced, n_ends;
    const uint32_t *ends;
    joust_model_config config; /* holds the end tokens */
    joust_trie *trie;
    joust_automaton *automaton;
    token_texts first, inside; /* as a response's first token, and behind others */
    pthread_mutex_t lock;      /* guards the rest */
    uint64_t **allowed; /* (2 n_states) bits by token, or NULL: inside a response, then first */
    uint64_t n_cached_bytes;
};

static uint32_t n_words(const joust_mask *m)
{
    return (m->n_vocab + 63) / 64;
}

/* ---- making ---------------------------------------------------------------------------------- */

static joust_status add_choice(joust_mask *m, const joust_tokenizer *t, const char *text,
                               joust_error *err)
{
    joust_tokens tokens = {0};
    joust_status st = joust_tokenizer_encode(t, text, strlen(text), false, &tokens, err);
    if (st == JOUST_OK && tokens.n == 0)
        st = joust_fail(err, JOUST_INVALID, "an empty text");
    for (uint32_t i = 0; st == JOUST_OK && i < m->n_ends; i++) {
        st = joust_tokens_add(&tokens, &m->ends[i], 1, err);
        if (st == JOUST_OK)
            st = joust_trie_add(m->trie, tokens.ids, tokens.n, err);
        tokens.n--;
    }
    joust_tokens_fini(&tokens);
    return st;
}

static joust_status make_trie(joust_mask *m, const joust_tokenizer *t, const joust_mask_rule *rule,
                              joust_error *err)
{
    joust_status st = joust_trie_create(&m->trie, err);
    for (uint32_t i = 0; st == JOUST_OK && i < rule->n_choices; i++) {
        st = add_choice(m, t, rule->choices[i], err);
        if (st != JOUST_OK)
            st = joust_blame(err, st, "choices[%u]", i);
    }
    return st;
}

/* The text of each token alone; special tokens have none. */
static joust_status read_texts(const joust_mask *m, const joust_tokenizer *t, bool inside,
                               token_texts *to, joust_error *err)
{
    joust_tokenizer_scratch s = {.raw = true, .inside = inside};
    joust_status st = joust_regex_scratch_create(&s.regex, err);
    to->at = joust_calloc((size_t)m->n_vocab + 1, sizeof(*to->at));
    if (st == JOUST_OK && !to->at)
        st = joust_fail(err, JOUST_NOMEM, "regex: no memory for a vocabulary of %u", m->n_vocab);
    for (uint32_t id = 0; st == JOUST_OK && id < m->n_vocab; id++) {
        if (id < joust_tokenizer_size(t))
            st = joust_tokenizer_decode_in(t, &s, &id, 1, true, &to->bytes, err);
        if (to->bytes.n > UINT32_MAX)
            st = joust_fail(err, JOUST_TOO_LARGE, "regex: the vocabulary's text is too large");
        to->at[id + 1] = (uint32_t)to->bytes.n;
    }
    joust_tokenizer_scratch_fini(&s);
    return st == JOUST_OK ? joust_buf_status(&to->bytes, err) : st;
}

static joust_status make_automaton(joust_mask *m, const joust_tokenizer *t, const char *pattern,
                                   joust_error *err)
{
    joust_decoding *decoding = NULL; /* refuses decoders that must see the whole text */
    joust_status st = joust_automaton_compile(pattern, &m->automaton, err);
    if (st == JOUST_OK)
        st = joust_decoding_create(t, true, &decoding, err);
    joust_decoding_free(&decoding);
    if (st != JOUST_OK)
        return joust_blame(err, st, "regex");
    st = read_texts(m, t, false, &m->first, err);
    if (st == JOUST_OK)
        st = read_texts(m, t, true, &m->inside, err);
    m->allowed = joust_calloc(2 * (size_t)m->automaton->n_states, sizeof(*m->allowed));
    if (st == JOUST_OK && !m->allowed)
        st = joust_fail(err, JOUST_NOMEM, "regex: out of memory");
    return st;
}

joust_status joust_mask_create(const joust_tokenizer *t, const joust_model_config *config,
                               const joust_mask_rule *rule, joust_mask **ret, joust_error *err)
{
    joust_mask *m = joust_calloc(1, sizeof(*m));
    if (!m)
        return joust_fail(err, JOUST_NOMEM, "mask: out of memory");
    m->config = *config;
    m->n_vocab = config->vocab_size;
    m->n_forced = rule->n_forced;
    m->n_ends = joust_model_config_stops(&m->config, &m->ends);
    pthread_mutex_init(&m->lock, NULL);
    joust_status st = JOUST_OK;
    if (m->n_ends == 0)
        st = joust_fail(err, JOUST_INVALID,
                        "%s: the model has no end token (eos_token_id), so that no response could "
                        "end",
                        rule->regex ? "regex" : "choices");
    else if (rule->regex)
        st = make_automaton(m, t, rule->regex, err);
    else
        st = make_trie(m, t, rule, err);
    if (st == JOUST_OK)
        *ret = m;
    else
        joust_mask_free(&m);
    return st;
}

void joust_mask_free(joust_mask **mask)
{
    joust_mask *m = *mask;
    *mask = NULL;
    if (!m)
        return;
    for (uint32_t i = 0; m->allowed && i < 2 * m->automaton->n_states; i++)
        joust_free(m->allowed[i]);
    joust_free(m->allowed);
    joust_buf_fini(&m->first.bytes);
    joust_buf_fini(&m->inside.bytes);
    joust_free(m->first.at);
    joust_free(m->inside.at);
    joust_trie_free(&m->trie);
    joust_automaton_free(&m->automaton);
    pthread_mutex_destroy(&m->lock);
    joust_free(m);
}

/* ---- asking ---------------------------------------------------------------------------------- */

/* The state behind a token's text, which may be JOUST_DEAD; a token without text leads nowhere. */
static uint32_t step_token(const joust_mask *m, const token_texts *texts, uint32_t state,
                           uint32_t token)
{
    const uint8_t *at = texts->bytes.data + texts->at[token],
                  *end = texts->bytes.data + texts->at[token + 1];
    if (at == end)
        return JOUST_DEAD;
    while (at < end && state != JOUST_DEAD)
        state = joust_automaton_step(m->automaton, state, *at++);
    return state;
}

static bool is_end(const joust_mask *m, uint32_t token)
{
    for (uint32_t i = 0; i < m->n_ends; i++)
        if (m->ends[i] == token)
            return true;
    return false;
}

/* The state behind the drawn tokens. */
static uint32_t walk(const joust_mask *m, const uint32_t *tokens, uint32_t n)
{
    uint32_t state = 0;
    for (uint32_t i = m->n_forced; i < n && state != JOUST_DEAD; i++)
        state = is_end(m, tokens[i])
                    ? JOUST_DEAD
                    : step_token(m, i == 0 ? &m->first : &m->inside, state, tokens[i]);
    return state;
}

static void fill(const joust_mask *m, uint32_t state, bool first, uint64_t *bits)
{
    const token_texts *texts = first ? &m->first : &m->inside;
    memset(bits, 0, n_words(m) * sizeof(*bits));
    for (uint32_t token = 0; token < m->n_vocab; token++)
        if (step_token(m, texts, state, token) != JOUST_DEAD)
            bits[token / 64] |= (uint64_t)1 << (token % 64);
    for (uint32_t i = 0; i < m->n_ends; i++) {
        const uint64_t bit = (uint64_t)1 << (m->ends[i] % 64);
        bits[m->ends[i] / 64] &= ~bit;
        if (m->automaton->accepts[state])
            bits[m->ends[i] / 64] |= bit;
    }
}

static void apply(const uint64_t *bits, float *logits, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!(bits[i / 64] >> (i % 64) & 1))
            logits[i] = -INFINITY;
}

static joust_status guide_automaton(joust_mask *m, uint32_t state, bool first, float *logits,
                                    joust_error *err)
{
    uint64_t **kept = &m->allowed[state + (first ? m->automaton->n_states : 0)];
    const uint64_t bytes = n_words(m) * sizeof(**kept);
    pthread_mutex_lock(&m->lock);
    const uint64_t *there = *kept;
    pthread_mutex_unlock(&m->lock);
    if (there) {
        apply(there, logits, m->n_vocab);
        return JOUST_OK;
    }
    uint64_t *bits = joust_calloc(n_words(m), sizeof(*bits));
    if (!bits)
        return joust_fail(err, JOUST_NOMEM, "regex: no memory for a mask");
    fill(m, state, first, bits);
    apply(bits, logits, m->n_vocab);
    pthread_mutex_lock(&m->lock);
    if (!*kept && m->n_cached_bytes + bytes <= MAX_CACHED_BYTES) {
        *kept = bits;
        m->n_cached_bytes += bytes;
        bits = NULL;
    }
    pthread_mutex_unlock(&m->lock);
    joust_free(bits);
    return JOUST_OK;
}

joust_status joust_mask_guide(void *context, uint32_t request, uint32_t sample,
                              const uint32_t *tokens, uint32_t n, float *logits, uint32_t n_vocab,
                              joust_error *err)
{
    joust_mask *m = context;
    const uint32_t skipped = m->n_forced < n ? m->n_forced : n;
    if (m->trie)
        return joust_trie_guide(m->trie, request, sample, tokens + skipped, n - skipped, logits,
                                n_vocab, err);
    const uint32_t state = walk(m, tokens, n);
    if (state != JOUST_DEAD)
        return guide_automaton(m, state, n == 0, logits, err);
    for (uint32_t i = 0; i < n_vocab; i++)
        logits[i] = -INFINITY;
    return JOUST_OK;
}

joust_status joust_mask_forced(const joust_mask *mask, const uint32_t *tokens, uint32_t n,
                               uint8_t *ret, joust_error *err)
{
    joust_mask *m = (joust_mask *)(uintptr_t)mask; /* its cache */
    float *logits = joust_calloc(m->n_vocab, sizeof(*logits));
    joust_status st = logits ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "mask: out of memory");
    for (uint32_t i = 0; st == JOUST_OK && i < n; i++) {
        uint32_t n_allowed = 0;
        memset(logits, 0, m->n_vocab * sizeof(*logits));
        if (i >= m->n_forced)
            st = joust_mask_guide(m, 0, 0, tokens, i, logits, m->n_vocab, err);
        for (uint32_t k = 0; k < m->n_vocab && n_allowed < 2; k++)
            n_allowed += logits[k] == 0;
        ret[i] = i < m->n_forced || n_allowed == 1;
    }
    joust_free(logits);
    return st;
}
