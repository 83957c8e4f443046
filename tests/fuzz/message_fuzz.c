/* First byte: the message's type. The rest: its body. What decodes is canonical. */
#include <string.h>

#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"
#include "proto/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err;
    joust_message m;
    if (n == 0)
        return 0;
    int64_t live = joust_alloc_live();
    if (joust_message_decode(data[0], 1, data + 1, n - 1, &m, &err) == JOUST_OK) {
        joust_buf again = {0};
        fuzz_require(joust_message_encode(&m, &again, &err) == JOUST_OK);
        fuzz_require(again.n == n - 1 && memcmp(again.data, data + 1, n - 1) == 0);
        joust_buf_fini(&again);
        joust_message_fini(&m);
    }
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
