/* SPDX-License-Identifier: MIT */
/* Weights for tests, made of random valid blocks, and the definition of what they mean in double:
 * the fp32 scale, code and offset that a format's decoder finds, computed on without rounding. */
#ifndef TESTS_REFERENCE_H
#define TESTS_REFERENCE_H

#include "format/format.h"
#include "harness.h"
#include "kernel/act.h"

#include <float.h>

#define UNIT (FLT_EPSILON / 2.0) /* largest relative error of one fp32 rounding */

typedef enum blocks {
    BLOCKS_SANE,     /* random codes, scales of ordinary size */
    BLOCKS_GAUSS,    /* Gaussian numbers through the format's quantiser */
    BLOCKS_CODES_00, /* sane scales, all code bits 0 */
    BLOCKS_CODES_FF, /* sane scales, all code bits 1 */
    BLOCKS_SMALL,    /* tiny but not zero: subnormal f16 scales among them */
    BLOCKS_HUGE,     /* large and finite */
    BLOCKS_00,       /* all bytes 0: zero scales */
    BLOCKS_FF,       /* all bytes 255: NaN and infinite scales in most formats */
    BLOCKS_RANDOM,   /* any bytes */
    BLOCKS_KINDS
} blocks;

static const char *const block_names[] = {"sane", "gauss",    "codes 00", "codes ff",    "small",
                                          "huge", "bytes 00", "bytes ff", "random bytes"};

enum { BANK = 48, BLOCK_BYTES = 256 };

/* Blocks of one kind, made once per format; a row is a random sequence of them. */
typedef struct bank {
    int n; /* 0: not made yet, -1: this format has no such block */
    uint8_t bytes[BANK][3][BLOCK_BYTES];
} bank;

static bank *banks[160][BLOCKS_KINDS];

/* Scale and codes of a block as the definition reads them. */
typedef struct decoded {
    float w[GQMM_MAX_BLOCK]; /* fp32, as dequantised */
    double exact[GQMM_MAX_BLOCK], mag[GQMM_MAX_BLOCK];
    bool finite;
    double top, top_scaled, top_offset;
} decoded;

static inline void decode(decoded *d, const gqmm_format_info *f, const uint8_t *const p[3],
                          float global)
{
    int16_t q[GQMM_MAX_BLOCK];
    float scale[GQMM_MAX_GROUPS], offset[GQMM_MAX_GROUPS] = {0};

    gqmm_format_dequantize_block(f, d->w, p, global);
    if (f->unpack)
        f->unpack(f, q, scale, offset, p);
    d->finite = true;
    d->top = d->top_scaled = d->top_offset = 0;
    for (int i = 0; i < f->pub.block_elems; i++) {
        const int g = i / f->pub.group_elems;
        if (f->unpack) {
            /* The factor of a global scale is part of the scale, in fp32. */
            const float s = scale[g] * global;
            const double scaled = (double)s * q[i], o = f->has_offset ? (double)offset[g] : 0.0;
            d->exact[i] = scaled + o;
            d->mag[i] = fabs(scaled) + fabs(o);
            d->top_scaled = fmax(d->top_scaled, fabs(scaled));
            d->top_offset = fmax(d->top_offset, fabs(o));
        } else {
            d->exact[i] = (double)d->w[i];
            d->mag[i] = fabs(d->exact[i]);
        }
        d->finite = d->finite && isfinite(d->exact[i]) && isfinite(d->w[i]);
        d->top = fmax(d->top, fabs(d->exact[i]));
    }
}

static inline bool block_fits(const decoded *d, blocks kind)
{
    if (!d->finite)
        return false;
    if (kind == BLOCKS_SMALL)
        return d->top > 0 && d->top < 1e-5;
    if (kind == BLOCKS_GAUSS)
        return true;
    if (kind == BLOCKS_HUGE)
        return d->top > 2e4 && d->top < 1e28;
    /* Scales that the offsets swamp would hide a wrong code. */
    return d->top > 0.05 && d->top < 200 && d->top_scaled >= 0.2 * d->top_offset;
}

