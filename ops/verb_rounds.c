/* joust rounds: what each round amounted to. Its tokens/s are over the time in which some worker was at a rollout: gaps between
 * rollouts, however short, are left out. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ops/busy_time.h"
#include "ops/cli.h"
#include "ops/record_view.h"
#include "ops/verbs.h"
#include "proto/base/alloc.h"
#include "proto/messages.h"
#include "proto/plan.h"
#include "storage/json.h"
#include "storage/metrics.h"
#include "storage/tables.h"

/* One row: what the stages of a round left behind. */
typedef struct row {
    uint32_t round;
    uint32_t n_summaries;
    joust_stage_summary summaries[JOUST_MAX_STAGES];
    bool has_promotion;
    joust_promotion promotion;
    double tokens_per_s; /* generated, while workers were at it; 0 if unknown */
} row;

static void row_fini(row *r)
{
    for (uint32_t i = 0; i < r->n_summaries; i++)
        joust_stage_summary_fini(&r->summaries[i]);
    memset(r, 0, sizeof(*r));
}

/* Reading -------------------------------------------------------------------------------------- */

static joust_status read_summaries(joust_store *store, row *r, joust_error *err)
{
    joust_key_range range = joust_range_round_field_of(JOUST_ROUND_SUMMARY, r->round);
    joust_cursor *cursor;
    joust_status st = joust_cursor_open(store, JOUST_FAMILY_ROUNDS, &range, &cursor, err);
    if (st != JOUST_OK)
        return st;
    while (r->n_summaries < JOUST_MAX_STAGES &&
           (st = joust_cursor_next_stage_summary(cursor, &r->summaries[r->n_summaries], err)) ==
               JOUST_OK)
        r->n_summaries++;
    joust_cursor_close(&cursor);
    return st == JOUST_END ? JOUST_OK : st;
}

static joust_status read_promotion(joust_store *store, row *r, joust_error *err)
{
    joust_key_range range = joust_range_round_field_of(JOUST_ROUND_PROMOTION, r->round);
    joust_cursor *cursor;
    joust_status st = joust_cursor_open(store, JOUST_FAMILY_ROUNDS, &range, &cursor, err);
    if (st != JOUST_OK)
        return st;
    while ((st = joust_cursor_next_promotion(cursor, &r->promotion, err)) == JOUST_OK)
        r->has_promotion = true; /* the last one decides */
    joust_cursor_close(&cursor);
    return st == JOUST_END ? JOUST_OK : st;
}

/* The interval in which a rollout was computed, if it is one. */
static void add_rollout(const joust_plan *plan, const joust_unit_key *unit,
                        const joust_provenance *p, joust_buf *intervals, double *tokens)
{
    if (unit->stage >= plan->n_stages || plan->stages[unit->stage].kind != JOUST_STAGE_GENERATE)
        return;
    joust_interval at = {.from = (double)p->started_wall_ms};
    at.to = at.from + (p->duration_us > 0 ? (double)p->duration_us / 1e3 : 0);
    joust_buf_add(intervals, &at, sizeof(at));
    *tokens += (double)p->n_tokens;
}

/* Tokens that the round's rollouts generated, over the time in which a worker was at one: pauses of the job don't count. */
static joust_status read_rate(joust_store *store, const joust_plan *plan, row *r, joust_error *err)
{
    joust_key_range range = joust_range_round(r->round);
    joust_cursor *cursor;
    joust_status st = joust_cursor_open(store, JOUST_FAMILY_PROVENANCE, &range, &cursor, err);
    if (st != JOUST_OK)
        return st;
    joust_provenance p;
    joust_unit_key unit;
    joust_buf intervals = {0};
    double tokens = 0;
    while ((st = joust_cursor_next_provenance(cursor, &unit, &p, err)) == JOUST_OK) {
        add_rollout(plan, &unit, &p, &intervals, &tokens);
        joust_provenance_fini(&p);
    }
    joust_cursor_close(&cursor);
    st = st == JOUST_END ? joust_buf_status(&intervals, err) : st;
    if (st == JOUST_OK) {
        double busy_ms = joust_busy_ms((joust_interval *)(void *)intervals.data,
                                       intervals.n / sizeof(joust_interval));
        r->tokens_per_s = busy_ms > 0 ? tokens / busy_ms * 1e3 : 0;
    }
    joust_buf_fini(&intervals);
    return st;
}

/* Printing ------------------------------------------------------------------------------------- */

