/* SPDX-License-Identifier: MIT */
/* Packs of q2_k to q6_k. The dwords of the rows are transposed while they still hold packed
 * codes, so shuffles are paid per byte of the file, and masks make panel vectors of them. */
#ifndef GQMM_KERNEL_PANEL_K_QUANTS_H
#define GQMM_KERNEL_PANEL_K_QUANTS_H

#include "kernel/panel.h"

static void q2_k_pack(panel *to, tile *t, int64_t k, int n)
{
    const int64_t at = k / 256 * (int64_t)sizeof(gqmm_q2_k);
    (void)n; /* 256, as in all of this file */
    for (int h = 0; h < ROWS; h += LANES) {
        const uint8_t *const *row = t->row[0] + h;
        const fvec d = halves_at(row, at + 80), dmin = halves_at(row, at + 82);
        vec s[4];
        transpose(s, row, at);
        UNROLL(16)
        for (int g = 0; g < 16; g++) {
            const fvec scale = byte_at(low_nibbles(s[g / 4]), g % 4);
            const fvec min = byte_at(high_nibbles(s[g / 4]), g % 4);
            f_store(to->scale[g] + h, f_mul(d, scale));
            f_store(to->offset[g] + h, f_negate(f_mul(dmin, min)));
        }
        for (int j = 0; j < 16; j += 4) { /* dwords of qs: 8 in each half */
            uint8_t(*q)[ROWS][4] = to->q + j / 8 * 32 + j % 8;
            vec v[4];
            transpose(v, row, at + 16 + 4 * j);
            UNROLL(4)
            for (int i = 0; i < 4; i++)
                UNROLL(4)
            for (int c = 0; c < 4; c++)
                store(q[8 * c + i] + h, masked(shift_left(v[i], -2 * c), 3));
            ahead(&t->next);
            ahead(&t->next);
        }
    }
}

/* The third bit of the codes of chunk c is bit c of hmask. */
static void q3_k_pack(panel *to, tile *t, int64_t k, int n)
{
    const int64_t at = k / 256 * (int64_t)sizeof(gqmm_q3_k);
    (void)n;
    for (int h = 0; h < ROWS; h += LANES) {
        const uint8_t *const *row = t->row[0] + h;
        const fvec d = halves_at(row, at + 108);
        const vec low[2] = {dwords_at(row, at + 96), dwords_at(row, at + 100)};
        const vec high = dwords_at(row, at + 104);
        UNROLL(4)
        for (int g = 0; g < 4; g++) { /* four groups of 16, see gqmm_q3_k_scale() */
            const vec four = g < 2 ? low_nibbles(low[g]) : high_nibbles(low[g - 2]);
            const vec six = or_masked(four, shift_left(high, 4 - 2 * g), 48);
            UNROLL(4)
            for (int i = 0; i < 4; i++)
                f_store(to->scale[4 * g + i] + h, f_mul(d, code_at(six, i, 32, false)));
        }
        UNROLL(2)
        for (int j = 0; j < 8; j += 4) {
            vec mask[4];
            transpose(mask, row, at + 4 * j);
            UNROLL(2)
            for (int half = 0; half < 2; half++) {
                uint8_t(*q)[ROWS][4] = to->q + 32 * half + j;
                vec v[4];
                transpose(v, row, at + 32 + 32 * half + 4 * j);
                UNROLL(4)
                for (int i = 0; i < 4; i++)
                    UNROLL(4)
                for (int c = 0; c < 4; c++)
                    store(q[8 * c + i] + h, or_masked(masked(shift_left(v[i], -2 * c), 3),
                                                      shift_left(mask[i], 2 - 4 * half - c), 4));
                ahead(&t->next);
                ahead(&t->next);
            }
        }
    }
}

/* The 16 bytes that open a q4_k and a q5_k block: d, dmin and 6-bit scales and minima, see
 * gqmm_k_scale_min(). */
