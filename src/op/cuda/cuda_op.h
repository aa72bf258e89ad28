/* SPDX-License-Identifier: MIT */
/* What the operations on CUDA share. */
#ifndef GQMM_OP_CUDA_OP_H
#define GQMM_OP_CUDA_OP_H

#include "kernel/cuda.h"
#include "op/device.h"

typedef struct gqmm_cuda_state {
    gqmm_stream stream;
    bool own_stream;
    int32_t path;    /* GQMM_CUDA_SM80 or SM90 */
    uint32_t *fault; /* host memory that the device writes to */
} gqmm_cuda_state;

static inline gqmm_cuda_state *gqmm_cuda_of(const gqmm_context *ctx)
{
    return ctx->device_state;
}

/* GQMM_OK for 0, else GQMM_E_DEVICE with the runtime's words. */
gqmm_status gqmm_cuda_status(int error, const char *what, gqmm_error *err);

/* A handle as kernels take it. */
gqmm_cuda_matrix gqmm_cuda_view(const gqmm_weights *w);

static inline const gqmm_cuda_family *gqmm_cuda_family_of(const gqmm_weights *w)
{
    return w->served_by;
}

/* Whether no kernel of ours that lets its successor begin writes such weights: none writes codes,
 * but any product or gqmm_dequantize() plain numbers. */
static inline bool gqmm_cuda_lasts(const gqmm_weights *w)
{
    return w->format->pub.block_elems > 1;
}

/* NULL is fine; host memory that the device cannot reach is GQMM_E_ARG. */
gqmm_status gqmm_cuda_check_pointer(const char *name, const void *p, gqmm_error *err);

/* A product on its way: which kernel suits its sizes, and whether its pairs are sorted first. */
typedef struct gqmm_cuda_call {
    gqmm_cuda_product p;
    const gqmm_cuda_family *family;
    bool transpose;
    bool by_id;  /* p.rhs is or will be given */
    bool early;  /* weights are codes: they may be asked for while the launch ahead still runs */
    bool rounds; /* asked for: activations may be rounded to int8 */
    bool alone;  /* asked for: middle tiles where they pay */
    bool eights; /* tiles of eight columns, though there are as many as pay for wide ones */
    bool wide;   /* tiles of many columns */
    bool int8;   /* those of int8(): wide as well */
    bool middle; /* one matrix in one launch of middle() */
    bool sorted; /* p.list is filled by gqmm_cuda_sort_call() */
    bool dense;  /* many rows against a matrix of bf16: dequantised to `plain` first, unless */
    bool lies;   /* it is bf16 as it lies */
    void *scratch, *plain;
} gqmm_cuda_call;

/* The kernels, beside product() or product_n() that serve any call, which serve this one and may be
 * faster than it: bits of a mask. By sizes alone. */
enum {
    GQMM_CUDA_PRODUCT = 0,
    GQMM_CUDA_INT8 = 1,
    GQMM_CUDA_EIGHTS = 2,
    GQMM_CUDA_MIDDLE = 4,
    GQMM_CUDA_WIDE = 8
};
int32_t gqmm_cuda_kinds(const gqmm_context *ctx, const gqmm_cuda_call *c);
/* Plans it as the best of these. */
void gqmm_cuda_plan_as(gqmm_cuda_call *c, int32_t kinds);
/* Whether the sort, if there is one, takes so many experts. */
gqmm_status gqmm_cuda_check_experts(const gqmm_context *ctx, const gqmm_cuda_call *c,
                                    gqmm_error *err);
/* Takes the memory of a sorted call's list. */
void gqmm_cuda_take_list(gqmm_cuda_call *c, gqmm_layout *l);
/* Takes the memory in which a wide call brings x into its order, or rounds it. */
void gqmm_cuda_take_ordered(gqmm_cuda_call *c, gqmm_layout *l);
gqmm_status gqmm_cuda_sort_call(gqmm_context *ctx, const gqmm_cuda_call *c, gqmm_error *err);
gqmm_status gqmm_cuda_run_call(gqmm_context *ctx, const gqmm_cuda_call *c, gqmm_error *err);

gqmm_status gqmm_gather_on_cuda(gqmm_context *ctx, const gqmm_gather *d, int64_t n, int64_t k,
                                bool run, size_t *bytes, gqmm_error *err);
gqmm_status gqmm_moe_on_cuda(gqmm_context *ctx, const struct gqmm_moe_state *s, bool run,
                             size_t *bytes, gqmm_error *err);
gqmm_status gqmm_embed_on_cuda(gqmm_context *ctx, const gqmm_embed_desc *d, gqmm_error *err);
gqmm_status gqmm_dequantize_on_cuda(gqmm_context *ctx, const gqmm_dequantize_desc *d,
                                    gqmm_error *err);
gqmm_status gqmm_quantize_on_cuda(gqmm_context *ctx, const gqmm_quantize_desc *d,
                                  const gqmm_format_info *format, gqmm_error *err);

#endif