/* Sets every byte that carries codes only (no scale changes with it) to `value`. */
static inline void set_codes(const gqmm_format_info *f, uint8_t b[3][BLOCK_BYTES], int value)
{
    const uint8_t *const p[3] = {b[0], b[1], b[2]};
    int16_t q[GQMM_MAX_BLOCK];
    float scale[2][GQMM_MAX_GROUPS] = {{0}}, offset[2][GQMM_MAX_GROUPS] = {{0}};

    for (int i = 0; i < f->pub.plane_bytes[0]; i++) {
        const uint8_t old = b[0][i];
        bool codes = true;
        if (f->unpack)
            f->unpack(f, q, scale[0], offset[0], p);
        for (int bit = 0; f->unpack && bit < 8; bit++) {
            b[0][i] = (uint8_t)(old ^ (1 << bit));
            f->unpack(f, q, scale[1], offset[1], p);
            codes = codes && memcmp(scale[0], scale[1], sizeof *scale) == 0 &&
                    memcmp(offset[0], offset[1], sizeof *offset) == 0;
        }
        b[0][i] = codes ? (uint8_t)value : old;
    }
}

/* A random block; formats whose block is one element get Gaussian numbers for sane ones. */
static inline void random_block(const gqmm_format_info *f, uint8_t b[3][BLOCK_BYTES], blocks kind)
{
    uint8_t *const p[3] = {b[0], b[1], b[2]};
    float x[GQMM_MAX_BLOCK];
    for (int i = 0; i < f->pub.n_planes; i++)
        rnd_fill(b[i], (size_t)f->pub.plane_bytes[i]);
    for (int i = 0; i < f->pub.block_elems; i++)
        x[i] = rnd_gauss();
    if (f->quantize && (kind == BLOCKS_GAUSS || (f->pub.block_elems == 1 && kind < BLOCKS_SMALL)))
        f->quantize(f, p, x, NULL, 0.0f, GQMM_F32);
}

/* The same blocks whatever was drawn before. */
static inline void make_bank(bank *k, const gqmm_format_info *f, blocks kind)
{
    const bool any = kind >= BLOCKS_00;
    const uint64_t drawn = rng_state;
    decoded d;
    const int most = h.quick ? BANK / 4 : BANK;
    rng_state = h.seed * 31 + (uint64_t)((f - gqmm_formats) * BLOCKS_KINDS + kind);
    for (int tries = 0; k->n < most && tries < (k->n ? 20000 : 3000); tries++) {
        uint8_t(*b)[BLOCK_BYTES] = k->bytes[k->n];
        const uint8_t *const p[3] = {b[0], b[1], b[2]};
        random_block(f, b, kind);
        if (!any) {
            decode(&d, f, p, 1.0f);
            if (!block_fits(&d, kind) && (f->pub.block_elems > 1 || kind >= BLOCKS_SMALL))
                continue;
        }
        if (kind == BLOCKS_00 || kind == BLOCKS_FF)
            memset(b, kind == BLOCKS_00 ? 0 : 255, sizeof k->bytes[0]);
        if (kind == BLOCKS_CODES_00 || kind == BLOCKS_CODES_FF)
            set_codes(f, b, kind == BLOCKS_CODES_00 ? 0 : 255);
        k->n++;
    }
    if (k->n < 4)
        k->n = -1;
    rng_state = drawn;
}

/* NULL if the format has no such blocks. */
static inline const bank *bank_of(const gqmm_format_info *f, blocks kind)
{
    bank **slot = &banks[f - gqmm_formats][kind];
    if (!*slot) {
        *slot = make(1, sizeof **slot);
        make_bank(*slot, f, kind);
    }
    return (*slot)->n > 0 ? *slot : NULL;
}

