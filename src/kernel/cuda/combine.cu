// SPDX-License-Identifier: MIT
// The sum of a token's experts: rows of pairs times weights, in slot order and fp32, without fused
// multiply-adds, so that the bits are those of the CPU for equal inputs.
#include "base/num.h"
#include "kernel/cuda/epilogue.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/mma.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>

namespace gqmm
{
namespace
{

constexpr int MOST_THREADS = 256, SLOTS = 8;

GQMM_HD constexpr int size_of(int type)
{
    return type == GQMM_F32 ? 4 : 2;
}

// N elements of a type, loaded and stored at once.
template <int TYPE, int N> struct alignas(size_of(TYPE) * N) elements {
    uint8_t bytes[size_of(TYPE) * N];
};

template <int TYPE, int N>
__device__ __forceinline__ float element(const elements<TYPE, N> &v, int i)
{
    if (TYPE == GQMM_F32)
        return gqmm_bits_to_f32(gqmm_load32(v.bytes + 4 * i));
    const uint16_t h = gqmm_load16(v.bytes + 2 * i);
    return TYPE == GQMM_BF16 ? gqmm_bf16_to_f32(h) : __half2float(__ushort_as_half(h));
}

template <int TYPE, int N>
__device__ __forceinline__ void set_element(elements<TYPE, N> &v, int i, float f)
{
    if (TYPE == GQMM_F32) {
        memcpy(v.bytes + 4 * i, &f, 4);
    } else {
        const uint16_t h = TYPE == GQMM_BF16 ? __bfloat16_as_ushort(__float2bfloat16_rn(f))
                                             : __half_as_ushort(__float2half_rn(f));
        memcpy(v.bytes + 2 * i, &h, 2);
    }
}

// Rows are read once: they are the first to leave the second-level cache, so that those still to be
// read stay.
__device__ __forceinline__ uint64_t read_once()
{
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

// Without a branch, so that many are on their way at once; zeros unless `really`.
template <class V>
__device__ __forceinline__ V load_once(const uint8_t *p, uint64_t policy, bool really)
{
    V v = {};
    if constexpr (sizeof(V) == 16) {
        uint4 raw = {};
        asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %6, 0;\n"
                     "@p ld.global.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], "
                     "%5;\n}"
                     : "+r"(raw.x), "+r"(raw.y), "+r"(raw.z), "+r"(raw.w)
                     : "l"(p), "l"(policy), "r"((uint32_t)really));
        memcpy(&v, &raw, sizeof v);
    } else if (really) {
        v = *(const V *)p;
    }
    return v;
}

// A thread sums N neighbouring columns of a token, with the rows of SLOTS slots on their way at
// once.
template <int PAIRS, int Y, int N>
__global__ void __launch_bounds__(MOST_THREADS, 4) add_up_kernel(gqmm_cuda_combine c)
{
    typedef elements<PAIRS, N> vector;
    const int64_t token = blockIdx.x, column = (blockIdx.y * (int64_t)blockDim.x + threadIdx.x) * N;
    if (column >= c.d) {
        wait_for_previous();
        return;
    }
    const int32_t *ids = c.ids + token * c.n_slots;
    const float *weights = c.weights + token * c.n_slots;
    const uint8_t *rows =
        (const uint8_t *)c.pairs + (token * c.n_slots * c.d + column) * size_of(PAIRS);
    const int64_t row_bytes = c.d * size_of(PAIRS), at = token * c.d + column;
    const uint64_t policy = read_once();

    float weight[SLOTS];
    bool use[SLOTS];
    const auto weigh = [&](int s) {
#pragma unroll
        for (int i = 0; i < SLOTS; i++) {
            const int32_t id = s + i < c.n_slots ? ids[s + i] : -1;
            use[i] = id >= 0 && id < c.n_experts;
            weight[i] = use[i] ? weights[s + i] : 0.0f;
        }
    };
    weigh(0); // older than the launch before this one
    wait_for_previous();
    let_next_start();

    vector shared = {};
    if (c.shared)
        shared = load_once<vector>((const uint8_t *)c.shared + at * size_of(PAIRS), policy, true);
    float sum[N] = {};
    for (int s = 0; s < c.n_slots; s += SLOTS) {
        vector v[SLOTS];
        if (s > 0)
            weigh(s);
#pragma unroll
        for (int i = 0; i < SLOTS; i++)
            v[i] = load_once<vector>(rows + (s + i) * row_bytes, policy, use[i]);
            // Zeros where there is no row: sums, which are never -0, stay as they are.
#pragma unroll
        for (int i = 0; i < SLOTS; i++)
#pragma unroll
            for (int j = 0; j < N; j++)
                sum[j] = __fadd_rn(sum[j], __fmul_rn(weight[i], element<PAIRS, N>(v[i], j)));
    }
    if (c.shared) {
        const float factor = shared_factor(c.shared_dot, token);
#pragma unroll
        for (int j = 0; j < N; j++)
            sum[j] = __fadd_rn(sum[j], __fmul_rn(factor, element<PAIRS, N>(shared, j)));
    }
    elements<Y, N> y;
#pragma unroll
    for (int j = 0; j < N; j++)
        set_element<Y, N>(y, j, sum[j]);
    *(elements<Y, N> *)((uint8_t *)c.y + (token * c.y_row + column) * size_of(Y)) = y;
}

bool multiple(const void *p, int64_t bytes)
{
    return (uintptr_t)p % (uintptr_t)bytes == 0;
}

template <int PAIRS, int Y, int N>
int launch_columns(const gqmm_cuda_combine &c, int path, gqmm_stream s)
{
    // As many threads as columns where they fit a block, evenly split else; few tokens take small
    // blocks, so that more multiprocessors fetch.
    const int64_t vectors = (c.d + N - 1) / N, most = c.n_tokens < 64 ? 32 : MOST_THREADS;
    const int64_t blocks = (vectors + most - 1) / most;
    const int64_t threads = ((vectors + blocks - 1) / blocks + 31) / 32 * 32;
    if (blocks > 65535 || c.n_tokens > INT32_MAX)
        return (int)cudaErrorInvalidValue;
    return launch(add_up_kernel<PAIRS, Y, N>, dim3((unsigned)c.n_tokens, (unsigned)blocks),
                  dim3((unsigned)threads), 0, s, path, c);
}

template <int PAIRS, int Y> int launch_types(const gqmm_cuda_combine &c, int path, gqmm_stream s)
{
    constexpr int N = 16 / size_of(PAIRS);
    const bool aligned = c.d % N == 0 && c.y_row % N == 0 && multiple(c.pairs, 16) &&
                         multiple(c.shared, 16) && multiple(c.y, N * size_of(Y));
    return aligned ? launch_columns<PAIRS, Y, N>(c, path, s)
                   : launch_columns<PAIRS, Y, 1>(c, path, s);
}

template <int PAIRS> int launch_pairs(const gqmm_cuda_combine &c, int path, gqmm_stream s)
{
    return c.y_type == GQMM_F32   ? launch_types<PAIRS, GQMM_F32>(c, path, s)
           : c.y_type == GQMM_F16 ? launch_types<PAIRS, GQMM_F16>(c, path, s)
                                  : launch_types<PAIRS, GQMM_BF16>(c, path, s);
}

} // namespace
} // namespace gqmm

using namespace gqmm;

int gqmm_cuda_add_up(const gqmm_cuda_combine *c, int path, gqmm_stream s)
{
    if (c->n_tokens == 0 || c->d == 0)
        return 0;
    return c->pairs_type == GQMM_F32   ? launch_pairs<GQMM_F32>(*c, path, s)
           : c->pairs_type == GQMM_F16 ? launch_pairs<GQMM_F16>(*c, path, s)
                                       : launch_pairs<GQMM_BF16>(*c, path, s);
}