/* The figure `name` of the round's first stage that has it; NULL if none has. */
static const joust_metric *find(const row *r, const char *name)
{
    for (uint32_t s = 0; s < r->n_summaries; s++)
        for (uint32_t i = 0; i < r->summaries[s].n_metrics; i++)
            if (strcmp(r->summaries[s].metrics[i].name, name) == 0)
                return &r->summaries[s].metrics[i];
    return NULL;
}

static void print_count(const row *r, const char *name, int width)
{
    const joust_metric *m = find(r, name);
    m ? printf(" %*.0f", width, m->value) : printf(" %*s", width, "-");
}

static void print_figure(const row *r, const char *name, int width)
{
    const joust_metric *m = find(r, name);
    m && m->n ? printf(" %*.3f", width, m->value) : printf(" %*s", width, "-");
}

/* A share in percent with its interval: "61.2 [59.0, 63.3]". */
static void print_share(const row *r, const char *name)
{
    char text[64];
    const joust_metric *m = find(r, name);
    if (m)
        snprintf(text, sizeof(text), "%.1f [%.1f, %.1f]", 100 * m->value, 100 * m->low,
                 100 * m->high);
    printf(" %19s", m ? text : "-");
}

/* Whether there was training to do in the round, and nothing to train on: a stage that was skipped has no figures. */
static bool skipped_training(const row *r, const joust_plan *plan)
{
    bool due = false;
    for (uint32_t i = 0; i < plan->n_stages; i++)
        due |= plan->stages[i].kind == JOUST_STAGE_TRAIN &&
               joust_stage_runs(&plan->stages[i], r->round);
    for (uint32_t i = 0; i < r->n_summaries; i++)
        due &= r->summaries[i].stage >= plan->n_stages ||
               plan->stages[r->summaries[i].stage].kind != JOUST_STAGE_TRAIN;
    return due;
}

/* Figures that only some jobs have, each a column where a stage of the job makes them. */
static const struct {
    const char *name, *heading;
    bool of_critic; /* else: of a policy loss on what servers drew */
} COLUMNS[] = {{JOUST_METRIC_VALUE_LOSS, "value loss", true},
               {JOUST_METRIC_EXPLAINED_VARIANCE, "explained", true},
               {JOUST_METRIC_MEAN_WEIGHT, "importance", false},
               {JOUST_METRIC_MAX_WEIGHT, "largest", false},
               {JOUST_METRIC_TRUNCATED_WEIGHTS, "truncated", false}};
enum { N_COLUMNS = sizeof(COLUMNS) / sizeof(*COLUMNS) };

static bool has_column(const joust_job *job, const joust_plan *plan, int column)
{
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const joust_stage *s = &plan->stages[i];
        if (s->kind == JOUST_STAGE_TRAIN &&
            (COLUMNS[column].of_critic
                 ? s->train.loss == JOUST_LOSS_VALUE
                 : job->models[s->model].has_serve && joust_policy_traits_of(s->train.loss)))
            return true;
    }
    return false;
}

static void print_heading(const joust_job *job, const joust_plan *plan)
{
    printf("%5s %6s %7s %9s %6s %19s %19s %19s %-14s %9s", "round", "pairs", "margin", "judge acc",
           "AUC", "greedy accuracy %", "sampled accuracy %", "win rate vs base %", "promoted next",
           "tokens/s");
    for (int i = 0; i < N_COLUMNS; i++)
        if (has_column(job, plan, i))
            printf(" %10s", COLUMNS[i].heading);
    printf("\n");
}

static void print_row(const row *r, const joust_job *job, const joust_plan *plan)
{
    char verdict[64] = "-";
    if (r->has_promotion)
        snprintf(verdict, sizeof(verdict), "%-8s v%" PRIu64,
                 skipped_training(r, plan) ? "-"
                 : r->promotion.promoted   ? "yes"
                                           : "no",
                 r->promotion.next);
    printf("%5" PRIu32, r->round);
    print_count(r, JOUST_METRIC_PAIRS, 6);
    print_figure(r, JOUST_METRIC_MEAN_MARGIN, 7);
    print_figure(r, JOUST_METRIC_JUDGE_ACCURACY, 9);
    print_figure(r, JOUST_METRIC_JUDGE_AUC, 6);
    print_share(r, JOUST_METRIC_GREEDY_ACCURACY);
    print_share(r, JOUST_METRIC_SAMPLED_ACCURACY);
    print_share(r, JOUST_METRIC_WIN_RATE_BASE);
    printf(" %-14s ", verdict);
    r->tokens_per_s > 0 ? printf("%9.0f", r->tokens_per_s) : printf("%9s", "-");
    for (int i = 0; i < N_COLUMNS; i++)
        if (has_column(job, plan, i))
            print_figure(r, COLUMNS[i].name, 10);
    printf("\n");
}

