/* A whole cluster in one process: the coordinator's core, outbox, recovery and pairing as they run in production, under a
 * simulated network, clock and disk. The network loses, delays, repeats, reorders and partitions; processes are
 * killed and restarted; unsynced writes vanish. Every step is checked (see joust_simulation_run).
 * Workers, judges and trainers are small deterministic models: what they answer is a digest of what they were asked.
 * A seed replays. Thread: any; runs share nothing. */
#ifndef JOUST_COORDINATOR_SIMULATION_SIMULATION_H
#define JOUST_COORDINATOR_SIMULATION_SIMULATION_H

#include <stdbool.h>
#include <stdint.h>

#include "coordinator/unit_table.h"
#include "proto/base/digest.h"

/* Faults of the code's surroundings that can be planted to show that the checks find them. */
#define JOUST_PLANTS(X)                                                                            \
    X(NONE, "none")                                                                                \
    X(ACK_BEFORE_SYNC, "acknowledge-before-sync")                                                  \
    X(ACT_BEFORE_COMMIT, "act-before-commit")                                                      \
    X(DROP_VERDICT, "drop-verdict")                                                                \
    X(REUSE_LEASE, "reuse-lease")                                                                  \
    X(LOWER_EPOCH, "accept-lower-epoch")                                                           \
    X(SKIP_EVENT, "skip-replayed-event")                                                           \
    X(REPEAT_PAIR, "repeat-pair")                                                                  \
    X(JUDGE_STALE, "judge-stale-trajectory")                                                       \
    X(LOSE_CREDIT, "lose-credit")                                                                  \
    X(UNSYNCED_MODEL, "promote-unsynced-model")

typedef enum joust_plant {
#define X(name, text) JOUST_PLANT_##name,
    JOUST_PLANTS(X)
#undef X
        JOUST_PLANT_N
} joust_plant;

const char *joust_plant_name(joust_plant plant);

#define JOUST_UPSETS(X)                                                                            \
    X(LOST, "messages lost")                                                                       \
    X(DELAYED, "messages delayed")                                                                 \
    X(REPEATED, "messages repeated")                                                               \
    X(REORDERED, "messages overtaken")                                                             \
    X(PARTITION, "partitions")                                                                     \
    X(COORDINATOR_KILL, "coordinator kills")                                                       \
    X(WRITE_KILL, "coordinator kills right after a write")                                         \
    X(PEER_KILL, "peer kills")                                                                     \
    X(VANISHED, "unsynced batches vanished")                                                       \
    X(ZOMBIE, "superseded coordinators that went on")                                              \
    X(FAILURE, "units failed by a peer")                                                           \
    X(HANG, "units that hung")                                                                     \
    X(NONSENSE, "messages that make no sense")

typedef enum joust_upset {
#define X(name, text) JOUST_UPSET_##name,
    JOUST_UPSETS(X)
#undef X
        JOUST_UPSET_N
} joust_upset;

const char *joust_upset_name(joust_upset upset);

typedef struct joust_simulation_options {
    uint64_t seed;
    uint32_t rounds, groups, workers, judges; /* groups: prompts a round */
    bool quiet;                               /* no faults: what the others are compared with */
    joust_plant plant;
} joust_simulation_options;

typedef struct joust_simulation_result {
    char violation[600]; /* the first broken invariant, with time and place; "" if none */
    joust_digest
        pairs; /* over all trajectories, verdicts, pairs, models, promotions, in key order */
    uint64_t steps, events, n_pairs, simulated_ms;
    uint64_t upsets[JOUST_UPSET_N];
    uint64_t coverage[JOUST_UNIT_STATES * JOUST_UNIT_EVENTS];
} joust_simulation_result;

/* Runs one seed to its end. Checked at every step: no acknowledged record is lost, none is written twice, no pair is made from a
 * stale or unjudged trajectory or made twice, chosen reward > rejected reward, credit is conserved and never
 * exceeded, every lease has a deadline in reach and an id of its own, nothing leaves before its commit, a lower epoch is refused by peers
 * and disk, the replayed state equals the live one, a model is synced before what depends on it, and the job ends within a
 * bound once faults stop. */
void joust_simulation_run(const joust_simulation_options *options, joust_simulation_result *ret);

#endif
