/* A coordinator of a few lines, at the other end of a real socket: for tests of the roles as they
 * run. It answers chunk and row requests from a fake_upstream, and keeps results by unit until the
 * test acknowledges them. */
#ifndef JOUST_TESTS_WORKER_FAKE_COORDINATOR_H
#define JOUST_TESTS_WORKER_FAKE_COORDINATOR_H

#include <pthread.h>

#include "proto/peer.h"
#include "worker/fake_upstream.h"

#define FAKE_MAX_RESULTS 128u

typedef struct fake_coordinator {
    char endpoint[600];
    const joust_job *job;
    uint64_t epoch;
    joust_context *context;
    joust_socket *socket;
    joust_peer_id peer;
    bool greeted; /* peer has said HELLO to this one; what the last one was asked gets no answer */
    fake_upstream files;
    joust_msg_hello hello; /* the last */
    uint32_t n_hellos, n_failed, n_goodbyes, n_heartbeats;
    uint64_t progress; /* the highest seen */
    char failure[1024];
    joust_unit_result results[FAKE_MAX_RESULTS]; /* as they came, repeats not counted */
    uint32_t n_results, n_repeats;
} fake_coordinator;

/* A fresh endpoint below the build tree. */
void fake_coordinator_init(fake_coordinator *c, const char *name, const joust_job *job);
void fake_coordinator_fini(fake_coordinator *c);
/* Binds with the next epoch; forgets nothing else. */
void fake_coordinator_open(fake_coordinator *c);
void fake_coordinator_close(fake_coordinator *c); /* as if it died */
/* Serves until the condition holds; the test fails after 20 seconds. */
#define fake_serve_until(c, condition)                                                             \
    do {                                                                                           \
        for (int tries = 0; !(condition); tries++) {                                               \
            if (tries > 2000)                                                                      \
                fail_msg("never: %s", #condition);                                                 \
            fake_coordinator_serve(c, 10);                                                         \
        }                                                                                          \
    } while (0)
/* Takes what is there, waiting at most this long for the first message. */
void fake_coordinator_serve(fake_coordinator *c, int wait_ms);
/* Units are borrowed. */
void fake_coordinator_lease(fake_coordinator *c, joust_lease_unit *units, uint32_t n);
void fake_coordinator_revoke(fake_coordinator *c, const joust_unit_id *id);
void fake_coordinator_acknowledge_all(fake_coordinator *c);
void fake_coordinator_goodbye(fake_coordinator *c);
const joust_unit_result *fake_coordinator_result(const fake_coordinator *c,
                                                 const joust_unit_key *unit);

#endif
