#include "engine/compute/reference.h"

#include "worker/engine/train/links_internal.h"
#include "worker/engine/train/policy_gradient.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The tensor's weights, by name. */
static const double *tensor(const joust_model *m, const double *weights, int layer,
                            const char *name)
{
    char wanted[96];
    uint32_t n;
    const joust_tensor *t = joust_model_tensors(m, &n);
    const char *kind = strchr(name, ':') ? "" : ".weight";
    if (layer < 0)
        snprintf(wanted, sizeof(wanted), "%s%s", name, kind);
    else
        snprintf(wanted, sizeof(wanted), "model.layers.%d.%s%s", layer, name, kind);
    if (!*kind) /* "self_attn.q_proj:bias" */
        *strchr(wanted, ':') = '.';
    const float *base = t[0].data;
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(t[i].name, wanted) == 0)
            return weights + (t[i].data - base);
        if (t[i].data < base)
            abort();
    }
    abort();
}

static void multiply(const double *w, const double *x, uint32_t n_out, uint32_t n_in, double *y)
{
    for (uint32_t i = 0; i < n_out; i++) {
        y[i] = 0;
        for (uint32_t k = 0; k < n_in; k++)
            y[i] += w[(size_t)i * n_in + k] * x[k];
    }
}

static void rms_norm(const double *x, const double *gain, uint32_t d, double eps, double *y)
{
    double sum = 0;
    for (uint32_t i = 0; i < d; i++)
        sum += x[i] * x[i];
    for (uint32_t i = 0; i < d; i++)
        y[i] = x[i] / sqrt(sum / d + eps) * gain[i];
}

/* Wavelengths shorter than original / high stay, longer than original / low are stretched, between a blend. */
static double scaled(const joust_rope_scaling *s, double frequency)
{
    if (s->kind == JOUST_ROPE_PLAIN)
        return frequency;
    double stretched = frequency / (double)s->factor, original = s->original_context,
           low = (double)s->low_freq_factor, high = (double)s->high_freq_factor,
           wavelength = 2 * acos(-1) / frequency;
    if (s->kind == JOUST_ROPE_LINEAR || wavelength > original / low)
        return stretched;
    if (wavelength < original / high)
        return frequency;
    double smooth = (original / wavelength - low) / (high - low);
    return (1 - smooth) * stretched + smooth * frequency;
}

/* Peng et al. 2023, "NTK-by-parts": kept where it turns beta_fast times over the original context, stretched below
 * beta_slow, between them linear in the index. */
static double yarn(const joust_model_config *c, uint32_t i, double frequency)
{
    const joust_rope_scaling *s = &c->rope_scaling;
    const double per_log = c->d_head / (2 * log((double)c->rope_theta)),
                 context = s->original_context;
    double from = per_log * log(context / ((double)s->beta_fast * 2 * acos(-1))),
           to = per_log * log(context / ((double)s->beta_slow * 2 * acos(-1)));
    from = fmax(s->whole ? floor(from) : from, 0);
    to = fmin(s->whole ? ceil(to) : to, c->d_head - 1.0);
    const double stretched = fmin(fmax((i - from) / (to - from), 0), 1);
    return frequency * (stretched / (double)s->factor + 1 - stretched);
}

static void rotate(const joust_model_config *c, double *head, uint32_t position)
{
    uint32_t d_head = c->d_head;
    for (uint32_t i = 0; i < d_head / 2; i++) {
        double frequency = pow((double)c->rope_theta, -2.0 * i / d_head), a = head[i],
               b = head[i + d_head / 2];
        if (c->rope_scaling.kind == JOUST_ROPE_YARN) {
            frequency = yarn(c, i, frequency);
            a *= (double)c->rope_scaling.attention_factor;
            b *= (double)c->rope_scaling.attention_factor;
        } else {
            frequency = scaled(&c->rope_scaling, frequency);
        }
        double angle = position * frequency;
        head[i] = a * cos(angle) - b * sin(angle);
        head[i + d_head / 2] = b * cos(angle) + a * sin(angle);
    }
}

static void add_bias(const double *bias, uint32_t n, double *y)
{
    for (uint32_t i = 0; i < n; i++)
        y[i] += bias[i];
}

/* Biases (Qwen2), the heads' norms (Qwen3), positions. */
static void finish_heads(const joust_model *m, const double *weights, int layer, uint32_t position,
                         double *heads, uint32_t n_heads, bool is_key)
{
    const joust_model_config *c = joust_model_get_config(m);
    if (c->family == JOUST_FAMILY_QWEN2 || c->attention_bias)
        add_bias(
            tensor(m, weights, layer, is_key ? "self_attn.k_proj:bias" : "self_attn.q_proj:bias"),
            n_heads * c->d_head, heads);
    for (uint32_t h = 0; h < n_heads; h++) {
        if (c->family == JOUST_FAMILY_QWEN3)
            rms_norm(heads + h * c->d_head,
                     tensor(m, weights, layer, is_key ? "self_attn.k_norm" : "self_attn.q_norm"),
                     c->d_head, (double)c->norm_eps, heads + h * c->d_head);
        rotate(c, heads + h * c->d_head, position);
    }
}

