/* SPDX-License-Identifier: MIT */
/* Packs of the formats whose codes lie in order in a plane of their own: affine, int4, mlx_mxfp4,
 * mlx_nvfp4. The nibbles of a byte are neighbours along K. */
#ifndef GQMM_KERNEL_PANEL_PLANES_H
#define GQMM_KERNEL_PANEL_PLANES_H

#include "kernel/panel_floats.h"

/* Number `group` of a plane of scales or biases, of LANES rows. */
INLINE fvec scales_at(const uint8_t *const *row, int64_t group, int type)
{
    if (type == GQMM_F32)
        return floats_at(row, 4 * group);
    return type == GQMM_F16 ? halves_at(row, 2 * group) : bf16_at(row, 2 * group);
}

INLINE void store_pieces(float (*to)[ROWS], int h, int j, int group, fvec v)
{
    for (int i = j; i < j + group; i += 32)
        f_store(to[i / 32] + h, v);
}

/* The numbers of the groups in [k, k + n); each serves its pieces of 32. Two of 16 bits are loaded
 * at once. */
INLINE void pack_groups(float (*to)[ROWS], int h, const uint8_t *const *row, int64_t k, int n,
                        int group, int type)
{
    int j = 0;
    for (; type != GQMM_F32 && j + 2 * group <= n; j += 2 * group) {
        const vec two = dwords_at(row, (k + j) / group * 2);
        const bool half = type == GQMM_F16;
        store_pieces(to, h, j, group, half ? low_halves(two) : f_or(f_set(0.0f), shift32(two, 16)));
        store_pieces(to, h, j + group, group,
                     half ? high_halves(two) : f_or(f_set(0.0f), masked32(two, -65536)));
    }
    for (; j < n; j += group)
        store_pieces(to, h, j, group, scales_at(row, (k + j) / group, type));
}

/* Nibbles in order from k on. */
INLINE void pack_pairs(panel *to, tile *t, int h, int64_t k, int n, const vec *map)
{
    for (int j = 0; j < n; j += 32) {
        vec v[4];
        transpose(v, t->row[0] + h, (k + j) / 2);
        UNROLL(4)
        for (int i = 0; i < 4; i++)
            UNROLL(2)
        for (int half = 0; half < 2; half++) {
            const vec q = nibbles_in_order(v[i], half);
            store(to->q[j / 4 + 2 * i + half] + h, map ? lookup(*map, q) : q);
        }
        ahead(&t->next);
    }
}

static void affine4_pack(panel *to, tile *t, int64_t k, int n)
{
    const gqmm_format_info *f = t->w->format;
    for (int h = 0; h < ROWS; h += LANES) {
        pack_groups(to->scale, h, t->row[1] + h, k, n, f->pub.group_elems, f->scale_type);
        pack_groups(to->offset, h, t->row[2] + h, k, n, f->pub.group_elems, f->scale_type);
        pack_pairs(to, t, h, k, n, NULL);
    }
}

static void affine8_pack(panel *to, tile *t, int64_t k, int n)
{
    const gqmm_format_info *f = t->w->format;
    for (int h = 0; h < ROWS; h += LANES) {
        pack_groups(to->scale, h, t->row[1] + h, k, n, f->pub.group_elems, f->scale_type);
        pack_groups(to->offset, h, t->row[2] + h, k, n, f->pub.group_elems, f->scale_type);
        for (int j = 0; j < n; j += 16) {
            vec v[4];
            transpose(v, t->row[0] + h, k + j);
            UNROLL(4)
            for (int i = 0; i < 4; i++) /* less 128, signed, which is wide_codes' argument */
                store(to->q[j / 4 + i] + h, wide_codes(flip_signs(v[i])));
            if (j % 32 == 0)
                ahead(&t->next);
        }
    }
}

/* Codes 4 i .. 4 i + 3 of a stream of 32 codes in `bits` dwords, a byte each. They span 4 * bits <=
 * 24 bits, which may lie in two dwords; code j moves up by j * (8 - bits). */
