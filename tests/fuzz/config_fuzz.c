/* config.json: what is accepted is valid. */
#include "fuzz/fuzz.h"
#include "worker/engine/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err;
    joust_model_config config;
    if (joust_model_config_parse(data, n, "fuzz", &config, &err) == JOUST_OK)
        fuzz_require(joust_model_config_validate(&config, &err) == JOUST_OK);
    return 0;
}
