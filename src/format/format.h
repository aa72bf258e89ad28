/* SPDX-License-Identifier: MIT */
/* The formats as data. A format is described once, in its header of this folder: layout, size
 * asserts and the decoding of one block, which IS the definition:
 *
 *     w[i] = scale[i / group] * q[i] + offset[i / group]    coded formats: two fp32 roundings
 *     w[i] = values(i)                                      f32, f16, bf16, mlx_mxfp8
 *
 * Everything else (dispatch, tests, bench, CLI, docs) reads the table. */
#ifndef GQMM_FORMAT_FORMAT_H
#define GQMM_FORMAT_FORMAT_H

#include "base/num.h"
#include "gqmm.h"

#define GQMM_MAX_BLOCK 256 /* weights in the largest block */
#define GQMM_MAX_GROUPS 16 /* scales in one block */

typedef struct gqmm_format_info gqmm_format_info;

struct gqmm_format_info {
    gqmm_format pub;    /* what gqmm.h shows; first, so that the pointers convert */
    const char *family; /* kernels are written per family: "affine4" serves every group and type */
    int32_t bits;       /* affine: bits of a code; else 0 */
    int32_t scale_type; /* affine: GQMM_F32 / F16 / BF16 of scales and biases; else 0 */
    int32_t has_offset; /* offsets are added; without, `offset` is not written */

    /* Coded formats: codes, scales and offsets of the block whose planes start at p. Codes lie in
     * [-128, 255]. NULL for float formats. */
    void (*unpack)(const gqmm_format_info *f, int16_t *q, float *scale, float *offset,
                   const uint8_t *const p[3]);
    /* Float formats: the values of one block (block_elems of them). NULL for coded formats. */
    void (*values)(const gqmm_format_info *f, float *w, const uint8_t *const p[3]);

    /* One block of block_elems values to bytes; `importance` (of these columns) may be NULL;
     * `global` is the tensor amax for has_global_scale formats, else 0. x_type is the type that
     * the caller's elements had before they became fp32: MLX computes its float modes in it.
     * NULL where no quantiser is defined. */
    void (*quantize)(const gqmm_format_info *f, uint8_t *const p[3], const float *x,
                     const float *importance, float global, int32_t x_type);
};

extern const gqmm_format_info gqmm_formats[];
extern const int32_t gqmm_n_formats;

const gqmm_format_info *gqmm_format_by_name(const char *name); /* NULL if unknown */

/* What multiplies the scales of a block: 1 without a global scale (amax NULL), else the factor
 * that MLX derives from the tensor amax. */
float gqmm_format_global(const gqmm_format_info *f, const float *amax);

/* The definition: block_elems fp32 values of the block at p. `global` from gqmm_format_global()
 * is multiplied onto each scale first. */
void gqmm_format_dequantize_block(const gqmm_format_info *f, float *w, const uint8_t *const p[3],
                                  float global);

#endif
