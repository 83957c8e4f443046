/* hostile_peer ENDPOINT ATTACK [NUMBER]: a peer that a coordinator must survive. Ends with 0 if the coordinator answered as
 * proto/PROTOCOL.md asks of it, else says what it did instead. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/random.h"
#include "proto/codec.h"
#include "proto/envelope.h"
#include "proto/plan.h"
#include "proto/socket.h"

enum { ANSWER_MS = 20000, SHORT_MS = 300, MAX_STAGES = 64 };

typedef struct attack {
    const char *endpoint;
    joust_context *context;
    joust_stream random;
    uint64_t drawn;
    uint64_t number; /* the attack's argument */
} attack;

/* One identity of this process. */
typedef struct intruder {
    joust_socket *socket;
    joust_msg_hello hello;
    uint64_t epoch; /* what its messages carry */
    joust_digest job;
} intruder;

static void die(const char *format, ...) JOUST_PRINTF(1, 2) __attribute__((noreturn));
static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("hostile_peer: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t draw(attack *a, uint64_t below)
{
    return joust_stream_below(&a->random, a->drawn++, below);
}

/* ---- an identity and what it hears ---- */

static intruder enter(attack *a, const char *name, joust_peer_role role)
{
    joust_error err;
    joust_peer_id id;
    intruder in = {.hello = {.version = JOUST_PROTOCOL_VERSION,
                             .role = role,
                             .instance = draw(a, UINT64_MAX),
                             .credit = 1,
                             .threads = 1}};
    snprintf(in.hello.name, sizeof(in.hello.name), "%s", name);
    snprintf(in.hello.host, sizeof(in.hello.host), "nowhere");
    if (joust_peer_id_make(name, in.hello.instance, &id, &err) ||
        joust_socket_open(a->context,
                          &(joust_socket_options){
                              .kind = JOUST_SOCKET_DEALER, .endpoint = a->endpoint, .id = &id},
                          &in.socket, &err))
        die("%s", err.text);
    return in;
}

/* Sends, waiting for the link if there is none yet. */
static void say(intruder *in, const joust_message *m)
{
    joust_error err;
    int64_t until = joust_clock_ms() + ANSWER_MS;
    joust_status st;
    while ((st = joust_socket_send(in->socket, NULL, m, &err)) == JOUST_AGAIN &&
           joust_clock_ms() < until)
        usleep(1000);
    if (st)
        die("%s to the coordinator: %s", joust_message_name(m->type), err.text);
}

static void say_frames(intruder *in, const joust_span *frames, uint32_t n)
{
    joust_error err;
    int64_t until = joust_clock_ms() + ANSWER_MS;
    joust_status st;
    while ((st = joust_socket_send_frames(in->socket, NULL, frames, n, &err)) == JOUST_AGAIN &&
           joust_clock_ms() < until)
        usleep(1000);
    if (st)
        die("frames to the coordinator: %s", err.text);
}

/* The next message within timeout_ms, or false. */
static bool hear(intruder *in, int64_t timeout_ms, joust_message *ret)
{
    joust_error err;
    int64_t until = joust_clock_ms() + timeout_ms;
    for (;;) {
        joust_status st = joust_socket_recv(in->socket, NULL, ret, &err);
        if (st == JOUST_OK)
            return true;
        if (st != JOUST_AGAIN)
            die("what the coordinator says can't be read: %s", err.text);
        int64_t left = until - joust_clock_ms();
        if (left <= 0 || joust_socket_wait(in->socket, left, &err))
            return false;
    }
}

/* Hears until a message of this type comes; others are dropped. */
static joust_message expect(intruder *in, joust_message_type type)
{
    joust_message m;
    int64_t until = joust_clock_ms() + ANSWER_MS;
    while (joust_clock_ms() < until && hear(in, until - joust_clock_ms(), &m)) {
        if (m.type == type)
            return m;
        fprintf(stderr, "hostile_peer: hears %s%s%s\n", joust_message_name(m.type),
                m.type == JOUST_MSG_ERROR || m.type == JOUST_MSG_GOODBYE ? ": " : "",
                m.type == JOUST_MSG_ERROR || m.type == JOUST_MSG_GOODBYE ? m.u.text.text : "");
        joust_message_fini(&m);
    }
    die("no %s from the coordinator", joust_message_name(type));
}

static void expect_code(intruder *in, joust_message_type type, joust_status code)
{
    joust_message m = expect(in, type);
    if (m.u.text.code != (int32_t)code)
        die("%s with %d (%s), expected %d", joust_message_name(type), m.u.text.code, m.u.text.text,
            (int)code);
    printf("%s: %s\n", joust_message_name(type), m.u.text.text);
    joust_message_fini(&m);
}

static void say_hello(intruder *in)
{
    joust_message m = {.type = JOUST_MSG_HELLO, .epoch = in->epoch, .u.hello = in->hello};
    say(in, &m);
}

/* Says HELLO and is let in. */
static void join(intruder *in)
{
    say_hello(in);
    joust_message m = expect(in, JOUST_MSG_HELLO_ACK);
    in->epoch = m.u.hello_ack.epoch;
    in->job = m.u.hello_ack.job_digest;
    joust_message_fini(&m);
}

static void leave(intruder *in)
{
    char text[] = "bored";
    joust_message m = {.type = JOUST_MSG_GOODBYE, .epoch = in->epoch, .u.text = {.text = text}};
    say(in, &m);
    usleep(20000); /* closing drops what isn't sent yet */
    joust_socket_close(&in->socket);
}

/* The coordinator still answers a newcomer. */
static void check_alive(attack *a)
{
    intruder in = enter(a, "witness", JOUST_PEER_JUDGE);
    in.hello.credit = 0;
    join(&in);
    leave(&in);
}

/* ---- the attacks ---- */

static void attack_version(attack *a)
{
    intruder in = enter(a, "newer-frame", JOUST_PEER_WORKER);
    uint8_t header[JOUST_ENVELOPE_BYTES];
    joust_envelope_encode(&(joust_envelope){.version = 9, .type = JOUST_MSG_HELLO}, header);
    joust_span frames[2] = {{.data = header, .n = sizeof(header)}, {0}};
    say_frames(&in, frames, 2);
    expect_code(&in, JOUST_MSG_ERROR, JOUST_VERSION);
    leave(&in);
    in = enter(a, "newer-hello", JOUST_PEER_WORKER);
    in.hello.version = 9;
    say_hello(&in);
    expect_code(&in, JOUST_MSG_GOODBYE, JOUST_VERSION);
    leave(&in);
}

static void attack_stranger(attack *a)
{
    intruder in = enter(a, "other-job", JOUST_PEER_WORKER);
    memset(&in.hello.job, 0x5a, sizeof(in.hello.job));
    say_hello(&in);
    expect_code(&in, JOUST_MSG_GOODBYE, JOUST_DENIED);
    leave(&in);
    in = enter(a, "other-class", JOUST_PEER_WORKER);
    snprintf(in.hello.numeric_class, sizeof(in.hello.numeric_class), "abacus-f8");
    say_hello(&in);
    expect_code(&in, JOUST_MSG_GOODBYE, JOUST_CONFLICT);
    leave(&in);
    in = enter(a, "silent-type", JOUST_PEER_WORKER); /* no HELLO at all */
    in.hello.credit = 0;
    say(&in, &(joust_message){.type = JOUST_MSG_CREDIT, .u.credit = {.credit = 7}});
    expect_code(&in, JOUST_MSG_ERROR, JOUST_STALE);
    join(&in);
    say(&in, &(joust_message){.type = JOUST_MSG_CREDIT,
                              .epoch = in.epoch - 1}); /* of a predecessor's peer */
    expect_code(&in, JOUST_MSG_ERROR, JOUST_STALE);
    say(&in, &(joust_message){.type = JOUST_MSG_LEASE, .epoch = in.epoch});
    expect_code(&in, JOUST_MSG_ERROR, JOUST_UNSUPPORTED);
    leave(&in);
}

/* A frame of random bytes that may look like a header. */
static void make_frame(attack *a, joust_buf *to)
{
    joust_buf_clear(to);
    if (draw(a, 2)) {
        uint8_t header[JOUST_ENVELOPE_BYTES];
        joust_envelope e = {.version =
                                (uint8_t)(draw(a, 8) ? JOUST_PROTOCOL_VERSION : draw(a, 256)),
                            .type = (uint16_t)draw(a, 24),
                            .flags = (uint16_t)(draw(a, 8) ? 0 : draw(a, 65536)),
                            .body_bytes = (uint32_t)draw(a, 300)};
        joust_envelope_encode(&e, header);
        joust_buf_add(to, header, (size_t)(draw(a, 8) ? sizeof(header) : draw(a, 24)));
        return;
    }
    for (uint64_t n = draw(a, 300); n; n--)
        joust_buf_u8(to, (uint8_t)draw(a, 256));
}

/* Garbage in every frame, and valid messages cut short or changed in one byte. */
static void attack_garbage(attack *a)
{
    joust_error err;
    intruder in = enter(a, "garbler", JOUST_PEER_WORKER);
    joust_buf frame[3] = {{0}}, hello = {0};
    joust_message m = {.type = JOUST_MSG_HELLO, .u.hello = in.hello};
    m.u.hello.credit = 0;
    if (joust_message_encode(&m, &hello, &err))
        die("%s", err.text);
    for (uint64_t i = 0; i < a->number; i++) {
        joust_span spans[3];
        uint32_t n = (uint32_t)(1 + draw(a, 3));
        for (uint32_t f = 0; f < n; f++)
            make_frame(a, &frame[f]);
        if (draw(a, 2)) {
            n = 2;
            joust_buf_clear(&frame[1]);
            joust_buf_add(&frame[1], hello.data, (size_t)draw(a, hello.n + 1));
            if (frame[1].n && draw(a, 2))
                frame[1].data[draw(a, frame[1].n)] ^= (uint8_t)(1 + draw(a, 255));
            uint8_t header[JOUST_ENVELOPE_BYTES];
            joust_envelope_encode(&(joust_envelope){.version = JOUST_PROTOCOL_VERSION,
                                                    .type = JOUST_MSG_HELLO,
                                                    .body_bytes = (uint32_t)frame[1].n},
                                  header);
            joust_buf_clear(&frame[0]);
            joust_buf_add(&frame[0], header, sizeof(header));
        }
        for (uint32_t f = 0; f < n; f++)
            spans[f] = (joust_span){.data = frame[f].data, .n = frame[f].n};
        say_frames(&in, spans, n);
        while (hear(&in, 0, &m))
            joust_message_fini(&m);
    }
    for (int i = 0; i < 3; i++)
        joust_buf_fini(&frame[i]);
    joust_buf_fini(&hello);
    leave(&in);
}

/* Bytes that aren't ZeroMQ's, straight into the coordinator's ipc socket; the last links stay open and silent. */
static void attack_bytes(attack *a)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strncmp(a->endpoint, "ipc://", 6) != 0)
        die("bytes: needs an ipc endpoint");
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", a->endpoint + 6);
    for (uint64_t i = 0; i < a->number; i++) {
        uint8_t bytes[512];
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
            die("bytes: can't connect");
        for (size_t b = 0; b < sizeof(bytes); b++)
            bytes[b] = (uint8_t)draw(a, 256);
        if (draw(a, 2)) /* ZMTP's greeting first */
            memcpy(bytes, "\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL\0\0\0\0", 20);
        ssize_t written = send(fd, bytes, (size_t)draw(a, sizeof(bytes)), MSG_NOSIGNAL);
        (void)written;
        if (i % 4)
            close(fd);
    }
}

