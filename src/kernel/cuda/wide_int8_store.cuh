// SPDX-License-Identifier: MIT
// The sums of an int8 tile to y, or behind SwiGLU rounded again to h.
#ifndef GQMM_KERNEL_CUDA_WIDE_INT8_STORE_CUH
#define GQMM_KERNEL_CUDA_WIDE_INT8_STORE_CUH

#include "kernel/cuda/wide_int8_load.cuh"
#include "kernel/cuda/wide_int8_x.cuh"
#include "kernel/cuda/wide_store.cuh"

namespace gqmm
{
namespace int8_product
{

// Eight bf16 numbers at y, of which `n` exist.
__device__ __forceinline__ void write_8(uint8_t *y, const uint32_t (&v)[4], int64_t n, bool whole)
{
    if (whole && n >= 8) {
        *(uint4 *)y = make_uint4(v[0], v[1], v[2], v[3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < n)
            ((uint16_t *)y)[i] = (uint16_t)(v[i / 2] >> 16 * (i & 1));
}

// Places g = 2 t and 2 t + 1 of the four parts hold outputs `part` and 4 + `part` of eight that are
// neighbours.
__device__ __forceinline__ void store(const float (&acc)[2][N / 2], const int8_args &a,
                                      const int64_t *y_at, int row_block, int warp, int lane,
                                      int count)
{
    const int64_t first = (int64_t)row_block * ROWS + 32 * warp + 8 * (lane & 3);
    const int64_t n = a.p.n - first;
    const int whole = a.whole_y;
#pragma unroll
    for (int j = 0; j < N / 8; j++)
        if (8 * j < count) {
            uint32_t u[4];
#pragma unroll
            for (int part = 0; part < 4; part++) {
                const float *c = acc[part >> 1] + 4 * j + 2 * (part & 1);
                u[part] = wide_product::turn(make_float2(c[0], c[1]));
            }
            const uint32_t v[4] = {__byte_perm(u[0], u[1], 0x5410), __byte_perm(u[2], u[3], 0x5410),
                                   __byte_perm(u[0], u[1], 0x7632),
                                   __byte_perm(u[2], u[3], 0x7632)};
            const int column = 8 * j + (lane >> 2);
            if (column < count && n > 0)
                write_8((uint8_t *)a.p.y + (y_at[column] + first) * 2, v, n, whole);
        }
}

// Until this thread's bulk stores are done.
__device__ __forceinline__ void stores_wait()
{
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

__device__ __forceinline__ void store_bulk(void *to, uint32_t from, uint32_t bytes)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from),
                 "r"(bytes)
                 : "memory");
}

// A tile's 128 outputs of a column are a block of h: their largest magnitude is found across the
// consumer's warps, then they are rounded and go to shared memory as the next product wants them.
__device__ __forceinline__ void store_h(float (&acc)[2][N / 2], const int8_args &a,
                                        const memory &mem, int row_block, int warp, int lane,
                                        const tile_info &info)
{
    uint32_t *most = (uint32_t *)(mem.shared + MAXIMA_AT);
    float *inverse = (float *)(mem.shared + INVERSES_AT);
    const sum_factors f = {};
    const int64_t row = (int64_t)row_block * a.tile_rows + info.first;
    const int id = warp * 32 + lane;
    // h takes the place of gate's sums.
#pragma unroll
    for (int j = 0; j < N / 8; j++)
        if (8 * j < info.count) {
            uint32_t u[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
#pragma unroll
                for (int m = 0; m < 2; m++)
                    acc[m][4 * j + i] = swiglu(acc[m][4 * j + i], acc[m][4 * j + 2 + i], f);
                u[i] = max(__float_as_uint(acc[0][4 * j + i]) & 0x7fffffff,
                           __float_as_uint(acc[1][4 * j + i]) & 0x7fffffff);
#pragma unroll
                for (int lanes = 4; lanes < 32; lanes *= 2)
                    u[i] = max(u[i], __shfl_xor_sync(0xffffffffu, u[i], lanes));
            }
            if (lane < 4)
                *(uint2 *)(most + warp * N + 8 * j + 2 * lane) = make_uint2(u[0], u[1]);
        }
    warps_sync(3, CONSUMERS);
    if (id < ((info.count + 15) & ~15)) { // the next product reads so many scales
        uint32_t u = 0;
#pragma unroll
        for (int w = 0; w < 8; w++)
            u = max(u, id < info.count ? most[w * N + id] : 0);
        const block_scale s(u);
        inverse[id] = s.inverse;
        a.p.y8.scales[row + scale_place(id)] = s.scale;
    }
    if (id == 0)
        stores_have_read(); // the tile before left the place that is written now
    warps_sync(3, CONSUMERS);
    const int chunk = 4 * (warp & 1) + 2 * ((lane & 3) >> 1) + (lane & 1);
    uint8_t *to = mem.shared + STAGING_AT + (lane >> 2) * BLOCK + ((chunk ^ lane >> 2) << 4) +
                  4 * (warp >> 1);
#pragma unroll
    for (int j = 0; j < N / 8; j++)
        if (8 * j < info.count) {
            const float2 s = *(const float2 *)(inverse + 8 * j + 2 * (lane & 3));
            const uint32_t low =
                __byte_perm(rounded(acc[0][4 * j], s.x), rounded(acc[1][4 * j], s.x), 0x0040);
            const uint32_t high = __byte_perm(rounded(acc[0][4 * j + 1], s.y),
                                              rounded(acc[1][4 * j + 1], s.y), 0x0040);
            *(uint32_t *)(to + j * 8 * BLOCK) = transpose_8x8(__byte_perm(low, high, 0x5410));
        }
    fence_for_wgmma();
    warps_sync(3, CONSUMERS);
    if (id == 0) {
        store_bulk(a.p.y8.codes + row * BLOCK, mem.at + STAGING_AT, info.count * BLOCK);
        stores_commit();
    }
}

} // namespace int8_product
} // namespace gqmm

#endif