/* out (n_heads * d_head) of the query at `position`, over keys and values (context, n_kv *
 * d_head). */
static void attention(const joust_model_config *c, const double *q, const double *keys,
                      const double *values, uint32_t first, uint32_t position, double *out)
{
    uint32_t kv_width = c->n_kv_heads * c->d_head;
    double *p = calloc(position + 1, sizeof(*p));
    for (uint32_t h = 0; h < c->n_heads; h++) {
        uint32_t kv = h / (c->n_heads / c->n_kv_heads) * c->d_head;
        double sum = 0;
        for (uint32_t j = first; j <= position; j++) {
            double dot = 0;
            for (uint32_t i = 0; i < c->d_head; i++)
                dot += q[h * c->d_head + i] * keys[(size_t)j * kv_width + kv + i];
            sum += p[j] = exp(dot / sqrt(c->d_head));
        }
        for (uint32_t i = 0; i < c->d_head; i++) {
            double o = 0;
            for (uint32_t j = first; j <= position; j++)
                o += p[j] / sum * values[(size_t)j * kv_width + kv + i];
            out[h * c->d_head + i] = o;
        }
    }
    free(p);
}

typedef struct scratch {
    double *x, *normed, *q, *mixed, *more, *gate, *up, *keys, *values;
} scratch;

static void layer_forward(const joust_model *m, const double *weights, int layer, uint32_t position,
                          scratch *s)
{
    const joust_model_config *c = joust_model_get_config(m);
    uint32_t d = c->d_model, width = c->n_heads * c->d_head, kv_width = c->n_kv_heads * c->d_head;
    double *key = s->keys + ((size_t)layer * c->context + position) * kv_width;
    double *value = s->values + ((size_t)layer * c->context + position) * kv_width;
    rms_norm(s->x, tensor(m, weights, layer, "input_layernorm"), d, (double)c->norm_eps, s->normed);
    multiply(tensor(m, weights, layer, "self_attn.q_proj"), s->normed, width, d, s->q);
    multiply(tensor(m, weights, layer, "self_attn.k_proj"), s->normed, kv_width, d, key);
    multiply(tensor(m, weights, layer, "self_attn.v_proj"), s->normed, kv_width, d, value);
    finish_heads(m, weights, layer, position, s->q, c->n_heads, false);
    finish_heads(m, weights, layer, position, key, c->n_kv_heads, true);
    if (c->family == JOUST_FAMILY_QWEN2 || c->attention_bias)
        add_bias(tensor(m, weights, layer, "self_attn.v_proj:bias"), kv_width, value);
    uint32_t first = 0;
    if (c->window && (uint32_t)layer >= c->first_window_layer && position >= c->window)
        first = position + 1 - c->window;
    attention(c, s->q, s->keys + (size_t)layer * c->context * kv_width,
              s->values + (size_t)layer * c->context * kv_width, first, position, s->mixed);
    multiply(tensor(m, weights, layer, "self_attn.o_proj"), s->mixed, d, width, s->more);
    if (c->attention_bias)
        add_bias(tensor(m, weights, layer, "self_attn.o_proj:bias"), d, s->more);
    for (uint32_t i = 0; i < d; i++)
        s->x[i] += s->more[i];
    rms_norm(s->x, tensor(m, weights, layer, "post_attention_layernorm"), d, (double)c->norm_eps,
             s->normed);
    multiply(tensor(m, weights, layer, "mlp.gate_proj"), s->normed, c->d_ff, d, s->gate);
    multiply(tensor(m, weights, layer, "mlp.up_proj"), s->normed, c->d_ff, d, s->up);
    if (c->mlp_bias) {
        add_bias(tensor(m, weights, layer, "mlp.gate_proj:bias"), c->d_ff, s->gate);
        add_bias(tensor(m, weights, layer, "mlp.up_proj:bias"), c->d_ff, s->up);
    }
    for (uint32_t i = 0; i < c->d_ff; i++)
        s->gate[i] = s->gate[i] / (1 + exp(-s->gate[i])) * s->up[i];
    multiply(tensor(m, weights, layer, "mlp.down_proj"), s->gate, d, c->d_ff, s->more);
    if (c->mlp_bias)
        add_bias(tensor(m, weights, layer, "mlp.down_proj:bias"), d, s->more);
    for (uint32_t i = 0; i < d; i++)
        s->x[i] += s->more[i];
}