/* Thousands of identities, some of which ask for more than anybody can do. They vanish without a word. */
static void attack_flood(attack *a)
{
    for (uint64_t i = 0; i < a->number; i++) {
        char name[64];
        snprintf(name, sizeof(name), "crowd-%llu", (unsigned long long)i);
        intruder in = enter(a, name, i % 2 ? JOUST_PEER_WORKER : JOUST_PEER_JUDGE);
        in.hello.credit = i % 500 == 499 ? UINT32_MAX : 0;
        in.hello.can_train = true;
        say_hello(&in);
        if (i % 16 == 0) {
            joust_message m = {0};
            if (hear(&in, ANSWER_MS, &m))
                joust_message_fini(&m);
            else
                die("%s: nobody answers", name);
        }
        joust_socket_close(&in.socket);
    }
}

/* Takes all leases it can and gives nothing back, with heartbeats that show no progress. As a judge: the job has no
 * other, so that nobody can be faster. */
static void attack_hoard(attack *a)
{
    intruder in = enter(a, "hoarder", JOUST_PEER_JUDGE);
    in.hello.credit = UINT32_MAX;
    join(&in);
    uint64_t leases = 0, sequence = 0;
    int64_t until = joust_clock_ms() + (int64_t)a->number, patience = until + 30000;
    while (joust_clock_ms() < (leases ? until : patience)) {
        joust_message m;
        if (hear(&in, 50, &m)) {
            leases += m.type == JOUST_MSG_LEASE ? m.u.lease.n : 0;
            bool over = m.type == JOUST_MSG_GOODBYE;
            joust_message_fini(&m);
            if (over)
                break;
        }
        say(&in, &(joust_message){.type = JOUST_MSG_HEARTBEAT,
                                  .epoch = in.epoch,
                                  .u.heartbeat = {.sequence = ++sequence}});
    }
    printf("hoarded %llu leases\n", (unsigned long long)leases);
    if (!leases)
        die("hoard: no lease came");
    joust_socket_close(&in.socket);
}

