// SPDX-License-Identifier: MIT
// Bytes of a block or a plane at any alignment, as the decoders read them: global or shared memory,
// or on the host.
#ifndef GQMM_KERNEL_CUDA_MEMORY_CUH
#define GQMM_KERNEL_CUDA_MEMORY_CUH

#include "kernel/cuda/words.cuh"

namespace gqmm
{

// Memory from p on, which is aligned to A bytes. Words are read where they are aligned; nothing is
// touched outside the aligned words that hold the bytes asked for. A place is a constant `c` plus a
// term of the lane; what depends on the lane and on the alignment is the same for all constants
// that are equal mod 4, so that it is computed once and the rest becomes an immediate.
template <int A> struct memory {
    const uint8_t *p;
    uint32_t off; // of the first byte in its word

    GQMM_HD explicit memory(const uint8_t *at)
        : p(at), off(A >= 4 ? 0 : (uint32_t)(uintptr_t)at & 3)
    {
        p -= off; // no cast: the compiler still sees which memory it is
    }

    GQMM_HD static uint32_t aligned(const uint8_t *q)
    {
#ifdef __CUDA_ARCH__
        return *(const uint32_t *)q;
#else
        return gqmm_load32(q);
#endif
    }

    // Bytes [0, n) at c + lane, n <= 4; those from n on are undefined.
    GQMM_HD uint32_t word(int c, int lane = 0, int n = 4) const
    {
        const uint32_t u = off + (uint32_t)(c & 3) + (uint32_t)lane;
        const uint8_t *q = p + (c & ~3);
        return funnel(aligned(q + (u & ~3u)), aligned(q + ((u + (uint32_t)n - 1) & ~3u)),
                      (u & 3) * 8);
    }

    // The same with the middle two bytes exchanged: b0 b2 b1 b3.
    GQMM_HD uint32_t crossed(int c, int lane = 0) const
    {
        const uint32_t u = off + (uint32_t)(c & 3) + (uint32_t)lane;
        const uint8_t *q = p + (c & ~3);
        return permute(aligned(q + (u & ~3u)), aligned(q + ((u + 3) & ~3u)),
                       0x3120u + 0x1111u * (u & 3));
    }

    // Bytes [0, n) at c + lane in two words, 4 < n <= 8; those from n on are undefined.
    GQMM_HD void two(uint32_t (&w)[2], int c, int lane = 0, int n = 8) const
    {
        const uint32_t u = off + (uint32_t)(c & 3) + (uint32_t)lane;
        const uint8_t *q = p + (c & ~3);
#ifdef __CUDA_ARCH__
        if (A >= 8 && n == 8 && (c & 7) == 0 && (lane & 7) == 0) {
            const uint2 v = *(const uint2 *)(q + u);
            w[0] = v.x;
            w[1] = v.y;
            return;
        }
#endif
        // The middle word holds a byte of the first word or the one after it.
        const uint32_t middle = aligned(q + (u & ~3u) + 4);
        const uint32_t shift = (u & 3) * 8;
        w[0] = funnel(aligned(q + (u & ~3u)), middle, shift);
        w[1] = funnel(middle, aligned(q + ((u + (uint32_t)n - 1) & ~3u)), shift);
    }

    // Sixteen bytes at c + lane.
    GQMM_HD void four(uint32_t (&w)[4], int c, int lane = 0) const
    {
#ifdef __CUDA_ARCH__
        if (A >= 16 && (c & 15) == 0 && (lane & 15) == 0) {
            const uint4 v = *(const uint4 *)(p + c + lane);
            w[0] = v.x;
            w[1] = v.y;
            w[2] = v.z;
            w[3] = v.w;
            return;
        }
#endif
        const uint32_t u = off + (uint32_t)(c & 3) + (uint32_t)lane, shift = (u & 3) * 8;
        const uint8_t *q = p + (c & ~3);
        uint32_t low = aligned(q + (u & ~3u));
        for (int i = 0; i < 4; i++) {
            const uint32_t high = aligned(q + (i < 3 ? (u & ~3u) + 4 : (u + 3) & ~3u) + 4 * i);
            w[i] = funnel(low, high, shift);
            low = high;
        }
    }

    GQMM_HD uint32_t byte(int c) const
    {
        return p[off + (uint32_t)c];
    }

    // Sixteen bits at c + lane.
    GQMM_HD uint32_t half(int c, int lane = 0) const
    {
        const uint8_t *q = p + off + c + lane;
#ifdef __CUDA_ARCH__
        if (A >= 2 && (c & 1) == 0 && (lane & 1) == 0)
            return *(const uint16_t *)q;
#endif
        return (uint32_t)q[0] | (uint32_t)q[1] << 8;
    }

    GQMM_HD float f16(int c, int lane = 0) const
    {
        return half_to_float(half(c, lane));
    }
};

} // namespace gqmm

#endif
