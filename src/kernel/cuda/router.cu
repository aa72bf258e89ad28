// SPDX-License-Identifier: MIT
// Router and choice for a few tokens in one launch: a warp for each expert's logit, with its row
// under way before the activations are there; the block that ends last chooses.
#include "kernel/cuda/activations.cuh"
#include "kernel/cuda/choose.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/mma.cuh"

namespace gqmm
{
namespace
{

constexpr int WARPS = 8, MOST_TOKENS = 8, CHUNK = 32 * 8;

// Eight numbers as they lie in memory.
template <int TYPE> struct raw_8 {
    uint4 v[TYPE == GQMM_F32 ? 2 : 1];

    __device__ __forceinline__ void load(const uint8_t *row, int64_t k, int64_t n)
    {
#pragma unroll
        for (int i = 0; i < (TYPE == GQMM_F32 ? 2 : 1); i++)
            v[i] = k < n ? ((const uint4 *)(row + k * bytes_of(TYPE)))[i] : make_uint4(0, 0, 0, 0);
    }

    __device__ __forceinline__ void numbers(float (&f)[8]) const
    {
        const uint32_t w[8] = {v[0].x,
                               v[0].y,
                               v[0].z,
                               v[0].w,
                               v[sizeof v / 32].x,
                               v[sizeof v / 32].y,
                               v[sizeof v / 32].z,
                               v[sizeof v / 32].w};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (TYPE == GQMM_F32)
                f[i] = __uint_as_float(w[i]);
            else if (TYPE == GQMM_BF16)
                f[i] = __uint_as_float(i & 1 ? w[i / 2] & 0xffff0000u : w[i / 2] << 16);
            else
                f[i] = __half2float(__ushort_as_half((unsigned short)(w[i / 2] >> 16 * (i & 1))));
        }
    }
};

template <int W, int X, int TOKENS>
__global__ void __launch_bounds__(WARPS * 32) router_kernel(gqmm_cuda_router r)
{
    constexpr int AHEAD = W == GQMM_F32 ? 4 : 8; // chunks of a row that are under way
    __shared__ bool last;
    const gqmm_cuda_topk &t = r.choice;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int expert = (int)blockIdx.x * WARPS + warp;
    const uint8_t *row = r.w + (expert < t.n_experts ? expert : 0) * r.w_row;
    raw_8<W> w[AHEAD];
    float acc[TOKENS] = {};

#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        w[i].load(row, i * CHUNK + lane * 8, r.k);
    wait_for_previous();
    let_next_start();
    for (int64_t k0 = 0; k0 < r.k; k0 += AHEAD * CHUNK) {
#pragma unroll
        for (int token = 0; token < TOKENS; token++) {
            const uint8_t *x_row =
                (const uint8_t *)r.x + (token < t.n_tokens ? token : 0) * r.x_row * bytes_of(X);
            raw_8<X> x[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                x[i].load(x_row, k0 + i * CHUNK + lane * 8, r.k);
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                float a[8], b[8];
                w[i].numbers(a);
                x[i].numbers(b);
#pragma unroll
                for (int j = 0; j < 8; j++)
                    acc[token] = fmaf(a[j], b[j], acc[token]);
            }
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            w[i].load(row, k0 + (AHEAD + i) * CHUNK + lane * 8, r.k);
    }
#pragma unroll
    for (int token = 0; token < TOKENS; token++) {
        const float v = warp_sum(acc[token]);
        if (lane == 0 && token < t.n_tokens && expert < t.n_experts)
            t.logits[(int64_t)token * t.n_experts + expert] = v;
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        last = atomicInc(r.ticket, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    if (!last || warp >= t.n_tokens)
        return;
    __threadfence();
    if (t.n_experts <= 128)
        choose<held_keys<4>>(t, warp);
    else if (t.n_experts <= 256)
        choose<held_keys<8>>(t, warp);
    else
        choose<held_keys<16>>(t, warp);
}

// The logits of one token: four warps share a row, so that little is left to do when x is there.
constexpr int ONE_WARPS = 4, ONE_CHUNK = ONE_WARPS * CHUNK;

template <int W, int X>
__global__ void __launch_bounds__(ONE_WARPS * 32) one_kernel(gqmm_cuda_router r)
{
    constexpr int AHEAD = W == GQMM_F32 ? 1 : 2; // chunks of a row that are under way
    __shared__ float sums[ONE_WARPS];
    const int own = (int)threadIdx.x * 8;
    const uint8_t *row = r.w + blockIdx.x * r.w_row;
    raw_8<W> w[AHEAD];
    float acc = 0.0f;

#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        w[i].load(row, i * ONE_CHUNK + own, r.k);
    let_next_start(); // who follows waits before it reads anything
    wait_for_previous();
    for (int64_t k0 = 0; k0 < r.k; k0 += AHEAD * ONE_CHUNK) {
        raw_8<X> x[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            x[i].load((const uint8_t *)r.x, k0 + i * ONE_CHUNK + own, r.k);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            float a[8], b[8];
            w[i].numbers(a);
            x[i].numbers(b);
#pragma unroll
            for (int j = 0; j < 8; j++)
                acc = fmaf(a[j], b[j], acc);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            w[i].load(row, k0 + (AHEAD + i) * ONE_CHUNK + own, r.k);
    }
    acc = warp_sum(acc);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = acc;
    __syncthreads();
    if (threadIdx.x == 0)
        r.choice.logits[blockIdx.x] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <int W> int launch_one(const gqmm_cuda_router &r, int path, gqmm_stream s)
{
    auto *kernel = r.x_type == GQMM_F32   ? one_kernel<W, GQMM_F32>
                   : r.x_type == GQMM_F16 ? one_kernel<W, GQMM_F16>
                                          : one_kernel<W, GQMM_BF16>;
    return launch(kernel, dim3((unsigned)r.choice.n_experts), dim3(ONE_WARPS * 32), 0, s, path, r);
}

template <int W, int X> int launch_tokens(const gqmm_cuda_router &r, int path, gqmm_stream s)
{
    const dim3 grid((unsigned)((r.choice.n_experts + WARPS - 1) / WARPS)), block(WARPS * 32);
    const int64_t tokens = r.choice.n_tokens;
    return tokens == 1   ? launch(router_kernel<W, X, 1>, grid, block, 0, s, path, r)
           : tokens == 2 ? launch(router_kernel<W, X, 2>, grid, block, 0, s, path, r)
           : tokens <= 4 ? launch(router_kernel<W, X, 4>, grid, block, 0, s, path, r)
                         : launch(router_kernel<W, X, 8>, grid, block, 0, s, path, r);
}

template <int W> int launch_types(const gqmm_cuda_router &r, int path, gqmm_stream s)
{
    return r.x_type == GQMM_F32   ? launch_tokens<W, GQMM_F32>(r, path, s)
           : r.x_type == GQMM_F16 ? launch_tokens<W, GQMM_F16>(r, path, s)
                                  : launch_tokens<W, GQMM_BF16>(r, path, s);
}

} // namespace
} // namespace gqmm

using namespace gqmm;

bool gqmm_cuda_router_fits(const gqmm_cuda_router *r)
{
    return r->w_type >= 0 && r->choice.n_tokens <= MOST_TOKENS && r->choice.n_experts <= 512 &&
           r->k % 8 == 0 && (uintptr_t)r->w % 16 == 0 && r->w_row % 16 == 0 &&
           (uintptr_t)r->x % 16 == 0 && r->x_row * bytes_of(r->x_type) % 16 == 0;
}

int gqmm_cuda_route_few(const gqmm_cuda_router *r, int path, gqmm_stream s)
{
    gqmm_cuda_router given = *r;
    if (given.choice.routed_scale == 0.0f)
        given.choice.routed_scale = 1.0f;
    return r->w_type == GQMM_F32   ? launch_types<GQMM_F32>(given, path, s)
           : r->w_type == GQMM_F16 ? launch_types<GQMM_F16>(given, path, s)
                                   : launch_types<GQMM_BF16>(given, path, s);
}

int gqmm_cuda_route_one(const gqmm_cuda_router *r, int path, gqmm_stream s)
{
    return r->w_type == GQMM_F32   ? launch_one<GQMM_F32>(*r, path, s)
           : r->w_type == GQMM_F16 ? launch_one<GQMM_F16>(*r, path, s)
                                   : launch_one<GQMM_BF16>(*r, path, s);
}