/* One absurd message about a unit. */
static joust_message absurd(attack *a, uint64_t kind, joust_unit_key unit,
                            joust_unit_result *result, joust_train_step *step,
                            joust_progress *progress)
{
    joust_message m = {0};
    static char text[] = "I am no use";
    joust_unit_id id = {.unit = unit, .lease = draw(a, 100), .attempt = 1};
    switch (kind) {
    case 0:
        m.type = JOUST_MSG_RESULT;
        *result = (joust_unit_result){.id = id};
        m.u.result = (joust_msg_result){.n = 1, .units = result};
        break;
    case 1: /* a model that nobody uploaded, after steps that nobody took */
        m.type = JOUST_MSG_RESULT;
        *result = (joust_unit_result){.id = id, .has_model = true, .model = {.n_steps = 3}};
        snprintf(result->model.model.lineage, sizeof(result->model.model.lineage), "policy");
        m.u.result = (joust_msg_result){.n = 1, .units = result};
        break;
    case 2:
        m.type = JOUST_MSG_FAILED;
        m.u.failed = (joust_msg_failed){.id = id, .code = JOUST_BUG, .text = text};
        break;
    case 3:
        m.type = JOUST_MSG_TRAIN_PROGRESS;
        *step = (joust_train_step){.round = unit.round, .stage = unit.stage, .step = 3};
        m.u.progress =
            (joust_msg_train_progress){.id = id, .step = 1u << 30, .n_steps = 1, .steps = step};
        break;
    case 4:
        m.type = JOUST_MSG_ROWS_GET;
        m.u.rows_get = (joust_msg_rows_get){.id = id, .first = UINT64_MAX - 3, .n = 9};
        break;
    default:
        m.type = JOUST_MSG_HEARTBEAT;
        *progress = (joust_progress){.unit = unit, .done = 5};
        m.u.heartbeat = (joust_msg_heartbeat){.n_progress = 1, .progress = progress};
    }
    return m;
}

