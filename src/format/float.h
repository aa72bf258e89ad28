/* SPDX-License-Identifier: MIT */
/* f32, f16, bf16: unquantised weights; a block is one element. */
#ifndef GQMM_FORMAT_FLOAT_H
#define GQMM_FORMAT_FLOAT_H

#include "base/num.h"
#include "format/round.h"

GQMM_HD static inline void gqmm_f32_values(float *w, const uint8_t *const p[3])
{
    w[0] = gqmm_bits_to_f32(gqmm_load32(p[0]));
}

GQMM_HD static inline void gqmm_f16_values(float *w, const uint8_t *const p[3])
{
    w[0] = gqmm_f16_to_f32(gqmm_load16(p[0]));
}

GQMM_HD static inline void gqmm_bf16_values(float *w, const uint8_t *const p[3])
{
    w[0] = gqmm_bf16_to_f32(gqmm_load16(p[0]));
}

GQMM_HD static inline void gqmm_f32_quantize(uint8_t *p, const float *x)
{
    gqmm_store32(p, gqmm_f32_to_bits(x[0]));
}

GQMM_HD static inline void gqmm_f16_quantize(uint8_t *p, const float *x)
{
    gqmm_store16(p, gqmm_f32_to_f16(x[0]));
}

GQMM_HD static inline void gqmm_bf16_quantize(uint8_t *p, const float *x)
{
    gqmm_store16(p, gqmm_f32_to_bf16(x[0]));
}

#endif
