/* SPDX-License-Identifier: MIT */
/* Searches for w = scale * code: q3_k, q6_k, iq4_nl, iq4_xs, nvfp4.
 *
 * A group alone: codes are rounded with a series of trial scales; for fixed codes the best scale
 * is A / B with A = sum w x q, B = sum w q q, and lowers the error by A A / B. A block of groups:
 * d is set so that the largest group scale takes an extreme integer, the other integers are tried
 * around their nearest, then d is fitted to all codes by least squares, and once more. */
#include "format/search.h"

#include <string.h>

#include "format/fp8.h"
#include "format/iq4_nl.h"
#include "format/iq4_xs.h"
#include "format/nvfp4.h"
#include "format/q3_k.h"
#include "format/q6_k.h"
#include "format/search_common.h"

typedef struct shape {
    int lo, hi;             /* extreme codes */
    int group, n_groups;    /* weights in a group, groups in a block */
    int scale_lo, scale_hi; /* extreme integer scales */
    int n_trials;           /* trial scales of a group, each way and for each sign, */
    float step;             /* and the relative step between them */
    int n_starts, reach;    /* first guesses of d; integers tried each way at first */

    /* A and B of the head comment, for codes rounded with 1 / scale = inverse. Weighted squared
     * error of the group with a given scale. */
    void (*sums)(float *a, float *b, const float *x, const float *w, int n, float inverse);
    float (*error)(const float *x, const float *w, int n, float scale);
} shape;

/* ---- one set of loops for each book of codes, so that the rounding is inside them */

static inline float nearest_q3(float v)
{
    const float magic = 12582912.0f; /* see gqmm_round_code() */
    return (gqmm_clampf(v, -4.0f, 3.0f) + magic) - magic;
}

static inline float nearest_q6(float v)
{
    const float magic = 12582912.0f;
    return (gqmm_clampf(v, -32.0f, 31.0f) + magic) - magic;
}

/* The least value, plus the gaps whose middle v passes: the table in iq4_nl.h, but in a form that
 * becomes vector code. */
static inline float nearest_iq4(float v)
{
    static const float middle[15] = {-115.5f, -93.5f, -74.0f, -57.0f, -42.0f, -28.5f, -16.0f, -4.5f,
                                     7.0f,    19.0f,  31.5f,  45.5f,  61.0f,  79.0f,  101.0f};
    static const float gap[15] = {23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24};
    float r = -127.0f;
    for (int i = 0; i < 15; i++)
        r += v > middle[i] ? gap[i] : 0.0f;
    return r;
}

#define BOOK(name) \
    static void sums_##name(float *a, float *b, const float *x, const float *w, int n, \
                            float inverse) \
    { \
        float la[SEARCH_LANES] = {0}, lb[SEARCH_LANES] = {0}; \
        for (int i = 0; i < n; i += SEARCH_LANES) \
            for (int j = 0; j < SEARCH_LANES; j++) { \
                const float q = nearest_##name(x[i + j] * inverse); \
                la[j] += w[i + j] * x[i + j] * q; \
                lb[j] += w[i + j] * q * q; \
            } \
        *a = search_lane_sum(la); \
        *b = search_lane_sum(lb); \
    } \
    static float error_##name(const float *x, const float *w, int n, float scale) \
    { \
        const float inverse = gqmm_inverse(scale); \
        float lanes[SEARCH_LANES] = {0}; \
        for (int i = 0; i < n; i += SEARCH_LANES) \
            for (int j = 0; j < SEARCH_LANES; j++) { \
                const float e = x[i + j] - scale * nearest_##name(x[i + j] * inverse); \
                lanes[j] += w[i + j] * e * e; \
            } \
        return search_lane_sum(lanes); \
    }
BOOK(q3)
BOOK(q6)
BOOK(iq4)

static const shape q3_k_shape = {-4, 3, 16, 16, -32, 31, 8, 0.03f, 5, 2, sums_q3, error_q3};
static const shape q6_k_shape = {-32, 31, 16, 16, -128, 127, 8, 0.006f, 1, 3, sums_q6, error_q6};
static const shape iq4_shape = {-127, 113, 32, 8, -32, 31, 12, 0.025f, 2, 2, sums_iq4, error_iq4};

/* ---- the search */

/* The best scale of a group alone; 0 for a group of zeros. Trial scales put the element of
 * greatest magnitude on or around the extreme code of either sign. */
static float group_scale(const shape *s, const float *x, const float *w)
{
    const float extreme = gqmm_signed_max(x, s->group);
    float best = 0.0f, best_gain = 0.0f;
    if (extreme == 0.0f)
        return 0.0f;
    for (int side = 0; side < 2; side++) {
        const float end = (float)(side ? s->hi : s->lo);
        for (int t = -s->n_trials; t <= s->n_trials; t++) {
            float a, b;
            s->sums(&a, &b, x, w, s->group, end * (1.0f + (float)t * s->step) / extreme);
            if (b > 0.0f && a * a > best_gain * b) {
                best_gain = a * a / b;
                best = a / b;
            }
        }
    }
    return best;
}

