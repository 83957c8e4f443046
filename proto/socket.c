#include "proto/socket.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/codec.h"
#include "proto/envelope.h"
#include "proto/socket_internal.h"

#define LARGE_BODY (16u << 10) /* bytes from which a body isn't copied into ZeroMQ's */

struct joust_context {
    void *zmq;
};

struct joust_socket {
    void *zmq, *monitor;
    joust_socket_kind kind;
    char endpoint[JOUST_MAX_ENDPOINT_BYTES];
};

static joust_status fail_zmq(joust_error *err, joust_status status, const char *what)
{
    return joust_fail(err, status, "%s: %s", what, zmq_strerror(zmq_errno()));
}

joust_status joust_context_create(joust_context **ret, joust_error *err)
{
    joust_context *context = joust_calloc(1, sizeof(*context));
    if (!context)
        return joust_fail(err, JOUST_NOMEM, "zmq context: out of memory");
    context->zmq = zmq_ctx_new();
    if (!context->zmq) {
        joust_free(context);
        return fail_zmq(err, JOUST_NOMEM, "zmq context");
    }
    zmq_ctx_set(context->zmq, ZMQ_BLOCKY, 0);
    *ret = context;
    return JOUST_OK;
}

void joust_context_free(joust_context **context)
{
    if (!*context)
        return;
    while (zmq_ctx_term((*context)->zmq) != 0 && zmq_errno() == EINTR)
        ;
    joust_free(*context);
    *context = NULL;
}

/* ------------------------------------------------------------------------------------- peer ids */

joust_status joust_peer_id_make(const char *name, uint64_t instance, joust_peer_id *ret,
                                joust_error *err)
{
    joust_peer_id id = {0};
    char text[JOUST_MAX_NAME_BYTES + 24];
    size_t n = strnlen(name, JOUST_MAX_NAME_BYTES);
    if (n == 0 || n == JOUST_MAX_NAME_BYTES)
        return joust_fail(err, JOUST_INVALID, "peer name '%.40s': expected 1 … %u bytes", name,
                          JOUST_MAX_NAME_BYTES - 1);
    id.n = (uint32_t)snprintf(text, sizeof(text), "%s#%016" PRIx64, name, instance);
    memcpy(id.bytes, text, id.n);
    *ret = id;
    return JOUST_OK;
}

bool joust_peer_id_equal(const joust_peer_id *a, const joust_peer_id *b)
{
    return a->n == b->n && memcmp(a->bytes, b->bytes, a->n) == 0;
}

const char *joust_peer_id_text(const joust_peer_id *id, char to[JOUST_MAX_PEER_ID_BYTES + 1])
{
    for (uint32_t i = 0; i < id->n; i++)
        to[i] = id->bytes[i] > 0x20 && id->bytes[i] < 0x7f ? (char)id->bytes[i] : '?';
    to[id->n] = '\0';
    return to;
}

/* ----------------------------------------------------------------------------------------- open */

/* Folder of an ipc endpoint: made private if it is absent (unless somebody only looks), refused if it is another user's or
 * others can enter it. */
static joust_status check_ipc_folder(const char *path, bool looks, joust_error *err)
{
    char folder[JOUST_MAX_ENDPOINT_BYTES];
    const char *slash = strrchr(path, '/');
    struct stat info;
    if (!slash || slash == path)
        return joust_fail(err, JOUST_INVALID, "ipc://%s: must be in a private folder", path);
    snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path), path);
    if (!looks && mkdir(folder, 0700) != 0 && errno != EEXIST)
        return joust_fail(err, joust_status_of_errno(errno), "%s: can't make folder: %s", folder,
                          strerror(errno));
    if (looks && lstat(folder, &info) != 0)
        return joust_fail(err, JOUST_UNREACHABLE, "%s isn't there: nobody listens", folder);
    if (lstat(folder, &info) != 0 || !S_ISDIR(info.st_mode))
        return joust_fail(err, JOUST_DENIED, "%s: not a folder", folder);
    if (info.st_uid != geteuid())
        return joust_fail(err, looks ? JOUST_UNREACHABLE : JOUST_DENIED,
                          "%s: the sockets' folder belongs to another user (uid %u): only that one "
                          "may connect",
                          folder, (unsigned)info.st_uid);
    if ((info.st_mode & 077) != 0)
        return joust_fail(
            err, JOUST_DENIED,
            "%s: others can enter the sockets' folder; make it yours alone (chmod 700)", folder);
    return JOUST_OK;
}

