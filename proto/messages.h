/* Messages between the coordinator and its peers (workers, judges, trainers), as plain structs.
 * The wire form is protobuf inside a versioned envelope: proto/PROTOCOL.md, proto/codec.h.
 * Ownership: a decoded message owns everything it points to; joust_message_fini frees it. */
#ifndef JOUST_PROTO_MESSAGES_H
#define JOUST_PROTO_MESSAGES_H

#include "proto/job.h"
#include "proto/records.h"

#define JOUST_PROTOCOL_VERSION   1u
#define JOUST_MAX_FRAME_BYTES    (64u << 20)
#define JOUST_MAX_UNITS          1024u /* units in one message */

typedef enum joust_peer_role { JOUST_PEER_WORKER = 1, JOUST_PEER_JUDGE = 2 } joust_peer_role;

typedef enum joust_message_type { /* on the wire: never renumber */
    JOUST_MSG_HELLO = 1,          /* peer -> coordinator */
    JOUST_MSG_HELLO_ACK = 2,      /* coordinator -> peer */
    JOUST_MSG_HEARTBEAT = 3,      /* both ways */
    JOUST_MSG_GOODBYE = 4,        /* both ways */
    JOUST_MSG_ERROR = 5,          /* both ways */
    JOUST_MSG_CREDIT = 6,         /* peer -> coordinator */
    JOUST_MSG_LEASE = 7,          /* coordinator -> peer */
    JOUST_MSG_REVOKE = 8,         /* coordinator -> peer */
    JOUST_MSG_RESULT = 9,         /* peer -> coordinator */
    JOUST_MSG_RESULT_ACK = 10,    /* coordinator -> peer, after the commit is durable */
    JOUST_MSG_FAILED = 11,        /* peer -> coordinator: a unit can't be done here */
    JOUST_MSG_ROWS_GET = 12,      /* trainer -> coordinator */
    JOUST_MSG_ROWS = 13,          /* coordinator -> trainer */
    JOUST_MSG_TRAIN_PROGRESS = 14, /* trainer -> coordinator */
    JOUST_MSG_CHUNK_QUERY = 15,   /* peer -> coordinator: which of these are missing there? */
    JOUST_MSG_CHUNK_MISSING = 16,
    JOUST_MSG_CHUNK_PUT = 17,     /* peer -> coordinator */
    JOUST_MSG_CHUNK_ACK = 18,     /* coordinator -> peer, after the chunk is synced */
    JOUST_MSG_CHUNK_GET = 19,     /* peer -> coordinator */
    JOUST_MSG_CHUNK = 20,         /* coordinator -> peer */
    JOUST_MSG_PROGRESS_ACK = 21   /* coordinator -> trainer, after the commit is durable */
} joust_message_type;

typedef struct joust_msg_hello {
    uint32_t version;        /* JOUST_PROTOCOL_VERSION */
    joust_peer_role role;
    char name[JOUST_MAX_NAME_BYTES]; /* unique in the job: "worker-0" */
    char host[JOUST_MAX_NAME_BYTES];
    uint64_t instance;       /* random, new with each process start */
    char numeric_class[JOUST_MAX_NAME_BYTES]; /* "cpu-f32-1"; empty for peers without an engine */
    joust_digest job;        /* identity digest known to the peer, or zero */
    uint64_t epoch;          /* highest epoch seen, or 0 */
    uint32_t credit;         /* units it will hold at once: leased and not yet acknowledged */
    uint32_t threads;
    bool can_train;
    uint32_t n_holding;
    joust_unit_key *holding; /* units it computes or whose results it holds */
} joust_msg_hello;

typedef struct joust_msg_hello_ack {
    uint64_t epoch;
    joust_digest job_digest;
    uint32_t n_job;
    uint8_t *job; /* joust_job_encode(…, identity = false) */
    uint32_t heartbeat_ms, grace_ms;
} joust_msg_hello_ack;

typedef struct joust_progress {
    joust_unit_key unit;
    uint64_t done; /* any counter that grows while work is done: tokens, steps */
} joust_progress;

#define JOUST_MAX_SERVER_STATUS 1024u

