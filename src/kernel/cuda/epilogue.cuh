// SPDX-License-Identifier: MIT
// What is done to the sums of a product, the same wherever it is done.
#ifndef GQMM_KERNEL_CUDA_EPILOGUE_CUH
#define GQMM_KERNEL_CUDA_EPILOGUE_CUH

#include "kernel/cuda.h"

#include <math.h>

namespace gqmm
{

__device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

__device__ __forceinline__ float silu(float v)
{
    return v / (1.0f + expf(-v));
}

// What the expert's scales are multiplied by.
__device__ __forceinline__ float global_of(const gqmm_cuda_matrix &m, int expert)
{
    return m.global ? m.global[expert * m.global_stride] / 2688.0f : 1.0f;
}

// What the shared expert's output of a token is multiplied by; `dots` NULL: nothing.
__device__ __forceinline__ float shared_factor(const float *dots, int64_t token)
{
    return dots ? sigmoid(dots[token]) : 1.0f;
}

} // namespace gqmm

#endif
