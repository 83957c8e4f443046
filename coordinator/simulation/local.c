/* What the coordinator computes itself, from what its disk holds: by the same functions as in production. */
#include <stdio.h>

#include "coordinator/measure.h"
#include "coordinator/pairing.h"
#include "coordinator/simulation/world_internal.h"

/* One side of a group: texts and combined rewards. */
typedef struct side {
    char words[SIM_SAMPLES][24];
    const char *texts[SIM_SAMPLES];
    joust_reward rewards[SIM_SAMPLES];
    joust_group group;
} side;

static void read_side(sim_world *w, const joust_unit_key *pair, uint32_t generate, side *ret)
{
    joust_reward scores[4 * SIM_SAMPLES];
    joust_unit_key unit = {.round = pair->round, .stage = generate, .position = pair->position};
    const sim_record *answers = &sim_disk_cell(w, &unit)->record;
    uint32_t n_judges = 0;
    for (uint32_t i = generate + 1; i < pair->stage && n_judges < 4; i++) {
        const joust_stage *s = &w->plan->stages[i];
        unit.stage = i;
        if (s->kind != JOUST_STAGE_JUDGE || s->of != generate)
            continue;
        for (uint32_t j = 0; j < answers->n; j++)
            scores[n_judges * answers->n + j] = sim_disk_cell(w, &unit)->record.value[j];
        n_judges++;
    }
    for (uint32_t i = 0; i < answers->n; i++) {
        snprintf(ret->words[i], sizeof ret->words[i], "%llu", (unsigned long long)answers->text[i]);
        ret->texts[i] = ret->words[i];
    }
    joust_rewards_combine(w->job->combine, scores, n_judges, answers->n, ret->rewards);
    ret->group = (joust_group){.n = answers->n, .texts = ret->texts, .rewards = ret->rewards};
}

static void pair(sim_world *w, const joust_unit_key *unit, sim_record *ret)
{
    const joust_stage *stage = &w->plan->stages[unit->stage];
    joust_pairing pairing;
    joust_error err;
    side chosen, rejected;
    read_side(w, unit, stage->of, &chosen);
    read_side(w, unit, stage->of_rejected, &rejected);
    if (joust_pairing_decide(&w->job->pairs, &chosen.group, &rejected.group, &pairing, &err) !=
        JOUST_OK) {
        sim_violate(w, "%s", err.text);
        return;
    }
    if (pairing.outcome != JOUST_PAIRING_DECIDED)
        return;
    joust_unit_key of = *unit, of_rejected = *unit;
    of.stage = stage->of;
    of_rejected.stage = stage->of_rejected;
    ret->n = 1;
    ret->sample[0] = pairing.chosen;
    ret->sample[1] = pairing.rejected;
    ret->text[0] = sim_disk_cell(w, &of)->record.text[pairing.chosen];
    ret->text[1] = sim_disk_cell(w, &of_rejected)->record.text[pairing.rejected];
    ret->value[0] = (joust_reward){.has = true, .value = pairing.chosen_reward};
    ret->value[1] = (joust_reward){.has = true, .value = pairing.rejected_reward};
    ret->version = sim_disk_cell(w, &of)->record.version;
}

/* All values of a JUDGE stage in a round, in key order. */
static joust_scores scores_of(sim_world *w, uint32_t round, uint32_t stage, joust_reward *room)
{
    joust_scores scores = {.items = room};
    for (uint64_t i = 0; stage != JOUST_NONE && i < w->options->groups; i++) {
        joust_unit_key unit = {.round = round, .stage = stage, .position = i};
        const sim_record *r = &sim_disk_cell(w, &unit)->record;
        for (uint32_t j = 0; j < r->n; j++)
            room[scores.n++] = r->value[j];
    }
    return scores;
}

enum { SIM_SCORES = 256 * SIM_SAMPLES };

static void promote(sim_world *w, const sim_event *event, sim_record *ret, joust_core_local *done)
{
    joust_reward mine[SIM_SCORES], best[SIM_SCORES];
    const joust_local_order *order = &event->local;
    uint32_t stage = w->plan->stages[event->unit.stage].judge;
    joust_gate_input in = {.key = event->unit,
                           .candidate = order->candidate,
                           .best = order->best,
                           .has_best = order->has_best,
                           .gate = w->job->promote.gate,
                           .of_candidate = scores_of(w, event->unit.round, stage, mine)};
    joust_promotion decision;
    joust_error err;
    if (order->has_best)
        in.of_best = scores_of(w, order->best_round, stage, best);
    if (joust_gate_decide(&in, &decision, &err) != JOUST_OK) {
        sim_violate(w, "%s", err.text);
        return;
    }
    *ret = (sim_record){.n = 1 + decision.promoted, .version = decision.next};
    done->promoted = decision.promoted;
}

static void measure(sim_world *w, const sim_event *event, sim_record *ret)
{
    joust_reward greedy[SIM_SCORES], sampled[SIM_SCORES], tested[SIM_SCORES], base[SIM_SCORES];
    const joust_stage *stage = &w->plan->stages[event->unit.stage];
    uint32_t round = event->unit.round;
    joust_measure_input in = {.greedy = scores_of(w, round, stage->judge, greedy),
                              .sampled = scores_of(w, round, stage->judge_sampled, sampled),
                              .judged_by = scores_of(w, round, stage->judged_by, tested)};
    joust_metric metrics[JOUST_MEASURE_METRICS];
    joust_error err;
    uint32_t n = 0;
    if (round)
        in.base = scores_of(w, 0, stage->judge, base);
    if (joust_measure(&in, metrics, &n, &err) != JOUST_OK)
        sim_violate(w, "%s", err.text);
    ret->n = 1;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t words[] = {ret->weights, sim_mix(&metrics[i].value, sizeof metrics[i].value)};
        ret->weights = sim_mix(words, sizeof words);
    }
}

void sim_compute_local(sim_world *w, const sim_event *event, sim_record *ret,
                       joust_core_local *done)
{
    *ret = (sim_record){0};
    *done = (joust_core_local){.unit = event->unit};
    switch (w->plan->stages[event->unit.stage].kind) {
    case JOUST_STAGE_PAIR:
        pair(w, &event->unit, ret);
        done->n_pairs = ret->n;
        break;
    case JOUST_STAGE_PROMOTE:
        promote(w, event, ret, done);
        break;
    default:
        measure(w, event, ret);
        break;
    }
}
