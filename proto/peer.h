/* A peer process: what worker and judge share. One loop thread owns the socket and the session; one
 * compute thread does the leased work. The role gives the work as functions; everything between it
 * and the coordinator is here:
 *
 *   loop thread                                      compute thread
 *     LEASE ─▶ session ─▶ queue ── batch ──────────▶ run(units)
 *     RESULT ◀─ session ◀──────────── deliver, fail ─┤
 *     CHUNK_GET, ROWS_GET … ◀────── upstream.send ───┤
 *     CHUNK, ROWS … ── mailbox ──▶ upstream.receive ─┘
 *
 * Heartbeats go on while the compute thread works, and carry its progress. A lost coordinator
 * changes nothing for it: results are held, and what it asked is asked again of the next one.
 * REVOKE of all it works on, GOODBYE and SIGTERM interrupt it. */
#ifndef JOUST_PROTO_PEER_H
#define JOUST_PROTO_PEER_H

#include "proto/session.h"
#include "proto/socket.h"
#include "proto/upstream.h"

#define JOUST_PEER_HEARTBEAT_MS 1000u   /* until a HELLO_ACK says otherwise */
#define JOUST_PEER_GRACE_MS     900000u /* likewise */

typedef struct joust_peer joust_peer;

typedef struct joust_peer_role_work {
    void *context;
    /* Once, before the first unit. job is kept until joust_peer_run returns. An error ends the
     * process. Thread: compute. */
    joust_status (*begin)(void *context, const joust_job *job, joust_error *err);
    /* Units of one stage of one round (borrowed), each to be delivered or failed. When it returns
     * an error, units without either are failed with it; JOUST_INTERRUPTED leaves them alone.
     * Thread: compute. */
    joust_status (*run)(void *context, joust_peer *peer, const joust_lease_unit *units, uint32_t n,
                        joust_error *err);
} joust_peer_role_work;

/* What worker and judge are started with. */
typedef struct joust_role_options {
    const char *endpoint;     /* of the coordinator */
    const char *name;         /* unique in the job: "worker-0" */
    const char *cache;        /* folder for fetched files, this process's own: it is emptied */
    uint64_t cache_bytes;     /* of files kept there at most */
    const char *logs;         /* folder for the output of what it starts; NULL: CACHE.logs */
    uint32_t threads;         /* of the engine; 0: the processors this process may use */
    uint32_t kv_memory_mb;    /* of the engine; 0: its default */
    const char *device;       /* of the engine, as joust_engine_options_device takes it; NULL: cpu */
    const char *precision;    /* likewise */
    uint32_t memory_mb;       /* of a worker, resident; 0: no bound */
    uint32_t credit;          /* units held at once */
    uint32_t grace_ms;        /* without a coordinator, until one says otherwise; 0: 15 minutes */
    const joust_curve *curve; /* NULL: none */
    bool signals; /* SIGTERM and SIGINT end it in order: call before the process makes a thread */
} joust_role_options;

typedef struct joust_peer_options {
    joust_session_options session; /* host NULL: this one's; instance 0: drawn */
    const char *endpoint;
    const joust_curve *curve; /* NULL: none */
    bool signals; /* SIGTERM and SIGINT end it in order: call before the process makes a thread */
} joust_peer_options;

/* The options of a peer that is started so. Views of its arguments. */
joust_peer_options joust_peer_options_of(const joust_role_options *start, joust_peer_role role,
                                         const char *numeric_class, uint32_t threads);

/* Blocks the signals that the loop turns into events, so that threads made from now on never get
 * them. */
void joust_peer_block_signals(void);

/* Serves until the coordinator says goodbye or a signal comes (JOUST_OK), until no coordinator was
 * there for the grace time (JOUST_TIMEOUT), or until it is refused (the coordinator's status).
 * Errors: also those of begin, JOUST_IO, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_peer_run(const joust_peer_options *options,
                                           const joust_peer_role_work *work, joust_error *err);

/* For run, on the compute thread: */

/* View, valid during run. */
const joust_upstream *joust_peer_upstream(joust_peer *peer);
/* takes *result (zeroed on success): a unit of the batch is done. Fills its provenance, but for
 * n_tokens. Errors: JOUST_INTERRUPTED, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_peer_deliver(joust_peer *peer, joust_unit_result *result,
                                               joust_error *err);
/* Whether the result of units[i] of the batch is still waited for: it may have been revoked. */
bool joust_peer_wants(const joust_peer *peer, uint32_t i);
/* The state of the servers that the role asks, for `joust status`; takes *servers (NULLed on success). Errors: as deliver. */
JOUST_MUST_USE joust_status joust_peer_report_servers(joust_peer *peer,
                                                      joust_server_status **servers, uint32_t n,
                                                      joust_error *err);
/* A unit of the batch can't be done here. Errors: as deliver. */
JOUST_MUST_USE joust_status joust_peer_fail(joust_peer *peer, const joust_unit_key *unit,
                                            const joust_error *why, joust_error *err);

#endif
