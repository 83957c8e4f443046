#include "lanes_avx512_internal.h"

#define LANES_NAME "avx512"
#include "kernels_template_internal.h"

const joust_kernels *joust_kernels_avx512(void)
{
    return &kernels_of_lanes;
}
