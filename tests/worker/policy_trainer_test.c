/* Policy losses of TRAIN units, PPO's two, and what servers drew: what is learnt follows from what they are given, and resumed
 * equals uninterrupted. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "worker/credit.h"
#include "worker/engine/train/policy_gradient.h"
#include "worker/trainer_bench.h"

/* Policy losses: answers with advantages, with and without a reference; each setting changes what is learnt, and all resume. */
static void policy_losses_resume_too(void **state)
{
    bench *b = *state;
    joust_job_train *train = &b->job.train, kept = *train;
    joust_train_row_pair pairs[N_PAIRS];
    joust_model_ref reference = b->unit.reference;
    outcome outcomes[4];
    char dir[512];
    uint64_t n_tokens = 0;
    memcpy(pairs, b->pairs, sizeof(pairs));
    for (uint32_t i = 0; i < N_PAIRS; i++) {
        b->pairs[i].n_rejected = 0;
        b->pairs[i].margin = (double)i - 3;
        n_tokens += b->pairs[i].n_chosen;
    }
    tiny_dir("policy_reference", dir);
    tiny_folder_write(dir, true, 77);
    for (uint32_t i = 0; i < 4; i++) {
        *train = kept;
        train->loss = i == 1 ? JOUST_LOSS_RLOO : JOUST_LOSS_GRPO;
        train->policy.kl_weight = i < 2 ? 0 : 0.5;
        if (i == 3) { /* another model than the one that answered */
            b->unit.reference.version = 0;
            b->unit.reference.manifest = fake_upstream_import(&b->fake, dir);
        }
        b->plan.stages[b->unit.unit.stage].train = *train;
        bench_forget_progress(b);
        outcomes[i] = bench_finish(b);
        assert_true(outcomes[i].gap == 0);
        assert_int_equal(outcomes[i].n_compared, n_tokens);
        for (uint32_t k = 0; k < i; k++)
            assert_false(joust_digest_equal(&outcomes[i].weights, &outcomes[k].weights));
        bench_check_resumed(b);
    }
    /* It is the advantages that teach. */
    for (uint32_t i = 0; i < N_PAIRS; i++)
        b->pairs[i].margin = -b->pairs[i].margin;
    bench_forget_progress(b);
    outcome against = bench_finish(b);
    assert_false(joust_digest_equal(&outcomes[3].weights, &against.weights));
    /* A recorded log-prob that is a bit off is seen, and a pair is no answer. */
    float logp = b->pairs[2].chosen_logps[0];
    b->pairs[2].chosen_logps[0] += 0.25f;
    bench_forget_progress(b);
    assert_float_equal(bench_finish(b).gap, 0.25, 1e-6);
    b->pairs[2].chosen_logps[0] = logp;
    b->pairs[3].n_rejected = pairs[3].n_rejected;
    joust_training t = bench_training(b);
    joust_unit_result r = {0};
    joust_error err;
    bench_forget_progress(b);
    check_status(JOUST_MALFORMED, joust_training_run(&t, &b->unit, &r, &err));
    memcpy(b->pairs, pairs, sizeof(pairs));
    b->unit.reference = reference;
    *train = kept;
    b->plan.stages[b->unit.unit.stage].train = kept;
}

/* ---- PPO ------------------------------------------------------------------------------------- */

static joust_job_train *train_of(bench *b)
{
    return &b->plan.stages[b->unit.unit.stage].train;
}

static double figure(const outcome *o, const char *name)
{
    for (uint32_t i = 0; i < o->n_metrics; i++)
        if (strcmp(o->metrics[i].name, name) == 0)
            return o->metrics[i].value;
    fail_msg("no figure %s", name);
    return 0;
}

/* Answers alone, each with a reward. */
static void give_rewards(bench *b)
{
    for (uint32_t i = 0; i < N_PAIRS; i++) {
        b->pairs[i].n_rejected = 0;
        b->pairs[i].margin = i % 3 ? 0.25 * i : -1;
    }
}

/* A critic's folder: the policy's weights, the head drawn. */
static joust_digest make_critic(bench *b, const char *dir)
{
    joust_error err;
    joust_model *policy = NULL, *critic = NULL;
    const char *from = NULL;
    char copy[512];
    uint32_t n;
    check_ok(joust_cache_fetch(b->cache, &b->fake.up, &b->unit.model.manifest, &from, &err));
    snprintf(copy, sizeof(copy), "%s", from);
    check_ok(joust_model_load(copy, &policy, &err));
    check_ok(joust_model_make_scalar(policy, &critic, &err));
    const joust_tensor *tensors = joust_model_tensors(critic, &n);
    for (uint64_t i = 0; i < tensors[n - 1].n; i++)
        tensors[n - 1].data[i] = 0.05f * (float)((int)(i % 5) - 2);
    joust_model_changed(critic);
    check_ok(joust_model_save(critic, copy, dir, &err));
    joust_model_free(&policy);
    joust_model_free(&critic);
    return fake_upstream_import(&b->fake, dir);
}

