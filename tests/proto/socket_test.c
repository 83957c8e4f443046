/* Sockets over tcp on loopback and ipc: messages, frames, bounds, strangers, keys, links. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/envelope.h"
#include "proto/socket.h"

enum { PATIENCE_MS = 10000 };

typedef struct pair {
    joust_context *context;
    joust_socket *router, *dealer;
    joust_peer_id id;
    char folder[64];
} pair;

static void open_folder(pair *p)
{
    strcpy(p->folder, "/tmp/joust-socket-XXXXXX");
    assert_non_null(mkdtemp(p->folder));
}

static void open_router(pair *p, const char *endpoint, const joust_curve *curve)
{
    joust_error err = {0};
    joust_socket_options o = {.kind = JOUST_SOCKET_ROUTER, .endpoint = endpoint, .curve = curve};
    check_ok(joust_socket_open(p->context, &o, &p->router, &err));
}

static joust_socket *open_dealer(pair *p, uint64_t instance, const joust_curve *curve, bool monitor)
{
    joust_error err = {0};
    joust_socket *s = NULL;
    check_ok(joust_peer_id_make("worker-0", instance, &p->id, &err));
    joust_socket_options o = {.kind = JOUST_SOCKET_DEALER,
                              .endpoint = joust_socket_endpoint(p->router),
                              .id = &p->id,
                              .curve = curve,
                              .monitor = monitor};
    check_ok(joust_socket_open(p->context, &o, &s, &err));
    return s;
}

static void open_pair(pair *p, const char *endpoint)
{
    joust_error err = {0};
    memset(p, 0, sizeof(*p));
    check_ok(joust_context_create(&p->context, &err));
    open_router(p, endpoint, NULL);
    p->dealer = open_dealer(p, 0xabc, NULL, false);
}

static void close_pair(pair *p)
{
    joust_error err = {0};
    joust_socket_close(&p->dealer);
    joust_socket_close(&p->router);
    joust_context_free(&p->context);
    if (p->folder[0])
        check_ok(joust_dir_remove(p->folder, &err));
}

/* Sends once the link is there. */
static void send_when_linked(joust_socket *s, const joust_message *m)
{
    joust_error err = {0};
    joust_status st;
    zmq_pollitem_t none;
    for (int i = 0; (st = joust_socket_send(s, NULL, m, &err)) == JOUST_AGAIN; i++) {
        assert_true(i < PATIENCE_MS);
        zmq_poll(&none, 0, 1);
    }
    check_ok(st);
}

static joust_message credit_message(uint32_t credit)
{
    return (joust_message){.type = JOUST_MSG_CREDIT, .epoch = 3, .u.credit = {.credit = credit}};
}

static void check_conversation(pair *p)
{
    joust_error err = {0};
    joust_message m = credit_message(41), got = {0};
    joust_peer_id from = {0};
    send_when_linked(p->dealer, &m);
    check_ok(joust_socket_wait(p->router, PATIENCE_MS, &err));
    check_ok(joust_socket_recv(p->router, &from, &got, &err));
    assert_true(joust_peer_id_equal(&from, &p->id));
    assert_int_equal(got.type, JOUST_MSG_CREDIT);
    assert_int_equal(got.epoch, 3);
    assert_int_equal(got.u.credit.credit, 41);
    joust_message_fini(&got);
    check_status(JOUST_AGAIN, joust_socket_recv(p->router, &from, &got, &err));

    joust_message text = {
        .type = JOUST_MSG_GOODBYE, .epoch = 4, .u.text = {.code = -5, .text = (char[]){"end"}}};
    check_ok(joust_socket_send(p->router, &from, &text, &err));
    check_ok(joust_socket_wait(p->dealer, PATIENCE_MS, &err));
    check_ok(joust_socket_recv(p->dealer, NULL, &got, &err));
    assert_int_equal(got.u.text.code, -5);
    assert_string_equal(got.u.text.text, "end");
    joust_message_fini(&got);
}

static void test_tcp(void **state)
{
    (void)state;
    pair p;
    open_pair(&p, "tcp://127.0.0.1:*");
    assert_null(strchr(joust_socket_endpoint(p.router), '*'));
    check_conversation(&p);
    close_pair(&p);
}

