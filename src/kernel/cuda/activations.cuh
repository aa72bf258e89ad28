// SPDX-License-Identifier: MIT
// Activations on their way to shared memory: split into bf16 parts that add up to the number (bf16:
// 1, f16: 2, f32: 3, of 24 bits) and laid out in the order in which the decoder holds its codes.
#ifndef GQMM_KERNEL_CUDA_ACTIVATIONS_CUH
#define GQMM_KERNEL_CUDA_ACTIVATIONS_CUH

#include "kernel/cuda/decode.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace gqmm
{

GQMM_HD constexpr int parts_of(int type)
{
    return type == GQMM_BF16 ? 1 : type == GQMM_F16 ? 2 : 3;
}

GQMM_HD constexpr int bytes_of(int type)
{
    return type == GQMM_F32 ? 4 : 2;
}

__device__ __forceinline__ float load_number(const void *x, int64_t i, int type)
{
    if (type == GQMM_F32)
        return ((const float *)x)[i];
    return type == GQMM_F16 ? __half2float(((const __half *)x)[i])
                            : __bfloat162float(((const __nv_bfloat16 *)x)[i]);
}

__device__ __forceinline__ void store_number(void *y, int64_t i, int type, float v)
{
    if (type == GQMM_F32)
        ((float *)y)[i] = v;
    else if (type == GQMM_F16)
        ((__half *)y)[i] = __float2half_rn(v);
    else
        ((__nv_bfloat16 *)y)[i] = __float2bfloat16_rn(v);
}

// Two numbers of 16 bits, the first in the low half.
__device__ __forceinline__ uint32_t pair_of(float lo, float hi, int type)
{
    if (type == GQMM_F16) {
        const __half2 h = __floats2half2_rn(lo, hi);
        return *(const uint32_t *)&h;
    }
    const __nv_bfloat162 b = __floats2bfloat162_rn(lo, hi);
    return *(const uint32_t *)&b;
}

// Numbers k .. k + 7 of a row of `n`; past the end they are 0. 16 bytes at a time where x is
// aligned.
__device__ __forceinline__ void load_8(float (&v)[8], const void *row, int64_t k, int64_t n,
                                       int type)
{
    const uint8_t *p = (const uint8_t *)row + k * bytes_of(type);
    if (k + 8 <= n && ((uintptr_t)p & 15) == 0) {
        const uint4 lo = *(const uint4 *)p;
        if (type == GQMM_F32) {
            const uint4 hi = ((const uint4 *)p)[1];
            const uint32_t w[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] = __uint_as_float(w[i]);
        } else {
            const uint32_t w[4] = {lo.x, lo.y, lo.z, lo.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (type == GQMM_F16) {
                    const float2 f = __half22float2(*(const __half2 *)&w[i]);
                    v[2 * i] = f.x;
                    v[2 * i + 1] = f.y;
                } else {
                    v[2 * i] = __uint_as_float(w[i] << 16);
                    v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
                }
            }
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] = k + i < n ? load_number(row, k + i, type) : 0.0f;
}

// The next bf16 part of v; v keeps what is left. Infinities and NaN go whole into the first part.
__device__ __forceinline__ uint32_t next_part(float &v)
{
    const __nv_bfloat16 h = __float2bfloat16_rn(v);
    const float rest = v - __bfloat162float(h);
    const bool finite = __builtin_isfinite(v);
    const uint32_t bits = __bfloat16_as_ushort(h);
    // A finite number that rounds up to infinity is cut instead; the rest then is finite too.
    if (finite && (bits & 0x7fff) == 0x7f80) {
        const uint32_t cut = __float_as_uint(v) >> 16;
        v -= __uint_as_float(cut << 16);
        return cut;
    }
    v = finite ? rest : 0.0f;
    return bits;
}

// Eight numbers of a row: what they add up to and their parts as bf16, one after the other.
struct float_eight {
    float v[8];

    __device__ __forceinline__ void load(const void *row, int64_t k, int64_t n, int type)
    {
        load_8(v, row, k, n, type);
    }

    __device__ __forceinline__ float sum() const
    {
        return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    }

    __device__ __forceinline__ uint4 next()
    {
        uint32_t h[8];
#pragma unroll
        for (int i = 0; i < 8; i++)
            h[i] = next_part(v[i]);
        return make_uint4(h[0] | h[1] << 16, h[2] | h[3] << 16, h[4] | h[5] << 16,
                          h[6] | h[7] << 16);
    }
};

struct bf16_eight {
    uint4 v;

    __device__ __forceinline__ void load(const void *row, int64_t k, int64_t n, int)
    {
        const uint16_t *p = (const uint16_t *)row + k;
        uint32_t h[8] = {};
        if (k + 8 <= n && ((uintptr_t)p & 15) == 0) {
            v = *(const uint4 *)p;
            return;
        }
        for (int i = 0; i < 8; i++)
            if (k + i < n)
                h[i] = p[i];
        v = make_uint4(h[0] | h[1] << 16, h[2] | h[3] << 16, h[4] | h[5] << 16, h[6] | h[7] << 16);
    }

    __device__ __forceinline__ float sum() const
    {
        const uint32_t w[4] = {v.x, v.y, v.z, v.w};
        float s[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[i] = __uint_as_float(w[i] << 16) + __uint_as_float(w[i] & 0xffff0000u);
        return (s[0] + s[1]) + (s[2] + s[3]);
    }

    __device__ __forceinline__ uint4 next() const
    {
        return v;
    }
};

// Eight numbers in plain order, as four pairs, to where the decoder's order wants them. `at` is the
// piece's 64 bytes (32 numbers, 4 lanes of 8: lane t reads 16 bytes at 16 t), q which eight they
// are.
template <order o> __device__ __forceinline__ void place_8(uint8_t *at, int q, const uint4 &v)
{
    const uint32_t low = 0x5410, high = 0x7632; // low or high halves of two pairs
    if (o == SERIAL) {
        *(uint4 *)(at + 16 * q) = v;
    } else if (o == NIBBLE) {
        *(uint4 *)(at + 16 * q) =
            make_uint4(__byte_perm(v.x, v.z, low), __byte_perm(v.x, v.z, high),
                       __byte_perm(v.y, v.w, low), __byte_perm(v.y, v.w, high));
    } else if (o == BYTES) {
        *(uint4 *)(at + 16 * q) =
            make_uint4(__byte_perm(v.x, v.y, low), __byte_perm(v.x, v.y, high),
                       __byte_perm(v.z, v.w, low), __byte_perm(v.z, v.w, high));
    } else if (o == NATIVE) {
        *(uint32_t *)(at + 4 * q) = v.x;
        *(uint32_t *)(at + 4 * q + 16) = v.y;
        *(uint32_t *)(at + 4 * q + 32) = v.z;
        *(uint32_t *)(at + 4 * q + 48) = v.w;
    } else { // 4 numbers each for lanes 2 q and 2 q + 1
        uint2 first = make_uint2(v.x, v.y), second = make_uint2(v.z, v.w);
        if (o == CROSSED) {
            first = make_uint2(__byte_perm(v.x, v.y, low), __byte_perm(v.x, v.y, high));
            second = make_uint2(__byte_perm(v.z, v.w, low), __byte_perm(v.z, v.w, high));
        }
        *(uint2 *)(at + ((2 * q) & 3) * 16 + (q >> 1) * 8) = first;
        *(uint2 *)(at + ((2 * q + 1) & 3) * 16 + (q >> 1) * 8) = second;
    }
}

} // namespace gqmm

#endif
