#include "worker/forced.h"

#include <string.h>

#include "worker/rollout.h"

joust_status joust_forced_open(const joust_job *job, const joust_job_train *train, const char *dir,
                               const joust_model_config *config, joust_forced *ret,
                               joust_error *err)
{
    const joust_job_rollout *how = &job->rollout;
    joust_tokenizer *tokenizer = NULL;
    joust_tokens prefix = {0};
    joust_forced f = {.on = !train->forced_tokens &&
                            (how->response_prefix || joust_rollout_mask_key(how) != NULL)};
    joust_status st = f.on ? joust_tokenizer_load(dir, &tokenizer, err) : JOUST_OK;
    if (st == JOUST_OK && f.on)
        st = joust_rollout_mask(job, tokenizer, config, &f.mask, err);
    if (st == JOUST_OK && f.on && how->response_prefix)
        st = joust_tokenizer_encode(tokenizer, how->response_prefix, strlen(how->response_prefix),
                                    true, &prefix, err);
    f.n_prefix = prefix.n;
    joust_tokens_fini(&prefix);
    joust_tokenizer_free(&tokenizer);
    if (st == JOUST_OK)
        *ret = f;
    else
        joust_forced_close(&f);
    return st;
}

void joust_forced_close(joust_forced *f)
{
    joust_mask_free(&f->mask);
    *f = (joust_forced){0};
}

joust_status joust_forced_find(const joust_forced *f, const uint32_t *tokens, uint32_t n,
                               uint8_t *ret, joust_error *err)
{
    if (f && f->mask)
        return joust_mask_forced(f->mask, tokens, n, ret, err);
    for (uint32_t i = 0; i < n; i++)
        ret[i] = f && i < f->n_prefix;
    return JOUST_OK;
}
