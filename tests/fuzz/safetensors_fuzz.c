/* Two bytes (length of the data behind), then a safetensors header: what is accepted tiles the data. */
#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"
#include "worker/engine/files/safetensors_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err;
    joust_safetensors file = {.fd = -1};
    int64_t live = joust_alloc_live();
    if (n < 2)
        return 0;
    uint64_t n_data = (uint64_t)data[0] << 8 | data[1], at = 0;
    if (joust_safetensors_parse(data + 2, n - 2, n_data, "fuzz", &file, &err) == JOUST_OK) {
        for (uint32_t i = 0; i < file.n; i++) {
            fuzz_require(file.items[i].begin == at && file.items[i].end >= at);
            fuzz_require(file.items[i].n <= file.items[i].end - at);
            at = file.items[i].end;
        }
        fuzz_require(at == n_data);
    }
    joust_safetensors_close(&file);
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
