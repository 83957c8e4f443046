/* HELLO: who may take part, and what it brings along. */
#include <stdio.h>
#include <string.h>

#include "coordinator/core_internal.h"

static joust_peer *peer_by_name(joust_core *core, const char *name)
{
    for (uint32_t i = 0; i < core->n_peers; i++) {
        if (strcmp(core->peers[i].name, name) == 0)
            return &core->peers[i];
    }
    return NULL;
}

/* Whether a numeric class is of the device and the precision that the job asks for, where it does. */
static bool is_asked_for(const joust_core_options *o, const char *class)
{
    const bool on_cpu = strncmp(class, "cpu-", 4) == 0;
    if (o->device && (strcmp(o->device, "cpu") == 0) != on_cpu)
        return false;
    return !o->precision || !strstr(class, strcmp(o->precision, "bf16") == 0 ? "-f32-" : "-bf16-");
}

/* "cuda, bf16" */
static void describe_asked(const joust_core_options *o, char *to, size_t n)
{
    snprintf(to, n, "%s%s%s", o->device ? o->device : "", o->device && o->precision ? ", " : "",
             o->precision ? o->precision : "");
}

joust_status joust_core_check_class(const joust_core *core, joust_error *err)
{
    char asked[64];
    if (!core->numeric_class[0] || is_asked_for(&core->options, core->numeric_class))
        return JOUST_OK;
    describe_asked(&core->options, asked, sizeof asked);
    return joust_fail(err, JOUST_CONFLICT,
                      "the job's records were computed in class %s, and it was to go on in another "
                      "(%s), whose bits differ: resume with the --device and --precision (or "
                      "cluster: {device: ..., precision: ...}) that it began with, or begin it "
                      "anew in another store",
                      core->numeric_class, asked);
}

static void tell_class(const joust_step *s, uint64_t peer, const char *name, const char *class)
{
    const joust_core *core = s->core;
    char asked[64], text[JOUST_CORE_TEXT_BYTES];
    describe_asked(&core->options, asked, sizeof asked);
    if (core->numeric_class[0])
        snprintf(text, sizeof text,
                 "%s computes in class %s, but the job's records are of class %s: their bits "
                 "differ; start it with the --device and --precision of the job's workers",
                 name, class, core->numeric_class);
    else
        snprintf(text, sizeof text,
                 "%s computes in class %s, but the job asks for another (%s): start it with the "
                 "same --device and --precision",
                 name, class, asked);
    joust_action *bye = joust_actions_add(s->out, JOUST_ACTION_GOODBYE);
    bye->peer = peer;
    bye->status = JOUST_CONFLICT;
    joust_actions_set_text(s->out, "%s", text);
    joust_actions_add(s->out, JOUST_ACTION_WARN);
    joust_actions_set_text(s->out, "%s", text);
}

/* Whether what a peer of this class computes can't be the job's; a peer without a class computes nothing. */
static bool is_other_class(const joust_core *core, const char *class)
{
    return class[0] && ((core->numeric_class[0] && strcmp(class, core->numeric_class) != 0) ||
                        !is_asked_for(&core->options, class));
}

/* The job's class is that of the first worker that it takes; who came before and is of another leaves. */
static joust_status settle_class(const joust_step *s, const joust_core_hello *hello)
{
    joust_core *core = s->core;
    joust_fold fold = {.kind = JOUST_FOLD_CLASS};
    if (!hello->numeric_class[0] || core->numeric_class[0] || hello->role != JOUST_PEER_WORKER)
        return JOUST_OK;
    snprintf(fold.text, sizeof fold.text, "%s", hello->numeric_class);
    joust_status st = joust_step_record(s, &fold, false);
    for (uint32_t i = core->n_peers; i-- > 0 && st == JOUST_OK;) {
        joust_peer *peer = &core->peers[i];
        if (!is_other_class(core, peer->numeric_class))
            continue;
        tell_class(s, peer->handle, peer->name, peer->numeric_class);
        joust_core_remove_peer(core, peer);
    }
    return st;
}