static joust_status print_row_json(const row *r, const joust_plan *plan, joust_error *err)
{
    joust_buf line = {0};
    joust_json_open(&line, '{');
    joust_json_add_count(&line, "round", r->round);
    joust_json_key(&line, "stages");
    joust_json_open(&line, '[');
    for (uint32_t i = 0; i < r->n_summaries; i++) {
        const joust_stage_summary *s = &r->summaries[i];
        joust_json_key(&line, "");
        joust_json_open(&line, '{');
        joust_json_add_text(&line, "name",
                            s->stage < plan->n_stages ? plan->stages[s->stage].name : NULL);
        joust_stage_summary_json(&line, s);
        joust_json_close(&line, '}');
    }
    joust_json_close(&line, ']');
    joust_json_key(&line, "promotion");
    if (r->has_promotion) {
        joust_json_open(&line, '{');
        joust_promotion_json(&line, &r->promotion);
        joust_json_close(&line, '}');
    } else {
        joust_buf_text(&line, "null");
    }
    joust_json_add_optional(&line, "tokens_per_s", r->tokens_per_s > 0, r->tokens_per_s);
    joust_json_close(&line, '}');
    joust_status st = joust_buf_status(&line, err);
    if (st == JOUST_OK)
        printf("%s\n", (const char *)line.data);
    joust_buf_fini(&line);
    return st;
}

/* Whole ---------------------------------------------------------------------------------------- */

static joust_status print_round(joust_store *store, const joust_plan *plan, row *r, bool json,
                                joust_error *err)
{
    joust_status st = read_summaries(store, r, err);
    if (st == JOUST_OK)
        st = read_promotion(store, r, err);
    if (st == JOUST_OK)
        st = read_rate(store, plan, r, err);
    if (st == JOUST_OK && r->n_summaries == 0 && !r->has_promotion)
        return JOUST_OK; /* not run, or nothing finished yet */
    if (st == JOUST_OK && json)
        st = print_row_json(r, plan, err);
    else if (st == JOUST_OK)
        print_row(r, joust_store_job(store), plan);
    return st;
}

static joust_status print_rounds(joust_store *store, bool json, joust_error *err)
{
    const joust_job *job = joust_store_job(store);
    joust_plan *plan = NULL;
    row *r = joust_calloc(1, sizeof(*r)); /* too large for the stack */
    joust_status st =
        r ? joust_plan_create(job, &plan, err) : joust_fail(err, JOUST_NOMEM, "out of memory");
    if (st == JOUST_OK && !json)
        print_heading(job, plan);
    for (uint64_t i = 0; i <= job->rounds && st == JOUST_OK; i++) {
        r->round = (uint32_t)i;
        st = print_round(store, plan, r, json, err);
        row_fini(r);
    }
    joust_free(r);
    joust_free(plan);
    return st;
}

int joust_verb_rounds(int argc, char **argv)
{
    const char *dir = NULL, *none;
    bool json = false;
    const joust_option options[] = {
        {"--store", JOUST_OPTION_TEXT, &dir, "DIR", "the job's store; it may be live"},
        {"--json", JOUST_OPTION_FLAG, &json, NULL, "every figure of every stage, one round a line"},
    };
    joust_usage usage = {
        .verb = "rounds",
        .synopsis = "joust rounds --store DIR [--json]",
        .about =
            "A line a round: pairs and their mean margin, the judge's accuracy and AUC on the\n"
            "policy's own samples, accuracy greedy and sampled with 95 % intervals, win rate "
            "against\n"
            "the base, whether it was promoted (-: nothing was trained) and the version the next "
            "round\n"
            "starts from, tokens generated a second while workers were at it. Round 0 is the "
            "base.\n"
            "With loss: ppo also the value loss of the critic as the round began, and the share "
            "of\n"
            "the returns' variance that it explains; where servers draw what a policy loss trains\n"
            "on, the mean weight of what they drew, the largest, and the share above "
            "importance_cap.",
        .options = options,
        .n_options = sizeof(options) / sizeof(*options)};
    int n_positional = 0;
    int status = joust_cli_parse(&usage, argc, argv, &none, &n_positional);
    if (status >= 0)
        return status;
    joust_error err = {0};
    joust_store *store;
    status = joust_view_open("rounds", dir, &store);
    if (status >= 0)
        return status;
    joust_status st = print_rounds(store, json, &err);
    joust_store_close(&store);
    return st == JOUST_OK ? JOUST_EXIT_OK : joust_cli_fail("rounds", &err);
}
