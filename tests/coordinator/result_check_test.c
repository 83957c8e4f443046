/* A result that is what its unit asked for passes; with any single thing wrong it is refused, and told why. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "coordinator/result_check.h"
#include "coordinator/sample_store.h"
#include "proto/base/alloc.h"
#include "proto/codec.h"
#include "storage/tables.h"

/* One thing wrong with a result of a stage. */
typedef struct wrong {
    const char *what;
    uint32_t stage;
    void (*spoil)(sample_store *s, joust_unit_result *r);
    joust_status status;
    const char *says;
} wrong;

static joust_unit_result honest(sample_store *s, uint32_t stage)
{
    return stage == SAMPLE_GENERATE ? sample_group(s, 1, 2)
           : stage == SAMPLE_JUDGE  ? sample_verdicts(s, 1, 2)
                                    : sample_model(s, 1);
}

static joust_status check(sample_store *s, joust_unit_result *r, joust_digest *ret,
                          joust_error *err)
{
    return joust_result_check(&s->sources, s->blobs, &s->policy, r, ret, err);
}

/* Ways to be wrong ----------------------------------------------------------------------------- */

#define SPOIL(name, ...)                                                                           \
    static void name(sample_store *s, joust_unit_result *r)                                        \
    {                                                                                              \
        (void)s;                                                                                   \
        __VA_ARGS__;                                                                               \
    }

SPOIL(unknown_stage, r->id.unit.stage = s->plan.n_stages)
SPOIL(local_stage, r->id.unit.stage = SAMPLE_PAIR)

SPOIL(too_few, joust_trajectory_fini(&r->trajectories[--r->n_trajectories]))
SPOIL(verdicts_too, joust_unit_result_fini(r); *r = sample_verdicts(s, 1, 2);
      r->id.unit.stage = SAMPLE_GENERATE)
SPOIL(group_with_model, r->has_model = true)
SPOIL(group_of_other_position, r->trajectories[1].key.position++)
SPOIL(group_of_other_round, r->trajectories[1].key.round++)
SPOIL(group_of_other_stage, r->trajectories[1].key.stage++)
SPOIL(samples_swapped, r->trajectories[0].sample = 1)
SPOIL(other_prompt, r->trajectories[2].prompt.bytes[31] ^= 1)
SPOIL(other_occurrence, r->trajectories[2].prompt_occurrence++)
SPOIL(stale_version, r->trajectories[0].policy.version++)
SPOIL(other_manifest, r->trajectories[0].policy.manifest.bytes[0] ^= 1)
SPOIL(other_weights, r->trajectories[0].policy.weights.bytes[0] ^= 1)
SPOIL(other_lineage, r->trajectories[0].policy.lineage[0] = 'x')
SPOIL(other_stream, r->trajectories[1].stream.key[0] ^= 1)
SPOIL(other_temperature, r->trajectories[1].sampling.temperature = 0.5f)
SPOIL(other_top_p, r->trajectories[1].sampling.top_p = 0.5f)
SPOIL(other_min_p, r->trajectories[1].sampling.min_p = 0.5f)
SPOIL(other_top_k, r->trajectories[1].sampling.top_k = 5)
SPOIL(other_max_tokens, r->trajectories[1].sampling.max_tokens++)
SPOIL(too_long, s->plan.stages[SAMPLE_GENERATE].sampling.max_tokens = 3;
      for (uint32_t i = 0; i < r->n_trajectories; i++) r->trajectories[i].sampling.max_tokens = 3)