/* A unit of PPO's policy against a reference of its own; the critic beside it. Kept: what the bench had. */
typedef struct kept {
    joust_train_row_pair pairs[N_PAIRS];
    joust_job_train train;
    joust_lease_unit unit;
} kept;

static void begin_ppo(bench *b, kept *k)
{
    char dir[512];
    memcpy(k->pairs, b->pairs, sizeof(k->pairs));
    k->train = *train_of(b);
    k->unit = b->unit;
    give_rewards(b);
    tiny_dir("policy_reference", dir);
    tiny_folder_write(dir, true, 77);
    b->unit.reference.version = 0;
    b->unit.reference.manifest = fake_upstream_import(&b->fake, dir);
    tiny_dir("policy_critic", dir);
    b->unit.has_partner = true;
    b->unit.partner = (joust_model_ref){.lineage = "critic", .manifest = make_critic(b, dir)};
    joust_job_train *t = train_of(b);
    t->loss = JOUST_LOSS_PPO;
    t->sft_weight = 0;
    t->has_critic = true;
    t->critic = joust_job_critic_default();
    t->critic.lambda = 0.9;
    t->policy.kl_weight = 0.3;
    t->policy.epsilon = 0.2;
    t->reference = JOUST_PICK_INITIAL;
}

static void end_ppo(bench *b, const kept *k)
{
    memcpy(b->pairs, k->pairs, sizeof(k->pairs));
    *train_of(b) = k->train;
    b->unit = k->unit;
}

/* The critic's own unit: it is the model, the policy its partner. */
static void turn_to_critic(bench *b)
{
    const joust_model_ref policy = b->unit.model;
    b->unit.model = b->unit.partner;
    b->unit.model.version = policy.version;
    snprintf(b->unit.model.lineage, sizeof(b->unit.model.lineage),
             "policy"); /* as the bench expects */
    b->unit.partner = policy;
    train_of(b)->loss = JOUST_LOSS_VALUE;
}

static void ppo_resumes_too(void **state)
{
    bench *b = *state;
    kept k;
    begin_ppo(b, &k);
    joust_job_train *t = train_of(b);
    outcome outcomes[6];
    for (uint32_t i = 0; i < 6; i++) {
        t->critic.lambda = i == 1 ? 0.5 : 0.9;
        t->critic.gamma = i == 2 ? 0.8 : 1;
        t->critic.whiten = i != 3;
        t->critic.kl_in_reward = i != 4;
        t->policy.kl_weight = i == 5 ? 0 : 0.3;
        bench_forget_progress(b);
        outcomes[i] = bench_finish(b);
        assert_true(outcomes[i].gap == 0 && outcomes[i].n_compared > 0);
        for (uint32_t j = 0; j < i; j++)
            assert_false(joust_digest_equal(&outcomes[i].weights, &outcomes[j].weights));
        if (i == 0 || i == 4)
            bench_check_resumed(b);
    }
    assert_true(figure(&outcomes[0], JOUST_METRIC_MEAN_KL) > 0.01);
    turn_to_critic(b);
    t->policy.kl_weight = 0.3;
    bench_forget_progress(b);
    const outcome critic = bench_finish(b);
    assert_true(figure(&critic, JOUST_METRIC_VALUE_LOSS) > 0.01);
    assert_true(figure(&critic, JOUST_METRIC_EXPLAINED_VARIANCE) < 1);
    bench_check_resumed(b);
    t->policy.kl_weight = 0;
    bench_forget_progress(b);
    const outcome other = bench_finish(b);
    assert_false(joust_digest_equal(&critic.weights, &other.weights));
    b->unit.has_partner = false;
    joust_training run = bench_training(b);
    joust_unit_result r = {0};
    joust_error err;
    bench_forget_progress(b);
    check_status(JOUST_INVALID, joust_training_run(&run, &b->unit, &r, &err));
    end_ppo(b, &k);
}

