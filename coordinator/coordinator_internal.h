/* The coordinator's process: what its parts share. Loop thread only. */
#ifndef JOUST_COORDINATOR_COORDINATOR_INTERNAL_H
#define JOUST_COORDINATOR_COORDINATOR_INTERNAL_H

#include "coordinator/committer.h"
#include "coordinator/coordinator.h"
#include "coordinator/core.h"
#include "coordinator/lease_units.h"
#include "coordinator/outbox.h"
#include "coordinator/pairing.h"
#include "coordinator/training_rows.h"
#include "proto/loop.h"
#include "storage/blobs.h"

/* Leases and acknowledgements on their way to one peer (sending.c). Zero: none. */
#define JOUST_MAX_SENDING 64u
typedef struct joust_sending {
    uint32_t n_acks, n_leases;
    size_t ack_capacity, lease_capacity;
    joust_unit_id *acks;
    joust_lease_unit *leases;
    uint64_t lent;  /* bit i: the trajectories of leases[i] belong to the recent units */
    uint64_t bytes; /* of the leases, about */
} joust_sending;

/* A connection, from its first HELLO to its GOODBYE. The handle is what the core calls `peer`; never reused. */
typedef struct joust_link {
    uint64_t handle;
    joust_peer_id id;
    int64_t heard_ms;
    uint32_t n_refused; /* messages that couldn't be read */
    joust_sending sending;
    uint32_t n_servers; /* that it asks */
    joust_server_status *servers;
} joust_link;

/* What a GENERATE stage has given so far, as far as this process has seen it come. */
typedef struct joust_generate_count {
    uint32_t round;
    uint64_t groups, trajectories, tokens, stopped, identical;
    uint64_t refused, cut; /* groups whose prompt was too long */
    uint64_t empty;        /* trajectories without text, those of refused prompts left out */
} joust_generate_count;

/* The verdicts of a JUDGE stage by joust_outcome, and what the first of each says. */
typedef struct joust_verdict_count {
    uint64_t outcomes[JOUST_OUTCOME_SKIPPED + 1];
    char reasons[JOUST_OUTCOME_SKIPPED + 1][201];
} joust_verdict_count;

/* How groups of a PAIR stage were decided, as far as this process has paired them. */
typedef struct joust_pairing_count {
    uint32_t round;
    uint64_t groups, outcomes[JOUST_PAIRING_OUTCOMES];
    uint64_t compared;  /* groups with a best and a worst answer */
    double best, worst; /* among those: the largest reward, the smallest */
} joust_pairing_count;

/* What a served stage has been asked in a round, with what came before this process. */
typedef struct joust_served_count {
    uint32_t round;
    uint64_t leases;    /* units given out, each time counted */
    uint64_t again;     /* of them, those that had been given out before */
    uint64_t in_flight; /* units given out and without a result when this process took over */
} joust_served_count;

#define JOUST_OPEN_ROWS 2u /* PPO's policy and critic may be trained at once */
#define JOUST_FINGERPRINTS 4u

struct joust_coordinator {
    const joust_job *job;
    joust_plan plan;
    joust_digest job_digest;
    uint64_t n_prompts[JOUST_MAX_SETS];
    joust_buf job_bytes; /* as HELLO_ACK carries it */

    joust_store *store;
    joust_blobs *blobs;
    joust_lease_sources sources;
    joust_generate_count counts[JOUST_MAX_STAGES];  /* by stage */
    joust_pairing_count pairings[JOUST_MAX_STAGES]; /* by stage */
    joust_served_count served[JOUST_MAX_STAGES];    /* by stage */
    uint64_t served_requests[JOUST_MAX_MODELS],
        served_tokens[JOUST_MAX_MODELS];        /* of the job so far */
    joust_digest fingerprints[JOUST_MAX_MODELS]
                             [JOUST_FINGERPRINTS]; /* that a served model's verdicts had last */
    joust_recent *recent;                       /* units that were just written */
    joust_training_rows *rows[JOUST_OPEN_ROWS]; /* of TRAIN units under way, or NULL */
    joust_core *core;
    joust_outbox *outbox;

    joust_loop *loop;
    joust_context *context;
    joust_socket *socket, *status_socket;
    joust_committer *committer;
    joust_actor *blob_actor;

    joust_link *links;
    uint32_t n_links;
    uint64_t next_handle, next_event, status_sequence;
    uint64_t n_refused;   /* unreadable messages, of whomever */
    int64_t refused_ms;   /* when the log last said so */
    joust_actions locals; /* RUN_LOCAL units that wait until what was released has left */
    bool pumping, stopping;
    int64_t stop_at_ms;