SPOIL(not_finite, r->trajectories[1].raw_logps[0] /= 0.0f)
SPOIL(not_utf8, r->trajectories[1].text[0] = (char)0xff)
SPOIL(no_verdicts, while (r->n_verdicts) joust_verdict_fini(&r->verdicts[--r->n_verdicts]))
SPOIL(verdict_of_other_position, r->verdicts[1].key.position++)
SPOIL(verdict_about_other_stage, r->verdicts[1].of_stage = SAMPLE_JUDGE)
SPOIL(verdict_of_no_sample, r->verdicts[2].sample = SAMPLE_SAMPLES)
SPOIL(verdict_against_no_sample, r->verdicts[2].other = SAMPLE_SAMPLES)
SPOIL(verdict_by_other_judge, r->verdicts[0].judge[0] = 'x')
SPOIL(verdicts_out_of_order, r->verdicts[0].vote = 1; r->verdicts[1].sample = 0)
SPOIL(verdict_twice, r->verdicts[1].sample = 0)
SPOIL(verdict_by_stale_model, r->verdicts[1].model.version++)
SPOIL(verdict_by_no_model, r->verdicts[1].model = (joust_model_ref){.version = 0})
SPOIL(verdict_not_finite, r->verdicts[1].value /= 0.0)
SPOIL(sample_without_verdict, joust_verdict_fini(&r->verdicts[--r->n_verdicts]))
SPOIL(verdicts_with_model, r->has_model = true)

SPOIL(no_model, r->has_model = false)
SPOIL(model_of_other_lineage, r->model.model.lineage[0] = 'x')
SPOIL(step_of_other_round, r->steps[0].round++)
SPOIL(step_of_other_stage, r->steps[1].stage--)
SPOIL(more_steps_than_taken, r->model.n_steps = 1)
SPOIL(step_missing, r->model.n_steps = 3)
SPOIL(unknown_manifest, r->model.model.manifest.bytes[0] ^= 1)

static const wrong all[] = {
    {"unknown stage", SAMPLE_GENERATE, unknown_stage, JOUST_INVALID, "no stage 4"},
    {"local stage", SAMPLE_GENERATE, local_stage, JOUST_INVALID, "pair takes no results"},
    {"too few", SAMPLE_GENERATE, too_few, JOUST_INVALID, "2 trajectories, expected 3"},
    {"verdicts", SAMPLE_GENERATE, verdicts_too, JOUST_INVALID, "0 trajectories, expected 3"},
    {"model too", SAMPLE_GENERATE, group_with_model, JOUST_INVALID, "trajectories"},
    {"position", SAMPLE_GENERATE, group_of_other_position, JOUST_INVALID, "another unit"},
    {"round", SAMPLE_GENERATE, group_of_other_round, JOUST_INVALID, "another unit"},
    {"stage", SAMPLE_GENERATE, group_of_other_stage, JOUST_INVALID, "another unit"},
    {"sample", SAMPLE_GENERATE, samples_swapped, JOUST_INVALID, "another unit"},
    {"prompt", SAMPLE_GENERATE, other_prompt, JOUST_INVALID, "another prompt"},
    {"occurrence", SAMPLE_GENERATE, other_occurrence, JOUST_INVALID, "another prompt"},
    {"version", SAMPLE_GENERATE, stale_version, JOUST_STALE,
     "policy version 1, expected policy version 0"},
    {"manifest", SAMPLE_GENERATE, other_manifest, JOUST_STALE, "trajectory of policy version 0"},
    {"weights", SAMPLE_GENERATE, other_weights, JOUST_STALE, "trajectory of policy version 0"},
    {"lineage", SAMPLE_GENERATE, other_lineage, JOUST_STALE, "trajectory of xolicy"},
    {"stream", SAMPLE_GENERATE, other_stream, JOUST_INVALID, "sampled in another way"},
    {"temperature", SAMPLE_GENERATE, other_temperature, JOUST_INVALID, "sampled in another way"},
    {"top_p", SAMPLE_GENERATE, other_top_p, JOUST_INVALID, "sampled in another way"},
    {"min_p", SAMPLE_GENERATE, other_min_p, JOUST_INVALID, "sampled in another way"},
    {"top_k", SAMPLE_GENERATE, other_top_k, JOUST_INVALID, "sampled in another way"},
    {"max_tokens", SAMPLE_GENERATE, other_max_tokens, JOUST_INVALID, "sampled in another way"},
    {"too long", SAMPLE_GENERATE, too_long, JOUST_INVALID, "sampled in another way"},
    {"not finite", SAMPLE_GENERATE, not_finite, JOUST_NOT_FINITE, "raw_logps"},
    {"not UTF-8", SAMPLE_GENERATE, not_utf8, JOUST_INVALID, "trajectory.text"},
    {"no verdicts", SAMPLE_JUDGE, no_verdicts, JOUST_INVALID, "expected verdicts"},
    {"position", SAMPLE_JUDGE, verdict_of_other_position, JOUST_INVALID, "something else"},
    {"subject's stage", SAMPLE_JUDGE, verdict_about_other_stage, JOUST_INVALID, "something else"},
    {"no such sample", SAMPLE_JUDGE, verdict_of_no_sample, JOUST_INVALID, "something else"},
    {"no such other", SAMPLE_JUDGE, verdict_against_no_sample, JOUST_INVALID, "something else"},
    {"judge", SAMPLE_JUDGE, verdict_by_other_judge, JOUST_INVALID, "something else"},
    {"order", SAMPLE_JUDGE, verdicts_out_of_order, JOUST_INVALID, "out of order"},
    {"twice", SAMPLE_JUDGE, verdict_twice, JOUST_INVALID, "out of order"},
    {"stale model", SAMPLE_JUDGE, verdict_by_stale_model, JOUST_STALE,
     "'policy' version 1, expected"},
    {"no model", SAMPLE_JUDGE, verdict_by_no_model, JOUST_STALE, "expected 'policy' version 0"},
    {"not finite", SAMPLE_JUDGE, verdict_not_finite, JOUST_NOT_FINITE, "verdict.value"},
    {"unjudged", SAMPLE_JUDGE, sample_without_verdict, JOUST_INVALID, "sample 2 has no verdict"},
    {"model too", SAMPLE_JUDGE, verdicts_with_model, JOUST_INVALID, "expected verdicts"},
    {"no model", SAMPLE_TRAIN, no_model, JOUST_INVALID, "expected a model"},
    {"lineage", SAMPLE_TRAIN, model_of_other_lineage, JOUST_INVALID, "xolicy, expected policy"},
    {"step's round", SAMPLE_TRAIN, step_of_other_round, JOUST_INVALID, "another unit"},
    {"step's stage", SAMPLE_TRAIN, step_of_other_stage, JOUST_INVALID, "another unit"},
    {"too many steps", SAMPLE_TRAIN, more_steps_than_taken, JOUST_INVALID,
     "2 training steps of a model that took 1"},
    {"step missing", SAMPLE_TRAIN, step_missing, JOUST_INVALID, "out of order"},
    {"manifest", SAMPLE_TRAIN, unknown_manifest, JOUST_NOT_FOUND, "was never sent"},
};

