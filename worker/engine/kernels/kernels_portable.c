#include "lanes_portable_internal.h"

#define LANES_NAME "portable"
#include "kernels_template_internal.h"

const joust_kernels *joust_kernels_portable(void)
{
    return &kernels_of_lanes;
}