/* Refusals that need no peer entry; true if the HELLO was turned away. */
static bool turn_away(const joust_step *s)
{
    const joust_core_hello *hello = &s->event->u.hello;
    joust_core *core = s->core;
    if (hello->version != JOUST_PROTOCOL_VERSION)
        joust_step_tell(
            s, JOUST_ACTION_GOODBYE, JOUST_VERSION,
            "%s speaks protocol version %u, this coordinator %u: install the same release",
            hello->name, hello->version, JOUST_PROTOCOL_VERSION);
    else if (hello->other_job)
        joust_step_tell(s, JOUST_ACTION_GOODBYE, JOUST_DENIED, "%s belongs to another job",
                        hello->name);
    else if (!hello->name[0] || strlen(hello->name) >= JOUST_MAX_NAME_BYTES ||
             strlen(hello->numeric_class) >= JOUST_MAX_NAME_BYTES)
        joust_step_tell(s, JOUST_ACTION_GOODBYE, JOUST_INVALID, "HELLO without a usable name");
    else if (hello->role != JOUST_PEER_WORKER && hello->role != JOUST_PEER_JUDGE)
        joust_step_tell(s, JOUST_ACTION_GOODBYE, JOUST_UNSUPPORTED, "%s: role %u is unknown",
                        hello->name, (unsigned)hello->role);
    else if (is_other_class(core, hello->numeric_class))
        tell_class(s, s->event->peer, hello->name, hello->numeric_class);
    else if (core->n_peers >= JOUST_CORE_MAX_PEERS && !peer_by_name(core, hello->name))
        joust_step_tell(s, JOUST_ACTION_GOODBYE, JOUST_FULL,
                        "%u peers are connected, which is the most", core->n_peers);
    else
        return false;
    return true;
}

/* The entry for this HELLO: the old one if it is the same process, else a new one. NULL in *ret: turned away. */
static joust_status enter(const joust_step *s, joust_peer **ret)
{
    const joust_core_hello *hello = &s->event->u.hello;
    joust_core *core = s->core;
    joust_peer *peer = joust_core_find_peer(core, s->event->peer);
    joust_status st = JOUST_OK;
    if (peer && strcmp(peer->name, hello->name) != 0)
        joust_core_remove_peer(core, peer);
    peer = peer_by_name(core, hello->name);
    *ret = NULL;
    if (peer && peer->instance == hello->instance && peer->quarantined) {
        joust_step_tell(s, JOUST_ACTION_GOODBYE, JOUST_DENIED, "%s was sent away", hello->name);
        return JOUST_OK;
    }
    if (peer && peer->instance != hello->instance) {
        joust_core_remove_peer(core, peer);
        peer = NULL;
    }
    if (!peer) {
        st = joust_core_add_peer(core, &peer, s->err);
        if (st != JOUST_OK)
            return st;
        peer->joined_ms = s->now_ms;
    }
    peer->handle = s->event->peer;
    peer->instance = hello->instance;
    snprintf(peer->name, sizeof peer->name, "%s", hello->name);
    snprintf(peer->numeric_class, sizeof peer->numeric_class, "%s", hello->numeric_class);
    peer->role = hello->role;
    peer->can_train = hello->can_train;
    peer->heard_ms = s->now_ms;
    peer->credit = hello->credit < JOUST_CORE_MAX_CREDIT ? hello->credit : JOUST_CORE_MAX_CREDIT;
    *ret = peer;
    return st;
}

static bool lists(const joust_core_hello *hello, const joust_unit_key *unit)
{
    for (uint32_t i = 0; i < hello->n_holding; i++)
        if (joust_unit_key_equal(&hello->holding[i], unit))
            return true;
    return false;
}

joust_status joust_step_hello(const joust_step *s)
{
    const joust_core_hello *hello = &s->event->u.hello;
    joust_core *core = s->core;
    joust_peer *peer;
    if (turn_away(s))
        return JOUST_OK;
    if (s->event->epoch > core->epoch) {
        joust_step_fence(s);
        return JOUST_OK;
    }
    joust_status st = enter(s, &peer);
    if (st != JOUST_OK || !peer)
        return st;
    st = settle_class(s, hello);
    peer = joust_core_find_peer(core, s->event->peer);
    if (st != JOUST_OK || !peer)
        return st;
    joust_step_send(s, JOUST_ACTION_HELLO_ACK, NULL);
    for (uint32_t i = peer->n_leases; i-- > 0;) {
        if (!lists(hello, &peer->leases[i].id.unit) || i >= peer->credit)
            joust_core_release(core, peer, i); /* the LEASE never arrived */
    }
    for (uint32_t i = 0; i < hello->n_holding && st == JOUST_OK; i++)
        st = joust_step_hold(s, peer, &hello->holding[i], true);
    return st;
}
