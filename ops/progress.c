#include "ops/progress.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static uint64_t count_of(const json_t *object, const char *key)
{
    json_int_t v = json_integer_value(json_object_get(object, key));
    return v > 0 ? (uint64_t)v : 0;
}

static void add_time(joust_buf *to, int64_t seconds)
{
    if (seconds >= 3600)
        joust_buf_format(to, "%lld:%02lld:%02lld", (long long)(seconds / 3600),
                         (long long)(seconds / 60 % 60), (long long)(seconds % 60));
    else
        joust_buf_format(to, "%lld:%02lld", (long long)(seconds / 60), (long long)(seconds % 60));
}

/* Work a second since the stage was first seen under way; 0: not known yet. */
static double rate(const joust_shown_stage *stage, int64_t now_ms)
{
    int64_t ms = now_ms - stage->first_ms;
    if (!stage->first_ms || ms <= 0 || stage->done <= stage->first_done)
        return 0;
    return 1000.0 * (double)(stage->done - stage->first_done) / (double)ms;
}

static void tell_finished(const joust_progress_view *view, const joust_shown_stage *stage,
                          int64_t now_ms, joust_buf *lines)
{
    if (stage->skipped) {
        joust_buf_format(lines, "round %u/%u · %s skipped\n", view->round, view->rounds,
                         stage->name);
        return;
    }
    joust_buf_format(lines, "round %u/%u · %s %llu/%llu", view->round, view->rounds, stage->name,
                     (unsigned long long)stage->done, (unsigned long long)stage->total);
    if (stage->first_ms)
        joust_buf_format(lines, " in %.1f s", (double)(now_ms - stage->first_ms) / 1000);
    if (rate(stage, now_ms) > 0)
        joust_buf_format(lines, " (%.1f/s)", rate(stage, now_ms));
    joust_buf_text(lines, "\n");
}

/* A stage of the snapshot, put into the view's i-th place. */
static void take_stage(joust_progress_view *view, uint32_t i, const json_t *from, int64_t now_ms,
                       joust_buf *lines)
{
    joust_shown_stage *stage = &view->stages[i];
    const char *name = json_string_value(json_object_get(from, "name"));
    if (i >= view->n_stages || strcmp(stage->name, name ? name : "") != 0) {
        *stage = (joust_shown_stage){0};
        snprintf(stage->name, sizeof(stage->name), "%s", name ? name : "");
    }
    const char *state = json_string_value(json_object_get(from, "state"));
    bool over = state && (!strcmp(state, "complete") || !strcmp(state, "skipped"));
    bool steps = json_object_get(from, "max_steps") != NULL; /* one unit, many steps */
    stage->open = state && !strcmp(state, "open");
    stage->skipped = state && !strcmp(state, "skipped");
    stage->total = count_of(from, steps ? "max_steps" : "units");
    stage->done = over ? stage->total : count_of(from, steps ? "durable_step" : "done");
    bool begun = stage->done || count_of(from, "leased");
    if (stage->open && begun && !stage->first_ms) {
        stage->first_ms = now_ms;
        stage->first_done = stage->done;
    }
    if (over && !stage->finished) {
        stage->finished = true;
        tell_finished(view, stage, now_ms, lines);
    }
}

void joust_progress_round_over(joust_progress_view *view, int64_t now_ms, joust_buf *lines)
{
    for (uint32_t i = 0; view->known && i < view->n_stages; i++) {
        joust_shown_stage *stage = &view->stages[i];
        if (stage->finished)
            continue;
        stage->done = stage->total;
        stage->finished = true;
        tell_finished(view, stage, now_ms, lines);
    }
    view->n_stages = 0;
}

joust_status joust_progress_take(joust_progress_view *view, const void *json, size_t n,
                                 int64_t now_ms, joust_buf *lines, joust_error *err)
{
    json_error_t why;
    json_t *root = json_loadb(json, n, 0, &why);
    const json_t *core = json_object_get(root, "core");
    const json_t *stages = json_object_get(core, "stages");
    if (!json_is_integer(json_object_get(core, "round")) || !json_is_array(stages)) {
        json_decref(root);
        return joust_fail(err, JOUST_MALFORMED, "status: %s", root ? "not a snapshot" : why.text);
    }
    uint32_t round = (uint32_t)count_of(core, "round");
    if (round != view->round) /* what wasn't told finished between two snapshots */
        joust_progress_round_over(view, now_ms, lines);
    view->round = round;
    view->known = true;
    view->rounds = (uint32_t)count_of(core, "rounds");
    const char *text = json_string_value(json_object_get(root, "why"));
    snprintf(view->why, sizeof(view->why), "%s", text ? text : "");
    uint32_t n_stages = (uint32_t)json_array_size(stages);
    if (n_stages > JOUST_MAX_SHOWN_STAGES)
        n_stages = JOUST_MAX_SHOWN_STAGES;
    for (uint32_t i = 0; i < n_stages; i++)
        take_stage(view, i, json_array_get(stages, i), now_ms, lines);
    view->n_stages = n_stages;
    json_decref(root);
    return joust_buf_status(lines, err);
}

/* Cuts text (UTF-8) behind its width-th character. */
static void cut(joust_buf *text, size_t from, uint32_t width)
{
    uint32_t n = 0;
    for (size_t i = from; i < text->n; i++) {
        if ((text->data[i] & 0xc0) == 0x80)
            continue;
        if (n++ == width) {
            text->data[i] = '\0';
            text->n = i;
            return;
        }
    }
}

void joust_progress_line(const joust_progress_view *view, int64_t now_ms, uint32_t width,
                         joust_buf *to)
{
    size_t from = to->n;
    if (!view->known) {
        joust_buf_text(to, "waiting for the coordinator");
        return;
    }
    joust_buf_format(to, "round %u/%u", view->round, view->rounds);
    const joust_shown_stage *first = NULL;
    for (uint32_t i = 0; i < view->n_stages; i++) {
        const joust_shown_stage *stage = &view->stages[i];
        if (!stage->open || !stage->first_ms || stage->done >= stage->total)
            continue;
        joust_buf_format(to, " · %s %llu/%llu", stage->name, (unsigned long long)stage->done,
                         (unsigned long long)stage->total);
        first = first ? first : stage;
    }
    double speed = first ? rate(first, now_ms) : 0;
    if (speed > 0) {
        joust_buf_format(to, " · %.1f/s · ", speed);
        add_time(to, (int64_t)((double)(first->total - first->done) / speed + 0.5));
        joust_buf_text(to, " left");
    } else if (!first && *view->why) {
        joust_buf_format(to, " · %s", view->why);
    }
    if (joust_buf_ok(to))
        cut(to, from, width);
}