/* Everything about every unit there is, and about many that there aren't; a new face whenever the old one is sent away. */
static void attack_absurd(attack *a)
{
    uint64_t refused = 0;
    intruder in = enter(a, "fantast", JOUST_PEER_WORKER);
    in.hello.credit = 0;
    join(&in);
    for (uint64_t i = 0; i < a->number; i++) {
        joust_unit_result result;
        joust_train_step step;
        joust_progress progress;
        joust_unit_key unit = {.round = (uint32_t)draw(a, 4),
                               .stage = (uint32_t)draw(a, draw(a, 8) ? 24 : UINT32_MAX),
                               .position = draw(a, draw(a, 8) ? 4 : UINT64_MAX)};
        joust_message m = absurd(a, draw(a, 6), unit, &result, &step, &progress), answer;
        m.epoch = in.epoch;
        say(&in, &m);
        bool sent_away = false;
        while (hear(&in, 2, &answer)) {
            sent_away |= answer.type == JOUST_MSG_GOODBYE;
            refused += answer.type == JOUST_MSG_ERROR || answer.type == JOUST_MSG_GOODBYE;
            joust_message_fini(&answer);
        }
        if (!sent_away)
            continue;
        joust_socket_close(&in.socket);
        in = enter(a, "fantast", draw(a, 2) ? JOUST_PEER_WORKER : JOUST_PEER_JUDGE);
        in.hello.credit = 0;
        join(&in);
    }
    printf("%llu messages, refused %llu times\n", (unsigned long long)a->number,
           (unsigned long long)refused);
    if (!refused)
        die("absurd: nothing was refused");
    leave(&in);
}

