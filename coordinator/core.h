/* The coordinator's heart: a pure state machine. No clock, socket, disk or payload is inside; time is an argument, and
 * payload records travel beside: the shell around it decodes and validates a message, hands the core a compact
 * event, and does what the actions say (coordinator/actions.h), each step's after its batch is durable
 * (coordinator/outbox.h). The same code runs in production and in the simulation.
 *
 * State has two halves. The durable half (round, finished units, versions, numeric class, epoch, training
 * progress) is a fold over the events of WRITE actions: snapshot + replay rebuild it bit by bit. The volatile half (peers,
 * leases, failures) is gone after a restart: peers declare what they hold and are adopted.
 *
 * A unit is (round, stage, position); its states are coordinator/unit_table.h. Once a unit is DONE its
 * event is in a batch; leases, local runs and acknowledgements that follow from it queue behind that batch in the
 * outbox, so whoever acts on them may read the store.
 *
 * Life: create; decode a snapshot and replay the events after it (if the store has any); step START; then events.
 * Memory: 4 bytes a unit of the current round, plus peers and leases, bounded by credit.
 * Thread: one at a time. */
#ifndef JOUST_COORDINATOR_CORE_H
#define JOUST_COORDINATOR_CORE_H

#include "coordinator/actions.h"
#include "coordinator/unit_table.h"
#include "proto/plan.h"

#define JOUST_CORE_MAX_CREDIT 1024u /* a peer that announces more is held to this */
#define JOUST_CORE_MAX_PEERS  4096u

typedef struct joust_core joust_core;

typedef struct joust_core_options {
    uint32_t lease_ms;          /* deadline of a lease without progress; 0: 60 000 */
    uint32_t peer_timeout_ms;   /* silence after which a peer is lost; 0: 15 000 */
    uint32_t max_failures;      /* of one unit before the job fails; 0: 3 */
    uint32_t max_peer_failures; /* of one peer in a row before it is sent away; 0: 8 */
    uint32_t
        max_pending_groups; /* groups generated and not yet judged, a GENERATE stage, before rollouts pause; 0: 1024 */
    uint32_t max_local;      /* RUN_LOCAL units under way at once; 0: 256 */
    uint32_t snapshot_every; /* events between snapshots, beside those at stage ends; 0: 4096 */
    const char *device,
        *precision; /* what the job's class has to be of: "cpu" or "cuda…"; "f32" or "bf16"; kept; NULL: as its first worker */
} joust_core_options;

typedef enum joust_core_event_kind {
    JOUST_EVENT_START, /* this process takes over: records `epoch`, the new one of the store (0: last + 1) */
    JOUST_EVENT_HELLO,     /* u.hello */
    JOUST_EVENT_HEARTBEAT, /* u.heartbeat */
    JOUST_EVENT_CREDIT,    /* u.credit */
    JOUST_EVENT_GOODBYE,   /* the peer leaves */
    JOUST_EVENT_PEER_LOST, /* the socket says that the peer can't be reached */
    JOUST_EVENT_PEER_BAD, /* text: its bytes contradict the store, or it sent what can't be decoded: quarantined */
    JOUST_EVENT_RESULT,   /* u.result; payload decoded and validated by the shell */
    JOUST_EVENT_FAILED,   /* u.failed */
    JOUST_EVENT_PROGRESS, /* u.progress */
    JOUST_EVENT_LOCAL_DONE, /* u.local: a RUN_LOCAL unit is computed; its records go into the WRITE's batch */
    JOUST_EVENT_LOCAL_FAILED, /* u.local.unit and text: the job fails with it */
    JOUST_EVENT_TICK,         /* only time; at least every few hundred milliseconds */
    JOUST_EVENT_STOP,         /* end here, resumable: goodbye to all peers */
    JOUST_EVENT_KINDS
} joust_core_event_kind;

typedef struct joust_core_hello {
    uint32_t version; /* of the protocol */
    joust_peer_role role;
    const char *name, *numeric_class;
    uint64_t instance;
    bool other_job; /* its job digest is neither zero nor ours */
    bool can_train;
    uint32_t credit;
    uint32_t n_holding;
    const joust_unit_key *holding;
} joust_core_hello;

typedef struct joust_core_result {
    joust_unit_id id;
    joust_digest content;    /* of the unit's canonical record bytes, for CHECK_SAME */
    uint32_t n_trajectories; /* GENERATE */
    uint64_t version;        /* INIT, TRAIN: the version it made */
} joust_core_result;

typedef struct joust_core_local {
    joust_unit_key unit;
    uint64_t n_pairs; /* PAIR: decided pairs written */
    bool promoted;    /* PROMOTE */
} joust_core_local;