/* Integer scales of all groups for a given d, tried `reach` steps around the nearest to want[g];
 * returns the block's error. */
static float fit_scales(int *sc, const shape *s, const search_block *b, const float *want, float d,
                        int reach)
{
    float total = 0.0f;
    for (int g = 0; g < s->n_groups; g++) {
        const float *x = b->x + g * s->group, *w = b->w + g * s->group;
        const int near = gqmm_round_code(want[g] / d, s->scale_lo, s->scale_hi);
        float least = FLT_MAX;
        for (int c = near - reach; c <= near + reach; c++) {
            if (c < s->scale_lo || c > s->scale_hi)
                continue;
            const float e = s->error(x, w, s->group, d * (float)c);
            if (e < least) {
                least = e;
                sc[g] = c;
            }
        }
        total += least;
    }
    return total;
}

/* d of least squares for the codes that d and sc give now. */
static float fit_d(const shape *s, const search_block *b, const int *sc, float d)
{
    float top = 0.0f, bottom = 0.0f;
    for (int g = 0; g < s->n_groups; g++) {
        float a2, b2;
        const int first = g * s->group;
        s->sums(&a2, &b2, b->x + first, b->w + first, s->group, gqmm_inverse(d * (float)sc[g]));
        top += a2 * (float)sc[g];
        bottom += b2 * (float)sc[g] * (float)sc[g];
    }
    return bottom > 0.0f ? top / bottom : d;
}

/* The whole block: integer scales to sc, bits of d to *half; returns d in block units. */
static float fit_block(uint16_t *half, int *sc, const shape *s, const search_block *b)
{
    /* Factors on the first guess of d: the best result wins. */
    static const float starts[5] = {1.0f, 0.97f, 0.94f, 1.03f, 0.91f};
    float want[GQMM_MAX_GROUPS] = {0}, least = FLT_MAX, best = 0.0f;

    for (int g = 0; g < s->n_groups; g++)
        want[g] = group_scale(s, b->x + g * s->group, b->w + g * s->group);
    const float top = gqmm_signed_max(want, s->n_groups);
    for (int k = 0; k < s->n_starts; k++) {
        int trial[GQMM_MAX_GROUPS];
        uint16_t bits;
        float d = search_half(&bits, top / (float)s->scale_lo / starts[k], b->unit);
        for (int round = 0; round < 2; round++) {
            const float e = fit_scales(trial, s, b, want, d, round ? 1 : s->reach);
            if (e < least) {
                least = e;
                best = d;
                *half = bits;
                memcpy(sc, trial, sizeof(trial));
            }
            d = search_half(&bits, fit_d(s, b, trial, d), b->unit);
        }
    }
    return best;
}

void gqmm_q3_k_search(uint8_t *block, const float *x, const float *importance)
{
    gqmm_q3_k *out = (gqmm_q3_k *)block;
    search_block b;
    int sc[GQMM_MAX_GROUPS];
    uint16_t half = 0;

    memset(out, 0, sizeof(*out));
    if (!search_prepare(&b, x, importance, 256))
        return;
    const float d = fit_block(&half, sc, &q3_k_shape, &b);

    gqmm_store16(out->d, half);
    for (int g = 0; g < 16; g++) {
        const int u = sc[g] + 32;
        out->scales[g % 8] |= (uint8_t)((u & 15) << (g < 8 ? 0 : 4));
        out->scales[8 + g % 4] |= (uint8_t)((u >> 4) << (2 * (g / 4)));
        const float inverse = gqmm_inverse(d * (float)sc[g]);
        for (int i = 16 * g; i < 16 * g + 16; i++) {
            const int q = (int)nearest_q3(b.x[i] * inverse) + 4;
            out->qs[32 * (i / 128) + i % 32] |= (uint8_t)((q & 3) << (2 * (i / 32 % 4)));
            out->hmask[i % 32] |= (uint8_t)((q >> 2) << (i / 32));
        }
    }
}

void gqmm_q6_k_search(uint8_t *block, const float *x, const float *importance)
{
    gqmm_q6_k *out = (gqmm_q6_k *)block;
    search_block b;
    int sc[GQMM_MAX_GROUPS];
    uint16_t half = 0;

    memset(out, 0, sizeof(*out));
    if (!search_prepare(&b, x, importance, 256))
        return;
    const float d = fit_block(&half, sc, &q6_k_shape, &b);

    gqmm_store16(out->d, half);
    for (int g = 0; g < 16; g++) {
        out->scales[g] = (int8_t)sc[g];
        const float inverse = gqmm_inverse(d * (float)sc[g]);
        for (int i = 16 * g; i < 16 * g + 16; i++) {
            const int q = (int)nearest_q6(b.x[i] * inverse) + 32;
            const int l = i % 32, part = i / 32 % 4, h = i / 128;
            out->ql[64 * h + 32 * (part % 2) + l] |= (uint8_t)((q & 15) << (part < 2 ? 0 : 4));
            out->qh[32 * h + l] |= (uint8_t)((q >> 4) << (2 * part));
        }
    }
}

