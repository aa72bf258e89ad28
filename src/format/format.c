/* SPDX-License-Identifier: MIT */
/* The table of formats, and the public questions about it. */
#include "format/format.h"

#include <string.h>

#include "format/affine.h"
#include "format/float.h"
#include "format/int4.h"
#include "format/iq4_nl.h"
#include "format/iq4_xs.h"
#include "format/mlx_fp.h"
#include "format/mxfp4.h"
#include "format/nvfp4.h"
#include "format/q2_k.h"
#include "format/q3_k.h"
#include "format/q4_0.h"
#include "format/q4_1.h"
#include "format/q4_k.h"
#include "format/q5_0.h"
#include "format/q5_1.h"
#include "format/q5_k.h"
#include "format/q6_k.h"
#include "format/q8_0.h"
#include "format/search.h"

/* ---- one function per row, with the table's signature */

#define UNPACK_ARGS \
    const gqmm_format_info *f, int16_t *q, float *scale, float *offset, const uint8_t *const p[3]
#define VALUES_ARGS const gqmm_format_info *f, float *w, const uint8_t *const p[3]
#define QUANTIZE_ARGS \
    const gqmm_format_info *f, uint8_t *const p[3], const float *x, const float *importance, \
        float global, int32_t x_type
#define UNUSED_QUANTIZE_ARGS (void)f, (void)importance, (void)global, (void)x_type

