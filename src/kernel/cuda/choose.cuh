// SPDX-License-Identifier: MIT
// The experts of a token and their weights, from its logits: op/route.c with a warp for each token.
//
// A score becomes an integer of the same order, larger for better.
#ifndef GQMM_KERNEL_CUDA_CHOOSE_CUH
#define GQMM_KERNEL_CUDA_CHOOSE_CUH

#include "kernel/cuda/epilogue.cuh"

#include <math.h>
#include <stdint.h>

namespace gqmm
{

// Order of scores as that of integers; NaN counts as -infinity, -0 as 0. Never 0, which is no
// score.
__device__ __forceinline__ uint32_t key_of_score(float s)
{
    const uint32_t u = __float_as_uint(s != s ? -INFINITY : s + 0.0f);
    return u >> 31 ? ~u : u | 0x80000000u;
}

__device__ __forceinline__ uint32_t key_of(const gqmm_cuda_topk &t, const float *logits, int e)
{
    float s = t.scoring == GQMM_SIGMOID ? sigmoid(logits[e]) : logits[e];
    if (t.bias)
        s = s + t.bias[e];
    return key_of_score(s);
}

// Any number of experts and slots: each choice looks at all experts for the best behind the last
// choice.
struct sought_keys {
    uint32_t key;
    int id;

    __device__ __forceinline__ void load(const gqmm_cuda_topk &, const float *)
    {
        key = ~0u;
        id = -1;
    }

    __device__ __forceinline__ int take(const gqmm_cuda_topk &t, const float *logits)
    {
        uint32_t best = 0;
        int best_id = INT32_MAX;
        for (int e = (int)threadIdx.x % 32; e < t.n_experts; e += 32) {
            const uint32_t k = key_of(t, logits, e);
            if (k > best && (k < key || (k == key && e > id))) {
                best = k;
                best_id = e;
            }
        }
        const uint32_t most = __reduce_max_sync(~0u, best);
        const int at = __reduce_min_sync(~0u, best == most ? best_id : INT32_MAX);
        if (most == 0)
            return -1;
        key = most;
        id = at;
        return at;
    }
};

__device__ __forceinline__ float warp_sum(float v)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_xor_sync(~0u, v, d);
    return v;
}

__device__ __forceinline__ float warp_max(float v)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2)
        v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
    return v;
}

// Weights of the chosen ids, slot s on lane s % 32; `own` is this lane's id when 32 slots hold all.
__device__ __forceinline__ void weigh(const gqmm_cuda_topk &t, const float *logits,
                                      const int32_t *ids, float *weights, int own)
{
    const int lane = (int)threadIdx.x % 32;
    const bool sigmoids = t.scoring == GQMM_SIGMOID;
    float top = -INFINITY, sum = 0.0f;
    for (int s = lane; !sigmoids && s < t.n_slots; s += 32) {
        const int id = t.n_slots <= 32 ? own : ids[s];
        top = id < 0 ? top : fmaxf(top, logits[id]);
    }
    top = warp_max(top);
    for (int s = lane; s < t.n_slots; s += 32) {
        const int id = t.n_slots <= 32 ? own : ids[s];
        const float w = id < 0 ? 0.0f : sigmoids ? sigmoid(logits[id]) : expf(logits[id] - top);
        weights[s] = w;
        sum += w;
    }
    if (sigmoids) {
        sum = t.renormalize ? warp_sum(sum) + 1e-20f : 1.0f;
    } else {
        if (!t.renormalize) {
            sum = 0.0f;
            for (int e = lane; e < t.n_experts; e += 32)
                sum += expf(logits[e] - top);
        }
        sum = warp_sum(sum);
    }
    for (int s = lane; s < t.n_slots; s += 32) // each lane finds what it wrote itself
        weights[s] = weights[s] / sum * t.routed_scale;
}

