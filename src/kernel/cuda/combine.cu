// SPDX-License-Identifier: MIT
// The sum of a token's experts: rows of pairs times weights, in slot order and fp32, without fused
// multiply-adds, so that the bits are those of the CPU for equal inputs.
#include "kernel/cuda/activations.cuh"
#include "kernel/cuda/epilogue.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/mma.cuh"

#include <stdint.h>

namespace gqmm
{
namespace
{

constexpr int MOST_THREADS = 256, SLOTS = 8;

// N neighbouring elements: 16 bytes as they lie, or one number.
template <int TYPE, int N> struct elements {
    uint32_t word[4];

    // Without a branch, so that many are on their way at once; zeros unless `really`.
    __device__ __forceinline__ void load(const uint8_t *p, uint64_t policy, bool really)
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            word[i] = 0;
        asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %6, 0;\n"
                     "@p ld.global.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], "
                     "%5;\n}"
                     : "+r"(word[0]), "+r"(word[1]), "+r"(word[2]), "+r"(word[3])
                     : "l"(p), "l"(policy), "r"((uint32_t)really));
    }
    __device__ __forceinline__ float number(int i) const
    {
        if (TYPE == GQMM_F32)
            return __uint_as_float(word[i]);
        const uint32_t w = word[i / 2];
        if (TYPE == GQMM_BF16)
            return __uint_as_float(i & 1 ? w & 0xffff0000u : w << 16);
        return __half2float(__ushort_as_half((unsigned short)(i & 1 ? w >> 16 : w)));
    }
};

template <int TYPE> struct elements<TYPE, 1> {
    float value;

    __device__ __forceinline__ void load(const uint8_t *p, uint64_t, bool really)
    {
        value = really ? load_number(p, 0, TYPE) : 0.0f;
    }
    __device__ __forceinline__ float number(int) const
    {
        return value;
    }
};

// To `at`, a multiple of their size.
template <int TYPE, int N> __device__ __forceinline__ void store(uint8_t *at, const float (&v)[N])
{
    if constexpr (N == 1) {
        store_number(at, 0, TYPE, v[0]);
    } else if constexpr (TYPE == GQMM_F32) {
#pragma unroll
        for (int i = 0; i < N; i += 4)
            ((float4 *)at)[i / 4] = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4)
            ((uint2 *)at)[i / 4] =
                make_uint2(pair_of(v[i], v[i + 1], TYPE), pair_of(v[i + 2], v[i + 3], TYPE));
    }
}

// A thread sums N neighbouring columns of a token, with the rows of SLOTS slots on their way at
// once.
template <int PAIRS, int Y, int N>
__global__ void __launch_bounds__(MOST_THREADS, 4) add_up_kernel(gqmm_cuda_combine c)
{
    const int lane = (int)threadIdx.x % 32;
    const int64_t token = blockIdx.x, column = (blockIdx.y * (int64_t)blockDim.x + threadIdx.x) * N;
    const int64_t row_bytes = c.d * bytes_of(PAIRS), at = token * c.d + column;
    const uint8_t *row =
        (const uint8_t *)c.pairs + (token * c.n_slots * c.d + column) * bytes_of(PAIRS);
    const bool is = column < c.d;
    const uint64_t policy = read_once(); // so that rows still to be read stay

    int32_t id; // of slot s + lane
    float weight;
    const auto weigh = [&](int s) {
        const bool any = s + lane < c.n_slots;
        id = any ? c.ids[token * c.n_slots + s + lane] : -1;
        weight = any ? c.weights[token * c.n_slots + s + lane] : 0.0f;
    };
    weigh(0); // older than the launch before this one
    wait_for_previous();
    let_next_start();

    elements<PAIRS, N> shared;
    shared.load((const uint8_t *)c.shared + at * bytes_of(PAIRS), policy, c.shared && is);
    float sum[N] = {};
#pragma unroll 1
    for (int s = 0; s < c.n_slots; s += SLOTS) {
        elements<PAIRS, N> v[SLOTS];
#pragma unroll
        for (int i = 0; i < SLOTS; i++) { // also of slots left out: rows do not wait for ids
            v[i].load(row, policy, s + i < c.n_slots && is);
            row += row_bytes;
        }
        if (s > 0)
            weigh(s);
        // Looked at when rows have been asked for. A slot left out weighs 0 and its row is finite:
        // sums, which are never -0, stay.
        const float own = id >= 0 && id < c.n_experts ? weight : 0.0f;
#pragma unroll
        for (int i = 0; i < SLOTS; i++) {
            const float w = __shfl_sync(~0u, own, i);
#pragma unroll
            for (int j = 0; j < N; j++)
                sum[j] = __fadd_rn(sum[j], __fmul_rn(w, v[i].number(j)));
        }
    }
    if (c.shared) {
        const float factor = shared_factor(c.shared_dot, token);
#pragma unroll
        for (int j = 0; j < N; j++)
            sum[j] = __fadd_rn(sum[j], __fmul_rn(factor, shared.number(j)));
    }
    if (is)
        store<Y, N>((uint8_t *)c.y + (token * c.y_row + column) * bytes_of(Y), sum);
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
    constexpr int N = 16 / bytes_of(PAIRS);
    const bool aligned = c.d % N == 0 && c.y_row % N == 0 && multiple(c.pairs, 16) &&
                         multiple(c.shared, 16) && multiple(c.y, N * bytes_of(Y));
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
