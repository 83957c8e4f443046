#include "lanes_avx2_internal.h"

#define LANES_NAME "avx2"
#include "kernels_template_internal.h"

const joust_kernels *joust_kernels_avx2(void)
{
    return &kernels_of_lanes;
}
