/* One seed from beginning to end. */
#include "coordinator/simulation/simulation.h"

#include <string.h>

#include "coordinator/simulation/world_internal.h"
#include "proto/base/alloc.h"

/* A small job of its own, which differs from seed to seed in everything that changes the plan. Strings are static. */
typedef struct sim_job {
    joust_job job;
    joust_job_model model;
    joust_job_set sets[3];
    joust_job_judge judges[3];
    joust_plan plan;
} sim_job;

static void describe_job(const joust_simulation_options *o, sim_job *j)
{
    static char policy[] = "policy", exact[] = "exact", self[] = "self", second[] = "second";
    static char prompts[] = "prompts", validation[] = "validation", test[] = "test";
    static char build[] = "best-worst";
    uint64_t kind = o->seed;
    *j = (sim_job){.model = {.name = policy, .init = kind % 3 == 0, .init_seed = o->seed}};
    j->sets[0] = (joust_job_set){.name = prompts, .per_round = o->groups};
    j->sets[1] = (joust_job_set){.name = validation};
    j->sets[2] = (joust_job_set){.name = test};
    j->judges[0] =
        (joust_job_judge){.name = self,
                          .kind = JOUST_JUDGE_YES_NO,
                          .role = JOUST_ROLE_REWARD,
                          .model = policy,
                          .version = kind % 2 ? JOUST_PICK_ROUND_START : JOUST_PICK_LATEST};
    j->judges[1] =
        (joust_job_judge){.name = exact, .kind = JOUST_JUDGE_RULE, .role = JOUST_ROLE_EVALUATE};
    j->judges[2] =
        (joust_job_judge){.name = second, .kind = JOUST_JUDGE_RULE, .role = JOUST_ROLE_REWARD};
    joust_job *job = &j->job;
    *job = (joust_job){.seed = o->seed,
                       .rounds = o->rounds,
                       .n_models = 1,
                       .n_sets = 3,
                       .n_judges = kind % 5 == 0 ? 3 : 2,
                       .models = &j->model,
                       .sets = j->sets,
                       .judges = j->judges,
                       .combine = (joust_combine)(JOUST_COMBINE_MEAN + kind % 3),
                       .has_prompts = true,
                       .has_train = true};
    job->rollout.samples = SIM_SAMPLES;
    job->pairs = (joust_job_pairs){.build = build,
                                   .min_chosen = -1,
                                   .max_rejected = 1,
                                   .rejected_model = kind % 4 == 0 ? policy : NULL,
                                   .rejected_version = JOUST_PICK_INITIAL};
    job->train.model = policy;
    job->train.loss = JOUST_LOSS_DPO;
    job->train.reference = JOUST_PICK_ROUND_START;
    job->evaluate = (joust_job_evaluate){.on = kind % 7 != 0,
                                         .prompts = test,
                                         .judge = exact,
                                         .judged_by = self,
                                         .samples = kind % 2 ? 2 : 0};
    job->promote = (joust_job_promote){
        .on = kind % 6 != 0, .prompts = validation, .judge = exact, .gate = kind % 2 != 0};
}

static void chaos(sim_world *w)
{
    uint32_t peer = (uint32_t)sim_draw(w, w->n_peers);
    if (!sim_faults(w))
        return;
    sim_after(w, 20, &(sim_event){.what = SIM_CHAOS});
    if (w->coordinator.alive && sim_chance(w, 22))
        sim_coordinator_kill(w, !w->zombie.alive && sim_chance(w, 500));
    if (w->peers[peer].alive && sim_chance(w, 25))
        sim_peer_kill(w, peer);
    if (w->peers[peer].cut_until_ms <= w->now_ms && sim_chance(w, 30)) {
        w->peers[peer].cut_until_ms = w->now_ms + 50 + (int64_t)sim_draw(w, 600);
        sim_upset(w, JOUST_UPSET_PARTITION);
    }
    if (sim_chance(w, 100))
        sim_peer_nonsense(w, peer);
}

static void deliver(sim_world *w, const sim_event *event)
{
    if (!sim_arrives(w, event))
        return;
    if (event->what == SIM_DELIVER_TO_PEER)
        sim_peer_receive(w, event->message);
    else if (w->zombie.alive && sim_draw(w, 2))
        sim_coordinator_receive(w, &w->zombie, event->message);
    else if (w->coordinator.alive)
        sim_coordinator_receive(w, &w->coordinator, event->message);
}

