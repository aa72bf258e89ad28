/* SPDX-License-Identifier: MIT */
/* q5_k (GGUF type 13): w = d * sc * q - dmin * mn, 8 groups of 32. Scales and low nibbles as q4_k;
 * bit g of qh[l] is bit 4 of element 32 g + l. */
#ifndef GQMM_FORMAT_Q5_K_H
#define GQMM_FORMAT_Q5_K_H

#include "base/num.h"
#include "format/q4_k.h"

typedef struct gqmm_q5_k {
    uint8_t d[2];    /* f16 */
    uint8_t dmin[2]; /* f16 */
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
} gqmm_q5_k;
GQMM_STATIC_ASSERT(sizeof(gqmm_q5_k) == 176, "q5_k block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_q5_k, dmin) == 2, "q5_k dmin");
GQMM_STATIC_ASSERT(offsetof(gqmm_q5_k, scales) == 4, "q5_k scales");
GQMM_STATIC_ASSERT(offsetof(gqmm_q5_k, qh) == 16, "q5_k qh");
GQMM_STATIC_ASSERT(offsetof(gqmm_q5_k, qs) == 48, "q5_k qs");

GQMM_HD static inline void gqmm_q5_k_unpack(int16_t *q, float *scale, float *offset, const void *p)
{
    const gqmm_q5_k *b = (const gqmm_q5_k *)p;
    gqmm_k_scales(scale, offset, gqmm_f16_to_f32(gqmm_load16(b->d)),
                  gqmm_f16_to_f32(gqmm_load16(b->dmin)), b->scales);
    for (int c = 0; c < 4; c++)
        for (int l = 0; l < 32; l++) {
            const int lo = (b->qh[l] >> (2 * c)) & 1, hi = (b->qh[l] >> (2 * c + 1)) & 1;
            q[64 * c + l] = (int16_t)((b->qs[32 * c + l] & 15) | lo << 4);
            q[64 * c + 32 + l] = (int16_t)((b->qs[32 * c + l] >> 4) | hi << 4);
        }
}

#endif