/* 16 bytes of codes for 32 elements. */
static void pack_iq4(uint8_t *qs, const float *x, float scale)
{
    const float inverse = gqmm_inverse(scale);
    for (int j = 0; j < 32; j++) {
        const int v = (int)nearest_iq4(x[j] * inverse);
        int code = 0;
        while (gqmm_iq4_value(code) < v)
            code++;
        qs[j % 16] |= (uint8_t)(code << (j < 16 ? 0 : 4));
    }
}

void gqmm_iq4_nl_search(uint8_t *block, const float *x, const float *importance)
{
    gqmm_iq4_nl *out = (gqmm_iq4_nl *)block;
    search_block b;
    uint16_t half;

    memset(out, 0, sizeof(*out));
    if (!search_prepare(&b, x, importance, 32))
        return;
    float scale = group_scale(&iq4_shape, b.x, b.w);
    scale = search_half(&half, scale, b.unit);
    gqmm_store16(out->d, half);
    pack_iq4(out->qs, b.x, scale);
}

void gqmm_iq4_xs_search(uint8_t *block, const float *x, const float *importance)
{
    gqmm_iq4_xs *out = (gqmm_iq4_xs *)block;
    search_block b;
    int sc[GQMM_MAX_GROUPS] = {0};
    uint16_t half = 0;

    memset(out, 0, sizeof(*out));
    if (!search_prepare(&b, x, importance, 256))
        return;
    const float d = fit_block(&half, sc, &iq4_shape, &b);

    gqmm_store16(out->d, half);
    unsigned high = 0;
    for (int g = 0; g < 8; g++) {
        const unsigned u = (unsigned)(sc[g] + 32);
        out->scales_l[g / 2] |= (uint8_t)((u & 15) << (4 * (g % 2)));
        high |= (u >> 4) << (2 * g);
        pack_iq4(out->qs + 16 * g, b.x + 32 * g, d * (float)sc[g]);
    }
    gqmm_store16(out->scales_h, (uint16_t)high);
}

/* ---- nvfp4: no float scale at all, the byte of a group is tried by its error */

static float e2m1_error(const float *x, const float *w, float half_scale)
{
    const float inverse = gqmm_inverse(half_scale);
    float lanes[SEARCH_LANES] = {0};
    for (int i = 0; i < 16; i += SEARCH_LANES)
        for (int j = 0; j < SEARCH_LANES; j++) {
            const float a = fabsf(x[i + j]), v = a * inverse;
            const float q = (v > 0.5f ? 1.0f : 0.0f) + (v > 1.5f ? 1.0f : 0.0f) +
                            (v > 2.5f ? 1.0f : 0.0f) + (v > 3.5f ? 1.0f : 0.0f) +
                            (v > 5.0f ? 2.0f : 0.0f) + (v > 7.0f ? 2.0f : 0.0f) +
                            (v > 10.0f ? 4.0f : 0.0f);
            const float e = a - half_scale * q;
            lanes[j] += w[i + j] * e * e;
        }
    return search_lane_sum(lanes);
}

/* Scale bytes from amax / 12 (nothing saturates much) to amax / 4 (amax at code 4 of 12). */
static uint8_t nvfp4_scale(const float *x, const float *w)
{
    const float amax = gqmm_abs_max(x, 16);
    int first = gqmm_f32_to_e4m3(amax / 6.0f * 0.7f), last = gqmm_f32_to_e4m3(amax / 2.0f);
    int best = 0;
    float least = FLT_MAX;
    for (int c = first; c <= last; c++) {
        const float e = e2m1_error(x, w, gqmm_ue4m3_half_to_f32((uint8_t)c));
        if (e < least) {
            least = e;
            best = c;
        }
    }
    return (uint8_t)best;
}

void gqmm_nvfp4_search(uint8_t *block, const float *x, const float *importance)
{
    gqmm_nvfp4 *out = (gqmm_nvfp4 *)block;
    float v[64], w[64];
    search_block b;

    memset(out, 0, sizeof(*out));
    if (!search_prepare(&b, x, importance, 64))
        return;
    for (int i = 0; i < 64; i++) { /* the scales are absolute: back to real units, saturated */
        v[i] = gqmm_clampf(b.x[i] * b.unit, -1e6f, 1e6f);
        w[i] = b.w[i];
    }
    for (int g = 0; g < 4; g++) {
        out->d[g] = nvfp4_scale(v + 16 * g, w + 16 * g);
        const float scale = gqmm_ue4m3_half_to_f32(out->d[g]);
        for (int j = 0; j < 8; j++) {
            const float *lo = v + 16 * g + j;
            const int a = gqmm_e2m1_nearest(lo[0] * gqmm_inverse(scale));
            const int c = gqmm_e2m1_nearest(lo[8] * gqmm_inverse(scale));
            out->qs[8 * g + j] = (uint8_t)(a | c << 4);
        }
    }
}
