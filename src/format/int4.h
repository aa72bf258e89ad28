/* SPDX-License-Identifier: MIT */
/* int4_gG: plain symmetric 4-bit rows, the layout of the ExecuTorch CUDA kernels. w = scale * (u -
 * 8), one bf16 scale for G elements. Plane 0: byte k / 2 holds even k low, odd k high; plane 1:
 * scales. */
#ifndef GQMM_FORMAT_INT4_H
#define GQMM_FORMAT_INT4_H

#include "base/num.h"
#include "format/round.h"

GQMM_HD static inline void gqmm_int4_unpack(int16_t *q, float *scale, float *offset,
                                            const uint8_t *const p[3], int group)
{
    (void)offset;
    scale[0] = gqmm_bf16_to_f32(gqmm_load16(p[1]));
    for (int i = 0; i < group / 2; i++) {
        q[2 * i] = (int16_t)((p[0][i] & 15) - 8);
        q[2 * i + 1] = (int16_t)((p[0][i] >> 4) - 8);
    }
}

/* scale = amax / 7 as bf16, then the nearest code with that scale. */
GQMM_HD static inline void gqmm_int4_quantize(uint8_t *const p[3], const float *x, int group)
{
    const uint16_t s = gqmm_f32_to_bf16(gqmm_abs_max(x, group) / 7.0f);
    const float scale = gqmm_bf16_to_f32(s);
    gqmm_store16(p[1], s);
    for (int i = 0; i < group / 2; i++) {
        const int lo = scale > 0.0f ? gqmm_round_code(x[2 * i] / scale, -8, 7) + 8 : 8;
        const int hi = scale > 0.0f ? gqmm_round_code(x[2 * i + 1] / scale, -8, 7) + 8 : 8;
        p[0][i] = (uint8_t)(lo | hi << 4);
    }
}

#endif