void reference_logits(const joust_model *m, const double *weights, const uint32_t *tokens,
                      uint32_t n, double *logits)
{
    const joust_model_config *c = joust_model_get_config(m);
    uint32_t width = c->n_heads * c->d_head, d = c->d_model;
    size_t cache = (size_t)c->n_layers * c->context * c->n_kv_heads * c->d_head;
    double *block = calloc(3 * d + 2 * width + 2 * c->d_ff + 2 * cache, sizeof(*block));
    scratch s = {.x = block};
    s.normed = s.x + d;
    s.more = s.normed + d;
    s.q = s.more + d;
    s.mixed = s.q + width;
    s.gate = s.mixed + width;
    s.up = s.gate + c->d_ff;
    s.keys = s.up + c->d_ff;
    s.values = s.keys + cache;
    const double *head = tensor(m, weights, -1, c->tied ? "model.embed_tokens" : "lm_head");
    for (uint32_t i = 0; i < n; i++) {
        memcpy(s.x, tensor(m, weights, -1, "model.embed_tokens") + (size_t)tokens[i] * d,
               d * sizeof(double));
        for (uint32_t layer = 0; layer < c->n_layers; layer++)
            layer_forward(m, weights, (int)layer, i, &s);
        rms_norm(s.x, tensor(m, weights, -1, "model.norm"), d, (double)c->norm_eps, s.normed);
        multiply(head, s.normed, c->vocab_size, d, logits + (size_t)i * c->vocab_size);
    }
    free(block);
}

double reference_logp(const double *logits, uint32_t vocab_size, uint32_t token)
{
    double sum = 0, largest = logits[0];
    for (uint32_t i = 1; i < vocab_size; i++)
        largest = fmax(largest, logits[i]);
    for (uint32_t i = 0; i < vocab_size; i++)
        sum += exp(logits[i] - largest);
    return logits[token] - largest - log(sum);
}

static double response_logp(const joust_model *m, const double *weights, const uint32_t *prompt,
                            uint32_t n_prompt, const uint32_t *response, uint32_t n,
                            uint32_t shared, double alpha)
{
    uint32_t vocab = joust_model_get_config(m)->vocab_size;
    uint32_t *tokens = calloc(n_prompt + n, sizeof(*tokens));
    double *logits = calloc((size_t)(n_prompt + n) * vocab, sizeof(*logits)), sum = 0;
    memcpy(tokens, prompt, n_prompt * sizeof(*tokens));
    memcpy(tokens + n_prompt, response, n * sizeof(*tokens));
    reference_logits(m, weights, tokens, n_prompt + n, logits);
    for (uint32_t i = 0; i < n; i++)
        sum += (i < shared ? 1 : alpha) *
               reference_logp(logits + (size_t)(n_prompt + i - 1) * vocab, vocab, response[i]);
    free(tokens);
    free(logits);
    return sum;
}

static double dpo_loss(const joust_pair_logps *pair, const joust_train_settings *p)
{
    const double margin =
        p->beta * ((pair->chosen - pair->ref_chosen) - (pair->rejected - pair->ref_rejected));
    return log1p(exp(-margin)) - p->sft_weight * pair->plain_chosen / pair->n_chosen;
}

double reference_pairs_loss(const joust_model *m, const double *weights, const joust_pair_row *rows,
                            uint32_t n, const joust_train_settings *p, double baseline)
{
    const double alpha = p->objective.ld_alpha;
    double sum = 0, n_answers = 0, n_tokens = 0;
    for (uint32_t i = 0; i < n; i++)
        n_tokens += rows[i].n_chosen;
    for (uint32_t i = 0; i < n; i++) {
        const joust_pair_row *r = &rows[i];
        const uint32_t shared = r->n_chosen < r->n_rejected ? r->n_chosen : r->n_rejected;
        joust_pair_logps pair = {.ref_chosen = r->ref_chosen,
                                 .ref_rejected = r->ref_rejected,
                                 .n_chosen = r->n_chosen,
                                 .n_rejected = r->n_rejected,
                                 .margin = r->margin,
                                 .baseline = baseline,
                                 .sft_mean = n / n_tokens};
        pair.chosen = response_logp(m, weights, r->prompt, r->n_prompt, r->chosen, r->n_chosen,
                                    shared, alpha);
        pair.plain_chosen =
            response_logp(m, weights, r->prompt, r->n_prompt, r->chosen, r->n_chosen, shared, 1);
        pair.rejected = response_logp(m, weights, r->prompt, r->n_prompt, r->rejected,
                                      r->n_rejected, shared, alpha);
        sum += p->loss == JOUST_LOSS_DPO && joust_objective_is_neutral(&p->objective)
                   ? dpo_loss(&pair, p)
                   : joust_pair_objective(p, &pair).loss;
        n_answers += (r->n_chosen > 0) + (r->n_rejected > 0);
    }
    return sum / (p->loss == JOUST_LOSS_KTO ? n_answers : n);
}

