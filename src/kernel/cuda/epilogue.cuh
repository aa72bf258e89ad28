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

// What sums are multiplied by, as SwiGLU wants it.
struct sum_factors {
    float exponent = -1.44269504f; // of the gate's sum: 2^that is exp(-gate)
    float divisor = 1.0f;          // of the product of both sums, times 1 + exp(-gate)
};

// silu(gate) * up, to a few units in the last place.
__device__ __forceinline__ float swiglu(float gate, float up, const sum_factors &f)
{
    float e, r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(gate * f.exponent));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(fmaf(e, f.divisor, f.divisor)));
    return gate * r * up;
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
