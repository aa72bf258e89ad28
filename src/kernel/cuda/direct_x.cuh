// SPDX-License-Identifier: MIT
// Activations of direct.cuh in shared memory: in the order in which a format's nibbles come out of
// its bytes, larger by a power of two, with the sums that its offsets are multiplied by.
#ifndef GQMM_KERNEL_CUDA_DIRECT_X_CUH
#define GQMM_KERNEL_CUDA_DIRECT_X_CUH

#include "kernel/cuda/activations.cuh"
#include "kernel/cuda/direct_tiles.cuh"
#include "kernel/cuda/few.cuh"
#include "kernel/cuda/mma.cuh"
#include "kernel/cuda/words.cuh"

namespace gqmm
{

// Bytes between columns: lanes of a quad read 64 bytes, the next column's lie in the other banks.
GQMM_HD constexpr int direct_pitch(int64_t k)
{
    return (int)k * 2 + 64;
}

// All activations of a column tile and their sums, a multiple of 16.
template <class L> int direct_bytes(const gqmm_cuda_product *p)
{
    const int64_t bytes = DIRECT_COLUMNS * ((int64_t)p->k * 2 + 64) + L::sum_bytes(p);
    return bytes > 1 << 20 ? 1 << 20 : (int)bytes;
}

// How much larger, by the largest number of a column: products are neither too large nor so small
// that bits are lost. Four bits for each column say which of these it reaches: 2^-20,
// 2^20, 2^60 and 2^100 as bf16.
constexpr uint32_t SIZE_0 = 0x3580, SIZE_1 = 0x4980, SIZE_2 = 0x5d80, SIZE_3 = 0x7180;
constexpr int USUALLY = 100;
constexpr uint32_t USUAL = 0x11111111;

GQMM_HD constexpr int direct_power(uint32_t sizes, int column)
{
    const uint32_t s = sizes >> 4 * column & 15;
    return s & 8 ? -8 : s & 4 ? 20 : s & 2 ? 60 : s & 1 ? USUALLY : 127;
}

// The four bits of a largest magnitude, bits of bf16.
GQMM_HD constexpr uint32_t sizes_of(uint32_t top)
{
    return (top >= SIZE_0) | (top >= SIZE_1) << 1 | (top >= SIZE_2) << 2 | (top >= SIZE_3) << 3;
}

// 2^n twice as bf16.
__device__ __forceinline__ uint32_t pair_of_powers(int n)
{
    return (uint32_t)(127 + n) << 7 | (uint32_t)(127 + n) << 23;
}

// The largest magnitude of eight bf16 numbers, as bits.
__device__ __forceinline__ uint32_t largest(const uint4 &v)
{
    const uint32_t m = 0x7fff7fff;
    const uint32_t two = __vmaxu2(__vmaxu2(v.x & m, v.y & m), __vmaxu2(v.z & m, v.w & m));
    return two >> 16 > (two & 0xffff) ? two >> 16 : two & 0xffff;
}

// Columns to shared memory, each by its power of two in `sizes`; returns the bits of `sizes` that
// they should have. A warp takes 256 numbers of one column at a time.
template <class L>
__device__ __forceinline__ uint32_t place_columns(uint8_t *xs, const gqmm_cuda_product &p,
                                                  const column_set<DIRECT_COLUMNS> &c,
                                                  uint32_t sizes)
{
    constexpr int AHEAD = 4;
    const int pitch = direct_pitch(p.k), warps = (int)blockDim.x / 32;
    const int lane = (int)threadIdx.x % 32;
    uint32_t found = 0;
    for (few_items at((int)threadIdx.x / 32, warps, (int)p.k / 256); at.major < c.count;) {
        bf16_eight v[AHEAD]; // their loads are under way at once
        few_items to = at;
#pragma unroll
        for (int i = 0; i < AHEAD; i++, at.advance()) {
            const int64_t x = at.major < c.count ? c.x_at[at.major] : -1;
            v[i].v = make_uint4(0, 0, 0, 0);
            if (x >= 0)
                v[i].load((const uint16_t *)p.x + x, (at.minor * 32 + lane) * 8, p.k, GQMM_BF16);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++, to.advance()) {
            const int col = to.major, e = to.minor * 32 + lane;
            if (col >= c.count)
                break;
            found |= sizes_of(largest(v[i].v)) << 4 * col;
            const int power = direct_power(sizes, col);
            L::keep_sum(xs + DIRECT_COLUMNS * pitch, p, col, e, v[i].sum(), power);
            L::place(xs + col * pitch, e, v[i].v, pair_of_powers(power), pair_of_powers(power - 4));
        }
    }
    return found;
}

// The columns of a block, which then is synchronised. `sizes` is 0 at the beginning. Returns what
// outputs of the lane's columns 2 t and 2 t + 1 are to be multiplied by.
template <class L>
__device__ __forceinline__ float2 bring_direct(uint8_t *xs, const gqmm_cuda_product &p,
                                               const column_set<DIRECT_COLUMNS> &c, uint32_t &sizes,
                                               int t)
{
    const uint32_t found = __reduce_or_sync(~0u, place_columns<L>(xs, p, c, USUAL));
    if (threadIdx.x % 32 == 0 && found)
        atomicOr(&sizes, found);
    __syncthreads();
    const uint32_t all = sizes;
    if ((all ^ USUAL) << 4 * (DIRECT_COLUMNS - c.count) == 0)
        return make_float2(1.0f, 1.0f);
    place_columns<L>(xs, p, c, all);
    __syncthreads();
    return make_float2(power_of_two(USUALLY - direct_power(all, 2 * t)),
                       power_of_two(USUALLY - direct_power(all, 2 * t + 1)));
}

} // namespace gqmm

#endif
