/* SPDX-License-Identifier: MIT */
/* Searches for w = d * sc * q - dmin * mn: q2_k, q4_k, q5_k.
 *
 * A group alone: codes are rounded with a series of trial ranges; for fixed codes scale and
 * minimum follow from a 2 x 2 least squares system. A block of groups: d and dmin are set so that
 * the largest scale and minimum take the extreme integer, each group climbs to the best pair of
 * integers near its own, then d and dmin are fitted to all codes, and once more. */
#include "format/search.h"

#include <string.h>

#include "format/q2_k.h"
#include "format/q4_k.h"
#include "format/q5_k.h"
#include "format/search_common.h"

typedef struct shape {
    int max_code, max_scale; /* codes in [0, max_code], integers in [0, max_scale] */
    int group, n_groups;
    int n_trials; /* trial ranges of a group: max_code + (t - back) * step */
    float back, step;
    int n_starts; /* first guesses of d and dmin */
} shape;

static const shape q2_k_shape = {3, 15, 16, 16, 24, 1.0f, 0.1f, 4};
static const shape q4_k_shape = {15, 63, 32, 8, 20, 2.0f, 0.15f, 2};
static const shape q5_k_shape = {31, 63, 32, 8, 20, 2.5f, 0.2f, 2};

typedef struct fit {
    float scale, min; /* w = scale * q - min, min >= 0 */
} fit;

typedef struct sums {
    float w, x, q, qq, xq; /* weighted sums of 1, x, q, q q, x q */
} sums;

static inline float round_code(float v, float max_code)
{
    const float magic = 12582912.0f; /* see gqmm_round_code() */
    return (gqmm_clampf(v, 0.0f, max_code) + magic) - magic;
}

/* The sums over a group whose codes are rounded from (x + min) * inverse. */
static inline sums code_sums(const float *x, const float *w, int n, float max_code, float min,
                             float inverse)
{
    float l[5][SEARCH_LANES] = {{0}};
    for (int i = 0; i < n; i += SEARCH_LANES)
        for (int j = 0; j < SEARCH_LANES; j++) {
            const float xi = x[i + j], wi = w[i + j];
            const float q = round_code((xi + min) * inverse, max_code);
            l[0][j] += wi;
            l[1][j] += wi * xi;
            l[2][j] += wi * q;
            l[3][j] += wi * q * q;
            l[4][j] += wi * xi * q;
        }
    const sums s = {search_lane_sum(l[0]), search_lane_sum(l[1]), search_lane_sum(l[2]),
                    search_lane_sum(l[3]), search_lane_sum(l[4])};
    return s;
}

static inline float fit_error(const float *x, const float *w, int n, float max_code, fit f)
{
    const float inverse = gqmm_inverse(f.scale);
    float lanes[SEARCH_LANES] = {0};
    for (int i = 0; i < n; i += SEARCH_LANES)
        for (int j = 0; j < SEARCH_LANES; j++) {
            const float q = round_code((x[i + j] + f.min) * inverse, max_code);
            const float e = x[i + j] - (f.scale * q - f.min);
            lanes[j] += w[i + j] * e * e;
        }
    return search_lane_sum(lanes);
}

/* Scale and minimum of least squares for given sums; the minimum may not turn negative. */
static inline fit solve(const sums *s)
{
    const float det = s->w * s->qq - s->q * s->q;
    fit f = {0.0f, 0.0f};
    if (det > 1e-6f * s->w * s->qq) {
        f.scale = (s->w * s->xq - s->x * s->q) / det;
        f.min = (s->q * s->xq - s->qq * s->x) / det;
    }
    if ((f.min <= 0.0f || f.scale <= 0.0f) && s->qq > 0.0f) {
        f.min = 0.0f;
        f.scale = s->xq / s->qq;
    }
    return f;
}

/* Least error that the codes of these sums can reach, less the constant sum of w x x. */
static inline float solved_error(const sums *s, fit f)
{
    return f.scale * (f.scale * s->qq - 2.0f * s->xq) +
           f.min * (f.min * s->w + 2.0f * s->x - 2.0f * f.scale * s->q);
}