/* Questions that want much: chunks that aren't there by the thousand. */
static void attack_chunks(attack *a)
{
    uint32_t n = (uint32_t)a->number;
    joust_digest *digests = joust_calloc(n, sizeof(*digests));
    intruder in = enter(a, "asker", JOUST_PEER_WORKER);
    if (!digests)
        die("out of memory");
    in.hello.credit = 0;
    join(&in);
    joust_message m = {.type = JOUST_MSG_CHUNK_QUERY, .epoch = in.epoch};
    m.u.digests = (joust_msg_digests){.n = n, .digests = digests};
    say(&in, &m);
    joust_message missing = expect(&in, JOUST_MSG_CHUNK_MISSING);
    if (missing.u.digests.n != n)
        die("chunks: %u are missing, expected %u", missing.u.digests.n, n);
    joust_message_fini(&missing);
    m.type = JOUST_MSG_CHUNK_GET;
    say(&in, &m);
    uint64_t answers = 0;
    while (hear(&in, SHORT_MS, &missing)) {
        answers++;
        joust_message_fini(&missing);
    }
    printf("%llu answers to one question about %u chunks\n", (unsigned long long)answers, n);
    if (answers != 1)
        die("chunks: %llu answers to one message", (unsigned long long)answers);
    static uint8_t data[] = "not what the digest says";
    m = (joust_message){.type = JOUST_MSG_CHUNK_PUT,
                        .epoch = in.epoch,
                        .u.chunk = {.n = sizeof(data), .data = data}};
    say(&in, &m);
    m = expect(&in, JOUST_MSG_ERROR);
    printf("ERROR: %s\n", m.u.text.text);
    joust_message_fini(&m);
    joust_free(digests);
    leave(&in);
}

/* A peer that asks without end and never reads. */
static void attack_deaf(attack *a)
{
    joust_error err;
    intruder in = enter(a, "deaf", JOUST_PEER_WORKER);
    in.hello.credit = 0;
    join(&in);
    uint64_t sent = 0;
    for (uint64_t i = 0; i < a->number; i++) {
        joust_message m = {
            .type = JOUST_MSG_HEARTBEAT, .epoch = in.epoch, .u.heartbeat = {.sequence = i}};
        if (joust_socket_send(in.socket, NULL, &m, &err) == JOUST_OK)
            sent++;
        else
            usleep(1000);
    }
    printf("sent %llu and read nothing\n", (unsigned long long)sent);
    joust_socket_close(&in.socket);
}

/* Verdicts of the right shape out of thin air. Owned by joust_free, with their texts. */
static joust_unit_result forge(const joust_lease_unit *unit, const joust_job *job,
                               const joust_plan *plan)
{
    static char nothing[] = "";
    const joust_job_judge *judge = &job->judges[plan->stages[unit->unit.stage].judge];
    joust_unit_result r = {.id = {unit->unit, unit->lease, unit->attempt},
                           .n_verdicts = unit->n_trajectories};
    r.verdicts = joust_calloc(r.n_verdicts, sizeof(*r.verdicts));
    if (!r.verdicts)
        die("out of memory");
    for (uint32_t i = 0; i < r.n_verdicts; i++) {
        joust_verdict *v = &r.verdicts[i];
        *v = (joust_verdict){.key = unit->unit,
                             .of_stage = unit->trajectories[i].key.stage,
                             .sample = i,
                             .other = JOUST_NONE,
                             .outcome = JOUST_OUTCOME_OK,
                             .has_value = true,
                             .value = i,
                             .model = unit->model,
                             .text = nothing};
        snprintf(v->judge, sizeof(v->judge), "%s", judge->name);
        snprintf(v->kind, sizeof(v->kind), "forged");
    }
    return r;
}

/* Sends the result n times in one message and hears as many acknowledgements. */
static void repeat(intruder *in, const joust_unit_result *result, uint32_t n)
{
    joust_unit_result results[3] = {*result, *result, *result};
    joust_message m = {.type = JOUST_MSG_RESULT, .epoch = in->epoch};
    m.u.result = (joust_msg_result){.n = n, .units = results};
    say(in, &m);
    for (uint32_t heard = 0; heard < n;) {
        joust_message ack = expect(in, JOUST_MSG_RESULT_ACK);
        heard += ack.u.units.n;
        joust_message_fini(&ack);
    }
}

/* Judges one group by forgery, says so thrice at once, again after NUMBER milliseconds of heartbeats (rounds later), which is
 * all fine; then it contradicts itself, which is not. */
