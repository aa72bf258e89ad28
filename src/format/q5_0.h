/* SPDX-License-Identifier: MIT */
/* q5_0 (GGUF type 6): w = d * (q - 16). Low nibbles as q4_0, bit j of qh is bit 4 of element j. */
#ifndef GQMM_FORMAT_Q5_0_H
#define GQMM_FORMAT_Q5_0_H

#include "base/num.h"
#include "format/round.h"

typedef struct gqmm_q5_0 {
    uint8_t d[2]; /* f16 */
    uint8_t qh[4];
    uint8_t qs[16];
} gqmm_q5_0;
GQMM_STATIC_ASSERT(sizeof(gqmm_q5_0) == 22, "q5_0 block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_q5_0, qh) == 2, "q5_0 qh");
GQMM_STATIC_ASSERT(offsetof(gqmm_q5_0, qs) == 6, "q5_0 qs");

GQMM_HD static inline void gqmm_q5_0_unpack(int16_t *q, float *scale, float *offset, const void *p)
{
    const gqmm_q5_0 *b = (const gqmm_q5_0 *)p;
    const uint32_t qh = gqmm_load32(b->qh);
    (void)offset;
    scale[0] = gqmm_f16_to_f32(gqmm_load16(b->d));
    for (int j = 0; j < 16; j++) {
        const int lo = (int)((qh >> j) & 1) << 4, hi = (int)((qh >> (j + 16)) & 1) << 4;
        q[j] = (int16_t)(((b->qs[j] & 15) | lo) - 16);
        q[j + 16] = (int16_t)(((b->qs[j] >> 4) | hi) - 16);
    }
}

/* d = max / -16, the element of greatest magnitude being code 0: the gguf package's bytes. */
GQMM_HD static inline void gqmm_q5_0_quantize(uint8_t *p, const float *x)
{
    gqmm_q5_0 *b = (gqmm_q5_0 *)p;
    const float d = gqmm_signed_max(x, 32) / -16.0f, inverse = gqmm_inverse(d);
    uint32_t qh = 0;
    gqmm_store16(b->d, gqmm_f32_to_f16(d));
    for (int j = 0; j < 16; j++) {
        const int lo = gqmm_trunc_code(x[j] * inverse + 16.5f, 0, 31);
        const int hi = gqmm_trunc_code(x[j + 16] * inverse + 16.5f, 0, 31);
        b->qs[j] = (uint8_t)((lo & 15) | (hi & 15) << 4);
        qh |= (uint32_t)(lo >> 4) << j | (uint32_t)(hi >> 4) << (j + 16);
    }
    gqmm_store32(b->qh, qh);
}

#endif