/* A row of `cols` weights at p. */
static inline void fill_row(const gqmm_format_info *f, uint8_t *const p[3], int64_t cols,
                            blocks kind)
{
    const bank *k = bank_of(f, kind);
    for (int64_t b = 0; b < cols / f->pub.block_elems; b++) {
        const int64_t from = rnd_below(k->n);
        for (int i = 0; i < f->pub.n_planes; i++)
            memcpy(p[i] + b * f->pub.plane_bytes[i], k->bytes[from][i],
                   (size_t)f->pub.plane_bytes[i]);
    }
}

/* ------------------------------------------------------------------ a stack of matrices */

/* E matrices with gaps between rows and experts as asked, and their handle. */
typedef struct stack {
    const gqmm_format_info *f;
    int64_t e, rows, cols;
    uint8_t *memory[3]; /* malloc */
    gqmm_weights_desc d;
    float *amax; /* per expert, or NULL */
    gqmm_weights *w;
} stack;

typedef struct stack_how {
    int64_t row_gap, expert_gap; /* bytes */
    bool reversed;               /* negative row strides */
    bool global;                 /* a global scale per expert where the format has one */
} stack_how;

static inline void stack_plane(stack *s, int i, const stack_how *how)
{
    const int64_t row = gqmm_format_row_bytes(&s->f->pub, i, s->cols), step = row + how->row_gap;
    const int64_t expert = s->rows * step + how->expert_gap;
    s->memory[i] = must(malloc((size_t)(s->e * expert)));
    memset(s->memory[i], 0xa5, (size_t)(s->e * expert));
    s->d.plane[i] = how->reversed ? s->memory[i] + (s->rows - 1) * step : s->memory[i];
    s->d.row_stride[i] = how->reversed ? -step : how->row_gap ? step : 0;
    s->d.expert_stride[i] = how->row_gap || how->expert_gap || how->reversed ? expert : 0;
}

/* Where row `row` of expert e starts in each plane. */
static inline void stack_row(const stack *s, int64_t e, int64_t row, uint8_t *p[3])
{
    for (int i = 0; i < 3; i++) {
        p[i] = NULL;
        if (i >= s->f->pub.n_planes)
            continue;
        const int64_t dense = gqmm_format_row_bytes(&s->f->pub, i, s->cols);
        const int64_t step = s->d.row_stride[i] ? s->d.row_stride[i] : dense;
        const int64_t expert =
            s->d.expert_stride[i] ? s->d.expert_stride[i] : s->rows * (step < 0 ? -step : step);
        p[i] = (uint8_t *)(uintptr_t)s->d.plane[i] + e * expert + row * step;
    }
}

static inline stack stack_make(gqmm_context *ctx, const char *format, int64_t e, int64_t rows,
                               int64_t cols, stack_how how)
{
    stack s = {.f = gqmm_format_by_name(format), .e = e, .rows = rows, .cols = cols};
    gqmm_error err;
    GQMM_INIT(s.d);
    s.d.format = format;
    s.d.n_experts = e;
    s.d.n_rows = rows;
    s.d.n_cols = cols;
    for (int i = 0; i < s.f->pub.n_planes; i++)
        stack_plane(&s, i, &how);
    if (how.global && s.f->pub.has_global_scale) {
        s.amax = make(e, sizeof *s.amax);
        for (int64_t i = 0; i < e; i++)
            s.amax[i] = 1000.0f * (float)rnd_unit();
        s.d.global_scale = s.amax;
        s.d.global_scale_stride = 1;
    }
    for (int64_t i = 0; i < e * rows; i++) {
        uint8_t *p[3];
        stack_row(&s, i / rows, i % rows, p);
        fill_row(s.f, p, cols, BLOCKS_SANE);
    }
    if (ctx && gqmm_weights_create(ctx, &s.d, &s.w, &err) != GQMM_OK) {
        fprintf(stderr, "weights of %s: %s\n", format, err.text);
        exit(1);
    }
    return s;
}