/* Everything is borrowed during the step. epoch: of the peer's message, 0 where it has none. */
typedef struct joust_core_event {
    joust_core_event_kind kind;
    uint64_t peer; /* the shell's handle for the connection (never reused for another) */
    uint64_t epoch;
    const char *text; /* PEER_BAD, GOODBYE, LOCAL_FAILED; or NULL */
    union {
        joust_core_hello hello;
        joust_msg_heartbeat heartbeat;
        joust_msg_credit credit;
        joust_core_result result;
        joust_msg_failed failed;
        joust_msg_train_progress progress;
        joust_core_local local;
    } u;
} joust_core_event;

/* job and plan are kept (borrowed until joust_core_free). n_prompts: (job->n_sets) lines of each set.
 * Errors: JOUST_INVALID (a set that a stage needs is empty), JOUST_NOMEM. options may be NULL. */
JOUST_MUST_USE joust_status joust_core_create(const joust_job *job, const joust_plan *plan,
                                              const uint64_t *n_prompts,
                                              const joust_core_options *options, joust_core **ret,
                                              joust_error *err);
void joust_core_free(joust_core **core);

/* One step; appends to out, at most one WRITE. now_ms: monotonic. Bad events of peers are answered by actions and are no error.
 * Errors: JOUST_NOMEM, JOUST_BUG: the process can't go on (restart it: the store has the truth). */
JOUST_MUST_USE joust_status joust_core_step(joust_core *core, const joust_core_event *event,
                                            int64_t now_ms, joust_actions *out, joust_error *err);

/* Appends the durable half's canonical bytes: equal states give equal bytes. */
JOUST_MUST_USE joust_status joust_core_encode(const joust_core *core, joust_buf *to,
                                              joust_error *err);
/* Replaces the state by a snapshot's. Errors: JOUST_CORRUPT (another job's or damaged: err says where). */
JOUST_MUST_USE joust_status joust_core_decode(joust_core *core, const void *data, size_t n,
                                              joust_error *err);
/* Folds one event of the log that came after the snapshot, in order. Errors: JOUST_CORRUPT. */
JOUST_MUST_USE joust_status joust_core_replay(joust_core *core, const void *event, size_t n,
                                              joust_error *err);
uint64_t joust_core_events(const joust_core *core); /* events folded in the job's whole life */
uint64_t joust_core_epoch(const joust_core *core);  /* 0 before the first START */

typedef enum joust_core_phase {
    JOUST_CORE_RUNNING,
    JOUST_CORE_COMPLETE,
    JOUST_CORE_JOB_FAILED,
    JOUST_CORE_STOPPED, /* by STOP */
    JOUST_CORE_SUPERSEDED
} joust_core_phase;

/* Whether the class of what is recorded fits the options. Errors: JOUST_CONFLICT, naming both and what to do. */
JOUST_MUST_USE joust_status joust_core_check_class(const joust_core *core, joust_error *err);
joust_core_phase joust_core_get_phase(const joust_core *core);
uint32_t joust_core_round(const joust_core *core); /* current; job.rounds + 1 once all are done */
/* Appends one sentence: what is being waited for, since when, and who is the culprit. */
void joust_core_why(const joust_core *core, int64_t now_ms, joust_buf *to);
/* Appends a JSON object: phase, round (the last one where all are done), stages with progress (none where all are done), peers,
 * leases with ages, queue depths, credit. why: what to say is waited for; NULL: as joust_core_why. */
void joust_core_status(const joust_core *core, int64_t now_ms, const char *why, joust_buf *to);

/* A unit's state: DONE for every unit of a finished round; WAITING for what is no unit of this job. */
joust_unit_state joust_core_unit(const joust_core *core, const joust_unit_key *unit);
/* Number of positions of a stage (0 if it doesn't run in that round). */
uint64_t joust_core_positions(const joust_core *core, uint32_t round, uint32_t stage);
/* Version that the stage's model has in the current round (as a lease of it would say). */
uint64_t joust_core_model_version(const joust_core *core, uint32_t stage);

/* Counts of visited table cells since creation, for coverage; index [state * JOUST_UNIT_EVENTS + event]. */
const uint64_t *joust_core_coverage(const joust_core *core);

/* Peers, for checks and displays. */
typedef struct joust_core_peer_view {
    uint64_t peer;
    const char *name; /* view, until the next step */
    joust_peer_role role;
    uint32_t credit, outstanding; /* outstanding <= credit */
    bool quarantined;
} joust_core_peer_view;
uint32_t joust_core_peers(const joust_core *core);
joust_core_peer_view joust_core_peer(const joust_core *core, uint32_t i);

/* Leases, for checks and displays. */
typedef struct joust_core_lease_view {
    joust_unit_id id;
    uint64_t peer;
    int64_t granted_ms, deadline_ms;
} joust_core_lease_view;
uint32_t joust_core_leases(const joust_core *core);
joust_core_lease_view joust_core_lease(const joust_core *core, uint32_t i);

#endif
