/* What the coordinator's core wants done: the output of one step, in the order in which it is to be done.
 * Thread: owner's. */
#ifndef JOUST_COORDINATOR_ACTIONS_H
#define JOUST_COORDINATOR_ACTIONS_H

#include "proto/base/bytes.h"
#include "proto/job.h"
#include "proto/messages.h"

typedef enum joust_action_kind {
    /* Into the store, in one batch with the records of the message that caused it. Never waits in the outbox. */
    JOUST_ACTION_WRITE, /* joust_action_bytes: event to append; snapshot: also store joust_core_encode's
                           bytes, taken right after this step, as of event joust_core_events */
    /* To a peer. */
    JOUST_ACTION_HELLO_ACK, /* HELLO_ACK with epoch, job, times */
    JOUST_ACTION_LEASE, /* LEASE of one unit: see joust_lease_order; neighbours may share a message */
    JOUST_ACTION_REVOKE, /* REVOKE of id: drop the unit, its result too */
    JOUST_ACTION_ACK,    /* RESULT_ACK of id */
    JOUST_ACTION_CHECK_SAME, /* the store holds id.unit already: compare the digest of what it holds with
                                `content`; equal: send RESULT_ACK of id; else step a PEER_BAD event */
    JOUST_ACTION_ERROR,      /* ERROR with status and text; JOUST_STALE means: say HELLO (again) */
    JOUST_ACTION_GOODBYE, /* GOODBYE with status and text; the peer is forgotten */
    /* Here. */
    JOUST_ACTION_RUN_LOCAL, /* compute a PAIR, MEASURE or PROMOTE unit from the store: see joust_local_order;
                                answer with a LOCAL_DONE event */
    JOUST_ACTION_STAGE_DONE, /* id.unit.round, id.unit.stage; skipped: nothing was to be done */
    JOUST_ACTION_ROUND_DONE, /* id.unit.round */
    JOUST_ACTION_JOB_DONE,   /* status JOUST_OK, or why it failed in text */
    JOUST_ACTION_WARN,       /* text: something a person should know, with the culprit's name */
    JOUST_ACTION_FENCED, /* text: a newer coordinator runs this job; stop without writing anything more */
    JOUST_ACTION_KINDS
} joust_action_kind;

/* The core's part of a joust_lease_unit; prompt, trajectories, digests of versions and of data are the shell's. */
typedef struct joust_lease_order {
    uint32_t deadline_ms;
    uint32_t model;             /* lineage index, or JOUST_NONE */
    uint64_t model_version;     /* of that lineage; INIT: 0, the folder without weights */
    uint64_t out_version;       /* INIT, TRAIN */
    uint64_t reference_version; /* TRAIN, of the stage's reference_model */
    uint64_t partner_version;   /* TRAIN of PPO, of the stage's partner */
    uint64_t n_rows;            /* TRAIN: pairs of the PAIR stage; 0 for a data file */
    uint32_t resume_step;       /* TRAIN */
    joust_digest resume;
} joust_lease_order;

/* What a RUN_LOCAL unit is about beside its position. */
typedef struct joust_local_order {
    uint32_t model;      /* PROMOTE, MEASURE: lineage index */
    uint64_t candidate;  /* version under judgement (MEASURE: measured) */
    bool has_best;       /* PROMOTE: false on the first, which is promoted */
    uint64_t best;       /* PROMOTE: best version before */
    uint32_t best_round; /* PROMOTE: whose verdicts of the same JUDGE stage are the best's */
} joust_local_order;

typedef struct joust_action {
    joust_action_kind kind;
    uint64_t peer; /* shell's handle, as in the events */
    joust_unit_id id;
    joust_status status;
    bool snapshot, skipped;
    bool
        records; /* WRITE: the records that came with the event go into the batch; without it they are dropped */
    uint32_t step; /* ACK: of training progress up to this step; 0: of the unit's result */
    joust_digest content;
    uint32_t text, n_text; /* place in the list's text: joust_action_text, joust_action_bytes */
    union {
        joust_lease_order lease;
        joust_local_order local;
    } u;
} joust_action;

/* Zero-initialise; release with joust_actions_fini. After an allocation failed, joust_actions_status says so. */
typedef struct joust_actions {
    joust_action *items;
    size_t n, capacity;
    joust_buf text;
    bool failed;
    joust_action spare; /* what joust_actions_add hands out once memory is out */
} joust_actions;

void joust_actions_fini(joust_actions *a);  /* frees and zeroes */
void joust_actions_clear(joust_actions *a); /* empties, keeps the memory */
joust_status joust_actions_status(const joust_actions *a,
                                  joust_error *err); /* JOUST_OK or JOUST_NOMEM */
/* Appends a zeroed action; view until the next. Never NULL (the spare one when out of memory). */
joust_action *joust_actions_add(joust_actions *a, joust_action_kind kind);
/* Sets the text (bytes) of the action added last. */
void joust_actions_set_text(joust_actions *a, const char *format, ...) JOUST_PRINTF(2, 3);
void joust_actions_set_bytes(joust_actions *a, const void *data, size_t n);
const char *joust_action_text(const joust_actions *a, const joust_action *action); /* "" if none */
joust_span joust_action_bytes(const joust_actions *a, const joust_action *action);
const char *joust_action_name(joust_action_kind kind); /* "write", "lease" … */

#endif
