/* Clock, chance and what happens next. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "coordinator/simulation/world_internal.h"
#include "proto/base/alloc.h"

const char *joust_plant_name(joust_plant plant)
{
    static const char *const names[JOUST_PLANT_N] = {
#define X(name, text) text,
        JOUST_PLANTS(X)
#undef X
    };
    return plant < JOUST_PLANT_N ? names[plant] : "unknown";
}

const char *joust_upset_name(joust_upset upset)
{
    static const char *const names[JOUST_UPSET_N] = {
#define X(name, text) text,
        JOUST_UPSETS(X)
#undef X
    };
    return upset < JOUST_UPSET_N ? names[upset] : "unknown";
}

void sim_violate(sim_world *w, const char *format, ...)
{
    va_list args;
    char text[480];
    if (sim_broken(w))
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    snprintf(w->result->violation, sizeof w->result->violation, "seed %llu, %lld ms: %s",
             (unsigned long long)w->options->seed, (long long)w->now_ms, text);
}

bool sim_faults(const sim_world *w)
{
    return !w->options->quiet && w->now_ms < SIM_FAULTS_END_MS;
}

uint64_t sim_draw(sim_world *w, uint64_t n)
{
    return joust_stream_below(&w->random, w->draws++, n);
}

bool sim_chance(sim_world *w, uint32_t per_mille)
{
    return sim_faults(w) && sim_draw(w, 1000) < per_mille;
}

void sim_upset(sim_world *w, joust_upset upset)
{
    w->result->upsets[upset]++;
}

static bool before(const sim_event *a, const sim_event *b)
{
    return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->serial < b->serial;
}

static void swap(sim_event *a, sim_event *b)
{
    sim_event c = *a;
    *a = *b;
    *b = c;
}

void sim_after(sim_world *w, int64_t delay_ms, const sim_event *event)
{
    if (!joust_grow(&w->heap, w->n_heap, &w->heap_capacity, sizeof(*w->heap))) {
        joust_free(event->message);
        sim_violate(w, "out of memory for more than %zu events", w->n_heap);
        return;
    }
    size_t i = w->n_heap++;
    w->heap[i] = *event;
    w->heap[i].at_ms = w->now_ms + delay_ms;
    w->heap[i].serial = ++w->serial;
    for (; i && before(&w->heap[i], &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        swap(&w->heap[i], &w->heap[(i - 1) / 2]);
}

bool sim_next(sim_world *w, sim_event *ret)
{
    if (!w->n_heap)
        return false;
    *ret = w->heap[0];
    w->heap[0] = w->heap[--w->n_heap];
    for (size_t i = 0;;) {
        size_t least = i, left = 2 * i + 1;
        for (size_t child = left; child < left + 2 && child < w->n_heap; child++)
            least = before(&w->heap[child], &w->heap[least]) ? child : least;
        if (least == i)
            break;
        swap(&w->heap[i], &w->heap[least]);
        i = least;
    }
    w->now_ms = ret->at_ms;
    return true;
}

uint64_t sim_mix(const void *data, size_t n)
{
    return joust_checksum(data, n);
}

joust_digest sim_content(const sim_record *record, joust_stage_kind kind)
{
    joust_hasher h;
    joust_hasher_init(&h);
    joust_hasher_u64(&h, kind);
    joust_hasher_u64(&h, record->n);
    for (uint32_t i = 0; i < SIM_SAMPLES; i++) {
        joust_hasher_u64(&h, record->text[i]);
        joust_hasher_u64(&h, record->value[i].has);
        joust_hasher_field(&h, &record->value[i].value, sizeof record->value[i].value);
    }
    joust_hasher_u64(&h, record->sample[0]);
    joust_hasher_u64(&h, record->sample[1]);
    joust_hasher_u64(&h, record->version);
    joust_hasher_u64(&h, record->weights);
    return joust_hasher_end(&h);
}
