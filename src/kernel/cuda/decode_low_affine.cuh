// SPDX-License-Identifier: MIT
// Codes as they lie, of affine formats and int4: see decode_low.cuh.
#ifndef GQMM_KERNEL_CUDA_DECODE_LOW_AFFINE_CUH
#define GQMM_KERNEL_CUDA_DECODE_LOW_AFFINE_CUH

#include "kernel/cuda/decode_low.cuh"

namespace gqmm
{

// A word has the nibbles of a lane one after the other.
template <class D, int BIAS> struct low_words : low_base<NIBBLE, BIAS> {
    GQMM_HD static constexpr int bit(int, int p)
    {
        return p % 2 * 4;
    }
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        const uint32_t w = low_memory<D, ALIGNED>(r.p[0]).word(16 * j, 4 * t), v = w >> 8;
        a[0][0] = w & both(0x000f);
        a[0][1] = w & both(0x00f0);
        a[0][2] = v & both(0x000f);
        a[0][3] = v & both(0x00f0);
    }
};

template <> struct low_codes<dec_affine4> : low_words<dec_affine4, 0> {
};
template <> struct low_codes<dec_int4> : low_words<dec_int4, 8> {
};

template <> struct low_codes<dec_affine2> : low_base<NIBBLE, 0> {
    GQMM_HD static constexpr int bit(int, int p)
    {
        return 2 * p;
    }
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        const uint32_t x =
            permute(low_memory<dec_affine2, ALIGNED>(r.p[0]).half(8 * j, 2 * t), 0, 0x4140);
        for (int p = 0; p < 4; p++)
            a[0][p] = x & both(3u << 2 * p);
    }
};

template <> struct low_codes<dec_affine3> : low_base<NIBBLE, 0> {
    GQMM_HD static constexpr int bit(int, int p)
    {
        return p % 2 * 3;
    }
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        const uint32_t v = low_memory<dec_affine3, ALIGNED>(r.p[0]).word(12 * j, 3 * t, 3);
        const uint32_t x = (v & 0x0000ffff) | (v << 4 & 0xffff0000), y = x >> 6;
        a[0][0] = x & both(0x0007);
        a[0][1] = x & both(0x0038);
        a[0][2] = y & both(0x0007);
        a[0][3] = y & both(0x0038);
    }
};

template <> struct low_codes<dec_affine5> : low_base<NIBBLE, 0> {
    GQMM_HD static constexpr int bit(int, int p)
    {
        return p == 2 ? 2 : 0;
    }
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        const uint2 c = codes_apart<5>(low_memory<dec_affine5, ALIGNED>(r.p[0]), j, t);
        a[0][0] = c.x & both(0x001f);
        a[0][1] = c.x >> 5 & both(0x001f);
        a[0][2] = c.y & both(0x007c); // y is 8 bits on
        a[0][3] = c.y >> 7 & both(0x001f);
    }
};

template <> struct low_codes<dec_affine6> : low_base<NIBBLE, 0> {
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        const uint2 c = codes_apart<6>(low_memory<dec_affine6, ALIGNED>(r.p[0]), j, t);
        a[0][0] = c.x & both(0x003f);
        a[0][1] = c.x >> 6 & both(0x003f);
        a[0][2] = c.y >> 4 & both(0x003f);
        a[0][3] = c.y >> 10 & both(0x003f);
    }
};

template <> struct low_codes<dec_affine8> : low_base<BYTES, 0> {
    template <bool ALIGNED>
    GQMM_HD static void get(uint32_t (&a)[1][4], const step_row &r, int j, int t,
                            const format_args &)
    {
        uint32_t w[2];
        low_memory<dec_affine8, ALIGNED>(r.p[0]).two(w, 32 * j, 8 * t);
        low_bytes(a[0], w[0]);
        low_bytes(a[0] + 2, w[1]);
    }
};

} // namespace gqmm

#endif
