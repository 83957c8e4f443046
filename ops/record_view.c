#include "ops/record_view.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ops/cli.h"
#include "ops/credit_view.h"
#include "ops/pair_view.h"
#include "proto/base/alloc.h"
#include "storage/json.h"
#include "storage/lineage.h"
#include "storage/tables.h"

enum { EXCERPT = 60 };

int joust_view_open(const char *verb, const char *dir, joust_store **ret)
{
    joust_error err = {0};
    if (!dir) {
        joust_fail(&err, JOUST_INVALID, "give --store DIR");
        joust_cli_fail(verb, &err);
        return JOUST_EXIT_USAGE;
    }
    joust_status st = joust_store_open_read(dir, ret, &err);
    if (st == JOUST_OK)
        return -1;
    int status = joust_cli_fail(verb, &err);
    return st == JOUST_NOT_FOUND ? JOUST_EXIT_UNREACHABLE : status;
}

/* The beginning of a text on one line: at most EXCERPT characters, line breaks shown as a space. */
static void print_excerpt(const char *text)
{
    int n = 0;
    for (; *text && n < EXCERPT; text++) {
        bool starts = ((unsigned char)*text & 0xc0) != 0x80; /* not the inside of a character */
        n += starts;
        putchar((unsigned char)*text < ' ' ? ' ' : *text);
    }
    while (((unsigned char)*text & 0xc0) == 0x80)
        putchar(*text++);
    printf(*text ? "…\n" : "\n");
}

static const char *id_text(joust_record_id id, char to[JOUST_RECORD_ID_TEXT])
{
    return joust_record_id_text(&id, to);
}

static double logp_of(const joust_trajectory *r)
{
    double sum = 0;
    for (uint32_t i = 0; i < r->n_tokens; i++)
        sum += (double)r->raw_logps[i];
    return sum;
}

/* List ----------------------------------------------------------------------------------------- */

static joust_status list_pair(joust_store *store, joust_cursor *cursor, joust_error *err)
{
    joust_pair r;
    joust_prompt prompt;
    char id[JOUST_RECORD_ID_TEXT];
    joust_status st = joust_cursor_next_pair(cursor, &r, err);
    if (st == JOUST_OK)
        st = joust_store_find_prompt(store, &r.prompt, r.prompt_occurrence, &prompt, err);
    if (st != JOUST_OK)
        return st;
    printf("%-16s %8.3f %8.3f %8.3f %7" PRIu32 " %8" PRIu32 "  ", id_text(joust_pair_id(&r), id),
           r.margin, r.chosen_reward, r.rejected_reward, r.chosen.sample, r.rejected.sample);
    print_excerpt(prompt.text);
    joust_prompt_fini(&prompt);
    return JOUST_OK;
}

static void print_number(bool has, double value)
{
    if (has)
        printf("%9.4f ", value);
    else
        printf("%9s ", "-");
}

/* credit: NULL where no policy loss trains on answers. */
static joust_status list_trajectory(joust_cursor *cursor, joust_credit_view *credit,
                                    joust_error *err)
{
    joust_trajectory r;
    joust_answer_credit got = {0};
    char id[JOUST_RECORD_ID_TEXT], policy[JOUST_MAX_NAME_BYTES + 24];
    joust_status st = joust_cursor_next_trajectory(cursor, &r, err);
    if (st != JOUST_OK)
        return st;
    if (credit && (st = joust_credit_view_get(credit, &r, &got, err)) != JOUST_OK) {
        joust_trajectory_fini(&r);
        return st;
    }
    snprintf(policy, sizeof(policy), "%s@%" PRIu64, r.policy.lineage, r.policy.version);
    printf("%-16s %-12s %6" PRIu32 " %-11s %9.3f  ", id_text(joust_trajectory_id(&r), id), policy,
           r.n_tokens, joust_finish_name(r.finish), logp_of(&r));
    if (credit) {
        print_number(got.has_reward, got.reward);
        print_number(got.has_advantage, got.advantage);
        putchar(' ');
    }
    print_excerpt(r.text);
    joust_trajectory_fini(&r);
    return JOUST_OK;
}

