/* SPDX-License-Identifier: MIT */
/* q3_k (GGUF type 11): w = d * (sc - 32) * q, q in [-4, 3], 16 groups of 16. Two low bits lie as in
 * q2_k; bit c of hmask[l] is the third bit of element 32 c + l. Scales have 6 bits: the low four of
 * group g are in nibbles of bytes 0..7 (g < 8 low, else high), the high two in bytes 8..11, bits
 * 2 (g / 4) of byte 8 + g % 4. */
#ifndef GQMM_FORMAT_Q3_K_H
#define GQMM_FORMAT_Q3_K_H

#include "base/num.h"

typedef struct gqmm_q3_k {
    uint8_t hmask[32];
    uint8_t qs[64];
    uint8_t scales[12];
    uint8_t d[2]; /* f16 */
} gqmm_q3_k;
GQMM_STATIC_ASSERT(sizeof(gqmm_q3_k) == 110, "q3_k block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_q3_k, qs) == 32, "q3_k qs");
GQMM_STATIC_ASSERT(offsetof(gqmm_q3_k, scales) == 96, "q3_k scales");
GQMM_STATIC_ASSERT(offsetof(gqmm_q3_k, d) == 108, "q3_k d");

GQMM_HD static inline int gqmm_q3_k_scale(const uint8_t *scales, int g)
{
    const int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4;
    const int high = (scales[8 + g % 4] >> (2 * (g / 4))) & 3;
    return (low | high << 4) - 32;
}

GQMM_HD static inline void gqmm_q3_k_unpack(int16_t *q, float *scale, float *offset, const void *p)
{
    const gqmm_q3_k *b = (const gqmm_q3_k *)p;
    const float d = gqmm_f16_to_f32(gqmm_load16(b->d));
    (void)offset;
    for (int g = 0; g < 16; g++)
        scale[g] = d * (float)gqmm_q3_k_scale(b->scales, g);
    for (int c = 0; c < 8; c++) {
        const uint8_t *qs = b->qs + 32 * (c / 4);
        const int shift = 2 * (c % 4);
        for (int l = 0; l < 32; l++) {
            const int low = (qs[l] >> shift) & 3, high = (b->hmask[l] >> c) & 1;
            q[32 * c + l] = (int16_t)((low | high << 2) - 4);
        }
    }
}

#endif