/* A server that a peer asks, or has started: what `joust status` shows of it. Texts without secrets. */
typedef struct joust_server_status {
    char model[JOUST_MAX_NAME_BYTES]; /* under models: */
    char url[JOUST_MAX_URL_BYTES + 1];
    char state[32];  /* "ready", "resting", "starting" … */
    char probe[320]; /* what came of the last proof or probe; "" : none */
    char last_error[320];
    bool ready; /* it gets requests */
    uint32_t in_flight;
    uint64_t answers, failures; /* requests that it answered, tries that failed, in this process's life */
} joust_server_status;

typedef struct joust_msg_heartbeat {
    uint64_t sequence;
    uint32_t n_progress;
    joust_progress *progress; /* of the leases it holds */
    uint32_t n_servers; /* 0: as the last one that named any */
    joust_server_status *servers;
} joust_msg_heartbeat;

typedef struct joust_msg_text { /* GOODBYE, ERROR */
    int32_t code;               /* a joust_status */
    char *text;                 /* one line, never NULL */
} joust_msg_text;

typedef struct joust_msg_credit {
    uint32_t credit; /* new total */
} joust_msg_credit;

/* One unit of leased work. What is used depends on the stage's kind. */
typedef struct joust_lease_unit {
    joust_unit_key unit;
    uint64_t lease;
    uint32_t attempt;
    uint32_t deadline_ms; /* from receipt; renewed by heartbeats that show progress */
    joust_model_ref model; /* GENERATE: policy; JUDGE: its model; TRAIN: parent; INIT: the folder without weights */
    /* GENERATE and JUDGE */
    joust_prompt prompt;
    uint32_t samples; /* GENERATE */
    uint32_t n_trajectories;
    joust_trajectory *trajectories; /* JUDGE: the group, by sample */
    /* INIT and TRAIN */
    uint64_t out_version;    /* version number that the result will have */
    joust_model_ref reference;
    uint64_t n_rows;         /* of a pass: pairs, or a policy loss's answers; 0 for a data file */
    joust_digest data;       /* manifest of the data file, or zero */
    uint32_t resume_step;    /* steps done already; 0 = from the start */
    joust_digest resume;     /* manifest of the training state at resume_step, or zero */
    bool has_partner;
    joust_model_ref partner; /* PPO, as the round began: the critic beside the policy, the policy beside the critic */
} joust_lease_unit;

typedef struct joust_msg_lease {
    uint32_t n;
    joust_lease_unit *units;
} joust_msg_lease;

typedef struct joust_unit_id {
    joust_unit_key unit;
    uint64_t lease;
    uint32_t attempt;
} joust_unit_id;

typedef struct joust_msg_units { /* REVOKE, RESULT_ACK */
    uint32_t n;
    joust_unit_id *units;
} joust_msg_units;

/* Name of the one metric of a TRAIN unit on pairs: the largest |log-prob recorded by the rollout -
 * log-prob of the training forward pass before the first step| over the tokens that the starting
 * version itself generated. 0 unless something is wrong. */
#define JOUST_METRIC_LOGP_GAP "max_logp_gap"
/* Of PPO's critic, as the round began, over the round's tokens: ½ mean (value - return)², and 1 - variance(return - value) /
 * variance(return). Of its policy: the mean log-ratio to the reference, where rewards have it. */
#define JOUST_METRIC_VALUE_LOSS         "value_loss"
#define JOUST_METRIC_EXPLAINED_VARIANCE "explained_variance"
#define JOUST_METRIC_MEAN_KL            "mean_kl"
/* Of a policy loss on what servers drew, before train.importance_cap: weights e^(trainer's log-prob - server's), a token
 * each (gspo: an answer), and the share of those above the cap. */
#define JOUST_METRIC_MEAN_WEIGHT       "mean_importance"
#define JOUST_METRIC_MAX_WEIGHT        "max_importance"
#define JOUST_METRIC_TRUNCATED_WEIGHTS "truncated_importance"