static joust_status list_verdict(joust_cursor *cursor, joust_error *err)
{
    joust_verdict r;
    char id[JOUST_RECORD_ID_TEXT], about[JOUST_RECORD_ID_TEXT];
    joust_status st = joust_cursor_next_verdict(cursor, &r, err);
    if (st != JOUST_OK)
        return st;
    printf("%-20s %-12s %-8s %-10s ", id_text(joust_verdict_id(&r), id), r.judge, r.kind,
           joust_outcome_name(r.outcome));
    if (r.has_value)
        printf("%9.3f", r.value);
    else
        printf("%9s", "-");
    printf("  %s\n", id_text(joust_verdict_subject_id(&r), about));
    joust_verdict_fini(&r);
    return JOUST_OK;
}

static void list_heading(joust_family family, bool credit)
{
    if (family == JOUST_FAMILY_PAIRS)
        printf("%-16s %8s %8s %8s %7s %8s  %s\n", "id", "margin", "chosen", "rejected", "sample",
               "against", "prompt");
    else if (family == JOUST_FAMILY_TRAJECTORIES)
        printf("%-16s %-12s %6s %-11s %9s  %s%s\n", "id", "policy", "tokens", "finish", "logp",
               credit ? "   reward advantage  " : "", "response");
    else
        printf("%-20s %-12s %-8s %-10s %9s  %s\n", "id", "judge", "kind", "outcome", "value",
               "trajectory");
}

joust_status joust_view_list(joust_store *store, joust_family family, const joust_key_range *range,
                             uint64_t limit, joust_error *err)
{
    joust_cursor *cursor;
    joust_credit_view *credit = NULL;
    joust_error why = {0};
    joust_status st = joust_cursor_open(store, family, range, &cursor, err);
    if (st == JOUST_OK && family == JOUST_FAMILY_TRAJECTORIES &&
        (st = joust_credit_view_open(store, &credit, err)) != JOUST_OK)
        joust_cursor_close(&cursor);
    if (st != JOUST_OK)
        return st;
    list_heading(family, credit != NULL);
    for (uint64_t n = 0; st == JOUST_OK && (limit == 0 || n < limit); n++)
        st = family == JOUST_FAMILY_PAIRS          ? list_pair(store, cursor, &why)
             : family == JOUST_FAMILY_TRAJECTORIES ? list_trajectory(cursor, credit, &why)
                                                   : list_verdict(cursor, &why);
    joust_credit_view_close(&credit);
    joust_cursor_close(&cursor);
    return st == JOUST_OK || st == JOUST_END ? JOUST_OK : joust_fail(err, st, "%s", why.text);
}

/* Show ----------------------------------------------------------------------------------------- */

static void show_model(const char *what, const joust_model_ref *model)
{
    char hex[JOUST_DIGEST_HEX];
    if (*model->lineage)
        printf("%-12s %s version %" PRIu64 ", weights %.16s\n", what, model->lineage,
               model->version, joust_digest_hex(&model->weights, hex));
}

static void show_prompt(const joust_prompt *prompt)
{
    printf("\nprompt\n%s\n", prompt->text);
    if (prompt->reference)
        printf("\nreference\n%s\n", prompt->reference);
}

static void show_provenance(joust_store *store, const char *what, const joust_unit_key *unit)
{
    joust_provenance r;
    if (joust_store_get_provenance(store, unit, &r, NULL) != JOUST_OK)
        return;
    printf("%-12s on %s (%s), attempt %" PRIu32 ", %.3f s, %" PRIu64 " tokens\n", what, r.peer,
           r.host, r.attempt, (double)r.duration_us / 1e6, r.n_tokens);
    for (uint32_t i = 0; i < r.n_served; i++)
        printf("%-12s sample %" PRIu32 " by %s, try %" PRIu32 ", %.3f s\n", i ? "" : "served",
               r.served[i].sample, r.served[i].url, r.served[i].tries,
               (double)r.served[i].latency_us / 1e6);
    joust_provenance_fini(&r);
}

static void show_verdict(const joust_verdict *r)
{
    char id[JOUST_RECORD_ID_TEXT];
    printf("  %-20s %-12s %-10s ", id_text(joust_verdict_id(r), id), r->judge,
           joust_outcome_name(r->outcome));
    if (r->has_value)
        printf("%.6g", r->value);
    if (*r->text)
        printf("  %s", r->text);
    printf("\n");
}

static void show_side(const char *what, const joust_trajectory *t, double reward)
{
    char id[JOUST_RECORD_ID_TEXT];
    printf("\n%s %s: reward %.6g, %" PRIu32 " tokens, %s, logp %.6g\n%s\n", what,
           id_text(joust_trajectory_id(t), id), reward, t->n_tokens, joust_finish_name(t->finish),
           logp_of(t), t->text);
}