static bool is_loopback(const char *endpoint)
{
    return !strncmp(endpoint, "tcp://127.", 10) || !strncmp(endpoint, "tcp://localhost:", 16) ||
           !strncmp(endpoint, "tcp://[::1]:", 12);
}

static joust_status check_options(const joust_socket_options *o, joust_error *err)
{
    bool tcp = !strncmp(o->endpoint, "tcp://", 6), ipc = !strncmp(o->endpoint, "ipc://", 6);
    if ((!tcp && !ipc) || strlen(o->endpoint) >= JOUST_MAX_ENDPOINT_BYTES)
        return joust_fail(err, JOUST_INVALID,
                          "%.80s: expected tcp://host:port or ipc:///path, at most %u bytes",
                          o->endpoint, JOUST_MAX_ENDPOINT_BYTES - 1);
    if (tcp && !o->curve && !is_loopback(o->endpoint))
        return joust_fail(err, JOUST_DENIED,
                          "%s: beyond this machine a link must be encrypted, and no keys are given",
                          o->endpoint);
    if (o->kind == JOUST_SOCKET_DEALER && (!o->id || o->id->n == 0))
        return joust_fail(err, JOUST_INVALID, "%s: a connecting socket needs an id", o->endpoint);
    /* ipc: the kernel's limit on the path */
    if (ipc && strlen(o->endpoint + 6) >= 108)
        return joust_fail(err, JOUST_INVALID, "%s: socket path longer than 107 bytes", o->endpoint);
    return ipc ? check_ipc_folder(o->endpoint + 6, o->looks, err) : JOUST_OK;
}

static int set_int(void *zmq, int option, int value)
{
    return zmq_setsockopt(zmq, option, &value, sizeof(value));
}

static int set_curve(void *zmq, const joust_curve *curve)
{
    int bad = zmq_setsockopt(zmq, ZMQ_CURVE_PUBLICKEY, curve->public_key, 41);
    bad |= zmq_setsockopt(zmq, ZMQ_CURVE_SECRETKEY, curve->secret_key, 41);
    if (curve->server)
        bad |= set_int(zmq, ZMQ_CURVE_SERVER, 1);
    else
        bad |= zmq_setsockopt(zmq, ZMQ_CURVE_SERVERKEY, curve->server_key, 41);
    return bad;
}

static joust_status set_options(joust_socket *s, const joust_socket_options *o, joust_error *err)
{
    int heartbeat = o->heartbeat_ms ? (int)o->heartbeat_ms : 5000;
    int64_t most = o->max_frame_bytes ? (int64_t)o->max_frame_bytes : JOUST_MAX_FRAME_BYTES;
    int high_water = o->high_water ? (int)o->high_water : 1000;
    int bad = set_int(s->zmq, ZMQ_LINGER, 0);
    bad |= set_int(s->zmq, ZMQ_SNDHWM, high_water);
    bad |= set_int(s->zmq, ZMQ_RCVHWM, high_water);
    bad |= set_int(s->zmq, ZMQ_HEARTBEAT_IVL, heartbeat);
    bad |= set_int(s->zmq, ZMQ_HEARTBEAT_TIMEOUT, 3 * heartbeat);
    /* a peer whose own timers are off closes after as long; the unit is 100 ms, 6553 s at most */
    bad |= set_int(s->zmq, ZMQ_HEARTBEAT_TTL, 3 * heartbeat < 6553500 ? 3 * heartbeat : 6553500);
    bad |= set_int(s->zmq, ZMQ_HANDSHAKE_IVL, 10000);
    bad |= set_int(s->zmq, ZMQ_RECONNECT_IVL, 100);
    bad |= set_int(s->zmq, ZMQ_RECONNECT_IVL_MAX, 1000);
    bad |= zmq_setsockopt(s->zmq, ZMQ_MAXMSGSIZE, &most, sizeof(most));
    if (o->kind == JOUST_SOCKET_ROUTER) {
        bad |= set_int(s->zmq, ZMQ_ROUTER_MANDATORY, 1);
        bad |= set_int(s->zmq, ZMQ_ROUTER_HANDOVER, 1);
    } else {
        bad |= zmq_setsockopt(s->zmq, ZMQ_ROUTING_ID, o->id->bytes, o->id->n);
        bad |= set_int(s->zmq, ZMQ_IMMEDIATE, 1); /* nothing waits for a link that isn't there */
    }
    if (o->curve)
        bad |= set_curve(s->zmq, o->curve);
    return bad ? fail_zmq(err, JOUST_INVALID, "socket options") : JOUST_OK;
}

