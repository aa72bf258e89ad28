/* SPDX-License-Identifier: MIT */
/* Packs of the GGUF formats with blocks of 32: a few bytes of scale, then 16 bytes of nibbles
 * (element j low, j + 16 high) or 32 bytes of codes; and of their kin iq4_xs and nvfp4. */
#ifndef GQMM_KERNEL_PANEL_BLOCKS_H
#define GQMM_KERNEL_PANEL_BLOCKS_H

#include "kernel/panel.h"

/* For every block of 32 in [k, k + n) and each LANES rows: `row`, and `at`, where it lies. */
#define FOR_BLOCKS(type) \
    for (int h = 0; h < ROWS; h += LANES) \
        for (int j = 0; j < n; j += 32, ahead(&t->next)) { \
            const uint8_t *const *row = t->row[0] + h; \
            const int64_t at = (k + j) / 32 * (int64_t)sizeof(type);
#define END_BLOCKS }

/* The nibbles at `at` become the 32 codes from k on, each looked up in `map` if there is one. */
INLINE void pack_nibbles(panel *to, int h, const uint8_t *const *row, int64_t at, int k,
                         const vec *map)
{
    vec v[4];
    transpose(v, row, at);
    UNROLL(4)
    for (int i = 0; i < 4; i++) {
        const vec lo = low_nibbles(v[i]), hi = high_nibbles(v[i]);
        store(to->q[k / 4 + i] + h, map ? lookup(*map, lo) : lo);
        store(to->q[k / 4 + 4 + i] + h, map ? lookup(*map, hi) : hi);
    }
}

static void q4_0_pack(panel *to, tile *t, int64_t k, int n)
{
    FOR_BLOCKS(gqmm_q4_0)
    f_store(to->scale[j / 32] + h, halves_at(row, at));
    pack_nibbles(to, h, row, at + 2, j, NULL);
    END_BLOCKS
}

static void q4_1_pack(panel *to, tile *t, int64_t k, int n)
{
    FOR_BLOCKS(gqmm_q4_1)
    f_store(to->scale[j / 32] + h, halves_at(row, at));
    f_store(to->offset[j / 32] + h, halves_at(row, at + 2));
    pack_nibbles(to, h, row, at + 4, j, NULL);
    END_BLOCKS
}

INLINE vec iq4_table(void)
{
    int8_t values[16];
    for (int i = 0; i < 16; i++)
        values[i] = (int8_t)gqmm_iq4_value(i);
    return wide_codes(table(values));
}

static void iq4_nl_pack(panel *to, tile *t, int64_t k, int n)
{
    const vec map = iq4_table();
    FOR_BLOCKS(gqmm_iq4_nl)
    f_store(to->scale[j / 32] + h, halves_at(row, at));
    pack_nibbles(to, h, row, at + 2, j, &map);
    END_BLOCKS
}

/* Eight such blocks under one d; ls of group g is a nibble of a dword and two bits of a short. */
static void iq4_xs_pack(panel *to, tile *t, int64_t k, int n)
{
    const vec map = iq4_table();
    const int64_t at = k / 256 * (int64_t)sizeof(gqmm_iq4_xs);
    (void)n; /* 256 */
    for (int h = 0; h < ROWS; h += LANES) {
        const uint8_t *const *row = t->row[0] + h;
        const vec first = dwords_at(row, at), low = dwords_at(row, at + 4);
        const fvec d = low_halves(first);
        for (int g = 0; g < 8; g++) {
            const fvec ls =
                f_fma(f_set(16.0f), field_at(first, 16 + 2 * g, 2), field_at(low, 4 * g, 4));
            f_store(to->scale[g] + h, f_mul(d, f_add(ls, f_set(-32.0f)))); /* ls is exact */
            pack_nibbles(to, h, row, at + 8 + 16 * g, 32 * g, &map);
            ahead(&t->next);
        }
    }
}

enum { E2M1_SHIFT = 16 }; /* codes are -12 .. 12; a power of two, see weights4() */

INLINE vec e2m1_table(void)
{
    int8_t values[16];
    for (int i = 0; i < 16; i++)
        values[i] = (int8_t)(gqmm_e2m1_doubled(i) + E2M1_SHIFT);
    return table(values);
}

/* gqmm_ue4m3_half_to_f32() of byte j of each dword. The 7 bits are those of an f16 number that is
 * 2^8 times too small, subnormals included. */
INLINE fvec ue4m3_half_byte(vec v, int j)
{
    const vec u = masked32(shift32(v, -8 * j), 255);
    const fvec half = f_mul(f_set(128.0f), low_halves(shift32(masked32(u, 127), 7)));
    return where_equal(u, 127, f_set(0.0f), half);
}

/* Groups of 16: element j of a group low, j + 8 high. */
static void nvfp4_pack(panel *to, tile *t, int64_t k, int n)
{
    const vec map = e2m1_table();
    for (int h = 0; h < ROWS; h += LANES)
        for (int j = 0; j < n; j += 64) {
            const uint8_t *const *row = t->row[0] + h;
            const int64_t at = (k + j) / 64 * (int64_t)sizeof(gqmm_nvfp4);
            const vec scales = dwords_at(row, at);
            UNROLL(4)
            for (int g = 0; g < 4; g++)
                f_store(to->scale[j / 16 + g] + h, ue4m3_half_byte(scales, g));
            UNROLL(2)
            for (int c = 0; c < 2; c++) {
                uint8_t(*q)[ROWS][4] = to->q + (j + 32 * c) / 4;
                vec v[4];
                transpose(v, row, at + 4 + 16 * c);
                UNROLL(4)
                for (int i = 0; i < 4; i++) {
                    store(q[i / 2 * 4 + i % 2] + h, lookup(map, low_nibbles(v[i])));
                    store(q[i / 2 * 4 + i % 2 + 2] + h, lookup(map, high_nibbles(v[i])));
                }
                ahead(&t->next);
            }
        }
}

static void mxfp4_pack(panel *to, tile *t, int64_t k, int n)
{
    const vec map = e2m1_table();
    FOR_BLOCKS(gqmm_mxfp4)
    f_store(to->scale[j / 32] + h, powers_at(row, at, true));
    pack_nibbles(to, h, row, at + 1, j, &map);
    END_BLOCKS
}

static void q8_0_pack(panel *to, tile *t, int64_t k, int n)
{
    FOR_BLOCKS(gqmm_q8_0)
    f_store(to->scale[j / 32] + h, halves_at(row, at));
    UNROLL(2)
    for (int c = 0; c < 32; c += 16) {
        vec v[4];
        transpose(v, row, at + 2 + c);
        UNROLL(4)
        for (int i = 0; i < 4; i++)
            store(to->q[(j + c) / 4 + i] + h, wide_codes(v[i]));
    }
    END_BLOCKS
}

/* Bit j of the 32 bits at `bits` is bit 4 of element j. */
INLINE void pack_five_bits(panel *to, int h, const uint8_t *const *row, int64_t bits, int64_t codes,
                           int k)
{
    vec v[4];
    const vec qh = dwords_at(row, bits);
    transpose(v, row, codes);
    UNROLL(4)
    for (int i = 0; i < 4; i++) {
        store(to->q[k / 4 + i] + h, either(low_nibbles(v[i]), spread_bits(qh, i)));
        store(to->q[k / 4 + 4 + i] + h, either(high_nibbles(v[i]), spread_bits(qh, i + 4)));
    }
}

static void q5_0_pack(panel *to, tile *t, int64_t k, int n)
{
    FOR_BLOCKS(gqmm_q5_0)
    f_store(to->scale[j / 32] + h, halves_at(row, at));
    pack_five_bits(to, h, row, at + 2, at + 6, j);
    END_BLOCKS
}

static void q5_1_pack(panel *to, tile *t, int64_t k, int n)
{
    FOR_BLOCKS(gqmm_q5_1)
    f_store(to->scale[j / 32] + h, halves_at(row, at));
    f_store(to->offset[j / 32] + h, halves_at(row, at + 2));
    pack_five_bits(to, h, row, at + 4, at + 8, j);
    END_BLOCKS
}

#endif