static void happen(sim_world *w, const sim_event *event)
{
    switch (event->what) {
    case SIM_DELIVER_TO_PEER:
    case SIM_DELIVER_TO_COORDINATOR:
        deliver(w, event);
        break;
    case SIM_PEER_WORK:
    case SIM_PEER_BEAT:
        sim_peer_event(w, event);
        break;
    case SIM_PEER_RESTART:
        if (!w->peers[event->who].left)
            sim_peer_start(w, event->who);
        break;
    case SIM_TICK:
    case SIM_SYNCED:
    case SIM_LOCAL:
        sim_coordinator_event(w, event);
        break;
    case SIM_RESTART:
        sim_coordinator_start(w);
        break;
    case SIM_ZOMBIE_END:
        if (w->zombie.alive && w->zombie.life == event->life)
            sim_coordinator_drop(&w->zombie);
        break;
    case SIM_CHAOS:
        chaos(w);
        break;
    }
}

/* What a run that is stuck waits for. */
static void say_stuck(sim_world *w)
{
    joust_buf why = {0};
    if (w->coordinator.alive)
        joust_core_why(w->coordinator.core, w->now_ms, &why);
    sim_violate(w, "no end within the bound: %s",
                why.data ? (const char *)why.data : "no coordinator");
    joust_buf_fini(&why);
}

static void add_coverage(sim_world *w)
{
    const joust_core *cores[] = {w->coordinator.core, w->zombie.core};
    for (size_t i = 0; i < 2; i++) {
        for (size_t j = 0; cores[i] && j < JOUST_UNIT_STATES * JOUST_UNIT_EVENTS; j++)
            w->result->coverage[j] += joust_core_coverage(cores[i])[j];
    }
}

static void run(sim_world *w)
{
    sim_event event;
    sim_coordinator_start(w);
    for (uint32_t i = 0; i < w->n_peers; i++) {
        w->peers[i].role = i < w->options->workers ? JOUST_PEER_WORKER : JOUST_PEER_JUDGE;
        sim_peer_start(w, i);
    }
    if (!w->options->quiet)
        sim_after(w, 20, &(sim_event){.what = SIM_CHAOS});
    while (!w->over && !sim_broken(w) && sim_next(w, &event)) {
        happen(w, &event);
        joust_free(event.message);
        w->result->events++;
        if (w->now_ms > SIM_LIMIT_MS)
            say_stuck(w);
    }
    if (!sim_broken(w) && !w->poisoned)
        sim_check_end(w);
    add_coverage(w);
    w->result->simulated_ms = (uint64_t)w->now_ms;
}

static void close_world(sim_world *w)
{
    for (size_t i = 0; i < w->n_heap; i++)
        joust_free(w->heap[i].message);
    joust_free(w->heap);
    joust_free(w->history);
    sim_coordinator_drop(&w->coordinator);
    sim_coordinator_drop(&w->zombie);
    joust_core_free(&w->mirror);
    sim_disk_fini(w);
    joust_free(w);
}

void joust_simulation_run(const joust_simulation_options *options, joust_simulation_result *ret)
{
    sim_world *w = joust_calloc(1, sizeof(*w));
    sim_job *job = joust_calloc(1, sizeof(*job));
    joust_error err = {.text = "out of memory"};
    memset(ret, 0, sizeof(*ret));
    if (!w || !job) {
        memcpy(ret->violation, err.text, sizeof "out of memory");
        joust_free(w);
        joust_free(job);
        return;
    }
    describe_job(options, job);
    w->options = options;
    w->result = ret;
    w->job = &job->job;
    w->plan = &job->plan;
    w->poisoned = options->seed % 50 == 49;
    w->random = joust_stream_open(
        &(joust_stream_name){.job_seed = options->seed, .purpose = JOUST_PURPOSE_TEST});
    for (uint32_t i = 0; i < job->job.n_sets; i++)
        w->n_prompts[i] = options->groups;
    w->n_peers = options->workers + options->judges;
    if (w->n_peers > SIM_PEERS || !options->workers || !options->judges || !options->groups ||
        options->groups > 256 || options->rounds >= SIM_VERSIONS)
        sim_violate(w, "a simulation has 1 to %u peers of each role, 256 groups, %u rounds",
                    (unsigned)SIM_PEERS, (unsigned)SIM_VERSIONS - 1);
    else if (joust_plan_compile(&job->job, &job->plan, &err) != JOUST_OK)
        sim_violate(w, "plan: %s", err.text);
    if (!sim_broken(w)) {
        sim_disk_init(w);
        w->disk.models[0].present = w->disk.models[0].synced = !job->model.init;
        w->disk.models[0].weights = options->seed;
    }
    if (!sim_broken(w))
        run(w);
    close_world(w);
    joust_free(job);
}