#define QUANTIZE_plain(token) gqmm_##token##_quantize(p[0], x)
#define QUANTIZE_search(token) gqmm_##token##_search(p[0], x, importance)
#define GQMM_BLOCK(token, gguf, block, group, bytes, offset_, quantiser, summary) \
    GQMM_STATIC_ASSERT(sizeof(gqmm_##token) == (bytes), #token " row and struct agree"); \
    static void token##_unpack(UNPACK_ARGS) \
    { \
        (void)f; \
        gqmm_##token##_unpack(q, scale, offset, p[0]); \
    } \
    static void token##_quantize(QUANTIZE_ARGS) \
    { \
        UNUSED_QUANTIZE_ARGS; \
        QUANTIZE_##quantiser(token); \
    }

#define MLX_unpack(token) \
    static void token##_unpack(UNPACK_ARGS) \
    { \
        (void)f; \
        gqmm_##token##_unpack(q, scale, offset, p); \
    }
#define MLX_values(token) \
    static void token##_values(VALUES_ARGS) \
    { \
        (void)f; \
        gqmm_##token##_values(w, p); \
    }
#define GQMM_MLX_FP(token, group, bytes, kind, global_, summary) \
    MLX_##kind(token) static void token##_quantize(QUANTIZE_ARGS) \
    { \
        UNUSED_QUANTIZE_ARGS; \
        gqmm_##token##_quantize(p, x, global, x_type); \
    }

#define GQMM_FLOAT(token, gguf, bytes, summary) \
    static void token##_values(VALUES_ARGS) \
    { \
        (void)f; \
        gqmm_##token##_values(w, p); \
    } \
    static void token##_quantize(QUANTIZE_ARGS) \
    { \
        UNUSED_QUANTIZE_ARGS; \
        gqmm_##token##_quantize(p[0], x); \
    }
#include "format/formats.def"

static void affine_unpack(UNPACK_ARGS)
{
    gqmm_affine_unpack(q, scale, offset, p, f->bits, f->pub.group_elems, f->scale_type);
}

static void affine_quantize(QUANTIZE_ARGS)
{
    (void)importance, (void)global, (void)x_type;
    gqmm_affine_quantize(p, x, f->bits, f->pub.group_elems, f->scale_type);
}

static void int4_unpack(UNPACK_ARGS)
{
    gqmm_int4_unpack(q, scale, offset, p, f->pub.group_elems);
}

static void int4_quantize(QUANTIZE_ARGS)
{
    (void)importance, (void)global, (void)x_type;
    gqmm_int4_quantize(p, x, f->pub.group_elems);
}

/* ---- the table */

#define TAKES_plain 0
#define TAKES_search 1
#define GQMM_BLOCK(token, gguf, block, group, bytes, offset_, quantiser, text) \
    {.pub = {.struct_size = sizeof(gqmm_format), \
             .gguf_type = gguf, \
             .name = #token, \
             .summary = text, \
             .block_elems = block, \
             .group_elems = group, \
             .n_planes = 1, \
             .plane_bytes = {bytes, 0, 0}, \
             .can_quantize = 1, \
             .takes_importance = TAKES_##quantiser}, \
     .family = #token, \
     .has_offset = offset_, \
     .unpack = token##_unpack, \
     .quantize = token##_quantize},

#define AFFINE_ROW(bits_, group, type, type_text, type_bytes) \
    {.pub = {.struct_size = sizeof(gqmm_format), \
             .gguf_type = -1, \
             .name = "affine" #bits_ "_g" #group "_" type_text, \
             .summary = "MLX affine: scale * q + bias, " type_text " scales", \
             .block_elems = group, \
             .group_elems = group, \
             .n_planes = 3, \
             .plane_bytes = {(bits_) * (group) / 8, type_bytes, type_bytes}, \
             .can_quantize = 1}, \
     .family = "affine" #bits_, \
     .bits = bits_, \
     .scale_type = type, \
     .has_offset = 1, \
     .unpack = affine_unpack, \
     .quantize = affine_quantize},
#define GQMM_AFFINE(bits_, group) \
    AFFINE_ROW(bits_, group, GQMM_F32, "f32", 4) \
    AFFINE_ROW(bits_, group, GQMM_F16, "f16", 2) \
    AFFINE_ROW(bits_, group, GQMM_BF16, "bf16", 2)

#define GQMM_MLX_FP(token, group, bytes, kind, global_, text) \
    {.pub = {.struct_size = sizeof(gqmm_format), \
             .gguf_type = -1, \
             .name = #token, \
             .summary = text, \
             .block_elems = group, \
             .group_elems = group, \
             .n_planes = 2, \
             .plane_bytes = {bytes, 1, 0}, \
             .can_quantize = 1, \
             .has_global_scale = global_}, \
     .family = #token, \
     .kind = token##_##kind, \
     .quantize = token##_quantize},

#define GQMM_INT4(group) \
    {.pub = {.struct_size = sizeof(gqmm_format), \
             .gguf_type = -1, \
             .name = "int4_g" #group, \
             .summary = "symmetric int4: scale * (u - 8), bf16 scales", \
             .block_elems = group, \
             .group_elems = group, \
             .n_planes = 2, \
             .plane_bytes = {(group) / 2, 2, 0}, \
             .can_quantize = 1}, \
     .family = "int4", \
     .unpack = int4_unpack, \
     .quantize = int4_quantize},

#define GQMM_FLOAT(token, gguf, bytes, text) \
    {.pub = {.struct_size = sizeof(gqmm_format), \
             .gguf_type = gguf, \
             .name = #token, \
             .summary = text, \
             .block_elems = 1, \
             .group_elems = 1, \
             .n_planes = 1, \
             .plane_bytes = {bytes, 0, 0}, \
             .can_quantize = 1}, \
     .family = #token, \
     .values = token##_values, \
     .quantize = token##_quantize},

const gqmm_format_info gqmm_formats[] = {
#include "format/formats.def"
};
const int32_t gqmm_n_formats = (int32_t)(sizeof(gqmm_formats) / sizeof(gqmm_formats[0]));

/* ---- questions */

int32_t gqmm_format_count(void)
{
    return gqmm_n_formats;
}

const gqmm_format *gqmm_format_at(int32_t i)
{
    return i >= 0 && i < gqmm_n_formats ? &gqmm_formats[i].pub : NULL;
}

const gqmm_format_info *gqmm_format_by_name(const char *name)
{
    for (int32_t i = 0; name && i < gqmm_n_formats; i++)
        if (strcmp(gqmm_formats[i].pub.name, name) == 0)
            return &gqmm_formats[i];
    return NULL;
}

const gqmm_format *gqmm_format_find(const char *name)
{
    const gqmm_format_info *f = gqmm_format_by_name(name);
    return f ? &f->pub : NULL;
}

const gqmm_format *gqmm_format_find_gguf(int32_t gguf_type)
{
    for (int32_t i = 0; gguf_type >= 0 && i < gqmm_n_formats; i++)
        if (gqmm_formats[i].pub.gguf_type == gguf_type)
            return &gqmm_formats[i].pub;
    return NULL;
}

int64_t gqmm_format_row_bytes(const gqmm_format *format, int32_t plane, int64_t k)
{
    int64_t bytes;
    if (!format || plane < 0 || plane >= format->n_planes || k < 0 || k % format->block_elems != 0)
        return -1;
    return gqmm_mul(&bytes, k / format->block_elems, format->plane_bytes[plane]) ? bytes : -1;
}

float gqmm_format_global(const gqmm_format_info *f, const float *amax)
{
    return f->pub.has_global_scale && amax ? gqmm_mlx_nvfp4_global(*amax) : 1.0f;
}

void gqmm_format_dequantize_block(const gqmm_format_info *f, float *w, const uint8_t *const p[3],
                                  float global)
{
    int16_t q[GQMM_MAX_BLOCK];
    float scale[GQMM_MAX_GROUPS], offset[GQMM_MAX_GROUPS];

    if (f->values) {
        f->values(f, w, p);
        return;
    }
    f->unpack(f, q, scale, offset, p);
    const int group = f->pub.group_elems, n_groups = f->pub.block_elems / group;
    for (int g = 0; g < n_groups; g++) {
        const float s = scale[g] * global; /* exact when global is 1 */
        for (int i = g * group; i < (g + 1) * group; i++) {
            const float product = s * (float)q[i];
            w[i] = f->has_offset ? product + offset[g] : product;
        }
    }
}