static void what_is_wrong_is_refused(void **state)
{
    sample_store s;
    (void)state;
    sample_store_open(&s, JOUST_ORDER_FILE);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        joust_error err = {0};
        joust_digest digest;
        joust_unit_result r = honest(&s, all[i].stage);
        all[i].spoil(&s, &r);
        joust_status st = check(&s, &r, &digest, &err);
        if (st != all[i].status || !strstr(err.text, all[i].says))
            fail_msg("stage %u, %s: %s '%s', expected %s '%s'", all[i].stage, all[i].what,
                     joust_status_name(st), err.text, joust_status_name(all[i].status),
                     all[i].says);
        joust_unit_result_fini(&r);
        check_ok(joust_plan_compile(&s.job, &s.plan, &err)); /* as it was before */
    }
    sample_store_close(&s);
}

/* What passes has the digest that the store gives for it, so that a repeat can be compared. */
static void what_is_right_passes(void **state)
{
    (void)state;
    sample_store s;
    sample_store_open(&s, JOUST_ORDER_SHUFFLE);
    for (uint32_t stage = 0; stage < s.plan.n_stages; stage++) {
        joust_error err;
        joust_digest before, after;
        if (stage == SAMPLE_PAIR)
            continue;
        joust_unit_result r = honest(&s, stage);
        check_ok(check(&s, &r, &before, &err));
        sample_put_result(&s, &r);
        check_ok(joust_result_stored(&s.sources, &r.id.unit, r.model.model.version, &after, &err));
        assert_memory_equal(&before, &after, sizeof before);
        joust_unit_result_fini(&r);
    }
    sample_store_close(&s);
}

