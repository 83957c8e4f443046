/* The coordinator's disk: batches become durable by a sync, and those that are not may vanish in a crash; models are
 * blobs beside them, synced one by one. */
#include <string.h>

#include "coordinator/simulation/world_internal.h"
#include "proto/base/alloc.h"

void sim_disk_init(sim_world *w)
{
    sim_disk *d = &w->disk;
    uint32_t rounds = w->options->rounds + 1, n_stages = w->plan->n_stages;
    d->first = joust_calloc((size_t)rounds * n_stages, sizeof(*d->first));
    for (uint32_t i = 0; d->first && i < rounds * n_stages; i++) {
        d->first[i] = d->n_cells;
        /* No stage has more positions than there are prompts. */
        d->n_cells +=
            joust_stage_runs(&w->plan->stages[i % n_stages], i / n_stages) ? w->options->groups : 0;
    }
    d->cells = joust_calloc(d->n_cells, sizeof(*d->cells));
    if (!d->first || !d->cells)
        sim_violate(w, "out of memory for the disk");
}

void sim_disk_fini(sim_world *w)
{
    sim_disk *d = &w->disk;
    for (uint64_t i = 0; i < d->n_events; i++)
        joust_free(d->events[i].data);
    for (uint32_t i = 0; i < d->n_snapshots; i++)
        joust_free(d->snapshots[i].data);
    joust_free(d->events);
    joust_free(d->cells);
    joust_free(d->first);
}

sim_cell *sim_disk_cell(sim_world *w, const joust_unit_key *unit)
{
    return &w->disk.cells[w->disk.first[(size_t)unit->round * w->plan->n_stages + unit->stage] +
                          unit->position];
}

/* What was written since the last sync survives up to some batch: the operating system had got that far. */
void sim_disk_crash(sim_world *w)
{
    sim_disk *d = &w->disk;
    uint64_t keep =
        d->durable + (d->newest > d->durable ? sim_draw(w, d->newest - d->durable + 1) : 0);
    w->result->upsets[JOUST_UPSET_VANISHED] += d->newest - keep;
    for (uint64_t i = 0; i < d->n_cells; i++) {
        if (d->cells[i].present && d->cells[i].batch > keep)
            d->cells[i].present = false;
    }
    while (d->n_events && d->events[d->n_events - 1].batch > keep)
        joust_free(d->events[--d->n_events].data);
    while (d->n_snapshots && d->snapshots[d->n_snapshots - 1].batch > keep)
        joust_free(d->snapshots[--d->n_snapshots].data);
    for (uint32_t i = 0; i < SIM_VERSIONS; i++)
        d->models[i].present = d->models[i].present && d->models[i].synced;
    d->newest = d->durable = keep;
}

static bool copy_bytes(sim_world *w, sim_bytes *to, joust_span bytes, uint64_t event,
                       uint64_t batch)
{
    *to = (sim_bytes){
        .batch = batch, .event = event, .data = joust_memdup(bytes.data, bytes.n), .n = bytes.n};
    if (!to->data)
        sim_violate(w, "out of memory for the disk");
    return to->data != NULL;
}

void sim_disk_add_event(sim_world *w, joust_span bytes, uint64_t batch)
{
    sim_disk *d = &w->disk;
    if (!joust_grow(&d->events, d->n_events, &d->event_capacity, sizeof(*d->events))) {
        sim_violate(w, "out of memory for the disk");
        return;
    }
    if (copy_bytes(w, &d->events[d->n_events], bytes, d->n_events + 1, batch))
        d->n_events++;
}

void sim_disk_add_snapshot(sim_world *w, joust_span bytes, uint64_t event, uint64_t batch)
{
    sim_disk *d = &w->disk;
    if (d->n_snapshots == 2 && d->snapshots[1].batch > d->durable) {
        joust_free(d->snapshots[1].data); /* the older one is the durable one: it stays */
        d->n_snapshots = 1;
    } else if (d->n_snapshots == 2) {
        joust_free(d->snapshots[0].data);
        d->snapshots[0] = d->snapshots[1];
        d->n_snapshots = 1;
    }
    if (copy_bytes(w, &d->snapshots[d->n_snapshots], bytes, event, batch))
        d->n_snapshots++;
}

void sim_disk_put(sim_world *w, const joust_unit_key *unit, const sim_record *record,
                  uint64_t batch)
{
    sim_check_put(w, unit, record);
    sim_cell *cell = sim_disk_cell(w, unit);
    cell->present = true;
    cell->batch = batch;
    cell->record = *record;
}
