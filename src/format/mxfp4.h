/* SPDX-License-Identifier: MIT */
/* mxfp4 (GGUF type 39): w = 2^(e - 128) * v, v the doubled E2M1 value of the code. Byte j holds
 * element j low, element j + 16 high; e = 255 is an ordinary exponent. */
#ifndef GQMM_FORMAT_MXFP4_H
#define GQMM_FORMAT_MXFP4_H

#include "base/num.h"
#include "format/fp8.h"
#include "format/round.h"

typedef struct gqmm_mxfp4 {
    uint8_t e;
    uint8_t qs[16];
} gqmm_mxfp4;
GQMM_STATIC_ASSERT(sizeof(gqmm_mxfp4) == 17, "mxfp4 block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_mxfp4, qs) == 1, "mxfp4 qs");

GQMM_HD static inline void gqmm_mxfp4_unpack(int16_t *q, float *scale, float *offset, const void *p)
{
    const gqmm_mxfp4 *b = (const gqmm_mxfp4 *)p;
    (void)offset;
    scale[0] = gqmm_e8m0_half_to_f32(b->e);
    for (int j = 0; j < 16; j++) {
        q[j] = (int16_t)gqmm_e2m1_doubled(b->qs[j] & 15);
        q[j + 16] = (int16_t)gqmm_e2m1_doubled(b->qs[j] >> 4);
    }
}

/* e = floor(log2(amax)) - 2 + 127 and the nearest code: the gguf package's bytes. The logarithm is
 * rounded to fp32, so that an amax just below a power of two may count as that power; it is taken
 * in double first, as the log2f of libraries (CUDA's) need not be the nearest number. */
GQMM_HD static inline void gqmm_mxfp4_quantize(uint8_t *p, const float *x)
{
    gqmm_mxfp4 *b = (gqmm_mxfp4 *)p;
    const float amax = gqmm_abs_max(x, 32);
    const float e = amax > 0.0f ? floorf((float)log2((double)amax)) + 125.0f : 0.0f;
    b->e = (uint8_t)gqmm_trunc_code(e, 0, 254);
    const float d = gqmm_e8m0_half_to_f32(b->e);
    for (int j = 0; j < 16; j++)
        b->qs[j] = (uint8_t)(gqmm_e2m1_nearest(x[j] / d) | gqmm_e2m1_nearest(x[j + 16] / d) << 4);
}

#endif