INLINE void pack_scales(panel *to, int h, const uint8_t *const *row, int64_t at)
{
    vec v[4];
    transpose(v, row, at);
    const fvec d = low_halves(v[0]), dmin = high_halves(v[0]);
    const vec scales[2] = {masked(v[1], 63),
                           or_masked(low_nibbles(v[3]), shift_left(v[1], -2), 48)};
    const vec mins[2] = {masked(v[2], 63), or_masked(high_nibbles(v[3]), shift_left(v[2], -2), 48)};
    UNROLL(8)
    for (int g = 0; g < 8; g++) {
        f_store(to->scale[g] + h, f_mul(d, byte_at(scales[g / 4], g % 4)));
        f_store(to->offset[g] + h, f_negate(f_mul(dmin, byte_at(mins[g / 4], g % 4))));
    }
}

static void q4_k_pack(panel *to, tile *t, int64_t k, int n)
{
    const int64_t at = k / 256 * (int64_t)sizeof(gqmm_q4_k);
    (void)n;
    for (int h = 0; h < ROWS; h += LANES) {
        const uint8_t *const *row = t->row[0] + h;
        pack_scales(to, h, row, at);
        for (int c = 0; c < 4; c++)
            UNROLL(2)
        for (int j = 0; j < 8; j += 4) {
            vec v[4];
            transpose(v, row, at + 16 + 32 * c + 4 * j);
            UNROLL(4)
            for (int i = 0; i < 4; i++) {
                store(to->q[16 * c + j + i] + h, low_nibbles(v[i]));
                store(to->q[16 * c + 8 + j + i] + h, high_nibbles(v[i]));
            }
            ahead(&t->next);
        }
    }
}

static void q5_k_pack(panel *to, tile *t, int64_t k, int n)
{
    const int64_t at = k / 256 * (int64_t)sizeof(gqmm_q5_k);
    (void)n;
    for (int h = 0; h < ROWS; h += LANES) {
        const uint8_t *const *row = t->row[0] + h;
        pack_scales(to, h, row, at);
        UNROLL(2)
        for (int j = 0; j < 8; j += 4) {
            vec v[4], bits[4];
            transpose(bits, row, at + 16 + 4 * j);
            UNROLL(4)
            for (int c = 0; c < 4; c++) { /* bit 2 c of bits is bit 4 of the low nibbles' codes */
                transpose(v, row, at + 48 + 32 * c + 4 * j);
                UNROLL(4)
                for (int i = 0; i < 4; i++) {
                    const vec lo = shift_left(bits[i], 4 - 2 * c);
                    const vec hi = shift_left(bits[i], 3 - 2 * c);
                    store(to->q[16 * c + j + i] + h, or_masked(low_nibbles(v[i]), lo, 16));
                    store(to->q[16 * c + 8 + j + i] + h, or_masked(high_nibbles(v[i]), hi, 16));
                }
                ahead(&t->next);
            }
        }
    }
}

/* Codes stay unsigned in the panel: the shift of 32 is the family's. */
static void q6_k_pack(panel *to, tile *t, int64_t k, int n)
{
    const int64_t at = k / 256 * (int64_t)sizeof(gqmm_q6_k);
    (void)n;
    for (int h = 0; h < ROWS; h += LANES) {
        const uint8_t *const *row = t->row[0] + h;
        const fvec d = halves_at(row, at + 208);
        vec s[4];
        transpose(s, row, at + 192);
        UNROLL(16)
        for (int g = 0; g < 16; g++)
            f_store(to->scale[g] + h, f_mul(d, signed_byte_at(s[g / 4], g % 4)));
        for (int c = 0; c < 2; c++)
            UNROLL(2)
        for (int j = 0; j < 8; j += 4) {
            vec a[4], b[4], top[4];
            transpose(a, row, at + 64 * c + 4 * j);
            transpose(b, row, at + 64 * c + 32 + 4 * j);
            transpose(top, row, at + 128 + 32 * c + 4 * j);
            UNROLL(4)
            for (int i = 0; i < 4; i++) {
                uint8_t(*q)[ROWS][4] = to->q + 32 * c + j + i;
                store(q[0] + h, or_masked(low_nibbles(a[i]), shift_left(top[i], 4), 48));
                store(q[8] + h, or_masked(low_nibbles(b[i]), shift_left(top[i], 2), 48));
                store(q[16] + h, or_masked(high_nibbles(a[i]), top[i], 48));
                store(q[24] + h, or_masked(high_nibbles(b[i]), shift_left(top[i], -2), 48));
            }
            ahead(&t->next);
            ahead(&t->next);
        }
    }
}

#endif