/* The digest is of the canonical records: any of them changed shows, who made them doesn't. */
static void digest_is_of_the_content(void **state)
{
    joust_error err;
    joust_digest first, second;
    sample_store s;
    (void)state;
    sample_store_open(&s, JOUST_ORDER_FILE);
    joust_unit_result r = sample_group(&s, 1, 0);
    check_ok(check(&s, &r, &first, &err));
    r.provenance.attempt = 9;
    snprintf(r.provenance.peer, sizeof r.provenance.peer, "worker-7");
    check_ok(check(&s, &r, &second, &err));
    assert_memory_equal(&first, &second, sizeof first);
    r.trajectories[2].tokens[0] ^= 1;
    check_ok(check(&s, &r, &second, &err));
    assert_memory_not_equal(&first, &second, sizeof first);
    joust_unit_result_fini(&r);
    sample_store_close(&s);
}

/* The digest of the weights is the coordinator's own finding, whatever the peer says. */
static void weights_are_not_taken_on_trust(void **state)
{
    joust_error err;
    joust_digest digest;
    sample_store s;
    (void)state;
    sample_store_open(&s, JOUST_ORDER_FILE);
    joust_unit_result r = sample_model(&s, 1);
    r.model.model.weights = joust_digest_of("a lie", 5);
    check_ok(check(&s, &r, &digest, &err));
    assert_memory_equal(&r.model.model.weights, &s.policy.weights, sizeof digest);
    joust_unit_result_fini(&r);
    sample_store_close(&s);
}

/* A model whose last chunk never came. */
static void a_chunk_is_missing(void **state)
{
    joust_error err = {0};
    joust_digest digest;
    joust_manifest_file file = {.name = "model.safetensors", .n_bytes = 4, .n_chunks = 1};
    joust_manifest manifest = {.n_files = 1, .files = &file};
    joust_buf bytes = {0};
    sample_store s;
    (void)state;
    sample_store_open(&s, JOUST_ORDER_FILE);
    joust_unit_result r = sample_model(&s, 1);
    joust_digest chunk = joust_digest_of("lost", 4);
    file.digest = chunk;
    file.chunks = &chunk;
    check_ok(joust_manifest_encode(&manifest, &bytes, &err));
    check_ok(joust_manifest_digest(&manifest, &r.model.model.manifest, &err));
    check_ok(joust_blobs_put(s.blobs, &r.model.model.manifest, bytes.data, bytes.n, &err));
    char hex[JOUST_DIGEST_HEX];
    check_status(JOUST_NOT_FOUND, check(&s, &r, &digest, &err));
    assert_non_null(strstr(err.text, joust_digest_hex(&chunk, hex)));
    check_ok(joust_blobs_put(s.blobs, &chunk, "lost", 4, &err));
    check_ok(check(&s, &r, &digest, &err));
    joust_buf_fini(&bytes);
    joust_unit_result_fini(&r);
    sample_store_close(&s);
}

/* Steps that were told as progress need not come again, but none between them and the result's may be missing. */
static void steps_follow_those_recorded(void **state)
{
    joust_error err;
    joust_digest digest;
    sample_store s;
    (void)state;
    sample_store_open(&s, JOUST_ORDER_FILE);
    joust_unit_result early = sample_model(&s, 1), late = sample_model(&s, 1);
    late.model.n_steps = 4;
    late.steps[0].step = 2;
    late.steps[1].step = 3;
    check_status(JOUST_INVALID, check(&s, &late, &digest, &err));
    assert_non_null(strstr(err.text, "training step 1 of 4 was never told"));
    early.has_model = false; /* progress: the steps alone */
    sample_put_result(&s, &early);
    check_ok(check(&s, &late, &digest, &err));
    joust_unit_result_fini(&early);
    joust_unit_result_fini(&late);
    sample_store_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_right_passes),
                                       cmocka_unit_test(what_is_wrong_is_refused),
                                       cmocka_unit_test(digest_is_of_the_content),
                                       cmocka_unit_test(weights_are_not_taken_on_trust),
                                       cmocka_unit_test(a_chunk_is_missing),
                                       cmocka_unit_test(steps_follow_those_recorded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
