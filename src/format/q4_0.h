/* SPDX-License-Identifier: MIT */
/* q4_0 (GGUF type 2): w = d * (q - 8). Byte j holds element j low, element j + 16 high. */
#ifndef GQMM_FORMAT_Q4_0_H
#define GQMM_FORMAT_Q4_0_H

#include "base/num.h"
#include "format/round.h"

typedef struct gqmm_q4_0 {
    uint8_t d[2]; /* f16 */
    uint8_t qs[16];
} gqmm_q4_0;
GQMM_STATIC_ASSERT(sizeof(gqmm_q4_0) == 18, "q4_0 block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_q4_0, qs) == 2, "q4_0 qs");

GQMM_HD static inline void gqmm_q4_0_unpack(int16_t *q, float *scale, float *offset, const void *p)
{
    const gqmm_q4_0 *b = (const gqmm_q4_0 *)p;
    (void)offset;
    scale[0] = gqmm_f16_to_f32(gqmm_load16(b->d));
    for (int j = 0; j < 16; j++) {
        q[j] = (int16_t)((b->qs[j] & 15) - 8);
        q[j + 16] = (int16_t)((b->qs[j] >> 4) - 8);
    }
}

/* d = max / -8, the element of greatest magnitude being code 0: the gguf package's bytes. */
GQMM_HD static inline void gqmm_q4_0_quantize(uint8_t *p, const float *x)
{
    gqmm_q4_0 *b = (gqmm_q4_0 *)p;
    const float d = gqmm_signed_max(x, 32) / -8.0f, inverse = gqmm_inverse(d);
    gqmm_store16(b->d, gqmm_f32_to_f16(d));
    for (int j = 0; j < 16; j++) {
        const int lo = gqmm_trunc_code(x[j] * inverse + 8.5f, 0, 15);
        const int hi = gqmm_trunc_code(x[j + 16] * inverse + 8.5f, 0, 15);
        b->qs[j] = (uint8_t)(lo | hi << 4);
    }
}

#endif
