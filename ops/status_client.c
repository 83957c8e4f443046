#include "ops/status_client.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"

static const char REQUEST[] = "status";

joust_status joust_status_open(joust_context *context, const char *endpoint, joust_socket **ret,
                               joust_error *err)
{
    joust_peer_id id = {0};
    uint64_t instance = (uint64_t)joust_clock_ns() ^ ((uint64_t)getpid() << 40);
    joust_status st = joust_peer_id_make("status", instance, &id, err);
    if (st)
        return st;
    const joust_socket_options options = {.kind = JOUST_SOCKET_DEALER,
                                          .endpoint = endpoint,
                                          .id = &id,
                                          .high_water = 4,
                                          .looks = true,
                                          .max_frame_bytes = JOUST_MAX_STATUS_BYTES};
    return joust_socket_open(context, &options, ret, err);
}

joust_status joust_status_ask(joust_socket *socket, joust_error *err)
{
    const joust_span frames[2] = {{.data = NULL, .n = 0},
                                  {.data = (const uint8_t *)REQUEST, .n = sizeof(REQUEST) - 1}};
    return joust_socket_send_frames(socket, NULL, frames, 2, err);
}

joust_status joust_status_take(joust_socket *socket, joust_buf *to, joust_error *err)
{
    bool taken = false;
    for (;;) {
        joust_frames frames = {0};
        joust_status st = joust_socket_recv_frames(socket, NULL, &frames, err);
        if (st)
            return st == JOUST_AGAIN && taken ? joust_buf_status(to, err) : st;
        if (frames.n) {
            const joust_span *last = &frames.frame[frames.n - 1];
            joust_buf_clear(to);
            joust_buf_add(to, last->data, last->n);
            taken = true;
        }
        joust_frames_fini(&frames);
    }
}

/* Asks until somebody is there, then waits for the answer; deadline_ms on the monotonic clock. */
static joust_status ask_and_wait(joust_socket *socket, int64_t deadline_ms, joust_buf *to,
                                 joust_error *err)
{
    joust_status st;
    while ((st = joust_status_ask(socket, err)) == JOUST_AGAIN) {
        if (joust_clock_ms() >= deadline_ms)
            return st;
        usleep(10000); /* a connection is being made */
    }
    while (!st && (st = joust_status_take(socket, to, err)) == JOUST_AGAIN) {
        int64_t left = deadline_ms - joust_clock_ms();
        if (left <= 0)
            return JOUST_TIMEOUT;
        st = joust_socket_wait(socket, left, err);
    }
    return st;
}

joust_status joust_status_fetch(const char *endpoint, int64_t timeout_ms, joust_buf *to,
                                joust_error *err)
{
    joust_context *context = NULL;
    joust_socket *socket = NULL;
    joust_status st = joust_context_create(&context, err);
    if (!st)
        st = joust_status_open(context, endpoint, &socket, err);
    if (!st)
        st = ask_and_wait(socket, joust_clock_ms() + timeout_ms, to, err);
    if (st == JOUST_AGAIN || st == JOUST_TIMEOUT)
        st = joust_fail(err, JOUST_UNREACHABLE,
                        "no coordinator answers at %s within %lld ms: the job isn't running, or "
                        "its coordinator is just starting",
                        endpoint, (long long)timeout_ms);
    joust_socket_close(&socket);
    joust_context_free(&context);
    return st;
}

joust_status joust_status_endpoint(const char *store, joust_buf *to, joust_error *err)
{
    char *path = joust_path_join(store, "status.endpoint");
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "status: out of memory");
    joust_buf text = {0};
    joust_status st = joust_file_read(path, JOUST_MAX_ENDPOINT_BYTES, &text, err);
    if (st == JOUST_NOT_FOUND)
        joust_fail(err, JOUST_UNREACHABLE, "%s: no store, or no coordinator ever ran on it", store);
    if (!st) {
        size_t n = text.n ? strcspn((const char *)text.data, " \r\n") : 0;
        joust_buf_add(to, text.data, n);
        st = joust_buf_status(to, err);
    }
    joust_buf_fini(&text);
    joust_free(path);
    return st == JOUST_NOT_FOUND ? JOUST_UNREACHABLE : st;
}
