/* SPDX-License-Identifier: MIT */
/* iq4_xs (GGUF type 23): w = d * (ls - 32) * kv[code], 8 groups of 32, kv of iq4_nl. ls of group g
 * has 6 bits: nibble g of scales_l (low first) and bits 2 g of scales_h. Codes of a group lie as
 * in iq4_nl. */
#ifndef GQMM_FORMAT_IQ4_XS_H
#define GQMM_FORMAT_IQ4_XS_H

#include "base/num.h"
#include "format/iq4_nl.h"

typedef struct gqmm_iq4_xs {
    uint8_t d[2]; /* f16 */
    uint8_t scales_h[2];
    uint8_t scales_l[4];
    uint8_t qs[128];
} gqmm_iq4_xs;
GQMM_STATIC_ASSERT(sizeof(gqmm_iq4_xs) == 136, "iq4_xs block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_iq4_xs, scales_h) == 2, "iq4_xs scales_h");
GQMM_STATIC_ASSERT(offsetof(gqmm_iq4_xs, scales_l) == 4, "iq4_xs scales_l");
GQMM_STATIC_ASSERT(offsetof(gqmm_iq4_xs, qs) == 8, "iq4_xs qs");

GQMM_HD static inline void gqmm_iq4_xs_unpack(int16_t *q, float *scale, float *offset,
                                              const void *p)
{
    const gqmm_iq4_xs *b = (const gqmm_iq4_xs *)p;
    const float d = gqmm_f16_to_f32(gqmm_load16(b->d));
    const int high = gqmm_load16(b->scales_h);
    (void)offset;
    for (int g = 0; g < 8; g++) {
        const int low = (b->scales_l[g / 2] >> (4 * (g % 2))) & 15;
        scale[g] = d * (float)((low | ((high >> (2 * g)) & 3) << 4) - 32);
        for (int j = 0; j < 16; j++) {
            q[32 * g + j] = (int16_t)gqmm_iq4_value(b->qs[16 * g + j] & 15);
            q[32 * g + 16 + j] = (int16_t)gqmm_iq4_value(b->qs[16 * g + j] >> 4);
        }
    }
}

#endif
