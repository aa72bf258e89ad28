/* SPDX-License-Identifier: MIT */
/* q8_0 (GGUF type 8): w = d * q, q a signed byte. */
#ifndef GQMM_FORMAT_Q8_0_H
#define GQMM_FORMAT_Q8_0_H

#include "base/num.h"
#include "format/round.h"

typedef struct gqmm_q8_0 {
    uint8_t d[2]; /* f16 */
    int8_t qs[32];
} gqmm_q8_0;
GQMM_STATIC_ASSERT(sizeof(gqmm_q8_0) == 34, "q8_0 block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_q8_0, qs) == 2, "q8_0 qs");

GQMM_HD static inline void gqmm_q8_0_unpack(int16_t *q, float *scale, float *offset, const void *p)
{
    const gqmm_q8_0 *b = (const gqmm_q8_0 *)p;
    (void)offset;
    scale[0] = gqmm_f16_to_f32(gqmm_load16(b->d));
    for (int j = 0; j < 32; j++)
        q[j] = b->qs[j];
}

/* d = amax / 127, ties away from zero: the gguf package's bytes. */
GQMM_HD static inline void gqmm_q8_0_quantize(uint8_t *p, const float *x)
{
    gqmm_q8_0 *b = (gqmm_q8_0 *)p;
    const float d = gqmm_abs_max(x, 32) / 127.0f, inverse = gqmm_inverse(d);
    gqmm_store16(b->d, gqmm_f32_to_f16(d));
    for (int j = 0; j < 32; j++)
        b->qs[j] = (int8_t)gqmm_round_away_code(x[j] * inverse, 127);
}

#endif