// The experts of one token, by one warp.
__device__ __forceinline__ void choose(const gqmm_cuda_topk &t, int64_t token)
{
    const int lane = (int)threadIdx.x % 32;
    const float *logits = t.logits + token * t.n_experts;
    int32_t *ids = t.ids + token * t.n_slots;
    sought_keys keys;
    int own = -1;
    keys.load(t, logits);
    for (int s = 0; s < t.n_slots; s++) {
        const int id = keys.take(t, logits);
        if (s % 32 == lane)
            own = id;
        if ((s % 32 == 31 || s + 1 == t.n_slots) && lane <= s % 32)
            ids[s / 32 * 32 + lane] = own;
    }
    __syncwarp();
    weigh(t, logits, ids, t.weights + token * t.n_slots, own);
}

// The experts of a few tokens by all warps of a block, to ids[token * n_slots + slot] in shared
// memory, in the order of choose() but in steps that do not wait for each other slot after slot:
// who is better is counted, first among 32 experts, then among the best n_slots of every 32. At
// most 32 slots; `scratch` is few_scratch() of shared memory for each token.
constexpr int MOST_FEW_SLOTS = 32, MOST_FEW_EXPERTS = 1024;

__host__ __device__ inline int few_scratch(int n_experts, int n_slots)
{
    return (n_experts + 31) / 32 * (32 * 4 + (n_slots | 1) * 6 + 2);
}

// logit(token, expert) is read once.
template <int WARPS, class LOGIT>
__device__ __forceinline__ void choose_few(int32_t *ids, uint8_t *scratch, const gqmm_cuda_topk &t,
                                           int tokens, const LOGIT &logit)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int slots = t.n_slots, pitch = slots | 1, chunks = (t.n_experts + 31) / 32;
    const int all = tokens * chunks;
    uint32_t *keys = (uint32_t *)scratch, *best = keys + all * 32; // [chunk, 32], [chunk, pitch]
    int16_t *names = (int16_t *)(best + all * pitch);              // of the best
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < all * 32; i += WARPS * 32) {
        const int token = i / 32 / chunks, e = i - token * chunks * 32;
        float v = e < t.n_experts ? logit(token, e) : 0.0f;
        if (t.scoring == GQMM_SIGMOID)
            v = sigmoid(v);
        if (t.bias && e < t.n_experts)
            v = v + t.bias[e];
        keys[i] = e < t.n_experts ? key_of_score(v) : 0;
    }
    __syncthreads();
#pragma unroll 1
    for (int i = warp; i < all; i += WARPS) {
        const uint32_t key = keys[i * 32 + lane];
        int rank = __popc(__match_any_sync(~0u, key) & ((1u << lane) - 1));
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const uint4 other = ((const uint4 *)(keys + i * 32))[j];
            rank += (other.x > key) + (other.y > key) + (other.z > key) + (other.w > key);
        }
        if (rank < slots) {
            best[i * pitch + rank] = key;
            names[i * pitch + rank] = (int16_t)(i % chunks * 32 + lane);
        }
    }
    __syncthreads();
    int parts = 1; // threads that share one of the best
    while (parts < 32 && parts < chunks && all * slots * parts * 2 <= WARPS * 32)
        parts *= 2;
    const int part = (int)threadIdx.x % parts;
#pragma unroll 1
    for (int i0 = 0; i0 < all * slots; i0 += WARPS * 32 / parts) {
        const int i = i0 + (int)threadIdx.x / parts, own = i / slots, at = i - own * slots;
        const bool is = i < all * slots;
        const int token = own / chunks, chunk = own - token * chunks;
        const uint32_t key = is ? best[own * pitch + at] : 0;
        int rank = part ? 0 : at;
#pragma unroll 1
        for (int c = part; is && c < chunks; c += parts) {
            const uint32_t *other = best + (token * chunks + c) * pitch;
            const uint32_t least = c == chunk ? ~0u : key + (c > chunk); // equals: the lower id
#pragma unroll 8
            for (int j = 0; j < slots; j++)
                rank += other[j] >= least;
        }
        for (int d = 1; d < parts; d *= 2)
            rank += __shfl_xor_sync(~0u, rank, d);
        if (part == 0 && key != 0 && rank < slots)
            ids[token * slots + rank] = names[own * pitch + at];
    }
}

} // namespace gqmm

#endif
