#include "kernels_internal.h"

#if !defined(__x86_64__)
const joust_kernels *joust_kernels_avx2(void)
{
    return NULL;
}

const joust_kernels *joust_kernels_avx512(void)
{
    return NULL;
}
#endif
