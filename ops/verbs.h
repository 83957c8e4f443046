/* The program's verbs, one file each (ops/verb_NAME.c). argv[0] is the verb; the result is the exit status. */
#ifndef JOUST_OPS_VERBS_H
#define JOUST_OPS_VERBS_H

int joust_verb_launch(int argc, char **argv);
int joust_verb_coordinator(int argc, char **argv);
int joust_verb_worker(int argc, char **argv);
int joust_verb_guard(int argc, char **argv);
int joust_verb_judge(int argc, char **argv);
int joust_verb_validate(int argc, char **argv);
int joust_verb_status(int argc, char **argv);
int joust_verb_pairs(int argc, char **argv);
int joust_verb_trajectories(int argc, char **argv);
int joust_verb_verdicts(int argc, char **argv);
int joust_verb_rounds(int argc, char **argv);
int joust_verb_generate(int argc, char **argv);
int joust_verb_score(int argc, char **argv);
int joust_verb_hidden(int argc, char **argv);
int joust_verb_model(int argc, char **argv);
int joust_verb_store(int argc, char **argv);
int joust_verb_bench(int argc, char **argv);
int joust_verb_sim(int argc, char **argv);

#endif
