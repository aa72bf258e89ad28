/* SPDX-License-Identifier: MIT */
/* The room neon: ARMv8.2-A with sdot. */
#define ROW_NAME(family) gqmm_##family##_neon
#include "kernel/neon_words.h"

INLINE void dots(int32x4_t (*d)[2], const uint8_t (*q)[ROWS][4], const gqmm_act *const *act,
                 int from, const int mr, const int piece)
{
    dots_of_rows(d, q, act, from, mr, piece);
}

#include "kernel/neon_core.h"
