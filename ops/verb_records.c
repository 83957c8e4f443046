/* joust pairs|trajectories|verdicts list|show|stats|export */
#include <stdio.h>
#include <string.h>

#include "ops/cli.h"
#include "ops/credit_view.h"
#include "ops/pair_view.h"
#include "ops/record_view.h"
#include "ops/verbs.h"
#include "proto/base/text.h"
#include "storage/export.h"

/* What the command line said. */
typedef struct request {
    joust_family family;
    const char *verb, *action;
    const char *id;
    const char *store;
    uint32_t round; /* or JOUST_NONE: all */
    uint64_t limit;
    bool json, provenance;
} request;

static joust_status to_stdout(void *user, const void *data, size_t n, joust_error *err)
{
    (void)user;
    return fwrite(data, 1, n, stdout) == n
               ? JOUST_OK
               : joust_fail(err, JOUST_IO, "standard output can't be written");
}

/* One line a record as JSON, at most `limit` of them. */
typedef struct limited {
    uint64_t left;
} limited;

static joust_status to_stdout_limited(void *user, const void *data, size_t n, joust_error *err)
{
    limited *l = user;
    if (l->left == 0)
        return joust_fail(err, JOUST_END, "enough");
    l->left--;
    return to_stdout(NULL, data, n, err);
}

static joust_status run_export(const request *r, joust_store *store, joust_error *err)
{
    joust_export_options options = {
        .one_round = r->round != JOUST_NONE, .round = r->round, .provenance = r->provenance};
    limited l = {r->limit ? r->limit : UINT64_MAX};
    return joust_export(store, r->family, &options, to_stdout_limited, &l, NULL, err);
}

/* What run_export gives, each answer with what a policy loss made of it. */
typedef struct credited {
    joust_store *store;
    joust_credit_view *credit;
    limited limit;
} credited;

static joust_status to_stdout_credited(void *user, const joust_trajectory *t, joust_buf *line,
                                       joust_error *err)
{
    credited *c = user;
    joust_status st = joust_credit_add_json(c->credit, t, line, err);
    joust_buf_u8(line, '\n');
    if (st == JOUST_OK)
        st = joust_buf_status(line, err);
    return st == JOUST_OK ? to_stdout_limited(&c->limit, line->data, line->n, err) : st;
}

static joust_status run_list_json(const request *r, joust_store *store, joust_error *err)
{
    credited c = {.store = store, .limit = {r->limit ? r->limit : UINT64_MAX}};
    joust_key_range range =
        r->round == JOUST_NONE ? joust_range_all() : joust_range_round(r->round);
    joust_status st = joust_credit_view_open(store, &c.credit, err);
    if (st == JOUST_OK && !c.credit)
        return run_export(r, store, err);
    if (st == JOUST_OK)
        st = joust_credit_each_json(store, &range, r->provenance, to_stdout_credited, &c, err);
    joust_credit_view_close(&c.credit);
    return st;
}

static joust_status run_show(const request *r, joust_store *store, joust_error *err)
{
    joust_record_id id;
    joust_buf line = {0};
    joust_status st = joust_record_id_parse(r->id, &id, err);
    if (st != JOUST_OK)
        return st;
    if (!r->json)
        return joust_view_show(store, r->family, &id, err);
    st = joust_export_one(store, r->family, &id, true, &line, err);
    if (st == JOUST_OK && r->family == JOUST_FAMILY_PAIRS)
        st = joust_pair_explain_json(store, &id, &line, err);
    if (st == JOUST_OK && r->family == JOUST_FAMILY_TRAJECTORIES)
        st = joust_credit_explain_json(store, &id, &line, err);
    joust_buf_u8(&line, '\n');
    if (st == JOUST_OK && (st = joust_buf_status(&line, err)) == JOUST_OK)
        st = to_stdout(NULL, line.data, line.n, err);
    joust_buf_fini(&line);
    return st;
}

static joust_status run(const request *r, joust_store *store, joust_error *err)
{
    joust_key_range range =
        r->round == JOUST_NONE ? joust_range_all() : joust_range_round(r->round);
    if (strcmp(r->action, "show") == 0)
        return run_show(r, store, err);
    if (strcmp(r->action, "stats") == 0)
        return joust_view_stats(store, r->family, &range, r->json, err);
    if (strcmp(r->action, "list") == 0 && r->json && r->family == JOUST_FAMILY_TRAJECTORIES)
        return run_list_json(r, store, err);
    if (strcmp(r->action, "export") == 0 || r->json)
        return run_export(r, store, err);
    return joust_view_list(store, r->family, &range, r->limit, err);
}

static int open_and_run(const request *r)
{
    joust_error err = {0};
    joust_store *store;
    char name[64];
    snprintf(name, sizeof(name), "%s %s", r->verb, r->action);
    int status = joust_view_open(name, r->store, &store);
    if (status >= 0)
        return status;
    joust_status st = run(r, store, &err);
    joust_store_close(&store);
    if ((st == JOUST_OK || st == JOUST_END) && (fflush(stdout) != 0 || ferror(stdout)))
        st = joust_fail(&err, JOUST_IO, "standard output can't be written");
    return st == JOUST_OK || st == JOUST_END ? JOUST_EXIT_OK : joust_cli_fail(name, &err);
}

/* Command line --------------------------------------------------------------------------------- */