typedef struct joust_unit_result {
    joust_unit_id id;
    joust_provenance provenance;
    uint32_t n_trajectories;
    joust_trajectory *trajectories; /* GENERATE: exactly the stage's samples, by sample */
    uint32_t n_verdicts;
    joust_verdict *verdicts; /* JUDGE: in key order (sample, other, order, vote) */
    bool has_model;
    joust_model_version model; /* INIT, TRAIN: its chunks and manifest are durable already */
    uint32_t n_steps;
    joust_train_step *steps; /* TRAIN: those since the last TRAIN_PROGRESS */
    uint32_t n_metrics;
    joust_metric *metrics; /* TRAIN: those above */
} joust_unit_result;

typedef struct joust_msg_result {
    uint32_t n;
    joust_unit_result *units;
} joust_msg_result;

typedef struct joust_msg_failed {
    joust_unit_id id;
    int32_t code; /* a joust_status */
    char *text;
} joust_msg_failed;

/* Rows of a TRAIN unit in training order: row i of the endless order in which pass p is the permutation keyed by (seed, stage,
 * round, pass). */
typedef struct joust_msg_rows_get {
    joust_unit_id id;
    uint64_t first;
    uint32_t n; /* at most JOUST_MAX_UNITS */
} joust_msg_rows_get;

typedef struct joust_train_row_pair {
    uint64_t ordinal; /* of the pair among the round's pairs, in key order */
    uint32_t n_prompt_tokens, n_chosen, n_rejected;
    uint32_t *prompt_tokens, *chosen, *rejected;
    float *chosen_logps, *rejected_logps;          /* raw, as recorded by the rollout */
    uint64_t chosen_policy, rejected_policy;       /* versions that generated them */
    double margin;                                 /* of their rewards */
} joust_train_row_pair;

typedef struct joust_msg_rows {
    joust_unit_id id;
    uint64_t first;
    uint32_t n;
    joust_train_row_pair *rows;
} joust_msg_rows;

typedef struct joust_msg_train_progress {
    joust_unit_id id;
    uint32_t step;       /* steps done */
    joust_digest state;  /* manifest of the state; its chunks are durable already */
    uint32_t n_steps;
    joust_train_step *steps; /* since the last one */
} joust_msg_train_progress; /* answered by PROGRESS_ACK when durable */

typedef struct joust_msg_progress_ack {
    joust_unit_id id;
    uint32_t step; /* of the progress that is durable now */
} joust_msg_progress_ack;

typedef struct joust_msg_digests { /* CHUNK_QUERY, CHUNK_MISSING, CHUNK_ACK (n = 1), CHUNK_GET (n = 1) */
    uint32_t n;
    joust_digest *digests;
} joust_msg_digests;

typedef struct joust_msg_chunk { /* CHUNK_PUT, CHUNK; n = 0 in CHUNK: not there */
    joust_digest digest;
    uint32_t n;
    uint8_t *data;
} joust_msg_chunk;

typedef struct joust_message {
    joust_message_type type;
    uint64_t epoch; /* of the coordinator; 0 in a peer's first HELLO */
    union {
        joust_msg_hello hello;
        joust_msg_hello_ack hello_ack;
        joust_msg_heartbeat heartbeat;
        joust_msg_text text;
        joust_msg_credit credit;
        joust_msg_lease lease;
        joust_msg_units units;
        joust_msg_result result;
        joust_msg_failed failed;
        joust_msg_rows_get rows_get;
        joust_msg_rows rows;
        joust_msg_train_progress progress;
        joust_msg_progress_ack progress_ack;
        joust_msg_digests digests;
        joust_msg_chunk chunk;
    } u;
} joust_message;

/* To keep a unit or a result when its message goes: copy the struct, zero it in the message, and free the copy. */
void joust_lease_unit_fini(joust_lease_unit *u);
void joust_unit_result_fini(joust_unit_result *r);
void joust_message_fini(joust_message *m); /* frees what it points to and zeroes it */
/* How many units from the first on have its model; n is 1 or more. */
uint32_t joust_lease_units_of_model(const joust_lease_unit *units, uint32_t n);
const char *joust_message_name(joust_message_type type); /* "HELLO" … "UNKNOWN" */

#endif
