// SPDX-License-Identifier: MIT
// The logits: of few tokens with rows of the router under way before the activations are there, of
// many by the dense product.
#include "kernel/cuda/activations.cuh"
#include "kernel/cuda/choose.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/mma.cuh"

namespace gqmm
{
namespace
{

constexpr int CHUNK = 32 * 8;   // numbers of a warp
constexpr int MOST_FEW = 256;   // tokens that the kernels of this file serve
constexpr int MOST_TILES = 512; // blocks of four warps that run at once

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

// Eight numbers as pairs of bf16 whose parts add up to them.
template <int TYPE>
__device__ __forceinline__ void split_8(uint32_t (&to)[parts_of(TYPE)][4], const raw_8<TYPE> &from)
{
    if (TYPE == GQMM_BF16) {
        to[0][0] = from.v[0].x;
        to[0][1] = from.v[0].y;
        to[0][2] = from.v[0].z;
        to[0][3] = from.v[0].w;
        return;
    }
    float f[8];
    from.numbers(f);
#pragma unroll
    for (int part = 0; part < parts_of(TYPE); part++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t low = next_part(f[2 * i]), high = next_part(f[2 * i + 1]);
            to[part][i] = low | high << 16;
        }
}

// A block: 16 experts, TOKENS_A_BLOCK tokens and a part of K; a warp: TILES of 8 tokens. As both
// sides come in the same order, a lane's eight neighbours along K are the pairs of two
// instructions.
constexpr int TILE_WARPS = 4, TILES = 2, TOKENS_A_BLOCK = TILE_WARPS * TILES * 8;

template <int W, int X>
__global__ void __launch_bounds__(TILE_WARPS * 32)
    router_tiles_kernel(gqmm_cuda_router r, int part_columns)
{
    constexpr int PIECES = W == GQMM_F32 || X == GQMM_F32 ? 2 : 8; // of 32 along K at a time
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int expert = (int)blockIdx.x * 16 + g;
    const int64_t token = (int64_t)blockIdx.z * TOKENS_A_BLOCK + threadIdx.x / 32 * TILES * 8 + g;
    const int64_t begin = (int64_t)blockIdx.y * part_columns;
    const int64_t end = begin + part_columns < r.k ? begin + part_columns : r.k;
    raw_8<W> w[PIECES][2];
    float acc[TILES][2][4] = {}; // of the first parts, and of all others, which are small
    const auto load = [&](int64_t k0) {
#pragma unroll
        for (int i = 0; i < PIECES; i++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                w[i][h].load(r.w + (expert + 8 * h < r.choice.n_experts ? expert + 8 * h : 0) *
                                       r.w_row,
                             k0 + i * 32 + t * 8, end);
    };
    load(begin);
    let_next_start(); // who follows waits before it reads anything
    wait_for_previous();
    for (int64_t k0 = begin; k0 < end; k0 += PIECES * 32) {
        raw_8<X> x[TILES][PIECES];
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int i = 0; i < PIECES; i++)
                x[tile][i].load((const uint8_t *)r.x +
                                    (token + tile * 8 < r.choice.n_tokens ? token + tile * 8 : 0) *
                                        r.x_row * bytes_of(X),
                                k0 + i * 32 + t * 8, end);
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            uint32_t a[2][parts_of(W)][4];
            split_8<W>(a[0], w[i][0]);
            split_8<W>(a[1], w[i][1]);
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                uint32_t b[parts_of(X)][4];
                split_8<X>(b, x[tile][i]);
#pragma unroll
                for (int p = 0; p < parts_of(W); p++)
#pragma unroll
                    for (int q = 0; q < parts_of(X); q++)
#pragma unroll
                        for (int j = 0; j < 4; j += 2)
                            mma(acc[tile][p + q > 0], a[0][p][j], a[1][p][j], a[0][p][j + 1],
                                a[1][p][j + 1], b[q][j], b[q][j + 1]);
            }
        }
        if (k0 + PIECES * 32 < end)
            load(k0 + PIECES * 32);
    }
    float *to = r.choice.logits + blockIdx.y * r.choice.n_tokens * r.choice.n_experts;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int64_t row = token - g + tile * 8 + 2 * t + i % 2;
            const int e = expert + i / 2 * 8;
            if (row < r.choice.n_tokens && e < r.choice.n_experts)
                to[row * r.choice.n_experts + e] = acc[tile][0][i] + acc[tile][1][i];
        }
}

