/* A peer process from inside: what its two threads share (proto/peer.h). */
#ifndef JOUST_PROTO_PEER_INTERNAL_H
#define JOUST_PROTO_PEER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "proto/actor.h"
#include "proto/loop.h"
#include "proto/peer.h"

#define JOUST_PEER_MAIL                                                                            \
    64u /* answers waiting for the compute thread, and requests for a slow link */

/* Answers on their way from the loop thread to the compute thread. */
typedef struct joust_mailbox {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    joust_message mail[JOUST_PEER_MAIL];
    uint32_t n;
    bool again;       /* answers that are due will not come */
    bool interrupted; /* the work isn't wanted any more */
} joust_mailbox;

JOUST_MUST_USE joust_status joust_mailbox_init(joust_mailbox *box, joust_error *err);
void joust_mailbox_fini(joust_mailbox *box);
/* Before a batch: nothing waits, nothing is interrupted. Thread: loop, while nothing runs. */
void joust_mailbox_reset(joust_mailbox *box);
/* takes *m (zeroed): dropped where nobody takes answers away. Thread: loop. */
void joust_mailbox_put(joust_mailbox *box, joust_message *m);
void joust_mailbox_again(joust_mailbox *box);
void joust_mailbox_interrupt(joust_mailbox *box);
bool joust_mailbox_interrupted(joust_mailbox *box);
/* Waits. Errors: JOUST_AGAIN, JOUST_INTERRUPTED. Thread: compute. */
joust_status joust_mailbox_take(joust_mailbox *box, joust_message *ret, joust_error *err);

/* The units that the compute thread works on. The thread itself reads units only. */
typedef struct joust_peer_batch {
    joust_lease_unit *units; /* (n) */
    atomic_bool *closed; /* (n) delivered, failed or revoked. Written by the loop thread */
    uint32_t n, n_closed;
    joust_status status; /* of run */
    joust_error err;
    int64_t started_wall_ms, started_ns;
} joust_peer_batch;

struct joust_peer {
    const joust_peer_role_work *work;
    joust_upstream upstream;
    joust_mailbox box;
    atomic_uint_least64_t progress; /* grows while the compute thread gets on */
    char name[JOUST_MAX_NAME_BYTES], host[JOUST_MAX_NAME_BYTES];
    joust_actor *actor;
    joust_peer_batch batch;
    bool running; /* begin or a batch is on the compute thread */

    /* The rest is the loop thread's. */
    joust_loop *loop;
    joust_context *context;
    joust_socket *socket;
    joust_session *session;
    joust_job job;
    bool has_job, begun, leaving, stopped;
    joust_lease_unit *queue; /* (n_queue) accepted, in order of arrival */
    uint32_t n_queue, credit;
    joust_message requests[JOUST_PEER_MAIL]; /* for which the link had no room */
    uint32_t n_requests;
    uint64_t timer;
    int64_t next_progress_ms;
    uint64_t told_progress;
    joust_status result; /* of joust_peer_run, once stopped */
    joust_error err;
};

/* peer.c */
/* Ends joust_peer_run with status; the first call decides. */
void joust_peer_stop(joust_peer *p, joust_status status, const char *text);
void joust_peer_stop_on_error(joust_peer *p, joust_status status, const joust_error *err);
/* Sends what is ready and a goodbye, and ends soon after. */
void joust_peer_say_goodbye(joust_peer *p);
/* Brings the session up to now: sends what is due, and ends where it has ended. */
void joust_peer_pump(joust_peer *p);
/* A request of the compute thread; takes *m. */
void joust_peer_request(joust_peer *p, joust_message *m);

/* peer_work.c */
JOUST_MUST_USE joust_status joust_peer_begin(joust_peer *p, joust_error *err);
/* Gives the compute thread the next batch, if it is free and there is one. */
void joust_peer_start_work(joust_peer *p);
/* The unit's place in the running batch while it is open, or JOUST_NONE. */
uint32_t joust_peer_find_open(const joust_peer *p, const joust_unit_key *unit);
void joust_peer_close_unit(joust_peer *p, uint32_t i);
void joust_peer_batch_fini(joust_peer_batch *b);
/* What deliver and fail become on the loop thread. */
void joust_peer_finish_unit(joust_peer *p, joust_unit_result *result);
void joust_peer_fail_unit(joust_peer *p, const joust_unit_key *unit, joust_status code,
                          const char *text);

/* peer_desk.c: sets p->upstream. */
void joust_peer_desk_init(joust_peer *p);

#endif