static inline void stack_free(stack *s)
{
    gqmm_weights_destroy(s->w);
    for (int i = 0; i < 3; i++)
        free(s->memory[i]);
    free(s->amax);
    memset(s, 0, sizeof *s);
}

/* Row of weights in double and, where asked for, its |scale * q| + |offset| and its fp32 values. */
static inline void stack_decode(const stack *s, int64_t e, int64_t row, double *w, double *mag,
                                float *f32)
{
    const int block = s->f->pub.block_elems;
    const float global = gqmm_format_global(s->f, s->amax ? s->amax + e : NULL);
    uint8_t *p[3];
    decoded d;
    stack_row(s, e, row, p);
    for (int64_t k = 0; k < s->cols; k += block) {
        const uint8_t *const at[3] = {p[0], p[1], p[2]};
        decode(&d, s->f, at, global);
        for (int i = 0; i < block; i++) {
            if (w)
                w[k + i] = d.exact[i];
            if (mag)
                mag[k + i] = d.mag[i];
            if (f32)
                f32[k + i] = d.w[i];
        }
        for (int i = 0; i < s->f->pub.n_planes; i++)
            p[i] += s->f->pub.plane_bytes[i];
    }
}

/* x as GQMM_INT8 sees it: scale * q of each block of 32. */
static inline void round_int8(double *xq, const float *x, int64_t k)
{
    for (int64_t i = 0; i < k; i += GQMM_ACT_ELEMS) {
        gqmm_act a;
        const int n = (int)(k - i < GQMM_ACT_ELEMS ? k - i : GQMM_ACT_ELEMS);
        gqmm_act_quantize_block(&a, x + i, n);
        for (int j = 0; j < n; j++)
            xq[i + j] = (double)a.scale * a.q[j];
    }
}

/* x as a CUDA context's int8 products see it: blocks of 128, a multiple of which k is. */
static inline void round_int8_wide(double *xq, const float *x, int64_t k)
{
    for (int64_t i = 0; i < k; i += 128) {
        float most = 0;
        bool numbers = true;
        for (int64_t j = i; j < i + 128; j++) {
            numbers = numbers && isfinite(x[j]);
            most = fmaxf(most, fabsf(x[j]));
        }
        const float scale = most / 127.0f, inverse = 127.0f / most;
        for (int64_t j = i; j < i + 128; j++)
            xq[j] = !numbers          ? NAN
                    : scale < FLT_MIN ? 0
                                      : (double)scale * nearbyintf(x[j] * inverse);
    }
}

/* Whether `got` may be fp32's answer to the sum `want` of n terms whose magnitudes add to `mag`,
 * rounded once to `type`. In any order of summation the error is below n u mag, u = 2^-24, and a
 * few u more for the product, the scale, the offset and the factor of the block: n + 6 in all.
 * Below the normal numbers each operation may lose 2^-150 of its own, which `slack` counts. When
 * the terms, or `reach`, the largest number on the way to them, come near the end of fp32, they may
 * pass it on some order, and infinity and NaN are right as well. Else a NaN fails. */
static inline bool close_enough(double got, double want, double mag, double reach, double n,
                                double slack, int32_t type)
{
    const double limit = type == GQMM_F16 ? 65504.0 : (double)FLT_MAX;
    double bound = (n + 6) * UNIT * 1.001 * mag + slack;
    if (!isfinite(want))
        return !isfinite(got);
    bound += type_rounding(type) * (fabs(want) + bound) + type_step(type) * (type != GQMM_F32);
    if (fabs(want) + bound >= limit || fmax(mag, reach) >= (double)FLT_MAX / 4)
        return !isfinite(got) || fabs(got - want) <= bound;
    return fabs(got - want) <= bound;
}

static inline double underflow_slack(double n, double sum_abs_x)
{
    return (n * 32768.0 + 2.0 * sum_abs_x) * 0x1p-149;
}

#endif