static joust_status show_pair(joust_store *store, const joust_plan *plan, const joust_record_id *id,
                              joust_error *err)
{
    joust_lineage l;
    joust_pair pair;
    char text[JOUST_RECORD_ID_TEXT];
    joust_status st = joust_store_get_pair(store, &id->unit, id->index, &pair, err);
    if (st == JOUST_OK)
        st = joust_lineage_load(store, plan, &pair, &l, err);
    if (st != JOUST_OK)
        return st;
    printf("pair %s: %s, margin %.6g\n", id_text(*id, text), pair.rule, pair.margin);
    show_model("policy", &pair.policy);
    show_prompt(&l.prompt);
    show_side("chosen", &l.chosen, pair.chosen_reward);
    show_provenance(store, "made", &l.chosen.key);
    show_side("rejected", &l.rejected, pair.rejected_reward);
    show_provenance(store, "made", &l.rejected.key);
    printf("\nverdicts\n");
    for (uint32_t i = 0; i < l.n_verdicts; i++)
        if (joust_lineage_concerns(&l, &l.verdicts[i]))
            show_verdict(&l.verdicts[i]);
    st = joust_pair_explain(store, plan, &l, err);
    joust_lineage_fini(&l);
    return st;
}

/* Every verdict about a trajectory, from whatever stage judged its group. */
static joust_status show_verdicts_about(joust_store *store, const joust_plan *plan,
                                        const joust_trajectory *t, joust_error *err)
{
    printf("\nverdicts\n");
    for (uint32_t s = 0; s < plan->n_stages; s++) {
        joust_verdict *verdicts;
        uint32_t n;
        joust_unit_key unit = {t->key.round, s, t->key.position};
        if (plan->stages[s].kind != JOUST_STAGE_JUDGE || plan->stages[s].of != t->key.stage)
            continue;
        joust_status st = joust_store_get_verdicts(store, &unit, &verdicts, &n, err);
        if (st != JOUST_OK)
            return st;
        for (uint32_t i = 0; i < n; i++)
            if (verdicts[i].sample == t->sample || verdicts[i].other == t->sample)
                show_verdict(&verdicts[i]);
        joust_verdicts_free(verdicts, n);
    }
    return JOUST_OK;
}

static joust_status show_trajectory(joust_store *store, const joust_plan *plan,
                                    const joust_record_id *id, joust_error *err)
{
    joust_trajectory t;
    joust_prompt prompt;
    char text[JOUST_RECORD_ID_TEXT];
    joust_status st = joust_store_get_trajectory(store, &id->unit, id->index, &t, err);
    if (st != JOUST_OK)
        return st;
    st = joust_store_find_prompt(store, &t.prompt, t.prompt_occurrence, &prompt, err);
    if (st == JOUST_OK) {
        printf("trajectory %s\n", id_text(*id, text));
        show_model("policy", &t.policy);
        printf("%-12s temperature %.6g, top_p %.6g, top_k %" PRIu32 ", at most %" PRIu32
               " tokens\n",
               "sampling", (double)t.sampling.temperature, (double)t.sampling.top_p,
               t.sampling.top_k, t.sampling.max_tokens);
        if (t.sampling.min_tokens || t.sampling.repetition_penalty > 0 || t.sampling.stop)
            printf("%-12s at least %" PRIu32 " tokens, repetition penalty %.6g, stop strings %s\n",
                   "", t.sampling.min_tokens, (double)t.sampling.repetition_penalty,
                   t.sampling.stop ? "of the job" : "none");
        if (t.n_forced || t.n_cut)
            printf("%-12s %" PRIu32 " tokens of the response given, %" PRIu32
                   " of the prompt cut\n",
                   "", t.n_forced, t.n_cut);
        show_provenance(store, "made", &t.key);
        show_prompt(&prompt);
        printf("\nresponse: %" PRIu32 " tokens, %s, logp %.6g\n%s\n", t.n_tokens,
               joust_finish_name(t.finish), logp_of(&t), t.text);
        joust_prompt_fini(&prompt);
        st = show_verdicts_about(store, plan, &t, err);
        if (st == JOUST_OK)
            st = joust_credit_explain(store, &t, err);
    }
    joust_trajectory_fini(&t);
    return st;
}

