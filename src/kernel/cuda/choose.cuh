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

// What the weights of a token are divided by, from their sum, of `sum` on each lane.
__device__ __forceinline__ float divisor(const gqmm_cuda_topk &t, const float *logits, float top,
                                         float sum)
{
    const bool sigmoids = t.scoring == GQMM_SIGMOID;
    if (!t.renormalize) {
        if (sigmoids)
            return 1.0f;
        sum = 0.0f;
        for (int e = (int)threadIdx.x % 32; e < t.n_experts; e += 32)
            sum += expf(logits[e] - top);
    }
    return warp_sum(sum) + (sigmoids ? 1e-20f : 0.0f);
}

// The weight of the expert `id` of slot `lane`, or of -1, of up to 32 slots.
__device__ __forceinline__ float weight_of(const gqmm_cuda_topk &t, const float *logits, int id)
{
    const bool sigmoids = t.scoring == GQMM_SIGMOID;
    const float logit = id < 0 ? -INFINITY : logits[id];
    const float top = sigmoids ? 0.0f : warp_max(logit);
    const float w = id < 0 ? 0.0f : sigmoids ? sigmoid(logit) : expf(logit - top);
    return w / divisor(t, logits, top, w) * t.routed_scale;
}

// Weights of the chosen ids, slot s on lane s % 32, any number of them.
__device__ __forceinline__ void weigh(const gqmm_cuda_topk &t, const float *logits,
                                      const int32_t *ids, float *weights)
{
    const int lane = (int)threadIdx.x % 32;
    const bool sigmoids = t.scoring == GQMM_SIGMOID;
    float top = -INFINITY, sum = 0.0f;
    for (int s = lane; !sigmoids && s < t.n_slots; s += 32)
        top = ids[s] < 0 ? top : fmaxf(top, logits[ids[s]]);
    top = warp_max(top);
    for (int s = lane; s < t.n_slots; s += 32) {
        const int id = ids[s];
        const float w = id < 0 ? 0.0f : sigmoids ? sigmoid(logits[id]) : expf(logits[id] - top);
        weights[s] = w;
        sum += w;
    }
    sum = divisor(t, logits, top, sum);
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
    weigh(t, logits, ids, t.weights + token * t.n_slots);
}

// The experts of one token by WARPS warps of a block, put(slot, expert) by some thread for each,
// in the order of choose() but in steps that do not wait for each other slot after slot: who is
// better is counted, first among 32 experts, then among the best of every 32. The block is to wait
// before it reads what was put. `scratch` is few_scratch() bytes of shared memory.
constexpr int MOST_FEW_SLOTS = 32, MOST_FEW_EXPERTS = 1024;

// 2^this of every 32 experts are looked at, 8 at least.
__host__ __device__ inline int few_bits(int n_slots)
{
    int bits = 3;
    while (1 << bits < n_slots)
        bits++;
    return bits;
}

template <int WARPS> __host__ __device__ int few_scratch(int n_experts, int n_slots)
{
    return WARPS * 32 * 4 + ((n_experts + 31) / 32 << few_bits(n_slots)) * 6;
}

// How many of 8 N keys at a multiple of 16 bytes are more than `key`, in instructions that hardly
// wait for each other.
template <int N> __device__ __forceinline__ int count_more(const uint32_t *keys, uint32_t key)
{
    uint32_t n[4] = {};
#pragma unroll
    for (int i = 0; i < 2 * N; i++) {
        const uint4 v = ((const uint4 *)keys)[i];
        const uint32_t other[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; j++) // what is borrowed for key - other
            asm("{ .reg .u32 t; sub.cc.u32 t, %1, %2; subc.u32 t, 0, 0; sub.u32 %0, %0, t; }"
                : "+r"(n[j])
                : "r"(key), "r"(other[j]));
    }
    return (int)((n[0] + n[1]) + (n[2] + n[3]));
}

// logit(expert) is read once.
template <int WARPS, class LOGIT, class PUT>
__device__ __forceinline__ void choose_one(uint8_t *scratch, const gqmm_cuda_topk &t,
                                           const LOGIT &logit, const PUT &put)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int bits = few_bits(t.n_slots), chunks = (t.n_experts + 31) / 32;
    uint32_t *keys = (uint32_t *)scratch + warp * 32;
    uint32_t *best = (uint32_t *)scratch + WARPS * 32; // [chunk, 2^bits]
    int16_t *names = (int16_t *)(best + (chunks << bits));
#pragma unroll 1
    for (int c = warp; c < chunks; c += WARPS) {
        const int e = c * 32 + lane;
        float v = e < t.n_experts ? logit(e) : 0.0f;
        if (t.scoring == GQMM_SIGMOID)
            v = sigmoid(v);
        if (t.bias && e < t.n_experts)
            v = v + t.bias[e];
        const uint32_t key = e < t.n_experts ? key_of_score(v) : 0;
        keys[lane] = key;
        __syncwarp();
        int rank = count_more<4>(keys, key);
        if (__reduce_add_sync(~0u, rank) != 31 * 32 / 2) // equals: the lower id
            rank += __popc(__match_any_sync(~0u, key) & ((1u << lane) - 1));
        if (rank < 1 << bits) {
            best[(c << bits) + rank] = key;
            names[(c << bits) + rank] = (int16_t)e;
        }
        __syncwarp();
    }
    __syncthreads();
    const int at = lane & ((1 << bits) - 1), part = lane >> bits; // lanes share one of the best
#pragma unroll 1
    for (int own = warp; own < chunks; own += WARPS) {
        const uint32_t key = best[(own << bits) + at];
        int rank = part ? 0 : at;
#pragma unroll 2
        for (int c = part; c < chunks; c += 32 >> bits) {
            const uint32_t most = c == own ? ~0u : key - (c < own); // equals: the lower id
#pragma unroll 1
            for (int j = 0; j < 1 << bits; j += 8)
                rank += count_more<1>(best + (c << bits) + j, most);
        }
        for (int d = 1 << bits; d < 32; d *= 2)
            rank += __shfl_xor_sync(~0u, rank, d);
        if (part == 0 && key != 0 && rank < t.n_slots)
            put(rank, (int)names[(own << bits) + at]);
    }
}

} // namespace gqmm

#endif