    joust_status status; /* why the process ends, if not by the core's phase */
    joust_error err;
};

/* The process can't go on: the loop stops. First reason wins. */
void joust_coordinator_fail(joust_coordinator *c, joust_status status, const joust_error *err);

/* steps.c: one step of the core, its records and events into the batch, its actions into the outbox. put (may be NULL)
 * adds the records that came with the event; it is called only if the core takes them. */
typedef joust_status joust_put_fn(joust_coordinator *c, void *records, joust_error *err);
void joust_coordinator_step(joust_coordinator *c, const joust_core_event *event, joust_put_fn *put,
                            void *records);
/* Does what the outbox has released. */
void joust_coordinator_pump(joust_coordinator *c);

/* sending.c: what is gathered for a peer leaves with the flush. Errors: of the store, JOUST_NOMEM. */
joust_status joust_coordinator_send_lease(joust_coordinator *c, const joust_action *action,
                                          joust_error *err);
joust_status joust_coordinator_send_ack(joust_coordinator *c, const joust_action *action,
                                        joust_error *err);
void joust_coordinator_flush_peer(joust_coordinator *c, uint64_t peer);
void joust_coordinator_flush(joust_coordinator *c);
void joust_sending_fini(joust_sending *sending); /* frees and zeroes; nothing leaves */

/* incoming.c: everything peers say. */
void joust_coordinator_readable(void *arg, uint32_t events);
/* links */
joust_link *joust_coordinator_link(joust_coordinator *c, const joust_peer_id *id);
joust_link *joust_coordinator_link_of(joust_coordinator *c, uint64_t handle);
void joust_coordinator_close_rows(joust_coordinator *c);
void joust_link_fini(joust_link *link); /* what it holds */
void joust_coordinator_unlink(joust_coordinator *c, uint64_t handle);
/* Sends; a peer that can't be reached becomes an event. */
void joust_coordinator_send(joust_coordinator *c, uint64_t peer, joust_message *message);
void joust_coordinator_send_to(joust_coordinator *c, const joust_peer_id *to,
                               joust_message *message);
void joust_coordinator_send_text(joust_coordinator *c, const joust_peer_id *to,
                                 joust_message_type type, joust_status code, const char *text);

/* local.c: RUN_LOCAL units. */
void joust_coordinator_run_local(joust_coordinator *c, const joust_action *action);
/* summaries.c: what the trainer measured, and the first and the last loss, into the batch. */
joust_status joust_coordinator_put_train_summary(joust_coordinator *c,
                                                 const joust_unit_result *result, joust_error *err);
/* Counts a group that is put. */
void joust_coordinator_count(joust_coordinator *c, const joust_unit_result *result);
/* Counts a group that is paired. */
void joust_coordinator_count_pairing(joust_coordinator *c, const joust_unit_key *unit,
                                     const joust_pairing *pairing);
/* The figures of a finished stage, as the store gives them; a no-op if they are there. */
joust_status joust_coordinator_summarise(joust_coordinator *c, uint32_t round, uint32_t stage,
                                         joust_error *err);
/* shortfalls.c: warnings about stages more than half of which gave nothing. */
void joust_shortfall_of_verdicts(const joust_coordinator *c, uint32_t round, uint32_t stage,
                                 const joust_verdict_count *count);
void joust_shortfall_of_pairs(const joust_coordinator *c, uint32_t round, uint32_t stage);
/* served.c: what servers are asked. Whether the stage's answers come from servers. */
bool joust_served_stage(const joust_coordinator *c, uint32_t stage);
uint32_t joust_served_requests_a_unit(const joust_coordinator *c, uint32_t stage);
/* Counts what the store holds, at the start. */
joust_status joust_served_open(joust_coordinator *c, joust_error *err);
/* Puts a record of each LEASE of such a stage into the batch, before it leaves. *wrote: set if there was one. */
joust_status joust_served_record_leases(joust_coordinator *c, const joust_actions *actions,
                                        bool *wrote, joust_error *err);
/* Counts a result that is put. */
void joust_served_count_result(joust_coordinator *c, const joust_unit_result *result);
/* The process ends where a budget is spent. */
void joust_served_check_budgets(joust_coordinator *c);
/* Appends ,"served":[...] and ,"servers":[...] to the status, or nothing. */
void joust_served_status(const joust_coordinator *c, joust_buf *to);
/* checkpoints.c: the final models, as folders. */
joust_status joust_coordinator_export_models(joust_coordinator *c, joust_error *err);
/* status.c: the status socket. */
void joust_coordinator_status_readable(void *arg, uint32_t events);

#endif