static joust_status show_one_verdict(joust_store *store, const joust_record_id *id,
                                     joust_error *err)
{
    joust_verdict r;
    char text[JOUST_RECORD_ID_TEXT], hex[JOUST_DIGEST_HEX];
    joust_status st = joust_store_get_verdict(store, id, &r, err);
    if (st != JOUST_OK)
        return st;
    printf("verdict %s by %s (%s)\n", id_text(*id, text), r.judge, r.kind);
    printf("%-12s %s\n", "about", id_text(joust_verdict_subject_id(&r), text));
    if (r.other != JOUST_NONE)
        printf("%-12s sample %" PRIu32 ", order %" PRIu32 "\n", "against", r.other, r.order);
    printf("%-12s %s\n", "outcome", joust_outcome_name(r.outcome));
    if (r.has_value)
        printf("%-12s %.9g\n", "value", r.value);
    for (uint32_t i = 0; i < r.n_labels; i++)
        printf("label %-6" PRIu32 " %.9g\n", i, r.label_logps[i]);
    show_model("model", &r.model);
    if (!joust_digest_is_zero(&r.rendered)) /* a rule renders nothing */
        printf("%-12s %.16s, %" PRIu32 " tokens\n", "rendered", joust_digest_hex(&r.rendered, hex),
               r.n_prompt_tokens);
    show_provenance(store, "made", &r.key);
    if (*r.text)
        printf("\n%s\n", r.text);
    joust_verdict_fini(&r);
    return JOUST_OK;
}

joust_status joust_view_show(joust_store *store, joust_family family, const joust_record_id *id,
                             joust_error *err)
{
    joust_plan *plan = NULL;
    joust_status st = joust_plan_create(joust_store_job(store), &plan, err);
    if (st == JOUST_OK)
        st = family == JOUST_FAMILY_PAIRS          ? show_pair(store, plan, id, err)
             : family == JOUST_FAMILY_TRAJECTORIES ? show_trajectory(store, plan, id, err)
                                                   : show_one_verdict(store, id, err);
    joust_free(plan);
    return st;
}

/* Stats ---------------------------------------------------------------------------------------- */

enum { OUTCOMES = JOUST_OUTCOME_SKIPPED + 1, FINISHES = JOUST_FINISH_ABORTED + 1 };

/* One row of the table: a stage of a round. Which numbers are used depends on the family. */
typedef struct tally {
    uint32_t round, stage;
    uint64_t n, n_values, n_tokens, most_tokens;
    uint64_t outcome[OUTCOMES], finish[FINISHES];
    double sum, least, most; /* of margins, values */
    char judge[JOUST_MAX_NAME_BYTES];
} tally;

static void tally_value(tally *t, double value)
{
    t->least = t->n_values == 0 || value < t->least ? value : t->least;
    t->most = t->n_values == 0 || value > t->most ? value : t->most;
    t->sum += value;
    t->n_values++;
}

static double share(uint64_t n, uint64_t of)
{
    return of ? (double)n / (double)of : 0;
}

static void print_tally_json(const tally *t, joust_family family)
{
    joust_buf line = {0};
    double mean = t->n_values ? t->sum / (double)t->n_values : 0;
    joust_json_open(&line, '{');
    joust_json_add_count(&line, "round", t->round);
    joust_json_add_count(&line, "stage", t->stage);
    joust_json_add_count(&line, "n", t->n);
    if (family == JOUST_FAMILY_TRAJECTORIES) {
        joust_json_add_number(&line, "mean_tokens", share(t->n_tokens, t->n));
        joust_json_add_count(&line, "most_tokens", t->most_tokens);
        for (int i = 1; i < FINISHES; i++)
            joust_json_add_count(&line, joust_finish_name((joust_finish)i), t->finish[i]);
    } else {
        joust_json_add_optional(&line, "mean", t->n_values > 0, mean);
        joust_json_add_optional(&line, "least", t->n_values > 0, t->least);
        joust_json_add_optional(&line, "most", t->n_values > 0, t->most);
    }
    if (family == JOUST_FAMILY_VERDICTS) {
        joust_json_add_text(&line, "judge", t->judge);
        for (int i = 1; i < OUTCOMES; i++)
            joust_json_add_count(&line, joust_outcome_name((joust_outcome)i), t->outcome[i]);
    }
    joust_json_close(&line, '}');
    printf("%s\n", joust_buf_ok(&line) ? (const char *)line.data : "");
    joust_buf_fini(&line);
}

