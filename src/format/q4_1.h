/* SPDX-License-Identifier: MIT */
/* q4_1 (GGUF type 3): w = d * q + m. Byte j holds element j low, element j + 16 high. */
#ifndef GQMM_FORMAT_Q4_1_H
#define GQMM_FORMAT_Q4_1_H

#include "base/num.h"
#include "format/round.h"

typedef struct gqmm_q4_1 {
    uint8_t d[2]; /* f16 */
    uint8_t m[2]; /* f16 */
    uint8_t qs[16];
} gqmm_q4_1;
GQMM_STATIC_ASSERT(sizeof(gqmm_q4_1) == 20, "q4_1 block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_q4_1, m) == 2, "q4_1 m");
GQMM_STATIC_ASSERT(offsetof(gqmm_q4_1, qs) == 4, "q4_1 qs");

GQMM_HD static inline void gqmm_q4_1_unpack(int16_t *q, float *scale, float *offset, const void *p)
{
    const gqmm_q4_1 *b = (const gqmm_q4_1 *)p;
    scale[0] = gqmm_f16_to_f32(gqmm_load16(b->d));
    offset[0] = gqmm_f16_to_f32(gqmm_load16(b->m));
    for (int j = 0; j < 16; j++) {
        q[j] = (int16_t)(b->qs[j] & 15);
        q[j + 16] = (int16_t)(b->qs[j] >> 4);
    }
}

/* d = (max - min) / 15, m = min: the gguf package's bytes. */
GQMM_HD static inline void gqmm_q4_1_quantize(uint8_t *p, const float *x)
{
    gqmm_q4_1 *b = (gqmm_q4_1 *)p;
    float min, max;
    gqmm_min_max(&min, &max, x, 32);
    const float d = (max - min) / 15.0f, inverse = gqmm_inverse(d);
    gqmm_store16(b->d, gqmm_f32_to_f16(d));
    gqmm_store16(b->m, gqmm_f32_to_f16(min));
    for (int j = 0; j < 16; j++) {
        const int lo = gqmm_trunc_code((x[j] - min) * inverse + 0.5f, 0, 15);
        const int hi = gqmm_trunc_code((x[j + 16] - min) * inverse + 0.5f, 0, 15);
        b->qs[j] = (uint8_t)(lo | hi << 4);
    }
}

#endif
