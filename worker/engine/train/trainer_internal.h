/* Inside of a trainer. */
#ifndef JOUST_WORKER_ENGINE_TRAIN_TRAINER_INTERNAL_H
#define JOUST_WORKER_ENGINE_TRAIN_TRAINER_INTERNAL_H

#include "losses_internal.h"
#include "worker/engine/train/train.h"

struct joust_trainer {
    joust_engine *engine;
    joust_model *model;
    joust_trained trained; /* of the model */
    joust_train_settings params;
    uint32_t n_steps; /* done */
    float *m, *v;     /* (trained.n) moments */
    struct joust_device_trainer
        *on_device;         /* has weights and moments, m and v being NULL; or NULL */
    joust_model *reference; /* owned; NULL: rows bring its log-probabilities */
    bool reference_is_base; /* the reference is the model without its adapter */

    /* Working memory, grown as needed. */
    joust_tape **tapes; /* (threads) */
    float **partial;    /* (n_threads * depth) gradients on the way up the tree */
    uint32_t depth, n_threads;
    float **sums; /* (n_sums) gradients of aligned runs of rows */
    uint32_t n_sums;
    uint32_t max_runs;    /* sums at most, unless two a thread are more; changes no bit */
    uint32_t max_sums;    /* sums at most in any case; 0: no such bound; changes no bit */
    joust_step_fn *watch; /* after each row; or NULL */
    void *watch_context;
};

#define JOUST_TRAINER_MAX_RUNS 64u
/* Rows of a run, a power of two: the shortest runs whose sums, n_weights floats each (of what is trained), fit. */
uint32_t joust_trainer_run(uint64_t n_weights, uint32_t n_threads, uint32_t max_runs,
                           uint32_t max_sums, uint32_t n_rows);

/* Tapes 0 .. n - 1, where they aren't there yet. */
JOUST_MUST_USE joust_status joust_trainer_make_tapes(joust_trainer *t, uint32_t n,
                                                     joust_error *err);
JOUST_MUST_USE joust_status joust_trainer_check_scalar(const joust_model_config *c, joust_loss loss,
                                                       joust_error *err);

/* ---- on a device ----------------------------------------------------------------------------- */

/* The step's rows: loss leaves a row's slopes on tape 0. */
typedef struct joust_device_rows {
    joust_status (*loss)(void *context, uint32_t row, joust_error *err);
    void *context;
    uint32_t n;
} joust_device_rows;

/* t->on_device, from the model's weights. Errors: JOUST_UNSUPPORTED (by name), JOUST_NOMEM (what to do). */
JOUST_MUST_USE joust_status joust_trainer_device_open(joust_trainer *t, joust_error *err);
void joust_trainer_device_close(joust_trainer *t);
/* The rows' gradients summed by the tree, in the device's sum 0. Errors: those of the loss; JOUST_NOMEM, JOUST_IO. */
JOUST_MUST_USE joust_status joust_trainer_device_gradient(joust_trainer *t,
                                                          const joust_device_rows *rows,
                                                          joust_error *err);
JOUST_MUST_USE joust_status joust_trainer_device_norm(joust_trainer *t, double *ret,
                                                      joust_error *err);
JOUST_MUST_USE joust_status joust_trainer_device_update(joust_trainer *t, double learning_rate,
                                                        double scale, joust_error *err);

/* Copies of rows with ref_chosen and ref_rejected under t->reference (freed with joust_free).
 * Errors: those of joust_score. */
JOUST_MUST_USE joust_status joust_reference_rows(joust_trainer *t, const joust_pair_row *rows,
                                                 uint32_t n, joust_pair_row **ret,
                                                 joust_error *err);
/* KTO's estimate of KL(policy || reference), 0 at least: the mean of log-ratios of answers set
 * after the next answer's prompt. Errors: those of joust_score. */
JOUST_MUST_USE joust_status joust_reference_baseline(joust_trainer *t, const joust_pair_row *rows,
                                                     uint32_t n, double *ret, joust_error *err);
/* Moves the reference after a step, where the settings say so. Errors: those of joust_trainer_finish. */
JOUST_MUST_USE joust_status joust_reference_sync(joust_trainer *t, joust_error *err);

#endif
