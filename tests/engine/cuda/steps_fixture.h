/* For tests that compare training on a device with training on the CPU: what some steps leave, and how far tensors are off. */
#ifndef JOUST_TESTS_ENGINE_CUDA_STEPS_FIXTURE_H
#define JOUST_TESTS_ENGINE_CUDA_STEPS_FIXTURE_H

#include "engine/cuda/device_fixture.h"

#include <stdlib.h>

#include "worker/engine/train/trainer_internal.h"

/* What steps leave: the last one's report and gradient, the trained weights after it. */
typedef struct stepped {
    joust_step_report report;
    float *gradient, *weights;
    joust_model *model;
} stepped;

/* Trains the model, which stepped_free frees. reference: taken by a loss that scores one at every step; NULL: the model's base is
 * that. */
static inline stepped steps_take(joust_engine *e, joust_model *model, joust_model *reference,
                                 const joust_train_settings *p, uint32_t n_steps)
{
    stepped s = {.model = model};
    joust_error err = {0};
    joust_trainer *t;
    train_data d;
    train_data_make(&d, joust_model_get_config(model)->vocab_size);
    check_ok(joust_trainer_create(e, model, p, &t, &err));
    if (reference)
        check_ok(joust_trainer_take_reference(t, &reference, &err));
    else if (joust_needs_live_reference(p))
        check_ok(joust_trainer_reference_is_base(t, &err));
    for (uint32_t i = 0; i < n_steps; i++)
        check_ok(train_data_step(t, &d, &s.report, &err));
    s.gradient = joust_calloc(t->trained.n, sizeof(float));
    if (t->on_device)
        check_ok(
            api->block_get(t->on_device, JOUST_DEVICE_GRADIENT, 0, t->trained.n, s.gradient, &err));
    else
        memcpy(s.gradient, t->sums[0], t->trained.n * sizeof(float));
    check_ok(joust_trainer_finish(t, &err));
    s.weights = joust_memdup(t->trained.weights, t->trained.n * sizeof(float));
    joust_trainer_free(&t);
    joust_free(d.tokens);
    return s;
}

static inline void stepped_free(stepped *s)
{
    joust_free(s->gradient);
    joust_free(s->weights);
    joust_model_free(&s->model);
}

/* Values of the n tensors, one after the other. bound: by the largest of a tensor. */
static inline void check_tensors_near(const joust_tensor *tensors, uint32_t n, const float *got,
                                      const float *expected, double bound, const char *what)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < n; at += tensors[i++].n) {
        double largest = 0, off = 0;
        for (uint64_t k = 0; k < tensors[i].n; k++) {
            const double x = (double)expected[at + k], y = (double)got[at + k];
            largest = fabs(x) > largest ? fabs(x) : largest;
            if (!(fabs(x - y) <= off))
                off = isnan(y) ? INFINITY : fabs(x - y);
        }
        if (getenv("JOUST_SHOW"))
            printf("%-60s %s off %.3g of %.3g\n", tensors[i].name, what, off, largest);
        if (!(off <= bound * (largest + 1e-4)))
            fail_msg("%s: %s is off by %.3g, the largest is %.3g", tensors[i].name, what, off,
                     largest);
    }
}

#endif
