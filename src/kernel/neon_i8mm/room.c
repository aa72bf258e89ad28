/* SPDX-License-Identifier: MIT */
/* The room neon_i8mm: smmla multiplies 8 weights of two rows with 8 codes of two activation rows,
 * twice the work of sdot. Two panel vectors, zipped, are two of its operands, and serve all
 * activation rows; integer sums have the same bits either way. */
#define ROW_NAME(family) gqmm_##family##_neon_i8mm
#include "kernel/neon_words.h"

/* Two panel vectors of 4 rows: 8 weights of rows 0 and 1, and of rows 2 and 3. */
INLINE void pairs_of_rows(int8x16_t z[2], const uint8_t (*q)[ROWS][4], int v)
{
    const uint32x4_t a = u32(load(q[0] + v)), b = u32(load(q[1] + v));
    z[0] = vreinterpretq_s8_u32(vzip1q_u32(a, b));
    z[1] = vreinterpretq_s8_u32(vzip2q_u32(a, b));
}

INLINE int8x16_t low_halves_of(int8x16_t a, int8x16_t b)
{
    return vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

INLINE int8x16_t high_halves_of(int8x16_t a, int8x16_t b)
{
    return vreinterpretq_s8_s64(vzip2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

INLINE void dots(int32x4_t (*d)[2], const uint8_t (*q)[ROWS][4], const gqmm_act *const *act,
                 int from, const int mr, const int piece)
{
    int32x4_t p[I_MR / 2][ROWS / 2]; /* [pair t, t + 1][pair of rows] */
    if (mr == 1) {
        dots_of_rows(d, q, act, from, mr, piece);
        return;
    }
    UNROLL(4)
    for (int t = 0; t < mr; t += 2)
        UNROLL(4)
    for (int r = 0; r < ROWS / 2; r++)
        p[t / 2][r] = vdupq_n_s32(0);
    UNROLL(2)
    for (int i = 0; i < piece; i += 16) {
        int8x16_t x[I_MR / 2][2]; /* 8 codes of two activation rows, and their next 8 */
        UNROLL(4)
        for (int t = 0; t < mr; t += 2) { /* an odd last row goes twice */
            const int8x16_t a = vld1q_s8(act[t]->q + from + i);
            const int8x16_t b = vld1q_s8(act[t + 1 < mr ? t + 1 : t]->q + from + i);
            x[t / 2][0] = low_halves_of(a, b);
            x[t / 2][1] = high_halves_of(a, b);
        }
        UNROLL(2)
        for (int k = 0; k < 2; k++) {
            int8x16_t z[ROWS / 2];
            pairs_of_rows(z, q + i / 4 + 2 * k, 0);
            pairs_of_rows(z + 2, q + i / 4 + 2 * k, LANES);
            UNROLL(4)
            for (int t = 0; t < mr; t += 2)
                UNROLL(4)
            for (int r = 0; r < ROWS / 2; r++)
                p[t / 2][r] = vmmlaq_s32(p[t / 2][r], x[t / 2][k], z[r]);
        }
    }
    UNROLL(8)
    for (int t = 0; t < mr; t++)
        UNROLL(2)
    for (int v = 0; v < 2; v++) {
        const int8x16_t a = vreinterpretq_s8_s32(p[t / 2][2 * v]);
        const int8x16_t b = vreinterpretq_s8_s32(p[t / 2][2 * v + 1]);
        const int8x16_t s = t % 2 ? high_halves_of(a, b) : low_halves_of(a, b);
        d[t][v] = vaddq_s32(d[t][v], vreinterpretq_s32_s8(s));
    }
}

#include "kernel/neon_core.h"