static joust_status open_monitor(joust_context *context, joust_socket *s, joust_error *err)
{
    char address[64];
    snprintf(address, sizeof(address), "inproc://joust-monitor-%p", (void *)s);
    int events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
                 ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                 ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;
    if (zmq_socket_monitor(s->zmq, address, events) != 0)
        return fail_zmq(err, JOUST_IO, "socket monitor");
    s->monitor = zmq_socket(context->zmq, ZMQ_PAIR);
    if (!s->monitor || set_int(s->monitor, ZMQ_LINGER, 0) != 0 ||
        zmq_connect(s->monitor, address) != 0)
        return fail_zmq(err, JOUST_IO, "socket monitor");
    return JOUST_OK;
}

static joust_status attach(joust_socket *s, const joust_socket_options *o, joust_error *err)
{
    bool binds = o->kind == JOUST_SOCKET_ROUTER;
    int bad = binds ? zmq_bind(s->zmq, o->endpoint) : zmq_connect(s->zmq, o->endpoint);
    if (bad) {
        int number = zmq_errno();
        joust_status st = number == EADDRINUSE ? JOUST_EXISTS
                          : number == EINVAL || number == ENODEV || number == EPROTONOSUPPORT ||
                                  number == EADDRNOTAVAIL
                              ? JOUST_INVALID
                              : JOUST_IO;
        return joust_fail(err, st, "%s: can't %s: %s", o->endpoint, binds ? "bind" : "connect",
                          zmq_strerror(number));
    }
    size_t n = sizeof(s->endpoint);
    if (zmq_getsockopt(s->zmq, ZMQ_LAST_ENDPOINT, s->endpoint, &n) != 0)
        return fail_zmq(err, JOUST_IO, o->endpoint);
    return JOUST_OK;
}

joust_status joust_socket_open(joust_context *context, const joust_socket_options *options,
                               joust_socket **ret, joust_error *err)
{
    joust_status st = check_options(options, err);
    if (st != JOUST_OK)
        return st;
    joust_socket *s = joust_calloc(1, sizeof(*s));
    if (!s)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", options->endpoint);
    s->kind = options->kind;
    s->zmq =
        zmq_socket(context->zmq, options->kind == JOUST_SOCKET_ROUTER ? ZMQ_ROUTER : ZMQ_DEALER);
    if (!s->zmq) {
        st = fail_zmq(err, JOUST_IO, options->endpoint);
        joust_free(s);
        return st;
    }
    st = set_options(s, options, err);
    if (st == JOUST_OK && options->monitor)
        st = open_monitor(context, s, err);
    if (st == JOUST_OK)
        st = attach(s, options, err);
    if (st == JOUST_OK)
        *ret = s;
    else
        joust_socket_close(&s);
    return st;
}

void joust_socket_close(joust_socket **socket)
{
    joust_socket *s = *socket;
    if (!s)
        return;
    if (s->monitor) {
        zmq_socket_monitor(s->zmq, NULL, 0);
        zmq_close(s->monitor);
    }
    zmq_close(s->zmq);
    joust_free(s);
    *socket = NULL;
}

const char *joust_socket_endpoint(const joust_socket *socket)
{
    return socket->endpoint;
}

void *joust_socket_handle(const joust_socket *socket)
{
    return socket->zmq;
}

void *joust_socket_monitor_handle(const joust_socket *socket)
{
    return socket->monitor;
}

/* ----------------------------------------------------------------------------------------- send */

static joust_status send_failed(const joust_peer_id *to, joust_error *err)
{
    char name[JOUST_MAX_PEER_ID_BYTES + 1] = "coordinator";
    if (to)
        joust_peer_id_text(to, name);
    switch (zmq_errno()) {
    case EAGAIN:
        return joust_fail(err, JOUST_AGAIN, "%s: can't take more messages now", name);
    case EHOSTUNREACH:
        return joust_fail(err, JOUST_UNREACHABLE, "%s: no link to this peer", name);
    default:
        return fail_zmq(err, JOUST_IO, name);
    }
}

