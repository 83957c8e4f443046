/* llama2.c's tokenizer: what is accepted becomes a tokenizer.json that is accepted. The first byte gives the vocabulary. */
#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"
#include "worker/engine/files/llama2c.h"
#include "worker/engine/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err;
    joust_buf json = {0};
    joust_tokenizer *t = NULL;
    int64_t live = joust_alloc_live();
    if (n == 0)
        return 0;
    if (joust_llama2c_tokenizer_parse(data + 1, n - 1, "fuzz", data[0], &json, &err) == JOUST_OK)
        fuzz_require(joust_tokenizer_parse(json.data, json.n, "fuzz", &t, &err) == JOUST_OK);
    joust_tokenizer_free(&t);
    joust_buf_fini(&json);
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
