/* SPDX-License-Identifier: MIT */
/* Loading GGUF blocks as MLX affine planes, for hosts whose kernels want those.
 *
 * Scales and biases are f16. q4_0, q4_1 and q8_0 have f16 scales in groups of 32, so nothing is
 * rounded. A group's scale in q4_k and q5_k is a product of an f16 and a 6-bit integer, so f16
 * adds a relative error of at most 2^-11 to scale and bias, an eighth of what bf16 would. q6_k has
 * groups of 16 with 8-bit scales; two of them are requantised as one of 32 with 8 bits. */
#include "base/num.h"
#include "base/status.h"
#include "model/weights.h"

#include <string.h>

static const char *const targets[][2] = {
    {"q4_0", "affine4_g32_f16"}, {"q4_1", "affine4_g32_f16"}, {"q8_0", "affine8_g32_f16"},
    {"q4_k", "affine4_g32_f16"}, {"q5_k", "affine5_g32_f16"}, {"q6_k", "affine8_g32_f16"},
};

const char *gqmm_repack_target(const char *format)
{
    for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++)
        if (strcmp(targets[i][0], format) == 0)
            return targets[i][1];
    return NULL;
}

gqmm_status gqmm_repack_weights(gqmm_model *model, gqmm_weights_desc *desc, gqmm_error *err)
{
    const gqmm_format *f = gqmm_format_find(gqmm_repack_target(desc->format));
    gqmm_weights *source = NULL;
    gqmm_repack_desc op;
    GQMM_INIT(op);
    if (!f)
        return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0, "%s cannot be repacked in this build",
                         desc->format);
    for (int32_t i = 0; i < f->n_planes; i++) {
        const int64_t row = gqmm_format_row_bytes(f, i, desc->n_cols);
        int64_t rows, bytes;
        if (row < 0 || !gqmm_mul(&rows, desc->n_experts, desc->n_rows) ||
            !gqmm_mul(&bytes, rows, row))
            return gqmm_fail(err, GQMM_E_SHAPE, 0, "rows of %lld cannot be repacked as %s",
                             (long long)desc->n_cols, f->name);
        op.plane[i] = gqmm_arena_alloc(&model->arena, bytes, 1);
        if (!op.plane[i])
            return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for %lld repacked bytes",
                             (long long)bytes);
        model->info.repacked_bytes += bytes;
    }
    gqmm_status status = gqmm_weights_create(model->ctx, desc, &source, err);
    if (status)
        return status;
    op.w = source;
    op.format = f->name;
    status = gqmm_repack(model->ctx, &op, err);
    gqmm_weights_destroy(source);
    desc->format = f->name;
    for (int32_t i = 0; i < f->n_planes; i++)
        desc->plane[i] = op.plane[i];
    return status;
}