template <int W> int launch_tiles(const gqmm_cuda_router &r, int path, gqmm_stream s)
{
    const int64_t columns = (r.k + r.parts - 1) / r.parts;
    const dim3 grid((unsigned)((r.choice.n_experts + 15) / 16), (unsigned)r.parts,
                    (unsigned)((r.choice.n_tokens + TOKENS_A_BLOCK - 1) / TOKENS_A_BLOCK));
    auto *kernel = r.x_type == GQMM_F32   ? router_tiles_kernel<W, GQMM_F32>
                   : r.x_type == GQMM_F16 ? router_tiles_kernel<W, GQMM_F16>
                                          : router_tiles_kernel<W, GQMM_BF16>;
    return launch(kernel, grid, dim3(TILE_WARPS * 32), 0, s, path, r,
                  (int)((columns + 31) / 32 * 32));
}

} // namespace
} // namespace gqmm

using namespace gqmm;

// Whether the dense product serves it, by sizes, types and where both lie, unless NULL.
static bool as_dense(gqmm_cuda_dense *d, const gqmm_cuda_router *r, int path)
{
    *d = {};
    d->x = r->x;
    d->w = r->w;
    d->y = r->choice.logits;
    d->x_row = r->x_row;
    d->w_row = r->w_row / 2;
    d->m = r->choice.n_tokens;
    d->n = d->y_row = r->choice.n_experts;
    d->k = r->k;
    d->y_type = GQMM_F32;
    d->parts = r->parts;
    return path == GQMM_CUDA_SM90 && r->w_type == GQMM_BF16 && r->x_type == GQMM_BF16 &&
           d->m > MOST_FEW && r->w_row % 16 == 0 && gqmm_cuda_dense_fits(d);
}

static bool few_fits(const gqmm_cuda_router *r)
{
    return r->w_type >= 0 && r->choice.n_tokens <= MOST_FEW && r->k % 8 == 0 &&
           (uintptr_t)r->w % 16 == 0 && r->w_row % 16 == 0 && (uintptr_t)r->x % 16 == 0 &&
           r->x_row * bytes_of(r->x_type) % 16 == 0;
}

static int32_t few_parts(int64_t n_tokens, int32_t n_experts, int64_t k)
{
    const int64_t tiles =
        (n_experts + 15) / 16 * ((n_tokens + TOKENS_A_BLOCK - 1) / TOKENS_A_BLOCK);
    int32_t parts = n_tokens > 1 ? 8 : 1;
    while (parts > 1 && (tiles * parts > MOST_TILES || k < parts * 128))
        parts /= 2;
    return parts;
}

int32_t gqmm_cuda_router_parts(const gqmm_cuda_router *given, int path)
{
    gqmm_cuda_router r = *given;
    gqmm_cuda_dense d;
    r.x = r.w = NULL;
    return as_dense(&d, &r, path) ? gqmm_cuda_dense_parts(&d)
           : few_fits(&r)         ? few_parts(r.choice.n_tokens, r.choice.n_experts, r.k)
                                  : 0;
}

bool gqmm_cuda_router_fits(const gqmm_cuda_router *r, int path)
{
    gqmm_cuda_dense d;
    return as_dense(&d, r, path) || few_fits(r);
}

int gqmm_cuda_route(const gqmm_cuda_router *r, int path, gqmm_stream s)
{
    gqmm_cuda_dense d;
    if (as_dense(&d, r, path))
        return gqmm_cuda_dense_product(&d, s);
    if (r->choice.n_tokens == 1)
        return r->w_type == GQMM_F32   ? launch_one<GQMM_F32>(*r, path, s)
               : r->w_type == GQMM_F16 ? launch_one<GQMM_F16>(*r, path, s)
                                       : launch_one<GQMM_BF16>(*r, path, s);
    return r->w_type == GQMM_F32   ? launch_tiles<GQMM_F32>(*r, path, s)
           : r->w_type == GQMM_F16 ? launch_tiles<GQMM_F16>(*r, path, s)
                                   : launch_tiles<GQMM_BF16>(*r, path, s);
}