INLINE vec stream_codes(const vec *d, int i, const int bits)
{
    const int at = 4 * i * bits, first = at % 32, mask = (1 << bits) - 1;
    vec v = shift32(d[at / 32], -first);
    if (first + 4 * bits > 32)
        v = either(v, shift32(d[at / 32 + 1], 32 - first));
    vec q = masked32(v, mask);
    UNROLL(4)
    for (int j = 1; j < 4; j++)
        q = either(q, masked32(shift32(v, j * (8 - bits)), mask << (8 * j)));
    return q;
}

INLINE void pack_stream(panel *to, tile *t, int64_t k, int n, const int bits)
{
    const gqmm_format_info *f = t->w->format;
    for (int h = 0; h < ROWS; h += LANES) {
        pack_groups(to->scale, h, t->row[1] + h, k, n, f->pub.group_elems, f->scale_type);
        pack_groups(to->offset, h, t->row[2] + h, k, n, f->pub.group_elems, f->scale_type);
        for (int j = 0; j < n; j += 32) {
            const int64_t at = (k + j) / 8 * bits;
            vec d[8];
            if (bits >= 4)
                transpose(d, t->row[0] + h, at);
            UNROLL(8)
            for (int i = bits >= 4 ? 4 : 0; i < bits; i++)
                d[i] = dwords_at(t->row[0] + h, at + 4 * i);
            UNROLL(8)
            for (int i = 0; i < 8; i++)
                store(to->q[j / 4 + i] + h, stream_codes(d, i, bits));
            ahead(&t->next);
        }
    }
}

static void affine2_pack(panel *to, tile *t, int64_t k, int n)
{
    pack_stream(to, t, k, n, 2);
}

static void affine3_pack(panel *to, tile *t, int64_t k, int n)
{
    pack_stream(to, t, k, n, 3);
}

static void affine5_pack(panel *to, tile *t, int64_t k, int n)
{
    pack_stream(to, t, k, n, 5);
}

static void affine6_pack(panel *to, tile *t, int64_t k, int n)
{
    pack_stream(to, t, k, n, 6);
}

static void int4_pack(panel *to, tile *t, int64_t k, int n)
{
    for (int h = 0; h < ROWS; h += LANES) {
        pack_groups(to->scale, h, t->row[1] + h, k, n, t->w->format->pub.group_elems, GQMM_BF16);
        pack_pairs(to, t, h, k, n, NULL);
    }
}

static void mlx_mxfp4_pack(panel *to, tile *t, int64_t k, int n)
{
    const vec map = e2m1_table();
    for (int h = 0; h < ROWS; h += LANES) {
        for (int j = 0; j < n; j += 32) {
            f_store(to->scale[j / 32] + h,
                    f_mul(f_set(0.5f), powers_at(t->row[1] + h, (k + j) / 32, false)));
        }
        pack_pairs(to, t, h, k, n, &map);
    }
}

/* Blocks of 16: a row may end in half of 32 codes, or in less than 16 scales. */
static void mlx_nvfp4_pack(panel *to, tile *t, int64_t k, int n)
{
    if (n != STEP) {
        generic_pack(to, t, k, n, E2M1_SHIFT, gqmm_unpack_mlx_nvfp4);
        return;
    }
    const vec map = e2m1_table();
    const fvec global = f_set(t->w->global);
    for (int h = 0; h < ROWS; h += LANES) {
        vec s[4];
        transpose(s, t->row[1] + h, k / 16);
        UNROLL(16)
        for (int g = 0; g < 16; g++) {
            const fvec scale = f_mul(f_set(0.5f), e4m3_byte(s[g / 4], g % 4));
            f_store(to->scale[g] + h, f_mul(scale, global));
        }
        pack_pairs(to, t, h, k, n, &map);
    }
}

#endif
