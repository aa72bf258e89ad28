/* SPDX-License-Identifier: MIT */
/* iq4_nl (GGUF type 20): w = d * kv[code], kv a fixed table of 16 bytes denser near zero. Byte j
 * holds element j low, element j + 16 high. */
#ifndef GQMM_FORMAT_IQ4_NL_H
#define GQMM_FORMAT_IQ4_NL_H

#include "base/num.h"

typedef struct gqmm_iq4_nl {
    uint8_t d[2]; /* f16 */
    uint8_t qs[16];
} gqmm_iq4_nl;
GQMM_STATIC_ASSERT(sizeof(gqmm_iq4_nl) == 18, "iq4_nl block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_iq4_nl, qs) == 2, "iq4_nl qs");

GQMM_HD static inline int gqmm_iq4_value(int code)
{
    static const int8_t kv[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};
    return kv[code];
}

GQMM_HD static inline void gqmm_iq4_nl_unpack(int16_t *q, float *scale, float *offset,
                                              const void *p)
{
    const gqmm_iq4_nl *b = (const gqmm_iq4_nl *)p;
    (void)offset;
    scale[0] = gqmm_f16_to_f32(gqmm_load16(b->d));
    for (int j = 0; j < 16; j++) {
        q[j] = (int16_t)gqmm_iq4_value(b->qs[j] & 15);
        q[j + 16] = (int16_t)gqmm_iq4_value(b->qs[j] >> 4);
    }
}

#endif
