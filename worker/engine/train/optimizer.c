#include "optimizer_internal.h"

#include <math.h> /* sqrt */

#include "proto/base/alloc.h"
#include "proto/base/math.h"

#define BLOCK 4096u

double joust_learning_rate(const joust_train_settings *p, uint32_t step)
{
    const double done = step < p->max_steps ? (double)step / p->max_steps : 1;
    double left = 1; /* of the way from the peak to its share that stays */
    if (p->schedule == JOUST_SCHEDULE_LINEAR)
        left = 1 - done;
    else if (p->schedule == JOUST_SCHEDULE_COSINE)
        left = (1 + joust_cos(3.141592653589793 * done)) / 2;
    const double warm = step < p->warmup_steps ? ((double)step + 1) / p->warmup_steps : 1;
    return p->learning_rate * warm *
           (p->min_learning_rate_ratio + (1 - p->min_learning_rate_ratio) * left);
}

typedef struct squares {
    const joust_kernels *kernels;
    const float *x;
    uint64_t n;
    double *sums; /* one a block */
} squares;

static void squares_block(void *context, uint64_t block)
{
    const squares *s = context;
    uint64_t first = block * BLOCK, n = s->n - first < BLOCK ? s->n - first : BLOCK;
    s->sums[block] = s->kernels->square_sum(s->x + first, n);
}

joust_status joust_gradient_norm(joust_engine *engine, const float *gradient, uint64_t n,
                                 double *ret, joust_error *err)
{
    uint64_t n_blocks = (n + BLOCK - 1) / BLOCK;
    squares s = {engine->kernels, gradient, n, joust_calloc(n_blocks, sizeof(*s.sums))};
    if (!s.sums)
        return joust_fail(err, JOUST_NOMEM, "gradient norm: out of memory");
    joust_pool_each(engine->pool, n_blocks, squares_block, &s);
    double sum = 0;
    for (uint64_t i = 0; i < n_blocks; i++)
        sum += s.sums[i];
    joust_free(s.sums);
    *ret = sqrt(sum);
    return JOUST_OK;
}

/* x^n by squaring. */
static double power(double x, uint64_t n)
{
    double y = 1;
    for (; n; n >>= 1, x *= x)
        if (n & 1)
            y *= x;
    return y;
}

typedef struct update {
    joust_engine *engine;
    const joust_trained *trained;
    joust_adam with, without; /* decay: matrices and norms */
    const float *gradient;
    float *m, *v;
} update;

/* Item i is a block of BLOCK * 4 weights; it may lie in several tensors. */
static void update_block(void *context, uint64_t block)
{
    const update *u = context;
    const uint64_t size = BLOCK * 4, first = block * size;
    const uint64_t end = first + size < u->trained->n ? first + size : u->trained->n;
    for (uint32_t i = 0; i < u->trained->n_tensors; i++) {
        const joust_tensor *t = &u->trained->tensors[i];
        uint64_t at = (uint64_t)(t->data - u->trained->weights), low = at > first ? at : first;
        uint64_t high = at + t->n < end ? at + t->n : end;
        if (low < high)
            u->engine->kernels->adam(t->n_dims == 2 ? &u->with : &u->without, u->gradient + low,
                                     u->m + low, u->v + low, u->trained->weights + low, high - low);
    }
}

joust_adam joust_adam_of_step(const joust_train_settings *p, uint32_t step, double learning_rate,
                              double scale)
{
    const uint64_t t = (uint64_t)step + 1;
    return (joust_adam){.beta1 = (float)p->adam_beta1,
                        .beta2 = (float)p->adam_beta2,
                        .eps = (float)p->adam_eps,
                        .step_size = (float)(learning_rate / (1 - power(p->adam_beta1, t))),
                        .correction = (float)sqrt(1 - power(p->adam_beta2, t)),
                        .decay = (float)(1 - learning_rate * p->weight_decay),
                        .scale = (float)scale};
}

void joust_optimizer_update(joust_engine *engine, const joust_trained *trained,
                            const joust_train_settings *p, uint32_t step, double learning_rate,
                            double scale, const float *gradient, float *m, float *v)
{
    update u = {.engine = engine, .trained = trained, .gradient = gradient, .m = m, .v = v};
    u.without = u.with = joust_adam_of_step(p, step, learning_rate, scale);
    u.without.decay = 1;
    uint64_t size = BLOCK * 4;
    joust_pool_each(engine->pool, (trained->n + size - 1) / size, update_block, &u);
}
