/* The status socket: a request of one frame, answered by one frame.
 *   "status"  a JSON snapshot
 *   "why"     a sentence: what the job waits for */
#include <string.h>

#include "coordinator/coordinator_internal.h"
#include "proto/base/log.h"
#include "proto/base/text.h"

static void append_snapshot(joust_coordinator *c, joust_buf *to)
{
    joust_commit_stats stats = joust_committer_stats(c->committer);
    joust_buf why = {0};
    int64_t now = joust_loop_now(c->loop);
    joust_core_why(c->core, now, &why);
    char hex[JOUST_DIGEST_HEX];

    joust_buf_format(to, "{\"version\":1,\"sequence\":%llu,\"job\":{\"name\":",
                     (unsigned long long)++c->status_sequence);
    joust_json_string(to, c->job->name, strlen(c->job->name));
    joust_buf_format(to, ",\"digest\":\"%s\",\"rounds\":%u},\"why\":",
                     joust_digest_hex(&c->job_digest, hex), c->job->rounds);
    joust_json_string(to, why.data ? (const char *)why.data : "", why.n);
    joust_buf_text(to, ",\"core\":");
    joust_core_status(c->core, now, to);
    joust_served_status(c, to);
    joust_buf_format(to,
                     ",\"store\":{\"commits\":%llu,\"records\":%llu,\"bytes\":%llu,"
                     "\"last_commit_us\":%lld,\"worst_commit_us\":%lld},\"outbox\":%zu}",
                     (unsigned long long)stats.commits, (unsigned long long)stats.records,
                     (unsigned long long)stats.bytes, (long long)stats.last_us,
                     (long long)stats.worst_us, joust_outbox_depth(c->outbox));
    joust_buf_fini(&why);
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