static void test_ipc(void **state)
{
    (void)state;
    pair p = {0};
    joust_error err = {0};
    char endpoint[128];
    struct stat info;
    open_folder(&p);
    snprintf(endpoint, sizeof(endpoint), "ipc://%s/run/coordinator", p.folder);
    check_ok(joust_context_create(&p.context, &err));
    open_router(&p, endpoint, NULL);
    snprintf(endpoint, sizeof(endpoint), "%s/run", p.folder);
    assert_int_equal(stat(endpoint, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    p.dealer = open_dealer(&p, 1, NULL, false);
    check_conversation(&p);

    /* a folder that others can enter is refused */
    assert_int_equal(chmod(endpoint, 0755), 0);
    joust_socket *s;
    joust_socket_options o = {.kind = JOUST_SOCKET_ROUTER,
                              .endpoint = joust_socket_endpoint(p.router)};
    check_status(JOUST_DENIED, joust_socket_open(p.context, &o, &s, &err));
    assert_non_null(strstr(err.text, "chmod 700"));
    close_pair(&p);
}

static void test_unknown_peer(void **state)
{
    (void)state;
    pair p;
    joust_error err = {0};
    joust_peer_id nobody;
    open_pair(&p, "tcp://127.0.0.1:*");
    check_ok(joust_peer_id_make("nobody", 1, &nobody, &err));
    joust_message m = credit_message(1);
    check_status(JOUST_UNREACHABLE, joust_socket_send(p.router, &nobody, &m, &err));
    assert_non_null(strstr(err.text, "nobody#"));
    close_pair(&p);
}

/* Receives the frames as a message, and gives the status. */
static joust_status recv_as_message(pair *p, const joust_span *frames, uint32_t n)
{
    joust_error err = {0};
    joust_peer_id from = {0};
    joust_message got;
    check_ok(joust_socket_send_frames(p->dealer, NULL, frames, n, &err));
    check_ok(joust_socket_wait(p->router, PATIENCE_MS, &err));
    joust_status st = joust_socket_recv(p->router, &from, &got, &err);
    assert_true(joust_peer_id_equal(&from, &p->id));
    if (st == JOUST_OK)
        joust_message_fini(&got);
    return st;
}

static void test_garbage(void **state)
{
    (void)state;
    pair p;
    joust_error err = {0};
    uint8_t header[JOUST_ENVELOPE_BYTES];
    open_pair(&p, "tcp://127.0.0.1:*");
    check_conversation(&p);
    joust_envelope e = {
        .version = JOUST_PROTOCOL_VERSION, .type = JOUST_MSG_CREDIT, .body_bytes = 2};
    joust_envelope_encode(&e, header);
    joust_span frames[3] = {
        {header, sizeof(header)}, {(const uint8_t *)"\x08\x05", 2}, {header, 3}};
    assert_int_equal(recv_as_message(&p, frames, 2), JOUST_OK);
    assert_int_equal(recv_as_message(&p, frames, 3), JOUST_MALFORMED);
    assert_int_equal(recv_as_message(&p, frames, 1), JOUST_MALFORMED);
    assert_int_equal(recv_as_message(&p, frames + 1, 1), JOUST_MALFORMED);
    frames[1].data = (const uint8_t *)"\x10\x05";
    assert_int_equal(recv_as_message(&p, frames, 2), JOUST_MALFORMED);
    header[5] = 99;
    assert_int_equal(recv_as_message(&p, frames, 2), JOUST_UNSUPPORTED);
    header[3] = 2;
    assert_int_equal(recv_as_message(&p, frames, 2), JOUST_VERSION);
    joust_span empty = {header, 0};
    assert_int_equal(recv_as_message(&p, &empty, 1), JOUST_MALFORMED);

    joust_span many[JOUST_MAX_FRAMES + 1];
    for (uint32_t i = 0; i < JOUST_MAX_FRAMES + 1; i++)
        many[i] = empty;
    check_status(JOUST_INVALID,
                 joust_socket_send_frames(p.dealer, NULL, many, JOUST_MAX_FRAMES + 1, &err));
    check_conversation(&p); /* it lives on */
    close_pair(&p);
}

static void test_frames(void **state)
{
    (void)state;
    pair p;
    joust_error err = {0};
    joust_peer_id from = {0};
    joust_frames f;
    open_pair(&p, "tcp://127.0.0.1:*");
    check_conversation(&p);
    joust_span frames[2] = {{NULL, 0}, {(const uint8_t *)"status", 6}};
    check_ok(joust_socket_send_frames(p.dealer, NULL, frames, 2, &err));
    check_ok(joust_socket_wait(p.router, PATIENCE_MS, &err));
    check_ok(joust_socket_recv_frames(p.router, &from, &f, &err));
    assert_int_equal(f.n, 2);
    assert_int_equal(f.frame[0].n, 0);
    assert_memory_equal(f.frame[1].data, "status", 6);
    check_ok(joust_socket_send_frames(p.router, &from, f.frame, f.n, &err));
    joust_frames_fini(&f);
    check_ok(joust_socket_wait(p.dealer, PATIENCE_MS, &err));
    check_ok(joust_socket_recv_frames(p.dealer, NULL, &f, &err));
    assert_int_equal(f.n, 2);
    joust_frames_fini(&f);
    close_pair(&p);
}

/* A peer that reconnects under its id before its old link is found dead is heard and answered. */
static void test_handover(void **state)
{
    (void)state;
    pair p;
    joust_error err = {0};
    open_pair(&p, "tcp://127.0.0.1:*");
    check_conversation(&p);
    joust_socket *old = p.dealer;
    p.dealer = open_dealer(&p, 0xabc, NULL, false);
    check_conversation(&p);
    joust_socket_close(&old);
    joust_message m = credit_message(1);
    check_ok(joust_socket_send(p.router, &p.id, &m, &err));
    close_pair(&p);
}

static joust_link_event next_link(joust_socket *s)
{
    joust_error err = {0};
    joust_link_event event;
    joust_status st;
    zmq_pollitem_t none;
    for (int i = 0; (st = joust_socket_link_next(s, &event, &err)) == JOUST_AGAIN; i++) {
        assert_true(i < PATIENCE_MS);
        zmq_poll(&none, 0, 1);
    }
    check_ok(st);
    return event;
}

static void test_links(void **state)
{
    (void)state;
    pair p;
    joust_error err = {0};
    char endpoint[JOUST_MAX_ENDPOINT_BYTES];
    open_pair(&p, "tcp://127.0.0.1:*");
    joust_socket_close(&p.dealer);
    p.dealer = open_dealer(&p, 2, NULL, true);
    assert_int_equal(next_link(p.dealer), JOUST_LINK_UP);
    strcpy(endpoint, joust_socket_endpoint(p.router));
    joust_socket_close(&p.router);
    assert_int_equal(next_link(p.dealer), JOUST_LINK_DOWN);
    joust_message m = credit_message(1);
    check_status(JOUST_AGAIN, joust_socket_send(p.dealer, NULL, &m, &err)); /* nothing is queued */
    open_router(&p, endpoint, NULL);
    assert_int_equal(next_link(p.dealer), JOUST_LINK_UP);
    check_conversation(&p);
    close_pair(&p);
}

static void test_curve(void **state)
{
    (void)state;
    pair p = {0};
    joust_error err = {0};
    joust_curve server, client, stranger;
    char path[128];
    open_folder(&p);
    check_ok(joust_curve_new(&server, &err));
    check_ok(joust_curve_new(&client, &err));
    strcpy(client.server_key, server.public_key);

    snprintf(path, sizeof(path), "%s/key", p.folder);
    check_ok(joust_curve_write(&client, path, &err));
    check_ok(joust_curve_read(path, false, &client, &err));
    assert_string_equal(client.server_key, server.public_key);
    assert_int_equal(chmod(path, 0644), 0);
    check_status(JOUST_DENIED, joust_curve_read(path, false, &client, &err));
    check_ok(joust_file_write(path, "public x\n", 9, &err));
    assert_int_equal(chmod(path, 0600), 0);
    check_status(JOUST_MALFORMED, joust_curve_read(path, true, &stranger, &err));

    server.server = true;
    check_ok(joust_context_create(&p.context, &err));
    open_router(&p, "tcp://127.0.0.1:*", &server);
    check_ok(joust_curve_new(&stranger, &err));
    strcpy(stranger.server_key, stranger.public_key); /* doesn't know the server's */
    joust_socket *outside = open_dealer(&p, 5, &stranger, true);
    p.dealer = open_dealer(&p, 6, &client, false);
    check_conversation(&p);
    joust_link_event event;
    if (joust_socket_link_next(outside, &event, &err) == JOUST_OK)
        assert_int_not_equal(event, JOUST_LINK_UP);
    joust_socket_close(&outside);
    close_pair(&p);
}

static void test_open_refuses(void **state)
{
    (void)state;
    pair p;
    joust_error err = {0};
    joust_socket *s;
    open_pair(&p, "tcp://127.0.0.1:*");
    joust_socket_options o = {.kind = JOUST_SOCKET_ROUTER,
                              .endpoint = joust_socket_endpoint(p.router)};
    check_status(JOUST_EXISTS, joust_socket_open(p.context, &o, &s, &err));
    o.endpoint = "tcp://0.0.0.0:*";
    check_status(JOUST_DENIED, joust_socket_open(p.context, &o, &s, &err));
    o.endpoint = "udp://127.0.0.1:1";
    check_status(JOUST_INVALID, joust_socket_open(p.context, &o, &s, &err));
    o.endpoint = "tcp://127.0.0.1:port";
    check_status(JOUST_INVALID, joust_socket_open(p.context, &o, &s, &err));
    o.endpoint = "ipc://here";
    check_status(JOUST_INVALID, joust_socket_open(p.context, &o, &s, &err));
    o.endpoint = "tcp://127.0.0.1:1";
    o.kind = JOUST_SOCKET_DEALER;
    check_status(JOUST_INVALID, joust_socket_open(p.context, &o, &s, &err));
    joust_peer_id id;
    check_status(JOUST_INVALID, joust_peer_id_make("", 1, &id, &err));
    check_status(JOUST_TIMEOUT, joust_socket_wait(p.dealer, 0, &err));
    close_pair(&p);
}

static void test_envelope(void **state)
{
    (void)state;
    joust_error err = {0};
    uint8_t bytes[JOUST_ENVELOPE_BYTES];
    joust_envelope e = {.version = JOUST_PROTOCOL_VERSION,
                        .type = 9,
                        .epoch = 0x0102030405060708ull,
                        .body_bytes = 70000},
                   r;
    joust_envelope_encode(&e, bytes);
    assert_memory_equal(
        bytes, "JST\x01\0\x09\0\0\x01\x02\x03\x04\x05\x06\x07\x08\0\x01\x11\x70\0\0\0\0", 24);
    check_ok(joust_envelope_decode(bytes, sizeof(bytes), 70000, &r, &err));
    assert_int_equal(r.type, 9);
    assert_int_equal(r.epoch, e.epoch);
    assert_int_equal(r.body_bytes, 70000);
    check_status(JOUST_MALFORMED, joust_envelope_decode(bytes, sizeof(bytes), 69999, &r, &err));
    for (size_t n = 0; n < sizeof(bytes); n++)
        check_status(JOUST_MALFORMED, joust_envelope_decode(bytes, n, 70000, &r, &err));
    bytes[16] = 0x05; /* 83 MB */
    check_status(JOUST_TOO_LARGE, joust_envelope_decode(bytes, sizeof(bytes), 70000, &r, &err));
    bytes[7] = 1;
    check_status(JOUST_MALFORMED, joust_envelope_decode(bytes, sizeof(bytes), 70000, &r, &err));
    bytes[3] = 7;
    check_status(JOUST_VERSION, joust_envelope_decode(bytes, 4, 0, &r, &err));
    assert_int_equal(r.version, 7);
    assert_non_null(strstr(err.text, "version 7"));
    bytes[0] = 'X';
    check_status(JOUST_MALFORMED, joust_envelope_decode(bytes, sizeof(bytes), 70000, &r, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_envelope), cmocka_unit_test(test_tcp),
        cmocka_unit_test(test_ipc),      cmocka_unit_test(test_unknown_peer),
        cmocka_unit_test(test_garbage),  cmocka_unit_test(test_frames),
        cmocka_unit_test(test_handover), cmocka_unit_test(test_links),
        cmocka_unit_test(test_curve),    cmocka_unit_test(test_open_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
