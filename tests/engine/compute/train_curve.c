/* train_curve MODEL_DIR RUN.json: trains on pairs of a file and prints "step loss gradient_norm" a line: this side of
 * tests/evidence/trl_curves.py.
 * RUN.json: {"settings": {"loss", "beta", ...}, "mix": {loss: weight}, "batch_size", "pairs": [{"prompt": [ids], "chosen",
 * "rejected"}]}; batches walk through the pairs in order, again and again. Keys of settings are those of a job's `train:`. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "worker/engine/train/train.h"

static void need(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "train_curve: %s\n", what);
    exit(1);
}

static void need_ok(joust_status st, const joust_error *err)
{
    need(st == JOUST_OK, err->text);
}

static joust_loss loss_of(const char *name)
{
    for (uint32_t i = 1; name && i < JOUST_N_LOSSES; i++)
        if (!strcmp(joust_loss_traits_of((joust_loss)i)->name, name))
            return (joust_loss)i;
    need(false, "unknown loss");
    return JOUST_LOSS_DPO;
}

static joust_train_settings settings_read(const json_t *run)
{
    joust_train_settings p = {.schedule = JOUST_SCHEDULE_LINEAR,
                              .adam_beta1 = 0.9,
                              .adam_beta2 = 0.999,
                              .adam_eps = 1e-8,
                              .clip = 1,
                              .objective = joust_objective_neutral()};
    const json_t *s = json_object_get(run, "settings");
    p.loss = loss_of(json_string_value(json_object_get(s, "loss")));
    p.no_reference = json_is_true(json_object_get(s, "no_reference"));
    const struct {
        const char *name;
        double *to;
    } numbers[] = {{"beta", &p.beta},
                   {"sft_weight", &p.sft_weight},
                   {"learning_rate", &p.learning_rate},
                   {"weight_decay", &p.weight_decay},
                   {"label_smoothing", &p.objective.label_smoothing},
                   {"gamma", &p.objective.gamma},
                   {"ld_alpha", &p.objective.ld_alpha},
                   {"desirable_weight", &p.objective.desirable_weight},
                   {"undesirable_weight", &p.objective.undesirable_weight},
                   {"reference_mixup", &p.objective.reference_mixup}};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        if (json_object_get(s, numbers[i].name))
            *numbers[i].to = json_number_value(json_object_get(s, numbers[i].name));
    p.objective.reference_sync_steps =
        (uint32_t)json_integer_value(json_object_get(s, "reference_sync_steps"));
    p.max_steps = (uint32_t)json_integer_value(json_object_get(s, "max_steps"));
    const char *name;
    json_t *weight;
    json_object_foreach(json_object_get(run, "mix"), name, weight) p.objective.mix[loss_of(name)] =
        json_number_value(weight);
    return p;
}

static const uint32_t *ids_read(const json_t *pair, const char *name, uint32_t *ret_n)
{
    const json_t *list = json_object_get(pair, name);
    uint32_t *ids = joust_calloc(json_array_size(list), sizeof(*ids));
    need(ids != NULL && json_array_size(list) > 0, "a pair without tokens");
    *ret_n = (uint32_t)json_array_size(list);
    for (uint32_t i = 0; i < *ret_n; i++)
        ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return ids;
}

/* The pairs, scored by the model that training starts from. */
static joust_pair_row *pairs_read(const json_t *list, joust_trainer *t, double alpha)
{
    joust_error err = {0};
    joust_pair_row *rows = joust_calloc(json_array_size(list), sizeof(*rows));
    need(rows != NULL && json_array_size(list) > 0, "no pairs");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *pair = json_array_get(list, i);
        joust_pair_row *r = &rows[i];
        r->prompt = ids_read(pair, "prompt", &r->n_prompt);
        r->chosen = ids_read(pair, "chosen", &r->n_chosen);
        r->rejected = ids_read(pair, "rejected", &r->n_rejected);
        float *chosen = joust_calloc(r->n_chosen, sizeof(*chosen));
        float *rejected = joust_calloc(r->n_rejected, sizeof(*rejected));
        need(chosen && rejected, "out of memory");
        need_ok(joust_trainer_pair_logps(t, r, chosen, rejected, &err), &err);
        const uint32_t shared = joust_pair_shared(r->n_chosen, r->n_rejected);
        r->ref_chosen = joust_response_sum(chosen, NULL, r->n_chosen, shared, alpha);
        r->ref_rejected = joust_response_sum(rejected, NULL, r->n_rejected, shared, alpha);
        joust_free(chosen);
        joust_free(rejected);
    }
    return rows;
}

int main(int argc, char **argv)
{
    joust_error err = {0};
    json_error_t problem;
    need(argc == 3, "usage: train_curve MODEL_DIR RUN.json");
    json_t *run = json_load_file(argv[2], 0, &problem);
    need(run != NULL, problem.text);
    const joust_train_settings p = settings_read(run);
    const uint32_t batch = (uint32_t)json_integer_value(json_object_get(run, "batch_size"));
    joust_engine *e = NULL;
    joust_model *m = NULL, *reference = NULL;
    joust_trainer *t = NULL;
    need_ok(joust_engine_create(&(joust_engine_options){.n_threads = 1}, &e, &err), &err);
    need_ok(joust_model_load(argv[1], &m, &err), &err);
    need_ok(joust_trainer_create(e, m, &p, &t, &err), &err);
    if (joust_needs_live_reference(&p)) {
        need_ok(joust_model_load(argv[1], &reference, &err), &err);
        need_ok(joust_trainer_take_reference(t, &reference, &err), &err);
    }
    const json_t *list = json_object_get(run, "pairs");
    joust_pair_row *rows = pairs_read(list, t, p.objective.ld_alpha);
    const size_t n = json_array_size(list);
    joust_pair_row *step = joust_calloc(batch, sizeof(*step));
    need(step != NULL, "out of memory");
    for (uint32_t i = 0; i < p.max_steps; i++) {
        for (uint32_t k = 0; k < batch; k++)
            step[k] = rows[((size_t)i * batch + k) % n];
        joust_step_report report;
        need_ok(joust_trainer_step_pairs(t, step, batch, &report, &err), &err);
        printf("%u %.9g %.9g\n", i, report.loss, report.gradient_norm);
    }
    for (size_t i = 0; i < n; i++) {
        joust_free((void *)rows[i].prompt);
        joust_free((void *)rows[i].chosen);
        joust_free((void *)rows[i].rejected);
    }
    joust_free(step);
    joust_free(rows);
    joust_trainer_free(&t);
    joust_model_free(&m);
    joust_engine_free(&e);
    json_decref(run);
    return 0;
}
