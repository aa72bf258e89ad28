/* SPDX-License-Identifier: MIT */
/* q2_k (GGUF type 10): w = d * sc * q - dmin * mn, 16 groups of 16. scales[g] holds sc low, mn
 * high. Half h (128 elements) uses qs[32 h ..]; element 32 j + l of it is bits 2 j of byte l. */
#ifndef GQMM_FORMAT_Q2_K_H
#define GQMM_FORMAT_Q2_K_H

#include "base/num.h"

typedef struct gqmm_q2_k {
    uint8_t scales[16];
    uint8_t qs[64];
    uint8_t d[2];    /* f16 */
    uint8_t dmin[2]; /* f16 */
} gqmm_q2_k;
GQMM_STATIC_ASSERT(sizeof(gqmm_q2_k) == 84, "q2_k block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_q2_k, qs) == 16, "q2_k qs");
GQMM_STATIC_ASSERT(offsetof(gqmm_q2_k, d) == 80, "q2_k d");
GQMM_STATIC_ASSERT(offsetof(gqmm_q2_k, dmin) == 82, "q2_k dmin");

GQMM_HD static inline void gqmm_q2_k_unpack(int16_t *q, float *scale, float *offset, const void *p)
{
    const gqmm_q2_k *b = (const gqmm_q2_k *)p;
    const float d = gqmm_f16_to_f32(gqmm_load16(b->d));
    const float dmin = gqmm_f16_to_f32(gqmm_load16(b->dmin));
    for (int g = 0; g < 16; g++) {
        scale[g] = d * (float)(b->scales[g] & 15);
        offset[g] = -(dmin * (float)(b->scales[g] >> 4));
    }
    for (int c = 0; c < 8; c++) {
        const uint8_t *qs = b->qs + 32 * (c / 4);
        const int shift = 2 * (c % 4);
        for (int l = 0; l < 32; l++)
            q[32 * c + l] = (int16_t)((qs[l] >> shift) & 3);
    }
}

#endif
