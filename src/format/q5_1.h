/* SPDX-License-Identifier: MIT */
/* q5_1 (GGUF type 7): w = d * q + m. Low nibbles as q4_1, bit j of qh is bit 4 of element j. */
#ifndef GQMM_FORMAT_Q5_1_H
#define GQMM_FORMAT_Q5_1_H

#include "base/num.h"
#include "format/round.h"

typedef struct gqmm_q5_1 {
    uint8_t d[2]; /* f16 */
    uint8_t m[2]; /* f16 */
    uint8_t qh[4];
    uint8_t qs[16];
} gqmm_q5_1;
GQMM_STATIC_ASSERT(sizeof(gqmm_q5_1) == 24, "q5_1 block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_q5_1, m) == 2, "q5_1 m");
GQMM_STATIC_ASSERT(offsetof(gqmm_q5_1, qh) == 4, "q5_1 qh");
GQMM_STATIC_ASSERT(offsetof(gqmm_q5_1, qs) == 8, "q5_1 qs");

GQMM_HD static inline void gqmm_q5_1_unpack(int16_t *q, float *scale, float *offset, const void *p)
{
    const gqmm_q5_1 *b = (const gqmm_q5_1 *)p;
    const uint32_t qh = gqmm_load32(b->qh);
    scale[0] = gqmm_f16_to_f32(gqmm_load16(b->d));
    offset[0] = gqmm_f16_to_f32(gqmm_load16(b->m));
    for (int j = 0; j < 16; j++) {
        const int lo = (int)((qh >> j) & 1) << 4, hi = (int)((qh >> (j + 16)) & 1) << 4;
        q[j] = (int16_t)((b->qs[j] & 15) | lo);
        q[j + 16] = (int16_t)((b->qs[j] >> 4) | hi);
    }
}

/* d = (max - min) / 31, m = min: the gguf package's bytes. */
GQMM_HD static inline void gqmm_q5_1_quantize(uint8_t *p, const float *x)
{
    gqmm_q5_1 *b = (gqmm_q5_1 *)p;
    float min, max;
    gqmm_min_max(&min, &max, x, 32);
    const float d = (max - min) / 31.0f, inverse = gqmm_inverse(d);
    uint32_t qh = 0;
    gqmm_store16(b->d, gqmm_f32_to_f16(d));
    gqmm_store16(b->m, gqmm_f32_to_f16(min));
    for (int j = 0; j < 16; j++) {
        const int lo = gqmm_trunc_code((x[j] - min) * inverse + 0.5f, 0, 31);
        const int hi = gqmm_trunc_code((x[j + 16] - min) * inverse + 0.5f, 0, 31);
        b->qs[j] = (uint8_t)((lo & 15) | (hi & 15) << 4);
        qh |= (uint32_t)(lo >> 4) << j | (uint32_t)(hi >> 4) << (j + 16);
    }
    gqmm_store32(b->qh, qh);
}

#endif