/* Log-probs or values of an answer, by the training pass. */
static void read_answer(bench *b, const joust_model_ref *ref, bool values,
                        const joust_train_row_pair *p, float *ret)
{
    joust_error err;
    joust_model *m = NULL;
    joust_trainer *t = NULL;
    const char *dir = NULL;
    uint32_t tokens[64];
    const joust_train_settings settings = {.loss = values ? JOUST_LOSS_VALUE : JOUST_LOSS_SFT,
                                           .beta = 0.1,
                                           .objective = joust_objective_neutral(),
                                           .schedule = JOUST_SCHEDULE_CONSTANT,
                                           .adam_eps = 1e-8};
    memcpy(tokens, p->prompt_tokens, p->n_prompt_tokens * sizeof(*tokens));
    memcpy(tokens + p->n_prompt_tokens, p->chosen, p->n_chosen * sizeof(*tokens));
    check_ok(joust_cache_fetch(b->cache, &b->fake.up, &ref->manifest, &dir, &err));
    check_ok(joust_model_load(dir, &m, &err));
    check_ok(joust_trainer_create(b->engine, m, &settings, &t, &err));
    const joust_value_row row = {.prompt = p->prompt_tokens,
                                 .response = p->chosen,
                                 .n_prompt = p->n_prompt_tokens,
                                 .n_response = p->n_chosen};
    check_ok(values ? joust_trainer_values(t, &row, ret, &err)
                    : joust_trainer_logps(t, tokens, p->n_prompt_tokens + p->n_chosen,
                                          p->n_prompt_tokens, ret, &err));
    joust_trainer_free(&t);
    joust_model_free(&m);
}

/* Credit against a recursion written out: forced tokens are passed over, and the last one drawn has the reward. */
static void credit_is_what_it_says(void **state)
{
    bench *b = *state;
    kept k;
    joust_error err;
    begin_ppo(b, &k);
    const joust_job_train *t = train_of(b);
    joust_training training = bench_training(b);
    joust_pair_feed *feed = NULL;
    joust_credit *credit = NULL;
    joust_credit_figures figures = {0};
    uint8_t forced[N_PAIRS][64] = {{0}};
    double expected[N_PAIRS][64], sum = 0, squares = 0;
    uint32_t n_drawn = 0;
    bench_forget_progress(b);
    check_ok(joust_pair_feed_open(&b->fake.up, &b->unit, UINT64_MAX, N_PAIRS, &feed, &err));
    check_ok(joust_credit_create(true, &credit, &err));
    for (uint32_t i = 0; i < N_PAIRS; i++) {
        const joust_train_row_pair *p = &b->pairs[i];
        float values[64], ref[64];
        double next = 0, after = 0;
        bool last = true;
        forced[i][0] = p->n_chosen > 1;
        forced[i][p->n_chosen - 1] = i == 4 && p->n_chosen > 2;
        joust_train_row_pair row = *p;
        row.ordinal = i;
        check_ok(joust_credit_add(credit, &row, forced[i], p->chosen_logps, &err));
        read_answer(b, &b->unit.partner, true, p, values);
        read_answer(b, &b->unit.reference, false, p, ref);
        for (uint32_t j = p->n_chosen; j-- > 0;) {
            if (forced[i][j])
                continue;
            const double reward =
                -0.3 * ((double)p->chosen_logps[j] - (double)ref[j]) + (last ? p->margin : 0);
            after = reward + next - (double)values[j] + 0.9 * after;
            next = (double)values[j];
            expected[i][j] = after;
            last = false;
            sum += after;
            squares += after * after;
            n_drawn++;
        }
    }
    const joust_policy_source source = {
        .training = &training, .unit = &b->unit, .feed = feed, .model = NULL};
    check_ok(joust_credit_complete(credit, &source, &figures, &err));
    const double mean = sum / n_drawn,
                 deviation = sqrt((squares - sum * mean) / (n_drawn - 1) + 1e-8);
    assert_int_equal(figures.n, n_drawn);
    for (uint32_t i = 0; i < N_PAIRS; i++) {
        joust_credit_tokens got;
        check_ok(joust_credit_find(credit, i, b->pairs[i].n_chosen, &got, &err));
        for (uint32_t j = 0; j < got.n; j++) {
            assert_int_equal(got.forced[j], forced[i][j]);
            const double want = forced[i][j] ? 0 : (expected[i][j] - mean) / deviation;
            if (!(fabs(got.advantages[j] - want) < 1e-9))
                fail_msg("answer %u, token %u: advantage %.12g, expected %.12g", i, j,
                         got.advantages[j], want);
            assert_true(forced[i][j] ||
                        fabs(got.returns[j] - (double)got.values[j] - expected[i][j]) < 1e-9);
        }
        check_status(JOUST_MALFORMED, joust_credit_find(credit, i, 63, &got, &err));
    }
    joust_credit_tokens got;
    check_status(JOUST_MALFORMED, joust_credit_find(credit, N_PAIRS, 1, &got, &err));
    assert_true(t->critic.whiten);
    joust_credit_free(&credit);
    joust_pair_feed_close(&feed);
    end_ppo(b, &k);
}

