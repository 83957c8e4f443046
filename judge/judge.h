/* The judge's role: turns leased groups into verdicts (judge/judging.h). */
#ifndef JOUST_JUDGE_JUDGE_H
#define JOUST_JUDGE_JUDGE_H

#include "proto/peer.h"

/* Serves until it is over: see joust_peer_run. Blocks; call it on the process's first thread if
 * options->signals. Errors: those of joust_peer_run, joust_engine_create and joust_cache_create. */
JOUST_MUST_USE joust_status joust_judge_run(const joust_role_options *options, joust_error *err);

#endif
