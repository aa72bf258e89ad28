// SPDX-License-Identifier: MIT
// The choice of experts as a launch of its own.
#include "kernel/cuda/choose.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/mma.cuh"

namespace gqmm
{
namespace
{

constexpr int WARPS = 4;

__global__ void __launch_bounds__(WARPS * 32) choose_kernel(gqmm_cuda_topk t)
{
    wait_for_previous();
    let_next_start();
    const int64_t token = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (token < t.n_tokens)
        choose(t, token);
}

constexpr int FEW_WARPS = 8;

// A block for each token: as many slots and experts as choose_few() takes; adds up the parts of
// logits.
__global__ void __launch_bounds__(FEW_WARPS * 32) choose_few_kernel(gqmm_cuda_topk t)
{
    extern __shared__ __align__(16) uint8_t shared[];
    __shared__ int32_t ids[MOST_FEW_SLOTS];
    const int lane = (int)threadIdx.x % 32;
    const int64_t token = blockIdx.x, part = t.n_tokens * t.n_experts;
    const float *from = t.logits + token * t.n_experts;
    float *logits = (float *)shared;
    wait_for_previous();
    let_next_start();
    choose_few<FEW_WARPS>(ids, shared + (t.n_experts + 3) / 4 * 16, t, 1, [&](int, int e) {
        float v[8], sum = __ldcg(from + e);
#pragma unroll
        for (int p = 1; p < 8; p++)
            v[p] = p < t.n_parts ? __ldcg(from + p * part + e) : 0.0f;
#pragma unroll
        for (int p = 1; p < 8; p++)
            sum += v[p];
        return logits[e] = sum;
    });
    __syncthreads();
    if (threadIdx.x >= 32)
        return;
    const int own = lane < t.n_slots ? ids[lane] : -1;
    if (lane < t.n_slots)
        t.ids[token * t.n_slots + lane] = own;
    weigh(t, logits, NULL, t.weights + token * t.n_slots, own);
}

} // namespace
} // namespace gqmm

using namespace gqmm;

int gqmm_cuda_choose(const gqmm_cuda_topk *given, int path, gqmm_stream s)
{
    gqmm_cuda_topk t = *given;
    const int64_t blocks = (t.n_tokens + WARPS - 1) / WARPS;
    const dim3 grid((unsigned)blocks), block(WARPS * 32);
    if (blocks == 0)
        return 0;
    if (t.n_tokens > INT32_MAX)
        return (int)cudaErrorInvalidValue;
    if (t.routed_scale == 0.0f)
        t.routed_scale = 1.0f;
    if (t.n_slots > MOST_FEW_SLOTS || t.n_experts > MOST_FEW_EXPERTS)
        return launch(choose_kernel, grid, block, 0, s, path, t);
    return launch(choose_few_kernel, dim3((unsigned)t.n_tokens), dim3(FEW_WARPS * 32),
                  (size_t)((t.n_experts + 3) / 4 * 16 + few_scratch(t.n_experts, t.n_slots)), s,
                  path, t);
}
