/* Names of the figures in a joust_stage_summary: one spelling for who writes them (the coordinator),
 * who prints them (joust rounds, joust pairs stats) and who plots them. Shares and accuracies are in
 * 0 .. 1, log-probabilities in nats, lengths in tokens. A summary may hold other names too; these are fixed. */
#ifndef JOUST_STORAGE_METRICS_H
#define JOUST_STORAGE_METRICS_H

/* GENERATE */
#define JOUST_METRIC_GROUPS       "groups" /* prompts answered; also in JUDGE and PAIR */
#define JOUST_METRIC_TRAJECTORIES "trajectories"
#define JOUST_METRIC_MEAN_TOKENS  "mean_tokens" /* response tokens of a trajectory */
#define JOUST_METRIC_STOPPED      "stopped"     /* share that ended by itself, not by length */
#define JOUST_METRIC_REFUSED_PROMPTS                                                               \
    "refused_prompts" /* groups without a token: prompts too long; absent: none */
#define JOUST_METRIC_CUT_PROMPTS "cut_prompts" /* groups whose prompt was cut; absent: none */
#define JOUST_METRIC_EMPTY_ANSWERS "empty_answers" /* trajectories without text; absent: none */
#define JOUST_METRIC_IDENTICAL_GROUPS                                                              \
    "identical_groups" /* groups whose answers are all the same text */

/* GENERATE by servers */
#define JOUST_METRIC_REQUESTS "requests" /* of units given out, each time counted */
#define JOUST_METRIC_REASKED  "re_asked" /* of them: given out again, since no answer was durable; no fewer than were sent again */
#define JOUST_METRIC_RETRIES  "retries"  /* tries beyond the first, of requests that were answered */

/* JUDGE */
#define JOUST_METRIC_VERDICTS        "verdicts"
#define JOUST_METRIC_FAILED_VERDICTS "failed_verdicts" /* without a value */
#define JOUST_METRIC_MEAN_VALUE      "mean_value"

/* PAIR */
#define JOUST_METRIC_PAIRS            "pairs"
#define JOUST_METRIC_UNDECIDED_GROUPS "undecided_groups" /* groups that gave no pair */
#define JOUST_METRIC_MEAN_MARGIN      "mean_margin"
#define JOUST_METRIC_MEAN_CHOSEN      "mean_chosen_reward"
#define JOUST_METRIC_MEAN_REJECTED    "mean_rejected_reward"

/* PAIR for a policy loss: groups, undecided_groups (whose rewards are equal), and: */
#define JOUST_METRIC_ANSWERS     "answers"     /* with a reward and tokens */
#define JOUST_METRIC_MEAN_REWARD "mean_reward" /* of answers that have one */

/* TRAIN; also those that the trainer names (proto/messages.h): JOUST_METRIC_LOGP_GAP and following */
#define JOUST_METRIC_STEPS      "steps"
#define JOUST_METRIC_FIRST_LOSS "first_loss"
#define JOUST_METRIC_LAST_LOSS  "last_loss"

/* MEASURE */
#define JOUST_METRIC_GREEDY_ACCURACY   "greedy_accuracy"
#define JOUST_METRIC_SAMPLED_ACCURACY  "sampled_accuracy"
#define JOUST_METRIC_JUDGE_ACCURACY    "judge_accuracy" /* the judge under test, on sampled answers */
#define JOUST_METRIC_JUDGE_AUC         "judge_auc"
#define JOUST_METRIC_WIN_RATE_BASE     "win_rate_base" /* wins + ties / 2, against version 0 */
#define JOUST_METRIC_WIN_RATE_PREVIOUS "win_rate_previous"

#endif
