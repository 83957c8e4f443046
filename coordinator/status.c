/* The status socket: a request of one frame, answered by one frame.
 *   "status"  a JSON snapshot
 *   "why"     a sentence: what the job waits for */
#include "coordinator/status.h"

#include <string.h>

#include "coordinator/coordinator_internal.h"
#include "proto/base/log.h"
#include "proto/base/text.h"

void joust_status_head(const joust_status_view *view, joust_buf *to)
{
    joust_buf why = {0};
    char hex[JOUST_DIGEST_HEX];
    const bool over = joust_core_get_phase(view->core) != JOUST_CORE_RUNNING;
    if (!view->running && view->holder > 0 && !over && view->has_socket)
        joust_buf_format(&why,
                         "its coordinator, process %lld, doesn't answer: is it stopped, or busy?",
                         (long long)view->holder);
    else if (!view->running && view->holder > 0 && !over)
        joust_buf_format(
            &why,
            "its coordinator, process %lld, runs it without a status socket (--status): "
            "this is what its store says, which knows of no peers and leases",
            (long long)view->holder);
    else if (!view->running && joust_core_get_phase(view->core) == JOUST_CORE_RUNNING)
        joust_buf_text(&why, "nobody runs it: the same launch resumes");
    else
        joust_core_why(view->core, view->now_ms, &why);
    joust_buf_format(to, "{\"version\":1,\"sequence\":%llu,\"running\":%s,\"job\":{\"name\":",
                     (unsigned long long)view->sequence,
                     view->running || view->holder > 0 ? "true" : "false");
    joust_json_string(to, view->job->name, strlen(view->job->name));
    joust_buf_format(to, ",\"digest\":\"%s\",\"rounds\":%u},\"why\":",
                     joust_digest_hex(&view->job_digest, hex), view->job->rounds);
    joust_json_string(to, why.data ? (const char *)why.data : "", why.n);
    joust_buf_text(to, ",\"core\":");
    joust_core_status(view->core, view->now_ms, why.data ? (const char *)why.data : NULL, to);
    joust_buf_fini(&why);
}

static void append_snapshot(joust_coordinator *c, joust_buf *to)
{
    joust_commit_stats stats = joust_committer_stats(c->committer);
    joust_status_head(&(joust_status_view){.job = c->job,
                                           .job_digest = c->job_digest,
                                           .core = c->core,
                                           .running = true,
                                           .sequence = ++c->status_sequence,
                                           .now_ms = joust_loop_now(c->loop)},
                      to);
    joust_served_status(c, to);
    joust_buf_format(to,
                     ",\"store\":{\"commits\":%llu,\"records\":%llu,\"bytes\":%llu,"
                     "\"last_commit_us\":%lld,\"worst_commit_us\":%lld},\"outbox\":%zu}",
                     (unsigned long long)stats.commits, (unsigned long long)stats.records,
                     (unsigned long long)stats.bytes, (long long)stats.last_us,
                     (long long)stats.worst_us, joust_outbox_depth(c->outbox));
}

static bool frame_is(joust_span frame, const char *text)
{
    return frame.n == strlen(text) && !memcmp(frame.data, text, frame.n);
}

static void answer(joust_coordinator *c, const joust_peer_id *from, const joust_frames *asked)
{
    /* A REQ client puts an empty frame first; the answer repeats it. */
    uint32_t skip = asked->n > 1 && asked->frame[0].n == 0;
    joust_span request = asked->n > skip ? asked->frame[skip] : (joust_span){0};
    joust_buf text = {0};
    if (frame_is(request, "why"))
        joust_core_why(c->core, joust_loop_now(c->loop), &text);
    else if (frame_is(request, "status"))
        append_snapshot(c, &text);
    else
        joust_buf_text(&text, "{\"error\":\"expected 'status' or 'why'\"}");
    joust_span frames[2] = {{0}, {.data = text.data, .n = text.n}};
    joust_error err;
    if (joust_buf_ok(&text) && joust_socket_send_frames(c->status_socket, from, frames + 1 - skip,
                                                        1 + skip, &err) != JOUST_OK)
        joust_log_debug("status", "%s", err.text); /* a client that left costs nothing */
    joust_buf_fini(&text);
}

void joust_coordinator_status_readable(void *arg, uint32_t events)
{
    joust_coordinator *c = arg;
    joust_error err;
    (void)events;
    for (uint32_t i = 0; i < JOUST_LOOP_BATCH; i++) {
        joust_peer_id from = {0};
        joust_frames asked;
        joust_status st = joust_socket_recv_frames(c->status_socket, &from, &asked, &err);
        if (st == JOUST_AGAIN || joust_status_scope(st) == JOUST_SCOPE_PROCESS)
            break;
        if (st != JOUST_OK)
            continue;
        answer(c, &from, &asked);
        joust_frames_fini(&asked);
    }
}
