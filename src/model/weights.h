/* SPDX-License-Identifier: MIT */
/* Loading: keys and tensors of a model file, each named, bounded and checked.
 * The first failure sticks in loader->status and later calls do nothing, so a loader function
 * asks for all it needs and returns the status once. */
#ifndef GQMM_MODEL_WEIGHTS_H
#define GQMM_MODEL_WEIGHTS_H

#include "model/model.h"

struct gqmm_loader {
    gqmm_model *model;
    const gqmm_file *file;
    gqmm_error *err;
    gqmm_status status;
    int32_t repack;
    const gqmm_tensor **used; /* every tensor that was asked for and found */
    int64_t n_used;
};

/* Key ARCH.key as an integer in [low, high]; an array must hold one value throughout.
 * fallback < 0: the key is required. */
void gqmm_load_int(gqmm_loader *l, int32_t *out, const char *key, int64_t low, int64_t high,
                   int64_t fallback);
/* The same for a float in [low, high]. */
void gqmm_load_float(gqmm_loader *l, double *out, const char *key, double low, double high,
                     double fallback);
/* Fails if the key is there and names something other than `known` (a string). */
void gqmm_load_only(gqmm_loader *l, const char *key, const char *known);
/* What every transformer with attention and experts has. */
void gqmm_load_hparams(gqmm_loader *l);

/* Tensors. layer < 0: the name as it is, else "blk.LAYER.name". */
const gqmm_tensor *gqmm_find_tensor(const gqmm_loader *l, int32_t layer, const char *name);
/* A float tensor {n}, converted to f32. */
void gqmm_load_vector(gqmm_loader *l, float **out, int32_t layer, const char *name, int64_t n);
/* {n_cols, n_rows, n_experts} in the file's order. */
void gqmm_load_matrix(gqmm_loader *l, gqmm_linear *out, int32_t layer, const char *name,
                      int64_t n_cols, int64_t n_rows, int64_t n_experts);
/* The same, never repacked and floats only: the router. */
void gqmm_load_float_matrix(gqmm_loader *l, gqmm_linear *out, int32_t layer, const char *name,
                            int64_t n_cols, int64_t n_rows);
/* After all loading: a tensor "blk.*" that nobody asked for means another model than we think. */
void gqmm_load_check_unused(gqmm_loader *l);

/* The affine format that a GGUF format is rewritten to; NULL: it stays as it is. */
const char *gqmm_repack_target(const char *format);
/* Replaces `desc` (GGUF blocks) by planes in the model's arena and counts them. */
gqmm_status gqmm_repack_weights(gqmm_model *model, gqmm_weights_desc *desc, gqmm_error *err);

#endif
