/* SPDX-License-Identifier: MIT */
/* q6_k (GGUF type 14): w = d * sc * (q - 32), 16 groups of 16, sc a signed byte. Half h (128
 * elements) uses ql[64 h ..] and qh[32 h ..]; element 32 j + l of it has its low nibble in
 * ql[32 (j % 2) + l] (low for j < 2, else high) and its top bits at bit 2 j of qh[l]. */
#ifndef GQMM_FORMAT_Q6_K_H
#define GQMM_FORMAT_Q6_K_H

#include "base/num.h"

typedef struct gqmm_q6_k {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    uint8_t d[2]; /* f16 */
} gqmm_q6_k;
GQMM_STATIC_ASSERT(sizeof(gqmm_q6_k) == 210, "q6_k block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_q6_k, qh) == 128, "q6_k qh");
GQMM_STATIC_ASSERT(offsetof(gqmm_q6_k, scales) == 192, "q6_k scales");
GQMM_STATIC_ASSERT(offsetof(gqmm_q6_k, d) == 208, "q6_k d");

GQMM_HD static inline void gqmm_q6_k_unpack(int16_t *q, float *scale, float *offset, const void *p)
{
    const gqmm_q6_k *b = (const gqmm_q6_k *)p;
    const float d = gqmm_f16_to_f32(gqmm_load16(b->d));
    (void)offset;
    for (int g = 0; g < 16; g++)
        scale[g] = d * (float)b->scales[g];
    for (int h = 0; h < 2; h++) {
        const uint8_t *ql = b->ql + 64 * h, *qh = b->qh + 32 * h;
        int16_t *o = q + 128 * h;
        for (int l = 0; l < 32; l++) {
            o[l] = (int16_t)(((ql[l] & 15) | (qh[l] & 3) << 4) - 32);
            o[l + 32] = (int16_t)(((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4) - 32);
            o[l + 64] = (int16_t)((ql[l] >> 4 | (qh[l] >> 4 & 3) << 4) - 32);
            o[l + 96] = (int16_t)((ql[l + 32] >> 4 | (qh[l] >> 6) << 4) - 32);
        }
    }
}

#endif
