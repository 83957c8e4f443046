/* The simulated world: shared by its parts. */
#ifndef JOUST_COORDINATOR_SIMULATION_WORLD_INTERNAL_H
#define JOUST_COORDINATOR_SIMULATION_WORLD_INTERNAL_H

#include "coordinator/core.h"
#include "coordinator/outbox.h"
#include "coordinator/rewards.h"
#include "coordinator/simulation/simulation.h"

enum {
    SIM_SAMPLES = 4,
    SIM_CREDIT = 4,
    SIM_PEERS = 32,
    SIM_VERSIONS = 64,
    SIM_TRAIN_STEPS = 6,
    SIM_BEAT_MS = 40,
    SIM_LEASE_MS = 500,
    SIM_TIMEOUT_MS = 300,
    SIM_FAULTS_END_MS = 3000,
    SIM_LIMIT_MS = 60000 /* the job has to be over by then */
};

/* What a unit's result amounts to, whatever its stage. */
typedef struct sim_record {
    uint32_t n; /* GENERATE, JUDGE: samples; PAIR: pairs; else 1 */
    uint64_t text
        [SIM_SAMPLES]; /* GENERATE: the answers; JUDGE: the answers judged; PAIR: chosen, rejected */
    joust_reward value[SIM_SAMPLES]; /* JUDGE; PAIR: their rewards */
    uint32_t sample[2];              /* PAIR: chosen, rejected */
    uint64_t version,
        weights; /* GENERATE, JUDGE: of the model; TRAIN, INIT, PROMOTE: made, chosen */
} sim_record;

typedef struct sim_message {
    joust_message_type type;
    uint32_t peer;     /* index of the peer at one end */
    uint64_t instance; /* of that peer */
    uint64_t epoch, serial;
    joust_status status;
    joust_unit_id id;
    joust_lease_order order;
    uint64_t weights, state; /* of the model to use; training state to resume */
    uint32_t step;
    sim_record record; /* RESULT: what was made; LEASE of JUDGE: the group */
    uint32_t n_units;
    joust_progress units[SIM_CREDIT]; /* HELLO, HEARTBEAT */
} sim_message;

typedef enum sim_happening {
    SIM_DELIVER_TO_PEER,
    SIM_DELIVER_TO_COORDINATOR,
    SIM_PEER_WORK,
    SIM_PEER_BEAT,
    SIM_PEER_RESTART,
    SIM_TICK,
    SIM_SYNCED,
    SIM_LOCAL,
    SIM_RESTART,
    SIM_ZOMBIE_END,
    SIM_CHAOS
} sim_happening;

typedef struct sim_event {
    int64_t at_ms;
    uint64_t serial;
    sim_happening what;
    uint32_t who;        /* peer */
    uint64_t life;       /* of the process that it is for */
    uint64_t batch;      /* SYNCED */
    joust_unit_key unit; /* LOCAL */
    joust_local_order local;
    sim_message *message; /* owned */
} sim_event;

typedef struct sim_slot {
    bool used, finished;
    joust_unit_id id;
    sim_message order;
    sim_record result;
    uint64_t progress;
    int64_t wakes_ms; /* hangs until then */
    int64_t sent_ms;
} sim_slot;

typedef struct sim_peer {
    joust_peer_role role;
    bool alive, welcome, left, working; /* welcome: HELLO was answered */
    uint64_t instance, epoch;           /* epoch: highest seen */
    int64_t heard_ms, cut_until_ms;     /* partitioned until then */
    uint32_t free_credit;
    sim_slot slots[SIM_CREDIT];
} sim_peer;

/* One unit's place on the disk. */
typedef struct sim_cell {
    bool present, acknowledged;
    uint64_t batch;
    sim_record record;
    joust_digest expected; /* content of the result as its peer sent it */
} sim_cell;

typedef struct sim_bytes {
    uint64_t batch, event; /* event: number, for snapshots */
    uint8_t *data;
    size_t n;
} sim_bytes;

typedef struct sim_disk {
    uint64_t epoch, newest, durable; /* batches */
    uint64_t n_cells;
    sim_cell *cells;
    uint64_t *first; /* (rounds + 1, stages): index of position 0 */
    uint64_t n_events;
    size_t event_capacity;
    sim_bytes *events;
    uint32_t n_snapshots;
    sim_bytes snapshots[2];
    struct {
        bool present, synced;
        uint64_t weights;
    } models[SIM_VERSIONS];
} sim_disk;

