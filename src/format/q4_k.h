/* SPDX-License-Identifier: MIT */
/* q4_k (GGUF type 12): w = d * sc * q - dmin * mn, 8 groups of 32. Chunk c (64 elements) uses
 * qs[32 c ..]: low nibbles are its first 32 elements, high nibbles the next 32. Scales and minima
 * have 6 bits each, packed in 12 bytes: see gqmm_k_scale_min(), shared with q5_k. */
#ifndef GQMM_FORMAT_Q4_K_H
#define GQMM_FORMAT_Q4_K_H

#include "base/num.h"

typedef struct gqmm_q4_k {
    uint8_t d[2];    /* f16 */
    uint8_t dmin[2]; /* f16 */
    uint8_t scales[12];
    uint8_t qs[128];
} gqmm_q4_k;
GQMM_STATIC_ASSERT(sizeof(gqmm_q4_k) == 144, "q4_k block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_q4_k, dmin) == 2, "q4_k dmin");
GQMM_STATIC_ASSERT(offsetof(gqmm_q4_k, scales) == 4, "q4_k scales");
GQMM_STATIC_ASSERT(offsetof(gqmm_q4_k, qs) == 16, "q4_k qs");

/* Groups 0..3: the low 6 bits of bytes g and g + 4. Groups 4..7: nibbles of byte g + 4 (scale low,
 * minimum high) with the two top bits of bytes g - 4 and g. */
GQMM_HD static inline void gqmm_k_scale_min(int *sc, int *mn, const uint8_t *s, int g)
{
    if (g < 4) {
        *sc = s[g] & 63;
        *mn = s[g + 4] & 63;
    } else {
        *sc = (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
        *mn = (s[g + 4] >> 4) | (s[g] >> 6) << 4;
    }
}

GQMM_HD static inline void gqmm_k_scales(float *scale, float *offset, float d, float dmin,
                                         const uint8_t *s)
{
    for (int g = 0; g < 8; g++) {
        int sc, mn;
        gqmm_k_scale_min(&sc, &mn, s, g);
        scale[g] = d * (float)sc;
        offset[g] = -(dmin * (float)mn);
    }
}

GQMM_HD static inline void gqmm_q4_k_unpack(int16_t *q, float *scale, float *offset, const void *p)
{
    const gqmm_q4_k *b = (const gqmm_q4_k *)p;
    gqmm_k_scales(scale, offset, gqmm_f16_to_f32(gqmm_load16(b->d)),
                  gqmm_f16_to_f32(gqmm_load16(b->dmin)), b->scales);
    for (int c = 0; c < 4; c++)
        for (int l = 0; l < 32; l++) {
            q[64 * c + l] = (int16_t)(b->qs[32 * c + l] & 15);
            q[64 * c + 32 + l] = (int16_t)(b->qs[32 * c + l] >> 4);
        }
}

#endif