double reference_baseline(const joust_model *m, const double *weights, const double *reference,
                          const joust_pair_row *rows, uint32_t n)
{
    const uint32_t *prompts[64], *answers[64];
    uint32_t n_prompts[64], n_answers[64], count = 0;
    double sum = 0;
    for (uint32_t i = 0; i < 2 * n; i++) {
        const joust_pair_row *r = &rows[i % n];
        prompts[count] = r->prompt;
        n_prompts[count] = r->n_prompt;
        answers[count] = i < n ? r->chosen : r->rejected;
        n_answers[count] = i < n ? r->n_chosen : r->n_rejected;
        count += n_answers[count] > 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t from = (i + count - 1) % count;
        sum += response_logp(m, weights, prompts[i], n_prompts[i], answers[from], n_answers[from],
                             UINT32_MAX, 1);
        sum -= response_logp(m, reference, prompts[i], n_prompts[i], answers[from], n_answers[from],
                             UINT32_MAX, 1);
    }
    return sum / count;
}

/* Log-probs of the row's tokens; returns the sum of the entropies before them. */
static double policy_logps(const joust_model *m, const double *weights, const joust_policy_row *r,
                           double *logps)
{
    const uint32_t vocab = joust_model_get_config(m)->vocab_size, n = r->n_prompt + r->n_response;
    uint32_t *tokens = calloc(n, sizeof(*tokens));
    double *logits = calloc((size_t)n * vocab, sizeof(*logits)), entropy = 0;
    memcpy(tokens, r->prompt, r->n_prompt * sizeof(*tokens));
    memcpy(tokens + r->n_prompt, r->response, r->n_response * sizeof(*tokens));
    reference_logits(m, weights, tokens, n, logits);
    for (uint32_t i = 0; i < r->n_response; i++) {
        const double *row = logits + (size_t)(r->n_prompt + i - 1) * vocab;
        logps[i] = reference_logp(row, vocab, r->response[i]);
        for (uint32_t k = 0; k < vocab; k++) {
            const double logp = reference_logp(row, vocab, k);
            entropy -= exp(logp) * logp;
        }
    }
    free(tokens);
    free(logits);
    return entropy;
}

double reference_policy_loss(const joust_model *m, const double *weights,
                             const joust_policy_row *rows, uint32_t n,
                             const joust_policy_settings *p)
{
    double loss = 0, n_all = 0;
    for (uint32_t i = 0; i < n; i++)
        n_all += rows[i].n_response;
    for (uint32_t i = 0; i < n; i++) {
        const joust_policy_row *r = &rows[i];
        double *logps = calloc(2 * r->n_response, sizeof(*logps));
        const double entropy = policy_logps(m, weights, r, logps);
        const double by_tokens = p->aggregation == JOUST_AGGREGATE_ROWS       ? n * r->n_response
                                 : p->aggregation == JOUST_AGGREGATE_CONSTANT ? n * p->max_tokens
                                                                              : n_all;
        const joust_policy_tokens x = {.n = r->n_response,
                                       .logps = logps,
                                       .old_logps = r->old_logps,
                                       .ref_logps = r->ref_logps,
                                       .sampler_logps = r->sampler_logps,
                                       .advantages = r->advantages};
        loss += joust_policy_objective(p, &x, 1 / by_tokens, logps + r->n_response).loss;
        loss -= p->entropy_weight * entropy / n_all;
        free(logps);
    }
    return loss;
}

double reference_rows_loss(const joust_model *m, const double *weights, const joust_sft_row *rows,
                           uint32_t n)
{
    uint32_t vocab = joust_model_get_config(m)->vocab_size;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        const joust_sft_row *r = &rows[i];
        double *logits = calloc((size_t)r->n * vocab, sizeof(*logits));
        reference_logits(m, weights, r->tokens, r->n, logits);
        for (uint32_t k = 0; k < r->n_targets; k++) {
            const joust_target *t = &r->targets[k];
            const double *row = logits + (size_t)(t->position - 1) * vocab;
            double total = 0;
            for (uint32_t j = 0; j < t->n_among; j++)
                total += exp(row[t->among[j]]);
            double logp =
                t->n_among ? row[t->token] - log(total) : reference_logp(row, vocab, t->token);
            sum -= (double)t->weight * logp;
        }
        free(logits);
    }
    return sum / n;
}
