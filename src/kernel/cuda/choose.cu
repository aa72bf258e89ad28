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
constexpr unsigned MOST_WARMED = 128; // blocks that all run at once

__global__ void __launch_bounds__(WARPS * 32) choose_kernel(gqmm_cuda_topk t)
{
    wait_for_previous();
    let_next_start();
    const int64_t token = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (token < t.n_tokens)
        choose(t, token);
}

// A warp for each token, with EACH experts on each lane: as many slots and experts as choose_one()
// takes; adds up the parts of logits, AHEAD of them on their way at once. What runs once takes most
// of its time on its code's way from memory: so it runs before, while the logits are made, with
// zeros in their place and one slot.
template <int EACH, int AHEAD>
__global__ void __launch_bounds__(WARPS * 32) choose_held_kernel(gqmm_cuda_topk t)
{
    __shared__ float sums[WARPS][EACH * 32]; // the token's logits
    const int lane = (int)threadIdx.x % 32;
    const int64_t token = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int64_t part = t.n_tokens * t.n_experts;
    float *logits = sums[threadIdx.x / 32];
#pragma unroll 1
    for (int made = gridDim.x > MOST_WARMED; made < 2; made++) {
        if (made) {
            wait_for_previous();
            let_next_start();
        }
        if (token >= t.n_tokens)
            continue;
        const float *from = t.logits + token * t.n_experts;
        float v[EACH] = {}; // of experts lane, lane + 32, ...
        int left = t.n_parts > 1 ? t.n_parts : 1;
#pragma unroll 1
        for (; left > 0; left -= AHEAD, from += AHEAD * part) {
            float more[AHEAD][EACH];
#pragma unroll
            for (int p = 0; p < AHEAD; p++)
#pragma unroll
                for (int i = 0; i < EACH; i++)
                    more[p][i] = made && p < left && i * 32 + lane < t.n_experts
                                     ? __ldcg(from + p * part + i * 32 + lane)
                                     : 0.0f;
#pragma unroll
            for (int p = 0; p < AHEAD; p++)
#pragma unroll
                for (int i = 0; i < EACH; i++)
                    v[i] += more[p][i];
        }
        uint32_t keys[EACH]; // 0: none
#pragma unroll
        for (int i = 0; i < EACH; i++)
            logits[i * 32 + lane] = v[i];
        if (t.scoring == GQMM_SIGMOID) {
#pragma unroll
            for (int i = 0; i < EACH; i++)
                v[i] = sigmoid(v[i]);
        }
        if (t.bias && made) {
#pragma unroll
            for (int i = 0; i < EACH; i++)
                if (i * 32 + lane < t.n_experts)
                    v[i] = v[i] + t.bias[i * 32 + lane];
        }
#pragma unroll
        for (int i = 0; i < EACH; i++)
            keys[i] = i * 32 + lane < t.n_experts ? key_of_score(v[i]) : 0;
        int own = -1;
#pragma unroll 1
        for (int s = 0; s < (made ? t.n_slots : 1); s++) {
            uint32_t best = 0;
#pragma unroll
            for (int i = 0; i < EACH; i++)
                best = keys[i] > best ? keys[i] : best;
            const uint32_t most = __reduce_max_sync(~0u, best);
            if (most == 0)
                break;
            int at = INT32_MAX;
#pragma unroll
            for (int i = EACH - 1; i >= 0; i--)
                at = keys[i] == most ? i * 32 + lane : at;
            at = __reduce_min_sync(~0u, at);
#pragma unroll
            for (int i = 0; i < EACH; i++)
                keys[i] = i * 32 + lane == at ? 0 : keys[i];
            own = s == lane ? at : own;
        }
        __syncwarp();
        const float weight = weight_of(t, logits, own);
        if (made && lane < t.n_slots) {
            t.ids[token * t.n_slots + lane] = own;
            t.weights[token * t.n_slots + lane] = weight;
        }
        __syncwarp();
    }
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
    auto *kernel = t.n_experts > 512   ? choose_held_kernel<32, 1>
                   : t.n_experts > 256 ? choose_held_kernel<16, 2>
                   : t.n_parts > 4     ? choose_held_kernel<8, 8>
                                       : choose_held_kernel<8, 4>;
    return launch(kernel, grid, block, 0, s, path, t);
}
