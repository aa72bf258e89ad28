/* SPDX-License-Identifier: MIT */
/* mlx_mxfp4, mlx_mxfp8, mlx_nvfp4: the float modes of MLX. Plane 0 holds the codes in order (4
 * bits: low nibble first), plane 1 one byte of scale for each group. mxfp4  w = 2^(e - 127) * e2m1
 * 32 elements, e = 255 makes infinities mxfp8  w = 2^(e - 127) * e4m3      32 elements; values, as
 * its codes are no integers nvfp4  w = e4m3(s) * e2m1          16 elements; with a global scale
 * (tensor amax): w = e4m3(s) * (amax / 2688) * e2m1,  2688 = 448 * 6 E2M1 is kept as doubled
 * integers with half the scale: the same bits as MLX, except that its code 8 (negative zero) is +0
 * here. */
#ifndef GQMM_FORMAT_MLX_FP_H
#define GQMM_FORMAT_MLX_FP_H

#include "base/num.h"
#include "format/fp8.h"
#include "format/round.h"

/* The factor that a global scale puts on the scales; MLX divides in fp32 as well. */
GQMM_HD static inline float gqmm_mlx_nvfp4_global(float amax)
{
    return amax / 2688.0f;
}

GQMM_HD static inline void gqmm_mlx_fp4_codes(int16_t *q, const uint8_t *p, int n)
{
    for (int i = 0; i < n / 2; i++) {
        q[2 * i] = (int16_t)gqmm_e2m1_doubled(p[i] & 15);
        q[2 * i + 1] = (int16_t)gqmm_e2m1_doubled(p[i] >> 4);
    }
}

GQMM_HD static inline void gqmm_mlx_mxfp4_unpack(int16_t *q, float *scale, float *offset,
                                                 const uint8_t *const p[3])
{
    (void)offset;
    scale[0] = 0.5f * gqmm_e8m0_to_f32(p[1][0]);
    gqmm_mlx_fp4_codes(q, p[0], 32);
}

GQMM_HD static inline void gqmm_mlx_nvfp4_unpack(int16_t *q, float *scale, float *offset,
                                                 const uint8_t *const p[3])
{
    (void)offset;
    scale[0] = 0.5f * gqmm_e4m3_to_f32(p[1][0]);
    gqmm_mlx_fp4_codes(q, p[0], 16);
}

GQMM_HD static inline void gqmm_mlx_mxfp8_values(float *w, const uint8_t *const p[3])
{
    const float scale = gqmm_e8m0_to_f32(p[1][0]);
    for (int i = 0; i < 32; i++)
        w[i] = gqmm_e4m3_to_f32(p[0][i]) * scale;
}

/* The quantisers give the bytes of MLX on the CPU, which computes in the type of x: every
 * intermediate result is rounded to x_type. */

/* The least power of two that is not below amax / limit, its byte to *code. Zeros take 1; below
 * 2^-127 (where MLX wraps around) it stays there. */
GQMM_HD static inline float gqmm_mlx_e8m0(uint8_t *code, const float *x, float limit,
                                          int32_t x_type)
{
    const uint32_t u = gqmm_f32_to_bits(gqmm_round_to_type(gqmm_abs_max(x, 32) / limit, x_type));
    const uint32_t n = u == 0 ? 127 : (u >> 23) + ((u & 0x7fffffu) != 0);
    *code = (uint8_t)(n < 254 ? n : 254);
    return gqmm_round_to_type(gqmm_e8m0_to_f32(*code), x_type);
}

GQMM_HD static inline void gqmm_mlx_mxfp4_quantize(uint8_t *const p[3], const float *x,
                                                   float global, int32_t x_type)
{
    const float s = gqmm_mlx_e8m0(p[1], x, 6.0f, x_type);
    (void)global;
    for (int i = 0; i < 16; i++) {
        const float lo = gqmm_round_to_type(x[2 * i] / s, x_type);
        const float hi = gqmm_round_to_type(x[2 * i + 1] / s, x_type);
        p[0][i] = (uint8_t)(gqmm_e2m1_nearest(2.0f * lo) | gqmm_e2m1_nearest(2.0f * hi) << 4);
    }
}

GQMM_HD static inline void gqmm_mlx_mxfp8_quantize(uint8_t *const p[3], const float *x,
                                                   float global, int32_t x_type)
{
    const float s = gqmm_mlx_e8m0(p[1], x, 448.0f, x_type);
    (void)global;
    for (int i = 0; i < 32; i++)
        p[0][i] = gqmm_f32_to_e4m3(gqmm_round_to_type(x[i] / s, x_type));
}

/* `global` is the tensor amax, 0 for none. A group whose scale rounds to 0 gets codes 0. */
GQMM_HD static inline void gqmm_mlx_nvfp4_quantize(uint8_t *const p[3], const float *x,
                                                   float global, int32_t x_type)
{
    const float encode = global != 0.0f ? 2688.0f / global : 1.0f;
    const float s = gqmm_round_to_type(gqmm_abs_max(x, 16) / 6.0f, x_type) * encode;
    p[1][0] = gqmm_f32_to_e4m3(s);
    const float back = gqmm_e4m3_to_f32(p[1][0]);
    for (int i = 0; i < 8; i++) {
        const float lo = gqmm_round_to_type(x[2 * i] / back, x_type) * encode;
        const float hi = gqmm_round_to_type(x[2 * i + 1] / back, x_type) * encode;
        p[0][i] = (uint8_t)(gqmm_e2m1_nearest(2.0f * lo) | gqmm_e2m1_nearest(2.0f * hi) << 4);
    }
}

#endif
