// SPDX-License-Identifier: MIT
// Random numbers and device memory of the programs that test one product.
#ifndef TESTS_CUDA_PRODUCT_DATA_H
#define TESTS_CUDA_PRODUCT_DATA_H

#include "timing.h"

#include <math.h>
#include <stdint.h>

#include <vector>

// A name that a program does not use is fine.
#pragma GCC diagnostic ignored "-Wunused-function"

static uint64_t g_random = 88172645463325252ull;

static uint32_t random_bits()
{
    g_random ^= g_random << 13;
    g_random ^= g_random >> 7;
    g_random ^= g_random << 17;
    return (uint32_t)(g_random >> 16);
}

static int random_below(int n)
{
    return (int)(random_bits() % (uint32_t)n);
}

static float random_float() // in [-1, 1)
{
    return (float)(random_bits() & 0xffffff) / 8388608.0f - 1.0f;
}

// The next bf16 number. Rounded once: through a float a sum close to the middle of two numbers
// would be rounded twice.
static double to_bf16(double v)
{
    const int e = v == 0 ? 0 : ilogb(v) - 7;
    return ldexp(nearbyint(ldexp(v, -e)), e);
}

template <class T> static T *to_device(const std::vector<T> &v)
{
    T *p = NULL;
    CUDA(cudaMalloc((void **)&p, v.size() * sizeof(T) + 16));
    CUDA(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}

#endif