static void attack_forge(attack *a)
{
    joust_error err;
    joust_job job;
    joust_plan plan;
    intruder in = enter(a, "forger", JOUST_PEER_JUDGE);
    say_hello(&in);
    joust_message hello = expect(&in, JOUST_MSG_HELLO_ACK);
    in.epoch = hello.u.hello_ack.epoch;
    if (joust_job_decode(hello.u.hello_ack.job, hello.u.hello_ack.n_job, &job, &err) ||
        joust_plan_compile(&job, &plan, &err))
        die("%s", err.text);
    joust_message_fini(&hello);
    joust_message lease = expect(&in, JOUST_MSG_LEASE);
    joust_unit_result result = forge(&lease.u.lease.units[0], &job, &plan);
    say(&in, &(joust_message){.type = JOUST_MSG_CREDIT, .epoch = in.epoch}); /* no more, thanks */
    repeat(&in, &result, 3);
    for (uint64_t passed = 0; passed < a->number; passed += 100) {
        say(&in, &(joust_message){.type = JOUST_MSG_HEARTBEAT, .epoch = in.epoch});
        usleep(100000);
    }
    repeat(&in, &result, 1);
    printf("repeated itself unharmed\n");
    result.verdicts[0].value = -77;
    joust_message m = {
        .type = JOUST_MSG_RESULT, .epoch = in.epoch, .u.result = {.n = 1, .units = &result}};
    say(&in, &m);
    expect_code(&in, JOUST_MSG_GOODBYE, JOUST_DENIED);
    say_hello(&in);
    expect_code(&in, JOUST_MSG_GOODBYE, JOUST_DENIED);
    joust_free(result.verdicts);
    joust_message_fini(&lease);
    joust_job_fini(&job);
    joust_socket_close(&in.socket);
}

/* A judge that can't judge, and says so of everything. */
static void attack_useless(attack *a)
{
    intruder in = enter(a, "useless", JOUST_PEER_JUDGE);
    static char text[] = "my glasses are broken";
    uint64_t failed = 0;
    in.hello.credit = 4;
    join(&in);
    int64_t until = joust_clock_ms() + (int64_t)a->number;
    bool away = false;
    while (!away && joust_clock_ms() < until) {
        joust_message m;
        if (!hear(&in, 100, &m)) {
            say(&in, &(joust_message){.type = JOUST_MSG_HEARTBEAT, .epoch = in.epoch});
            continue;
        }
        for (uint32_t i = 0; m.type == JOUST_MSG_LEASE && i < m.u.lease.n; i++, failed++) {
            const joust_lease_unit *unit = &m.u.lease.units[i];
            joust_message no = {.type = JOUST_MSG_FAILED, .epoch = in.epoch};
            no.u.failed = (joust_msg_failed){.id = {unit->unit, unit->lease, unit->attempt},
                                             .code = JOUST_INVALID,
                                             .text = text};
            say(&in, &no);
        }
        away = m.type == JOUST_MSG_GOODBYE;
        if (away)
            printf("GOODBYE: %s\n", m.u.text.text);
        joust_message_fini(&m);
    }
    printf("failed %llu times\n", (unsigned long long)failed);
    if (!away)
        die("useless: was kept on");
    joust_socket_close(&in.socket);
}

typedef struct plan_of_attack {
    const char *name;
    void (*run)(attack *a);
    uint64_t standard;
} plan_of_attack;

static const plan_of_attack ATTACKS[] = {
    {"version", attack_version, 0},     {"stranger", attack_stranger, 0},
    {"garbage", attack_garbage, 2000},  {"bytes", attack_bytes, 40},
    {"flood", attack_flood, 300},       {"hoard", attack_hoard, 2000},
    {"absurd", attack_absurd, 400},     {"chunks", attack_chunks, 20000},
    {"deaf", attack_deaf, 20000},       {"forge", attack_forge, 2000},
    {"useless", attack_useless, 30000},
};

int main(int argc, char **argv)
{
    joust_error err;
    attack a = {.endpoint = argc > 1 ? argv[1] : ""};
    a.random = joust_stream_open(
        &(joust_stream_name){.job_seed = (uint64_t)getpid(), .purpose = JOUST_PURPOSE_TEST});
    for (size_t i = 0; argc > 2 && i < sizeof(ATTACKS) / sizeof(ATTACKS[0]); i++) {
        if (strcmp(argv[2], ATTACKS[i].name) != 0)
            continue;
        a.number = argc > 3 ? strtoull(argv[3], NULL, 10) : ATTACKS[i].standard;
        if (joust_context_create(&a.context, &err))
            die("%s", err.text);
        ATTACKS[i].run(&a);
        check_alive(&a);
        printf("%s: the coordinator lives on\n", argv[2]);
        joust_context_free(&a.context);
        return 0;
    }
    fputs("usage: hostile_peer ENDPOINT ATTACK [NUMBER]\n", stderr);
    return 2;
}