/* The best pair of a group alone. */
static inline fit group_fit(const shape *s, const float *x, const float *w)
{
    const float max_code = (float)s->max_code;
    float min, max, least = 0.0f;
    fit best = {0.0f, 0.0f};

    gqmm_min_max(&min, &max, x, s->group);
    min = min < 0.0f ? min : 0.0f;
    if (!(max > min))
        return best.min = -min, best;
    for (int t = 0; t < s->n_trials; t++) {
        const float inverse = (max_code - s->back + (float)t * s->step) / (max - min);
        sums m = code_sums(x, w, s->group, max_code, -min, inverse);
        fit f = solve(&m);
        for (int again = 0; again < 2; again++) {
            const float e = solved_error(&m, f);
            if (e < least) {
                least = e;
                best = f;
            }
            m = code_sums(x, w, s->group, max_code, f.min, gqmm_inverse(f.scale));
            f = solve(&m);
        }
    }
    return best;
}

typedef struct pair {
    int sc, mn;
} pair;

/* From the integers nearest to `want`, steps to the best of the eight neighbours while one is
 * better; returns the error. */
static inline float climb(pair *p, const shape *s, const float *x, const float *w, fit want,
                          float d, float dmin)
{
    const int top = s->max_scale;
    pair at = {gqmm_round_code(want.scale / d, 0, top), gqmm_round_code(want.min / dmin, 0, top)};
    pair best = at;
    float least = FLT_MAX;

    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < 9; i++) {
            const pair t = {at.sc + i / 3 - 1, at.mn + i % 3 - 1};
            if (t.sc < 0 || t.sc > top || t.mn < 0 || t.mn > top)
                continue;
            const fit f = {d * (float)t.sc, dmin * (float)t.mn};
            const float e = fit_error(x, w, s->group, (float)s->max_code, f);
            if (e < least) {
                least = e;
                best = t;
            }
        }
        if (best.sc == at.sc && best.mn == at.mn)
            break;
        at = best;
    }
    *p = best;
    return least;
}

/* d and dmin of least squares for the codes that they give now. */
static inline fit fit_block_scales(const shape *s, const search_block *b, const pair *p, fit now)
{
    float aa = 0.0f, ab = 0.0f, bb = 0.0f, xa = 0.0f, xb = 0.0f;
    for (int g = 0; g < s->n_groups; g++) {
        const float sc = (float)p[g].sc, mn = (float)p[g].mn;
        const sums m = code_sums(b->x + g * s->group, b->w + g * s->group, s->group,
                                 (float)s->max_code, now.min * mn, gqmm_inverse(now.scale * sc));
        aa += sc * sc * m.qq;
        ab += sc * mn * m.q;
        bb += mn * mn * m.w;
        xa += sc * m.xq;
        xb += mn * m.x;
    }
    const float det = aa * bb - ab * ab;
    if (det > 1e-6f * aa * bb) {
        now.scale = (xa * bb - xb * ab) / det;
        now.min = (xa * ab - xb * aa) / det;
    } else if (aa > 0.0f) {
        now.scale = xa / aa;
    }
    return now;
}

/* Integers of all groups to p, bits of d and dmin to half[2]; returns d and dmin in block units. */
static inline fit fit_block(uint16_t half[2], pair *p, const shape *s, const search_block *b)
{
    static const float starts[4] = {1.0f, 0.95f, 0.9f, 1.06f};
    fit want[GQMM_MAX_GROUPS], top = {0.0f, 0.0f}, best = {0.0f, 0.0f};
    float least = FLT_MAX;

    for (int g = 0; g < s->n_groups; g++) {
        want[g] = group_fit(s, b->x + g * s->group, b->w + g * s->group);
        top.scale = want[g].scale > top.scale ? want[g].scale : top.scale;
        top.min = want[g].min > top.min ? want[g].min : top.min;
    }
    for (int k = 0; k < s->n_starts; k++) {
        fit now = {top.scale / (float)s->max_scale / starts[k],
                   top.min / (float)s->max_scale / starts[k]};
        for (int round = 0; round < 2; round++) {
            pair trial[GQMM_MAX_GROUPS];
            uint16_t bits[2];
            float total = 0.0f;
            now.scale = search_half(&bits[0], now.scale, b->unit);
            now.min = search_half(&bits[1], now.min, b->unit);
            for (int g = 0; g < s->n_groups; g++)
                total += climb(&trial[g], s, b->x + g * s->group, b->w + g * s->group, want[g],
                               now.scale, now.min);
            if (total < least) {
                least = total;
                best = now;
                memcpy(half, bits, sizeof(bits));
                memcpy(p, trial, sizeof(trial));
            }
            now = fit_block_scales(s, b, trial, now);
        }
    }
    return best;
}

