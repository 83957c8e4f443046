/* Links between peers and coordinator: they lose, delay, repeat, reorder, and are cut. */
#include "coordinator/simulation/world_internal.h"
#include "proto/base/alloc.h"

static void deliver(sim_world *w, const sim_message *message, bool to_peer, int64_t delay_ms)
{
    sim_message *copy = joust_memdup(message, sizeof(*message));
    if (!copy) {
        sim_violate(w, "out of memory for a message");
        return;
    }
    sim_after(w, delay_ms,
              &(sim_event){.what = to_peer ? SIM_DELIVER_TO_PEER : SIM_DELIVER_TO_COORDINATOR,
                           .who = message->peer,
                           .message = copy});
}

void sim_send(sim_world *w, const sim_message *message, bool to_peer)
{
    sim_message m = *message;
    m.serial = ++w->serial;
    if (!sim_faults(w)) {
        deliver(w, &m, to_peer, 1);
        return;
    }
    if (w->peers[m.peer].cut_until_ms > w->now_ms || sim_chance(w, 20)) {
        sim_upset(w, JOUST_UPSET_LOST);
        return;
    }
    int64_t delay_ms = 1 + (int64_t)sim_draw(w, 6);
    if (sim_chance(w, 30)) {
        sim_upset(w, JOUST_UPSET_DELAYED);
        delay_ms += 20 + (int64_t)sim_draw(w, 400);
    }
    deliver(w, &m, to_peer, delay_ms);
    if (sim_chance(w, 20)) {
        sim_upset(w, JOUST_UPSET_REPEATED);
        deliver(w, &m, to_peer, delay_ms + (int64_t)sim_draw(w, 200));
    }
}

bool sim_arrives(sim_world *w, const sim_event *event)
{
    const sim_message *m = event->message;
    uint64_t *newest = &w->delivered[m->peer * 2 + (event->what == SIM_DELIVER_TO_PEER)];
    if (w->peers[m->peer].cut_until_ms > w->now_ms && sim_faults(w))
        return false;
    if (m->serial < *newest)
        sim_upset(w, JOUST_UPSET_REORDERED);
    else
        *newest = m->serial;
    return true;
}