typedef struct sim_coordinator {
    bool alive;
    uint64_t life, epoch;
    joust_core *core;
    joust_outbox *outbox;
    uint64_t *waiting; /* batch that each list in the outbox waits for, oldest first */
    size_t n_waiting, waiting_capacity;
    uint64_t last_lease; /* id sent last */
    int64_t tick_ms;     /* of its last TICK */
    bool syncing;
} sim_coordinator;

typedef struct sim_world {
    const joust_simulation_options *options;
    joust_simulation_result *result;
    joust_job *job;
    joust_plan *plan;
    uint64_t n_prompts[4];
    int64_t now_ms;
    uint64_t serial, lives, draws;
    joust_stream random;
    sim_event *heap;
    size_t n_heap, heap_capacity;
    sim_disk disk;
    sim_coordinator coordinator, zombie;
    uint32_t n_peers;
    sim_peer peers[SIM_PEERS];
    uint64_t delivered[SIM_PEERS * 2]; /* newest serial delivered, a link and direction */
    bool over, poisoned; /* poisoned: one unit fails everywhere, so the job must fail and say so */
    uint64_t *history;   /* checksum of the state after each event */
    uint64_t history_capacity;
    joust_core *mirror; /* lives by replay alone */
} sim_world;

/* world.c */
void sim_violate(sim_world *w, const char *format, ...)
    JOUST_PRINTF(2, 3); /* the first one counts */
static inline bool sim_broken(const sim_world *w)
{
    return w->result->violation[0] != 0;
}
static inline bool sim_planted(const sim_world *w, joust_plant plant)
{
    return w->options->plant == plant;
}
bool sim_faults(const sim_world *w);         /* whether faults may happen now */
uint64_t sim_draw(sim_world *w, uint64_t n); /* 0 .. n - 1 */
bool sim_chance(sim_world *w, uint32_t per_mille);
void sim_upset(sim_world *w, joust_upset upset);
void sim_after(sim_world *w, int64_t delay_ms, const sim_event *event);
bool sim_next(sim_world *w, sim_event *ret);  /* moves the clock */
uint64_t sim_mix(const void *data, size_t n); /* a 64-bit digest */
joust_digest sim_content(const sim_record *record, joust_stage_kind kind);

/* network.c. message is copied. */
void sim_send(sim_world *w, const sim_message *message, bool to_peer);
bool sim_arrives(sim_world *w,
                 const sim_event *event); /* counts overtaking; false in a partition */

/* disk.c */
void sim_disk_init(sim_world *w);
void sim_disk_fini(sim_world *w);
sim_cell *sim_disk_cell(sim_world *w, const joust_unit_key *unit);
void sim_disk_crash(sim_world *w);
void sim_disk_add_event(sim_world *w, joust_span bytes, uint64_t batch);
void sim_disk_add_snapshot(sim_world *w, joust_span bytes, uint64_t event, uint64_t batch);
void sim_disk_put(sim_world *w, const joust_unit_key *unit, const sim_record *record,
                  uint64_t batch);

/* shell.c: the process around the core */
void sim_coordinator_start(sim_world *w);
void sim_coordinator_kill(sim_world *w, bool as_zombie);
void sim_coordinator_drop(sim_coordinator *c);
void sim_coordinator_step(sim_world *w, sim_coordinator *c, const joust_core_event *event,
                          const sim_record *record);
void sim_coordinator_receive(sim_world *w, sim_coordinator *c, const sim_message *m);
void sim_coordinator_event(sim_world *w, const sim_event *event); /* TICK, SYNCED, LOCAL */

/* local.c: units that the coordinator computes itself */
void sim_compute_local(sim_world *w, const sim_event *event, sim_record *ret,
                       joust_core_local *done);

/* peers.c */
void sim_peer_start(sim_world *w, uint32_t peer);
void sim_peer_kill(sim_world *w, uint32_t peer);
void sim_peer_event(sim_world *w, const sim_event *event); /* WORK, BEAT */
void sim_peer_receive(sim_world *w, const sim_message *m);
void sim_peer_nonsense(sim_world *w, uint32_t peer);

/* check.c */
void sim_check_step(sim_world *w, const sim_coordinator *c);
void sim_check_replay(sim_world *w, const joust_core *core);
void sim_check_put(sim_world *w, const joust_unit_key *unit, const sim_record *record);
void sim_check_send(sim_world *w, const sim_coordinator *c, const joust_action *action,
                    uint64_t batch);
void sim_check_durable(sim_world *w); /* acknowledged records, models */
void sim_check_end(sim_world *w);

#endif
