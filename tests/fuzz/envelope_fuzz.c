/* First byte: how far the announced body is from the one that came. The rest: a header frame. */
#include <string.h>

#include "fuzz/fuzz.h"
#include "proto/base/bytes.h"
#include "proto/envelope.h"
#include "proto/messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err;
    joust_envelope e;
    uint8_t again[JOUST_ENVELOPE_BYTES];
    if (n == 0)
        return 0;
    uint32_t body = n >= 21 ? joust_get_be32(data + 17) : 0;
    joust_status st = joust_envelope_decode(data + 1, n - 1, body + data[0] / 128u, &e, &err);
    if (st != JOUST_OK) {
        fuzz_require(st == JOUST_MALFORMED || st == JOUST_VERSION || st == JOUST_TOO_LARGE);
        return 0;
    }
    fuzz_require(e.body_bytes == body && body <= JOUST_MAX_FRAME_BYTES);
    joust_envelope_encode(&e, again);
    fuzz_require(n - 1 == sizeof(again) && memcmp(again, data + 1, sizeof(again)) == 0);
    return 0;
}
