/* SPDX-License-Identifier: MIT */
/* The seam between the operations and an accelerator. src/op checks and resolves a descriptor once,
 * for every device; a context with a device then hands it to these functions, which lay out their
 * workspace and enqueue. With run = false only *bytes is wanted. */
#ifndef GQMM_OP_DEVICE_H
#define GQMM_OP_DEVICE_H

#include "op/op.h"

struct gqmm_moe_state;

typedef struct gqmm_device_ops {
    const char *kind; /* "cuda": the name of its first device, or "cuda:0" */
    int32_t (*count)(void);
    size_t (*text)(int32_t index, char *text, size_t size);
    bool (*runs)(int32_t isa); /* one of the devices at least */

    /* Fills ctx->device_state and ctx->max_isa. */
    gqmm_status (*open)(gqmm_context *ctx, int32_t index, const char *isa, void *stream,
                        gqmm_error *err);
    void (*close)(gqmm_context *ctx);
    gqmm_status (*set_stream)(gqmm_context *ctx, void *stream, gqmm_error *err);
    void *(*stream)(const gqmm_context *ctx);
    gqmm_status (*synchronize)(gqmm_context *ctx, gqmm_error *err);
    gqmm_status (*fault)(gqmm_context *ctx, gqmm_error *err);
    gqmm_status (*alloc)(gqmm_context *ctx, size_t bytes, void **out, gqmm_error *err);
    void (*release)(gqmm_context *ctx, void *memory);
    gqmm_status (*copy)(gqmm_context *ctx, void *to, const void *from, size_t bytes,
                        gqmm_error *err);

    /* Sets w->served_by, or says why the device cannot serve the weights. */
    gqmm_status (*bind)(gqmm_context *ctx, gqmm_weights *w, gqmm_error *err);
    /* Strides of descriptors are resolved: 0 means 0. */
    gqmm_status (*gather)(gqmm_context *ctx, const gqmm_gather *d, int64_t n, int64_t k, bool run,
                          size_t *bytes, gqmm_error *err);
    gqmm_status (*moe)(gqmm_context *ctx, const struct gqmm_moe_state *s, bool run, size_t *bytes,
                       gqmm_error *err);
    gqmm_status (*embed)(gqmm_context *ctx, const gqmm_embed_desc *d, gqmm_error *err);
    gqmm_status (*dequantize)(gqmm_context *ctx, const gqmm_dequantize_desc *d, gqmm_error *err);
    gqmm_status (*quantize)(gqmm_context *ctx, const gqmm_quantize_desc *d,
                            const gqmm_format_info *format, gqmm_error *err);
} gqmm_device_ops;

/* "cuda" and "cuda:1" to their operations and index. False: the name is none of a device that this
 * build knows; "cpu" is none either. */
bool gqmm_device_by_name(const char *name, const gqmm_device_ops **ops, int32_t *index);

extern const gqmm_device_ops gqmm_cuda_ops;

#endif