static void print_tally(const tally *t, const joust_plan *plan, joust_family family, bool json)
{
    double mean = t->n_values ? t->sum / (double)t->n_values : 0;
    if (t->n == 0)
        return;
    if (json) {
        print_tally_json(t, family);
        return;
    }
    printf("%5" PRIu32 " %5" PRIu32 "  %-26s %9" PRIu64 " ", t->round, t->stage,
           t->stage < plan->n_stages ? plan->stages[t->stage].name : "-", t->n);
    if (family == JOUST_FAMILY_TRAJECTORIES)
        printf("%11.2f %11" PRIu64 " %7.3f %7.3f\n", share(t->n_tokens, t->n), t->most_tokens,
               share(t->finish[JOUST_FINISH_STOP], t->n),
               share(t->finish[JOUST_FINISH_LENGTH], t->n));
    else if (t->n_values)
        printf("%9.3f %9.3f %9.3f", mean, t->least, t->most);
    else
        printf("%9s %9s %9s", "-", "-", "-");
    if (family == JOUST_FAMILY_VERDICTS) {
        printf("  %-12s", t->judge);
        for (int i = 1; i < OUTCOMES; i++)
            if (t->outcome[i])
                printf(" %s %" PRIu64, joust_outcome_name((joust_outcome)i), t->outcome[i]);
    }
    if (family != JOUST_FAMILY_TRAJECTORIES)
        printf("\n");
}

/* Adds the cursor's next record to t, after printing t if the record belongs to another row. */
static joust_status tally_next(joust_cursor *cursor, const joust_plan *plan, joust_family family,
                               bool json, tally *t, joust_error *err)
{
    joust_pair pair;
    joust_trajectory trajectory;
    joust_verdict verdict;
    joust_unit_key unit;
    joust_status st = family == JOUST_FAMILY_PAIRS ? joust_cursor_next_pair(cursor, &pair, err)
                      : family == JOUST_FAMILY_TRAJECTORIES
                          ? joust_cursor_next_trajectory(cursor, &trajectory, err)
                          : joust_cursor_next_verdict(cursor, &verdict, err);
    if (st != JOUST_OK || !joust_key_get_unit(joust_cursor_key(cursor), &unit))
        return st;
    if (unit.round != t->round || unit.stage != t->stage) {
        print_tally(t, plan, family, json);
        *t = (tally){.round = unit.round, .stage = unit.stage};
    }
    t->n++;
    if (family == JOUST_FAMILY_PAIRS) {
        tally_value(t, pair.margin);
    } else if (family == JOUST_FAMILY_TRAJECTORIES) {
        t->n_tokens += trajectory.n_tokens;
        t->most_tokens =
            trajectory.n_tokens > t->most_tokens ? trajectory.n_tokens : t->most_tokens;
        t->finish[trajectory.finish]++;
        joust_trajectory_fini(&trajectory);
    } else {
        snprintf(t->judge, sizeof(t->judge), "%s", verdict.judge);
        t->outcome[verdict.outcome]++;
        if (verdict.has_value)
            tally_value(t, verdict.value);
        joust_verdict_fini(&verdict);
    }
    return JOUST_OK;
}

joust_status joust_view_stats(joust_store *store, joust_family family, const joust_key_range *range,
                              bool json, joust_error *err)
{
    joust_cursor *cursor = NULL;
    joust_error why = {0};
    tally t = {0};
    joust_plan *plan = NULL;
    joust_status st = joust_plan_create(joust_store_job(store), &plan, err);
    if (st == JOUST_OK)
        st = joust_cursor_open(store, family, range, &cursor, err);
    if (st != JOUST_OK) {
        joust_free(plan);
        return st;
    }
    if (!json)
        printf("%5s %5s  %-26s %9s %s\n", "round", "stage", "name", "n",
               family == JOUST_FAMILY_PAIRS          ? "   margin     least      most"
               : family == JOUST_FAMILY_TRAJECTORIES ? "mean tokens most tokens stopped  length"
                                                     : "    value     least      most  judge");
    while (st == JOUST_OK)
        st = tally_next(cursor, plan, family, json, &t, &why);
    print_tally(&t, plan, family, json);
    joust_cursor_close(&cursor);
    joust_free(plan);
    return st == JOUST_END ? JOUST_OK : joust_fail(err, st, "%s", why.text);
}