/* Sends all frames or, if the first can't be sent, none. more: another frame of the message follows. */
static joust_status send_frames(joust_socket *s, const joust_peer_id *to, const joust_span *frames,
                                uint32_t n, bool more, joust_error *err)
{
    if ((to != NULL) != (s->kind == JOUST_SOCKET_ROUTER))
        return joust_fail(err, JOUST_BUG, "send: a ROUTER needs an address, a DEALER has one");
    if (to && zmq_send(s->zmq, to->bytes, to->n, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
        return send_failed(to, err);
    for (uint32_t i = 0; i < n; i++) {
        int flags = ZMQ_DONTWAIT | (more || i + 1 < n ? ZMQ_SNDMORE : 0);
        while (zmq_send(s->zmq, frames[i].data, frames[i].n, flags) < 0)
            if (zmq_errno() != EINTR)
                return send_failed(to, err);
    }
    return JOUST_OK;
}

static void free_body(void *data, void *hint) /* on ZeroMQ's thread */
{
    (void)hint;
    joust_free(data);
}

/* The last frame, whose bytes ZeroMQ takes without copying them. */
static joust_status send_body(joust_socket *s, const joust_peer_id *to, joust_buf *body,
                              joust_error *err)
{
    zmq_msg_t frame;
    size_t n;
    uint8_t *data = joust_buf_take(body, &n);
    if (zmq_msg_init_data(&frame, data, n, free_body, NULL) != 0) {
        joust_free(data);
        return fail_zmq(err, JOUST_NOMEM, "send");
    }
    while (zmq_msg_send(&frame, s->zmq, ZMQ_DONTWAIT) < 0) {
        if (zmq_errno() == EINTR)
            continue;
        joust_status st = send_failed(to, err);
        zmq_msg_close(&frame);
        return st;
    }
    return JOUST_OK;
}

joust_status joust_socket_send(joust_socket *socket, const joust_peer_id *to,
                               const joust_message *m, joust_error *err)
{
    joust_buf body = {0};
    joust_status st = joust_message_encode(m, &body, err);
    if (st == JOUST_OK) {
        uint8_t header[JOUST_ENVELOPE_BYTES];
        joust_envelope e = {.version = JOUST_PROTOCOL_VERSION,
                            .type = (uint16_t)m->type,
                            .epoch = m->epoch,
                            .body_bytes = (uint32_t)body.n};
        joust_envelope_encode(&e, header);
        joust_span frames[2] = {{.data = header, .n = sizeof(header)},
                                {.data = body.data, .n = body.n}};
        bool large = body.n >= LARGE_BODY;
        st = send_frames(socket, to, frames, large ? 1 : 2, large, err);
        if (st == JOUST_OK && large)
            st = send_body(socket, to, &body, err);
    }
    joust_buf_fini(&body);
    return st;
}

joust_status joust_socket_send_frames(joust_socket *socket, const joust_peer_id *to,
                                      const joust_span *frames, uint32_t n, joust_error *err)
{
    if (n == 0 || n > JOUST_MAX_FRAMES)
        return joust_fail(err, JOUST_INVALID, "send: %u frames, expected 1 … %u", n,
                          JOUST_MAX_FRAMES);
    return send_frames(socket, to, frames, n, false, err);
}

/* -------------------------------------------------------------------------------------- receive */

/* One whole message: all its frames, or those that fit; `extra` counts the rest, which are dropped.
 */
typedef struct parcel {
    zmq_msg_t frames[JOUST_MAX_FRAMES];
    uint32_t n, extra;
} parcel;

static void parcel_fini(parcel *p)
{
    for (uint32_t i = 0; i < p->n; i++)
        zmq_msg_close(&p->frames[i]);
}

static joust_status receive_frame(joust_socket *s, zmq_msg_t *to, joust_error *err)
{
    zmq_msg_init(to);
    while (zmq_msg_recv(to, s->zmq, ZMQ_DONTWAIT) < 0) {
        if (zmq_errno() == EINTR)
            continue;
        joust_status st = zmq_errno() == EAGAIN
                              ? joust_fail(err, JOUST_AGAIN, "no message is waiting")
                              : fail_zmq(err, JOUST_IO, s->endpoint);
        zmq_msg_close(to);
        return st;
    }
    return JOUST_OK;
}

static joust_status receive_parcel(joust_socket *s, joust_peer_id *from, parcel *p,
                                   joust_error *err)
{
    bool address = s->kind == JOUST_SOCKET_ROUTER, more = true;
    p->n = p->extra = 0;
    while (more) {
        zmq_msg_t frame;
        joust_status st = receive_frame(s, &frame, err);
        if (st != JOUST_OK) {
            parcel_fini(p);
            return st;
        }
        more = zmq_msg_more(&frame);
        if (address) {
            *from = (joust_peer_id){.n = (uint32_t)zmq_msg_size(&frame)};
            memcpy(from->bytes, zmq_msg_data(&frame), from->n);
            address = false;
            zmq_msg_close(&frame);
        } else if (p->n < JOUST_MAX_FRAMES) {
            zmq_msg_init(&p->frames[p->n]);
            zmq_msg_move(&p->frames[p->n++], &frame);
        } else {
            p->extra++;
            zmq_msg_close(&frame);
        }
    }
    return JOUST_OK;
}

joust_status joust_socket_recv(joust_socket *socket, joust_peer_id *from, joust_message *ret,
                               joust_error *err)
{
    parcel p;
    joust_envelope e;
    joust_status st = receive_parcel(socket, from, &p, err);
    if (st != JOUST_OK)
        return st;
    size_t n_body = p.n == 2 ? zmq_msg_size(&p.frames[1]) : 0;
    if (p.n == 0) {
        st = joust_fail(err, JOUST_MALFORMED, "message without a header");
        goto out;
    }
    st = joust_envelope_decode(zmq_msg_data(&p.frames[0]), zmq_msg_size(&p.frames[0]), n_body, &e,
                               err);
    if (st == JOUST_OK && p.n + p.extra != 2)
        st = joust_fail(err, JOUST_MALFORMED, "message of %u frames, expected 2", p.n + p.extra);
    if (st == JOUST_OK)
        st = joust_message_decode(e.type, e.epoch, zmq_msg_data(&p.frames[1]), n_body, ret, err);
out:
    parcel_fini(&p);
    return st;
}

void joust_frames_fini(joust_frames *f)
{
    joust_free(f->data);
    memset(f, 0, sizeof(*f));
}

joust_status joust_socket_recv_frames(joust_socket *socket, joust_peer_id *from, joust_frames *ret,
                                      joust_error *err)
{
    parcel p;
    joust_status st = receive_parcel(socket, from, &p, err);
    if (st != JOUST_OK)
        return st;
    size_t total = 0;
    for (uint32_t i = 0; i < p.n; i++)
        total += zmq_msg_size(&p.frames[i]);
    joust_frames f = {.n = p.n, .data = joust_malloc(total)};
    if (p.extra)
        st = joust_fail(err, JOUST_MALFORMED, "message of %u frames, at most %u are allowed",
                        p.n + p.extra, JOUST_MAX_FRAMES);
    else if (!f.data)
        st = joust_fail(err, JOUST_NOMEM, "message of %zu bytes: out of memory", total);
    if (st != JOUST_OK) {
        joust_free(f.data);
        goto out;
    }
    uint8_t *at = f.data;
    for (uint32_t i = 0; i < p.n; i++) {
        size_t n = zmq_msg_size(&p.frames[i]);
        memcpy(at, zmq_msg_data(&p.frames[i]), n);
        f.frame[i] = (joust_span){.data = at, .n = n};
        at += n;
    }
    *ret = f;
out:
    parcel_fini(&p);
    return st;
}

joust_status joust_socket_wait(joust_socket *socket, int64_t timeout_ms, joust_error *err)
{
    zmq_pollitem_t poll_item = {.socket = socket->zmq, .events = ZMQ_POLLIN};
    int n = zmq_poll(&poll_item, 1, (long)timeout_ms);
    if (n > 0)
        return JOUST_OK;
    if (n == 0)
        return joust_fail(err, JOUST_TIMEOUT, "%s: no answer within %lld ms", socket->endpoint,
                          (long long)timeout_ms);
    return zmq_errno() == EINTR ? joust_fail(err, JOUST_INTERRUPTED, "interrupted by a signal")
                                : fail_zmq(err, JOUST_IO, socket->endpoint);
}

/* ---------------------------------------------------------------------------------------- links */

static joust_link_event link_event_of(uint16_t number)
{
    if (number == ZMQ_EVENT_HANDSHAKE_SUCCEEDED)
        return JOUST_LINK_UP;
    return number == ZMQ_EVENT_DISCONNECTED ? JOUST_LINK_DOWN : JOUST_LINK_REFUSED;
}

joust_status joust_socket_link_next(joust_socket *socket, joust_link_event *ret, joust_error *err)
{
    /* Two frames: the event's number (16 bits) and value, and the address. */
    uint8_t event[6], address[JOUST_MAX_ENDPOINT_BYTES];
    uint16_t number;
    if (!socket->monitor)
        return joust_fail(err, JOUST_BUG, "socket was opened without a monitor");
    if (zmq_recv(socket->monitor, event, sizeof(event), ZMQ_DONTWAIT) < 0)
        return joust_fail(err, JOUST_AGAIN, "no link event is waiting");
    int more = 1;
    size_t n = sizeof(more);
    while (zmq_getsockopt(socket->monitor, ZMQ_RCVMORE, &more, &n) == 0 && more)
        if (zmq_recv(socket->monitor, address, sizeof(address), ZMQ_DONTWAIT) < 0)
            break;
    memcpy(&number, event, sizeof(number));
    *ret = link_event_of(number);
    return JOUST_OK;
}
