#include "bench_training.h"

#include "proto/base/alloc.h"
#include "proto/base/clock.h"

#define MAX_PAIRS 16u

static joust_train_settings settings_of(void)
{
    return (joust_train_settings){.loss = JOUST_LOSS_DPO,
                                  .beta = 0.1,
                                  .learning_rate = 1e-6,
                                  .schedule = JOUST_SCHEDULE_CONSTANT,
                                  .max_steps = 8,
                                  .adam_beta1 = 0.9,
                                  .adam_beta2 = 0.999,
                                  .adam_eps = 1e-8,
                                  .clip = 1,
                                  .objective = joust_objective_neutral()};
}

static joust_status steps_time(joust_trainer *t, const joust_pair_row *rows, uint32_t n,
                               double *ret, joust_error *err)
{
    joust_step_report report;
    joust_status st = JOUST_OK;
    for (uint32_t turn = 0; turn < 2 && !st; turn++) { /* the first makes memory */
        const int64_t since = joust_clock_ns();
        st = joust_trainer_step_pairs(t, rows, n, &report, err);
        *ret = (double)(joust_clock_ns() - since) * 1e-9;
    }
    return st;
}

joust_status bench_training(joust_engine *engine, joust_model *model, uint32_t n_pairs,
                            uint32_t n_prompt, uint32_t n_answer, double *ret_rate,
                            double *ret_products, joust_error *err)
{
    const uint32_t n = n_prompt + 2 * n_answer, vocab = joust_model_get_config(model)->vocab_size;
    const joust_train_settings settings = settings_of();
    joust_pair_row rows[MAX_PAIRS];
    joust_trainer *t = NULL;
    double seconds = 1;
    uint32_t *tokens = joust_calloc((size_t)n_pairs * n, sizeof(*tokens));
    if (!tokens || n_pairs > MAX_PAIRS)
        return joust_fail(err, JOUST_NOMEM, "bench: %u pairs", n_pairs);
    for (uint32_t i = 0; i < n_pairs * n; i++)
        tokens[i] = i * 7919u % vocab;
    for (uint32_t i = 0; i < n_pairs; i++)
        rows[i] = (joust_pair_row){.prompt = tokens + i * n,
                                   .n_prompt = n_prompt,
                                   .chosen = tokens + i * n + n_prompt,
                                   .n_chosen = n_answer,
                                   .rejected = tokens + i * n + n_prompt + n_answer,
                                   .n_rejected = n_answer,
                                   .ref_chosen = -10.0 * n_answer,
                                   .ref_rejected = -10.0 * n_answer};
    joust_engine_cache_drop(engine);
    joust_status st = joust_trainer_create(engine, model, &settings, &t, err);
    if (!st)
        st = steps_time(t, rows, n_pairs, &seconds, err);
    joust_trainer_free(&t);
    joust_free(tokens);
    *ret_rate = n_pairs * 2.0 * (n_prompt + n_answer) / seconds;
    *ret_products = 6.0 * n_pairs * n / seconds;
    return st;
}
