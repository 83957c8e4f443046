/* The worker's role: generates (worker/rollout.h), draws first weights and trains
 * (worker/trainer.h) what its coordinator leases to it. */
#ifndef JOUST_WORKER_WORKER_H
#define JOUST_WORKER_WORKER_H

#include "proto/peer.h"

/* Serves until it is over: see joust_peer_run. can_train: takes INIT and TRAIN units too. Blocks;
 * call it on the process's first thread if options->signals. Errors: those of joust_peer_run,
 * joust_engine_create and joust_cache_create. */
JOUST_MUST_USE joust_status joust_worker_run(const joust_role_options *options, bool can_train,
                                             joust_error *err);

#endif
