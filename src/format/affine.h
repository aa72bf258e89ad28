/* SPDX-License-Identifier: MIT */
/* affineB_gG_T: the affine mode of MLX. w = scale * q + bias, q unsigned of B bits, one scale and
 * one bias of type T for G elements; scales may be negative. Plane 0 is one little-endian bit
 * stream, element k at bits [k B, (k + 1) B); planes 1 and 2 hold scale and bias of each group. */
#ifndef GQMM_FORMAT_AFFINE_H
#define GQMM_FORMAT_AFFINE_H

#include "base/num.h"
#include "format/round.h"
#include "gqmm.h"

GQMM_HD static inline float gqmm_load_float(const void *p, int type)
{
    if (type == GQMM_F32)
        return gqmm_bits_to_f32(gqmm_load32(p));
    return type == GQMM_F16 ? gqmm_f16_to_f32(gqmm_load16(p)) : gqmm_bf16_to_f32(gqmm_load16(p));
}

/* n codes, a multiple of 8, so that the stream ends on a byte: 8 codes are `bits` bytes. */
GQMM_HD static inline void gqmm_affine_codes(int16_t *q, const uint8_t *p, int bits, int n)
{
    if (bits == 8) {
        for (int i = 0; i < n; i++)
            q[i] = p[i];
    } else if (bits == 4) {
        for (int i = 0; i < n / 2; i++) {
            q[2 * i] = (int16_t)(p[i] & 15);
            q[2 * i + 1] = (int16_t)(p[i] >> 4);
        }
    } else {
        const int mask = (1 << bits) - 1;
        for (int i = 0; i < n; i += 8, p += bits) {
            uint64_t v = 0;
            for (int j = 0; j < bits; j++)
                v |= (uint64_t)p[j] << (8 * j);
            for (int j = 0; j < 8; j++)
                q[i + j] = (int16_t)((int)(v >> (bits * j)) & mask);
        }
    }
}

/* p: codes, scales, biases, each at this group. */
GQMM_HD static inline void gqmm_affine_unpack(int16_t *q, float *scale, float *offset,
                                              const uint8_t *const p[3], int bits, int group,
                                              int scale_type)
{
    scale[0] = gqmm_load_float(p[1], scale_type);
    offset[0] = gqmm_load_float(p[2], scale_type);
    gqmm_affine_codes(q, p[0], bits, group);
}

GQMM_HD static inline void gqmm_store_float(void *p, float v, int type)
{
    if (type == GQMM_F32)
        gqmm_store32(p, gqmm_f32_to_bits(v));
    else
        gqmm_store16(p, type == GQMM_F16 ? gqmm_f32_to_f16(v) : gqmm_f32_to_bf16(v));
}

/* The bytes of MLX on the CPU. The extreme of greater magnitude becomes the bias when some whole
 * code of it reaches zero; codes are chosen with the fp32 scale and bias, which are rounded to
 * their type afterwards. MLX knows only scales of the type of x; here they are free. */
GQMM_HD static inline void gqmm_affine_quantize(uint8_t *const p[3], const float *x, int bits,
                                                int group, int scale_type)
{
    const int n_bins = (1 << bits) - 1;
    float min, max, bias = 0.0f;
    gqmm_min_max(&min, &max, x, group);

    const bool from_min = fabsf(min) > fabsf(max);
    const float edge = from_min ? min : max;
    float scale = (max - min) / (float)n_bins;
    scale = scale < 1e-7f || scale != scale ? 1e-7f : scale;
    scale = from_min ? scale : -scale;
    const float q0 = rintf(edge / scale);
    if (q0 != 0.0f) {
        scale = edge / q0;
        bias = edge;
    }
    gqmm_store_float(p[1], scale, scale_type);
    gqmm_store_float(p[2], bias, scale_type);

    uint8_t *out = p[0];
    for (int i = 0; i < group; i += 8, out += bits) {
        uint64_t v = 0;
        for (int j = 0; j < 8; j++)
            v |= (uint64_t)gqmm_round_code((x[i + j] - bias) / scale, 0, n_bins) << (bits * j);
        for (int j = 0; j < bits; j++)
            out[j] = (uint8_t)(v >> (8 * j));
    }
}

#endif