static inline int final_code(const shape *s, const search_block *b, const pair *p, fit f, int i)
{
    const pair g = p[i / s->group];
    const float v = (b->x[i] + f.min * (float)g.mn) * gqmm_inverse(f.scale * (float)g.sc);
    return (int)round_code(v, (float)s->max_code);
}

/* The fit of a whole block: integers to p, d and dmin to the block's fields; false if x is below
 * what f16 scales can tell from zero, whose block is zero bytes. */
static inline bool fit_fields(fit *f, pair *p, search_block *b, uint8_t d[2], uint8_t dmin[2],
                              const shape *s, const float *x, const float *importance)
{
    uint16_t half[2] = {0, 0};
    if (!search_prepare(b, x, importance, 256))
        return false;
    *f = fit_block(half, p, s, b);
    gqmm_store16(d, half[0]);
    gqmm_store16(dmin, half[1]);
    return true;
}

void gqmm_q2_k_search(uint8_t *block, const float *x, const float *importance)
{
    gqmm_q2_k *out = (gqmm_q2_k *)block;
    search_block b;
    pair p[GQMM_MAX_GROUPS];
    fit f;

    memset(out, 0, sizeof(*out));
    if (!fit_fields(&f, p, &b, out->d, out->dmin, &q2_k_shape, x, importance))
        return;
    for (int g = 0; g < 16; g++)
        out->scales[g] = (uint8_t)(p[g].sc | p[g].mn << 4);
    for (int i = 0; i < 256; i++) {
        const int q = final_code(&q2_k_shape, &b, p, f, i);
        out->qs[32 * (i / 128) + i % 32] |= (uint8_t)(q << (2 * (i / 32 % 4)));
    }
}

/* The inverse of gqmm_k_scale_min(). */
static void pack_k_scales(uint8_t *s, const pair *p)
{
    for (int g = 0; g < 4; g++) {
        const pair low = p[g], high = p[g + 4];
        s[g] = (uint8_t)(low.sc | (high.sc >> 4) << 6);
        s[g + 4] = (uint8_t)(low.mn | (high.mn >> 4) << 6);
        s[g + 8] = (uint8_t)((high.sc & 15) | (high.mn & 15) << 4);
    }
}

void gqmm_q4_k_search(uint8_t *block, const float *x, const float *importance)
{
    gqmm_q4_k *out = (gqmm_q4_k *)block;
    search_block b;
    pair p[GQMM_MAX_GROUPS];
    fit f;

    memset(out, 0, sizeof(*out));
    if (!fit_fields(&f, p, &b, out->d, out->dmin, &q4_k_shape, x, importance))
        return;
    pack_k_scales(out->scales, p);
    for (int i = 0; i < 256; i++) {
        const int q = final_code(&q4_k_shape, &b, p, f, i);
        out->qs[32 * (i / 64) + i % 32] |= (uint8_t)(q << (i % 64 < 32 ? 0 : 4));
    }
}

void gqmm_q5_k_search(uint8_t *block, const float *x, const float *importance)
{
    gqmm_q5_k *out = (gqmm_q5_k *)block;
    search_block b;
    pair p[GQMM_MAX_GROUPS];
    fit f;

    memset(out, 0, sizeof(*out));
    if (!fit_fields(&f, p, &b, out->d, out->dmin, &q5_k_shape, x, importance))
        return;
    pack_k_scales(out->scales, p);
    for (int i = 0; i < 256; i++) {
        const int q = final_code(&q5_k_shape, &b, p, f, i);
        out->qs[32 * (i / 64) + i % 32] |= (uint8_t)((q & 15) << (i % 64 < 32 ? 0 : 4));
        out->qh[i % 32] |= (uint8_t)((q >> 4) << (i / 32));
    }
}