/* ---- servers --------------------------------------------------------------------------------- */

/* A server's log-probs: the engine's, less what its token's number says. */
static double shift(uint32_t i)
{
    return i % 4 == 0 ? 1.0 : i % 4 == 1 ? -0.5 : 0.125;
}

static void servers_answers_are_weighed(void **state)
{
    bench *b = *state;
    kept k;
    joust_error err;
    memcpy(k.pairs, b->pairs, sizeof(k.pairs));
    k.train = *train_of(b);
    k.unit = b->unit;
    give_rewards(b);
    joust_job_train *t = train_of(b);
    t->loss = JOUST_LOSS_GRPO;
    t->sft_weight = 0;
    bench_forget_progress(b);
    const outcome ours = bench_finish(b);
    b->job.models[0].has_serve = true;
    bench_forget_progress(b);
    const outcome same = bench_finish(b);
    assert_true(joust_digest_equal(&ours.weights, &same.weights));
    assert_true(figure(&same, JOUST_METRIC_MEAN_WEIGHT) == 1 &&
                figure(&same, JOUST_METRIC_MAX_WEIGHT) == 1 &&
                figure(&same, JOUST_METRIC_TRUNCATED_WEIGHTS) == 0);
    assert_true(same.gap == 0);
    bench_check_resumed(b);
    /* Its log-probs are others. */
    double mean = 0, most = 0, above = 0, of_answers = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < N_PAIRS; i++) {
        double whole = 0;
        for (uint32_t j = 0; j < b->pairs[i].n_chosen; j++, n++) {
            const float own = b->pairs[i].chosen_logps[j];
            b->pairs[i].chosen_logps[j] = own - (float)shift(j);
            const double off = (double)own - (double)b->pairs[i].chosen_logps[j];
            mean += exp(off);
            most = fmax(most, exp(off));
            above += exp(off) > 2;
            whole += off;
        }
        of_answers += exp(whole) / N_PAIRS;
    }
    outcome weighed[3];
    for (uint32_t i = 0; i < 3; i++) {
        t->loss = i == 2 ? JOUST_LOSS_GSPO : JOUST_LOSS_GRPO;
        t->policy.importance_cap = i == 1 ? 1.1 : 0;
        bench_forget_progress(b);
        weighed[i] = bench_finish(b);
        assert_false(joust_digest_equal(&weighed[i].weights, &ours.weights));
        assert_true(fabs(weighed[i].gap - 1) < 1e-5);
        for (uint32_t j = 0; j < i; j++)
            assert_false(joust_digest_equal(&weighed[i].weights, &weighed[j].weights));
    }
    bench_check_resumed(b);
    assert_true(fabs(figure(&weighed[0], JOUST_METRIC_MEAN_WEIGHT) - mean / n) < 1e-9);
    assert_true(fabs(figure(&weighed[0], JOUST_METRIC_MAX_WEIGHT) - most) < 1e-9);
    assert_true(fabs(figure(&weighed[0], JOUST_METRIC_TRUNCATED_WEIGHTS) - above / n) < 1e-9);
    assert_true(figure(&weighed[1], JOUST_METRIC_TRUNCATED_WEIGHTS) > above / n);
    assert_true(fabs(figure(&weighed[2], JOUST_METRIC_MEAN_WEIGHT) - of_answers) <
                1e-6 * of_answers);
    /* A server that gives none. */
    b->pairs[3].chosen_logps[0] = NAN;
    joust_training run = bench_training(b);
    joust_unit_result r = {0};
    bench_forget_progress(b);
    check_status(JOUST_INVALID, joust_training_run(&run, &b->unit, &r, &err));
    assert_non_null(strstr(err.text, "endpoint.logprobs must ask for them"));
    for (uint32_t i = 0; i < N_PAIRS; i++)
        for (uint32_t j = 0; j < b->pairs[i].n_chosen; j++)
            b->pairs[i].chosen_logps[j] += (float)shift(j);
    b->job.models[0].has_serve = false;
    memcpy(b->pairs, k.pairs, sizeof(k.pairs));
    *train_of(b) = k.train;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(policy_losses_resume_too),
        cmocka_unit_test(ppo_resumes_too),
        cmocka_unit_test(credit_is_what_it_says),
        cmocka_unit_test(servers_answers_are_weighed),
    };
    return cmocka_run_group_tests(tests, bench_setup, bench_teardown);
}
