/* Inside the core: shared by core.c (events), core_rounds.c (the fold), core_peers.c (peers, leases,
 * dispatch), core_state.c (bytes) and core_report.c (words). */
#ifndef JOUST_COORDINATOR_CORE_INTERNAL_H
#define JOUST_COORDINATOR_CORE_INTERNAL_H

#include "coordinator/core.h"

#define JOUST_CORE_TEXT_BYTES 1024u /* of a reason, with its end */

typedef struct joust_core_unit_cell {
    uint8_t state;     /* joust_unit_state */
    uint8_t failures;  /* reported by peers in this process's life */
    uint16_t attempts; /* leases given in this process's life, saturating */
} joust_core_unit_cell;

/* A stage in the current round. */
typedef struct joust_stage_run {
    bool runs; /* in this round */
    bool open; /* what it needs as a whole is complete */
    bool complete, skipped;
    uint64_t n, n_done, n_queued, n_leased;
    uint64_t cursor;             /* no unit below it is QUEUED */
    joust_core_unit_cell *units; /* (n) */
    uint64_t n_pairs;            /* PAIR: decided so far */
    uint64_t version;            /* INIT, TRAIN, PROMOTE: of the lineage after it, once complete */
    uint32_t resume_step;        /* TRAIN: durable progress */
    joust_digest resume;
} joust_stage_run;

typedef struct joust_lineage {
    uint64_t start, best; /* versions */
    uint32_t best_round;
    bool has_best;
} joust_lineage;

typedef struct joust_lease {
    joust_unit_id id;
    int64_t granted_ms, deadline_ms;
} joust_lease;

typedef struct joust_peer {
    uint64_t handle, instance;
    char name[JOUST_MAX_NAME_BYTES], numeric_class[JOUST_MAX_NAME_BYTES];
    joust_peer_role role;
    bool can_train, quarantined;
    uint32_t credit;
    uint32_t n_leases;
    size_t capacity;     /* of leases */
    joust_lease *leases; /* (n_leases <= credit, but while credit shrinks) */
    uint64_t progress;   /* sum over the units of its last heartbeat */
    int64_t heard_ms, joined_ms;
    uint32_t failures;     /* in a row */
    uint32_t full;         /* leases in a row that it had no room for */
    int64_t retry_ms;      /* no lease before, after a failure */
    joust_unit_key failed; /* the last unit that it failed; somebody else's turn */
} joust_peer;

struct joust_core {
    const joust_job *job;
    const joust_plan *plan;
    joust_core_options options;
    uint64_t *n_prompts; /* (job->n_sets) */
    /* The durable half. */
    uint64_t epoch, n_events, n_pairs; /* n_pairs: of all finished PAIR stages */
    uint32_t round;
    char numeric_class[JOUST_MAX_NAME_BYTES];
    char failure[JOUST_CORE_TEXT_BYTES]; /* why the job failed; "" while it has not */
    joust_lineage *lineages;             /* (job->n_models) */
    joust_stage_run *runs;               /* (plan->n_stages) of the current round */
    /* The volatile half. */
    bool started, stopped, superseded,
        announced; /* announced: JOB_DONE has gone out in this life */
    int64_t
        settled_ms; /* until then peers may say what they hold of served models: nothing of them is leased */
    uint64_t n_granted; /* leases of this life */
    uint32_t n_local;   /* RUN_LOCAL units under way */
    uint32_t n_peers, turn;
    size_t peer_capacity;
    joust_peer *peers;
    bool stage_ended; /* since it was last cleared: the step is worth a snapshot */
    uint64_t coverage[JOUST_UNIT_STATES * JOUST_UNIT_EVENTS];
};

/* One durable event, as the fold sees it. */
typedef enum joust_fold_kind {                         /* stored: never renumber */
                               JOUST_FOLD_STARTED = 1, /* epoch */
                               JOUST_FOLD_CLASS = 2,   /* text: numeric class */
                               JOUST_FOLD_UNIT_DONE =
                                   3, /* unit; n_pairs (PAIR), promoted (PROMOTE) */
                               JOUST_FOLD_PROGRESS = 4,  /* unit; step, digest */
                               JOUST_FOLD_JOB_FAILED = 5 /* text */
} joust_fold_kind;

typedef struct joust_fold {
    joust_fold_kind kind;
    joust_unit_key unit;
    uint64_t epoch, n_pairs;
    uint32_t step;
    joust_digest digest;
    bool promoted;
    char text[JOUST_CORE_TEXT_BYTES];
} joust_fold;

