/* A plugin of another time. */
#include "worker/engine/device.h"

const joust_device_api *joust_device_entry(void);

const joust_device_api *joust_device_entry(void)
{
    static const joust_device_api api = {.abi = 0, .n_bytes = sizeof(joust_device_api)};
    return &api;
}
