/* SPDX-License-Identifier: MIT */
/* GGUF blocks to MLX affine planes. Codes are kept where the groups agree: w = scale * q + offset
 * becomes scale * (q + shift) + (offset - shift * scale), with scale and bias rounded to the
 * plane's type. q6_k has groups of 16: two of them are requantised as one of 32. */
#include "op/products.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const char *from;
    int32_t bits;
    int32_t shift; /* makes the source's codes unsigned */
    bool requantize;
} rule;

static const rule rules[] = {
    {"q4_0", 4, 8, false},   {"q4_1", 4, 0, false}, {"q5_0", 5, 16, false}, {"q5_1", 5, 0, false},
    {"q8_0", 8, 128, false}, {"q4_k", 4, 0, false}, {"q5_k", 5, 0, false},  {"q6_k", 8, 0, true},
};

typedef struct {
    gqmm_repack_desc d;
    const gqmm_format_info *to;
    const rule *rule;
    int64_t row_bytes[3];
} state;

enum { GROUP = 32 };

static void pack_codes(uint8_t *p, const int16_t *q, int32_t bits, int32_t shift)
{
    for (int i = 0; i < GROUP; i += 8, p += bits) { /* 8 codes are `bits` whole bytes */
        uint64_t word = 0;
        for (int j = 0; j < 8; j++)
            word |= (uint64_t)(uint32_t)(q[i + j] + shift) << (bits * j);
        for (int32_t b = 0; b < bits; b++)
            p[b] = (uint8_t)(word >> (8 * b));
    }
}

/* Group g of a source block that was unpacked to q, scale, offset. */
static void write_group(const state *s, uint8_t *const p[3], const int16_t *q, float scale,
                        float offset)
{
    const float bias = offset - (float)s->rule->shift * scale;
    pack_codes(p[0], q, s->rule->bits, s->rule->shift);
    gqmm_narrow(p[1], s->to->scale_type, &scale, 1);
    gqmm_narrow(p[2], s->to->scale_type, &bias, 1);
}

static void repack_block(const state *s, const uint8_t *const from[3], int64_t row, int64_t k)
{
    const gqmm_format_info *f = s->d.w->format;
    int16_t q[GQMM_MAX_BLOCK];
    float scale[GQMM_MAX_GROUPS], offset[GQMM_MAX_GROUPS] = {0}, w[GQMM_MAX_BLOCK];

    if (s->rule->requantize)
        gqmm_format_dequantize_block(f, w, from, 1.0f);
    else
        f->unpack(f, q, scale, offset, from);
    for (int i = 0; i < f->pub.block_elems; i += GROUP) {
        uint8_t *p[3];
        for (int j = 0; j < 3; j++)
            p[j] = (uint8_t *)s->d.plane[j] + row * s->row_bytes[j] +
                   (k + i) / GROUP * s->to->pub.plane_bytes[j];
        if (s->rule->requantize)
            s->to->quantize(s->to, p, w + i, NULL, 0.0f, s->to->scale_type);
        else
            write_group(s, p, q + i, scale[i / GROUP], f->has_offset ? offset[i / GROUP] : 0.0f);
    }
}

static void repack_rows(void *arg, int64_t task)
{
    const state *s = arg;
    const gqmm_weights *w = s->d.w;
    const int64_t end = w->n_experts * w->n_rows;
    for (int64_t row = task * GQMM_ROWS_PER_TASK;
         row < end && row < (task + 1) * GQMM_ROWS_PER_TASK; row++) {
        const gqmm_matrix m = gqmm_expert(w, row / w->n_rows);
        const uint8_t *block = m.plane[0] + row % w->n_rows * m.stride[0];
        for (int64_t k = 0; k < w->n_cols; k += w->format->pub.block_elems) {
            const uint8_t *const from[3] = {block, NULL, NULL};
            repack_block(s, from, row, k);
            block += w->format->pub.plane_bytes[0];
        }
    }
}

static const rule *find_rule(const gqmm_format_info *from, const gqmm_format_info *to)
{
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (strcmp(rules[i].from, from->pub.name) == 0 && to->pub.n_planes == 3 &&
            to->bits == rules[i].bits && to->pub.group_elems == GROUP)
            return &rules[i];
    return NULL;
}

static gqmm_status prepare(gqmm_context *ctx, const void *desc, gqmm_job *job, size_t *bytes,
                           gqmm_error *err)
{
    state s = {.d = *(const gqmm_repack_desc *)desc};
    *bytes = 0;
    if (!s.d.w)
        return gqmm_fail(err, GQMM_E_ARG, 0, "w is NULL");
    s.to = gqmm_format_by_name(s.d.format);
    if (!s.to)
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "format \"%s\" is unknown; gqmm_format_at() lists them",
                         s.d.format ? s.d.format : "(null)");
    s.rule = find_rule(s.d.w->format, s.to);
    if (!s.rule)
        return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0,
                         "no repacking from %s to %s; see gqmm_repack() for the pairs",
                         s.d.w->format->pub.name, s.to->pub.name);
    int64_t rows, all;
    for (int i = 0; i < 3; i++) {
        s.row_bytes[i] = gqmm_format_row_bytes(&s.to->pub, i, s.d.w->n_cols);
        if (!gqmm_mul(&rows, s.d.w->n_experts, s.d.w->n_rows) ||
            !gqmm_mul(&all, rows, s.row_bytes[i]))
            return gqmm_fail(err, GQMM_E_SHAPE, 0, "plane %d would exceed 2^63 bytes", i);
        if (job && !s.d.plane[i])
            return gqmm_fail(err, GQMM_E_ARG, 0, "plane %d is NULL", i);
    }
    if (!job)
        return GQMM_OK;
    if (ctx->device)
        return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0, "gqmm_repack() is for CPU contexts");
    memcpy(ctx->state, &s, sizeof s);
    gqmm_job_init(job, ctx->state);
    gqmm_job_add(job, repack_rows, gqmm_ceil_div(rows, GQMM_ROWS_PER_TASK));
    snprintf(ctx->explain, sizeof ctx->explain, "repack %s to %s: %" PRId64 " rows of %" PRId64,
             s.d.w->format->pub.name, s.to->pub.name, rows, s.d.w->n_cols);
    return GQMM_OK;
}

const gqmm_op gqmm_op_repack = {"repack", sizeof(gqmm_repack_desc), prepare};

gqmm_status gqmm_repack(gqmm_context *ctx, const gqmm_repack_desc *op, gqmm_error *err)
{
    return gqmm_run(ctx, &gqmm_op_repack, op, err);
}