/* core_state.c */
void joust_fold_encode(const joust_fold *fold, joust_buf *to);
JOUST_MUST_USE joust_status joust_fold_decode(const void *data, size_t n, joust_fold *ret,
                                              joust_error *err);

/* core_rounds.c. out may be NULL (replay): then nothing is announced. */
JOUST_MUST_USE joust_status joust_core_begin_round(joust_core *core, joust_actions *out,
                                                   joust_error *err);
JOUST_MUST_USE joust_status joust_core_fold(joust_core *core, const joust_fold *fold,
                                            joust_actions *out, joust_error *err);
/* Sets a unit's state by the table; counters, queue position and coverage follow. */
joust_unit_answer joust_core_move(joust_core *core, const joust_unit_key *unit,
                                  joust_unit_event event);
bool joust_core_is_unit(const joust_core *core,
                        const joust_unit_key *unit); /* of the current round */
void joust_core_open_units(joust_core *core,
                           uint32_t stage); /* WAITING units that can start become QUEUED */
uint64_t joust_core_version_at(const joust_core *core, uint32_t model, uint32_t stage);
uint64_t joust_core_groups_pending(const joust_core *core, uint32_t stage);
JOUST_MUST_USE joust_status
joust_core_make_runs(joust_core *core, joust_error *err); /* units of core->round, all WAITING */
bool joust_stage_is_local(joust_stage_kind kind);
joust_peer_role joust_stage_role(joust_stage_kind kind);

/* core_peers.c */
joust_peer *joust_core_find_peer(joust_core *core, uint64_t handle);
joust_peer *joust_core_holder(joust_core *core, const joust_unit_key *unit, uint32_t *ret_lease);
joust_lease *joust_peer_find_lease(joust_peer *peer, const joust_unit_key *unit);
/* Takes the lease away from its peer's list; the unit's state is the caller's business. */
void joust_peer_drop_lease(joust_peer *peer, uint32_t lease);
/* Unit back to the queue, lease gone. */
void joust_core_release(joust_core *core, joust_peer *peer, uint32_t lease);
void joust_core_release_all(joust_core *core, joust_peer *peer);
JOUST_MUST_USE joust_status joust_core_add_peer(joust_core *core, joust_peer **ret,
                                                joust_error *err);
void joust_core_remove_peer(joust_core *core, joust_peer *peer); /* its leases are released */
JOUST_MUST_USE joust_status joust_core_grant(joust_core *core, joust_peer *peer,
                                             const joust_unit_key *unit, joust_unit_event how,
                                             int64_t now_ms, joust_lease **ret, joust_error *err);
void joust_core_quarantine(joust_core *core, joust_peer *peer, const char *reason,
                           joust_actions *out);
/* Leases that are overdue and peers that are silent. */
void joust_core_expire(joust_core *core, int64_t now_ms, joust_actions *out);
/* Gives out what can be given. */
JOUST_MUST_USE joust_status joust_core_dispatch(joust_core *core, int64_t now_ms,
                                                joust_actions *out, joust_error *err);

/* One step under way. */
typedef struct joust_step {
    joust_core *core;
    const joust_core_event *event;
    int64_t now_ms;
    joust_actions *out;
    joust_error *err;
} joust_step;

/* core.c: what handlers do. Actions of _send and _tell go to the event's peer. */
/* Appends the event to the log and folds it; records: those that came with it go into the batch. */
JOUST_MUST_USE joust_status joust_step_record(const joust_step *s, const joust_fold *fold,
                                              bool records);
joust_action *joust_step_send(const joust_step *s, joust_action_kind kind, const joust_unit_id *id);
void joust_step_tell(const joust_step *s, joust_action_kind kind, joust_status status,
                     const char *format, ...) JOUST_PRINTF(4, 5);
void joust_step_fence(const joust_step *s); /* a newer coordinator is about */
/* What the peer says it has: kept, adopted, or to be dropped. */
JOUST_MUST_USE joust_status joust_step_hold(const joust_step *s, joust_peer *peer,
                                            const joust_unit_key *unit, bool renew);
/* core_hello.c */
JOUST_MUST_USE joust_status joust_step_hello(const joust_step *s);

/* core_report.c: "generate 17 of round 2 (generate)" */
void joust_core_unit_text(const joust_core *core, const joust_unit_key *unit, char to[160]);
/* Why the job ended as it did: "" if it is complete or not over. */
const char *joust_core_failure(const joust_core *core);

#endif
