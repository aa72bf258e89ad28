/* SPDX-License-Identifier: MIT */
/* nvfp4 (GGUF type 40): w = ue4m3(d[g]) / 2 * v, v the doubled E2M1 value, 4 groups of 16. Byte
 * 8 g + j holds elements j (low) and j + 8 (high) of group g. A scale per tensor, where a file has
 * one, is a tensor of its own and not part of the format. */
#ifndef GQMM_FORMAT_NVFP4_H
#define GQMM_FORMAT_NVFP4_H

#include "base/num.h"
#include "format/fp8.h"

typedef struct gqmm_nvfp4 {
    uint8_t d[4]; /* UE4M3 */
    uint8_t qs[32];
} gqmm_nvfp4;
GQMM_STATIC_ASSERT(sizeof(gqmm_nvfp4) == 36, "nvfp4 block size");
GQMM_STATIC_ASSERT(offsetof(gqmm_nvfp4, qs) == 4, "nvfp4 qs");

GQMM_HD static inline void gqmm_nvfp4_unpack(int16_t *q, float *scale, float *offset, const void *p)
{
    const gqmm_nvfp4 *b = (const gqmm_nvfp4 *)p;
    (void)offset;
    for (int g = 0; g < 4; g++) {
        scale[g] = gqmm_ue4m3_half_to_f32(b->d[g]);
        for (int j = 0; j < 8; j++) {
            q[16 * g + j] = (int16_t)gqmm_e2m1_doubled(b->qs[8 * g + j] & 15);
            q[16 * g + 8 + j] = (int16_t)gqmm_e2m1_doubled(b->qs[8 * g + j] >> 4);
        }
    }
}

#endif
