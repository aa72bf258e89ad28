// SPDX-License-Identifier: MIT
// How the kernels of the model layer are launched, and how they say what failed.
#ifndef GQMM_MODEL_CUDA_LAUNCH_CUH
#define GQMM_MODEL_CUDA_LAUNCH_CUH

extern "C" {
#include "model/ops.h"
}

#include <cuda_runtime.h>

#include <stdlib.h>
#include <string.h>

namespace gqmm_model
{

// Operations return nothing: the first error of a thread waits here for finish().
extern thread_local cudaError_t failure;

inline void note(cudaError_t error)
{
    if (error == cudaSuccess)
        return;
    (void)cudaGetLastError();
    if (failure == cudaSuccess)
        failure = error;
}

// The context's device is the present one as long as this lives; then the caller's is again.
class on_device
{
  public:
    explicit on_device(const gqmm_context *ctx)
        : is(atoi(gqmm_context_device(ctx) + strlen("cuda:")))
    {
        was = is;
        if (cudaGetDevice(&was) == cudaSuccess && was != is)
            (void)cudaSetDevice(is);
    }
    ~on_device()
    {
        if (was != is)
            (void)cudaSetDevice(was);
    }
    on_device(const on_device &) = delete;
    on_device &operator=(const on_device &) = delete;

  private:
    int is, was;
};

inline cudaStream_t stream_of(const gqmm_context *ctx)
{
    return (cudaStream_t)gqmm_context_stream(ctx);
}

// 1 where the code that this device runs knows how to wait for the kernel ahead of it: sm_90's own,
// not what a driver makes of older PTX.
bool may_overlap();

// Enqueues kernel(arg) behind what the context has enqueued. The kernel begins with enter(), as it
// may start while the one ahead of it still runs.
template <class A>
void launch(gqmm_context *ctx, void (*kernel)(A), dim3 grid, dim3 block, size_t shared,
            const A &arg)
{
    const on_device here(ctx);
    cudaLaunchAttribute overlap = {};
    cudaLaunchConfig_t config = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream_of(ctx);
    config.attrs = &overlap;
    config.numAttrs = may_overlap() ? 1 : 0;
    note(cudaLaunchKernelEx(&config, kernel, arg));
}

#if defined(__CUDACC__)
// Lets the next kernel fetch its weights, then waits for all that the ones ahead have written.
__device__ inline void enter()
{
#    if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#    endif
}

// Sum over the warp, the same in every lane.
__device__ inline float warp_sum(float v)
{
#    pragma unroll
    for (int step = 16; step > 0; step /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}
#endif

void attend(gqmm_context *ctx, const gqmm_attention *op);
int64_t attend_scratch(int64_t positions, int32_t n_heads, int32_t head_dim);

} // namespace gqmm_model

#endif
