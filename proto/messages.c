#include "proto/messages.h"

#include <string.h>

#include "proto/codec_internal.h"

void joust_lease_unit_fini(joust_lease_unit *u)
{
    joust_record_fini(&joust_lease_unit_type, u);
}

void joust_unit_result_fini(joust_unit_result *r)
{
    joust_record_fini(&joust_unit_result_type, r);
}

void joust_message_fini(joust_message *m)
{
    const joust_record_type *type = joust_message_record_type((uint32_t)m->type);
    if (type)
        joust_record_fini(type, &m->u);
    memset(m, 0, sizeof(*m));
}

uint32_t joust_lease_units_of_model(const joust_lease_unit *units, uint32_t n)
{
    uint32_t i = 1;
    while (i < n && joust_digest_equal(&units[i].model.manifest, &units[0].model.manifest))
        i++;
    return i;
}

const char *joust_message_name(joust_message_type type)
{
    switch (type) {
    case JOUST_MSG_HELLO:
        return "HELLO";
    case JOUST_MSG_HELLO_ACK:
        return "HELLO_ACK";
    case JOUST_MSG_HEARTBEAT:
        return "HEARTBEAT";
    case JOUST_MSG_GOODBYE:
        return "GOODBYE";
    case JOUST_MSG_ERROR:
        return "ERROR";
    case JOUST_MSG_CREDIT:
        return "CREDIT";
    case JOUST_MSG_LEASE:
        return "LEASE";
    case JOUST_MSG_REVOKE:
        return "REVOKE";
    case JOUST_MSG_RESULT:
        return "RESULT";
    case JOUST_MSG_RESULT_ACK:
        return "RESULT_ACK";
    case JOUST_MSG_FAILED:
        return "FAILED";
    case JOUST_MSG_ROWS_GET:
        return "ROWS_GET";
    case JOUST_MSG_ROWS:
        return "ROWS";
    case JOUST_MSG_TRAIN_PROGRESS:
        return "TRAIN_PROGRESS";
    case JOUST_MSG_CHUNK_QUERY:
        return "CHUNK_QUERY";
    case JOUST_MSG_CHUNK_MISSING:
        return "CHUNK_MISSING";
    case JOUST_MSG_CHUNK_PUT:
        return "CHUNK_PUT";
    case JOUST_MSG_CHUNK_ACK:
        return "CHUNK_ACK";
    case JOUST_MSG_CHUNK_GET:
        return "CHUNK_GET";
    case JOUST_MSG_CHUNK:
        return "CHUNK";
    case JOUST_MSG_PROGRESS_ACK:
        return "PROGRESS_ACK";
    }
    return "UNKNOWN";
}
