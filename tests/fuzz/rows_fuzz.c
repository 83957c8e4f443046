/* A line of supervised rows: what is accepted has targets within the row, among the classes. */
#include <string.h>

#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"
#include "worker/engine/train/rows.h"

static const char json[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true}],"
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\"},\"model\":{\"type\":\"BPE\","
    "\"unk_token\":\"?\",\"vocab\":{\"<s>\":0,\"?\":1,\"_\":2,\"a\":3,\"b\":4,\"ab\":5},"
    "\"merges\":[\"a b\"]}}";

static void check(const joust_sft_row *row, const joust_tokenizer *t)
{
    for (uint32_t i = 0; i < row->n_targets; i++) {
        const joust_target *target = &row->targets[i];
        fuzz_require(target->position >= 1 && target->position <= row->n);
        fuzz_require(target->weight > 0 && target->token < joust_tokenizer_size(t));
        bool among = target->n_among == 0;
        for (uint32_t k = 0; k < target->n_among; k++)
            among |= target->among[k] == target->token;
        fuzz_require(among);
        fuzz_require(target->n_among > 0 || target->position < row->n);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err;
    joust_tokenizer *t = NULL;
    joust_row_buffers buffers = {0};
    joust_sft_row row;
    int64_t live = joust_alloc_live();
    fuzz_require(joust_tokenizer_parse(json, strlen(json), "tokenizer", &t, &err) == JOUST_OK);
    if (joust_row_parse(data, n, "fuzz:1", t, &buffers, &row, &err) == JOUST_OK)
        check(&row, t);
    joust_row_buffers_fini(&buffers);
    joust_tokenizer_free(&t);
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