static const char *const actions[] = {"list", "show", "stats", "export"};
static const char *const action_help[] = {
    "one line a record, in key order", "one record in full; ID as list prints it",
    "counts and means by round and stage", "JSON Lines on standard output, every field"};
enum { N_ACTIONS = sizeof(actions) / sizeof(*actions) };

static const char ids[] =
    "Ids: r2.s0.p17.3 is round 2, stage 0, prompt 17, and a trajectory's sample or a pair's "
    "index,\n"
    "or the sample that a verdict is about; r2.s1.p17.0-1.o1.v0 is a verdict that compares samples "
    "0\n"
    "and 1, order 1 (the second was shown first), vote 0; without .o and .v both are 0.\n";

/* What a record of the verb holds. */
static const char *about(joust_family family)
{
    switch (family) {
    case JOUST_FAMILY_PAIRS:
        return "A pair has prompt, chosen and rejected, as TRL and LLaMA-Factory read them, their\n"
               "rewards and margin, tokens, versions, and the verdicts that decided it.\n";
    case JOUST_FAMILY_TRAJECTORIES:
        return "A trajectory is an answer: its tokens, and for each two log-probabilities: "
               "raw_logps\n"
               "of the model's own distribution, logps of the one it was drawn from (after\n"
               "temperature, top_p and the like). list and show print logp, the sum of "
               "raw_logps,\n"
               "and, where a policy loss trains on answers, reward and advantage; show has the "
               "credit\n"
               "of each token and the steps that used the answer.\n";
    default:
        return "A verdict is a judge's result about an answer, or about two: its outcome, and a "
               "value\n"
               "if it has one (yes-no: log-odds of yes; compare: P(the first is better); rule: 1 "
               "or\n"
               "0). model, rendered and template are null where no model was asked.\n";
    }
}

static void print_actions(const char *verb, joust_family family, FILE *to)
{
    fprintf(to,
            "usage: joust %s list|stats|export --store DIR [--round N] [--limit N] [--json] "
            "[--provenance]\n       joust %s show ID --store DIR [--json]\n\n",
            verb, verb);
    for (int i = 0; i < N_ACTIONS; i++)
        fprintf(to, "  %-8s %s\n", actions[i], action_help[i]);
    fprintf(to, "\n%s\n%s\n`joust %s ACTION --help` explains the options.\n", about(family), ids,
            verb);
}

static int find_action(const char *verb, joust_family family, const char *word)
{
    for (int i = 0; i < N_ACTIONS; i++)
        if (strcmp(word, actions[i]) == 0)
            return i;
    const char *nearest = joust_text_nearest(word, actions, N_ACTIONS);
    fprintf(stderr, "joust %s: no '%s'%s%s%s\n", verb, word, nearest ? "; did you mean '" : "",
            nearest ? nearest : "", nearest ? "'?" : "");
    print_actions(verb, family, stderr);
    return -1;
}

static int records_verb(const char *verb, joust_family family, int argc, char **argv)
{
    request r = {.family = family, .verb = verb, .round = JOUST_NONE};
    if (argc < 2 || strcmp(argv[1], "--help") == 0) {
        print_actions(verb, family, argc < 2 ? stderr : stdout);
        return argc < 2 ? JOUST_EXIT_USAGE : JOUST_EXIT_OK;
    }
    int action = find_action(verb, family, argv[1]);
    if (action < 0)
        return JOUST_EXIT_USAGE;
    bool show = action == 1;
    r.action = actions[action];
    char name[64], synopsis[160], page[1024];
    snprintf(name, sizeof(name), "%s %s", verb, r.action);
    snprintf(synopsis, sizeof(synopsis), "joust %s%s --store DIR%s", name, show ? " ID" : "",
             show ? " [--json]" : " [--round N] [--limit N] [--json] [--provenance]");
    snprintf(page, sizeof(page), "Prints %s.\n\n%s\n%s", action_help[action], about(family), ids);
    const joust_option options[] = {
        {"--store", JOUST_OPTION_TEXT, &r.store, "DIR", "the job's store; it may be live"},
        {"--json", JOUST_OPTION_FLAG, &r.json, NULL, "JSON, one object a line"},
        {"--round", JOUST_OPTION_U32, &r.round, "N", "that round alone"},
        {"--limit", JOUST_OPTION_U64, &r.limit, "N", "at most N records (0: all)"},
        {"--provenance", JOUST_OPTION_FLAG, &r.provenance, NULL,
         "add where each record was made; not part of the canonical output"},
    };
    joust_usage usage = {.verb = name,
                         .synopsis = synopsis,
                         .about = page,
                         .options = options,
                         .n_options = show ? 2 : sizeof(options) / sizeof(*options),
                         .min_positional = show,
                         .max_positional = show};
    int n_positional = 0;
    int status = joust_cli_parse(&usage, argc - 1, argv + 1, &r.id, &n_positional);
    return status >= 0 ? status : open_and_run(&r);
}

int joust_verb_pairs(int argc, char **argv)
{
    return records_verb("pairs", JOUST_FAMILY_PAIRS, argc, argv);
}

int joust_verb_trajectories(int argc, char **argv)
{
    return records_verb("trajectories", JOUST_FAMILY_TRAJECTORIES, argc, argv);
}

int joust_verb_verdicts(int argc, char **argv)
{
    return records_verb("verdicts", JOUST_FAMILY_VERDICTS, argc, argv);
}
