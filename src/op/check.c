/* SPDX-License-Identifier: MIT */
/* Checks that several operations need, and the layout of a workspace. */
#include "op/device.h"

#include <inttypes.h>

gqmm_status gqmm_check_type(const char *what, int32_t type, gqmm_error *err)
{
    if (gqmm_type_size(type) == 0)
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "%s is %d, expected GQMM_F32 (0), GQMM_F16 (1) or GQMM_BF16 (2)", what,
                         type);
    return GQMM_OK;
}

gqmm_status gqmm_check_precision(int32_t precision, gqmm_error *err)
{
    if (precision != GQMM_EXACT && precision != GQMM_INT8)
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "precision is %d, expected GQMM_EXACT (0) or GQMM_INT8 (1)", precision);
    return GQMM_OK;
}

gqmm_status gqmm_check_stride(const char *name, int64_t *stride, int64_t cols, bool broadcast,
                              gqmm_error *err)
{
    if (*stride == 0) {
        *stride = cols;
        return GQMM_OK;
    }
    if (*stride == -1 && broadcast) {
        *stride = 0;
        return GQMM_OK;
    }
    if (*stride < 0 || (!broadcast && *stride < cols))
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "%s is %" PRId64 ", expected 0 (dense)%s or at least %" PRId64, name,
                         *stride, broadcast ? ", -1 (all the same)" : "", broadcast ? 1 : cols);
    return GQMM_OK;
}

gqmm_status gqmm_check_handle(const gqmm_context *ctx, const char *name, const gqmm_weights *w,
                              gqmm_error *err)
{
    if (!w)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s is NULL", name);
    if ((ctx->device != NULL) != (w->served_by != NULL))
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s was made with a context of another device than %s",
                         name, gqmm_context_device(ctx));
    return GQMM_OK;
}

gqmm_status gqmm_check_aligned(const char *name, const void *p, gqmm_error *err)
{
    if ((uintptr_t)p % 4 != 0)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s is not aligned to 4 bytes", name);
    return GQMM_OK;
}

/* Elements from the first to one past the last. */
static bool extent(const gqmm_span *s, int64_t *elems)
{
    return s->n == 0 ? gqmm_mul(elems, 0, 0)
                     : gqmm_mul(elems, s->n - 1, s->stride) && gqmm_add(elems, *elems, s->cols);
}

gqmm_status gqmm_check_span(const gqmm_span *s, gqmm_error *err)
{
    int64_t elems, bytes;
    const size_t size = gqmm_type_size(s->type);
    if (!extent(s, &elems) || !gqmm_mul(&bytes, elems, (int64_t)size))
        return gqmm_fail(err, GQMM_E_SHAPE, 0,
                         "%s: %" PRId64 " rows every %" PRId64 " elements exceed 2^63 bytes",
                         s->name, s->n, s->stride);
    if (bytes > 0 && !s->p)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s is NULL, needed for %" PRId64 " rows of %" PRId64,
                         s->name, s->n, s->cols);
    if ((uintptr_t)s->p % size != 0)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s is not aligned to its %zu-byte elements", s->name,
                         size);
    return GQMM_OK;
}

gqmm_status gqmm_check_disjoint(const gqmm_span *a, const gqmm_span *b, gqmm_error *err)
{
    int64_t na, nb;
    if (!extent(a, &na) || !extent(b, &nb) || na == 0 || nb == 0)
        return GQMM_OK;
    const uintptr_t a0 = (uintptr_t)a->p, b0 = (uintptr_t)b->p;
    const uintptr_t a1 = a0 + (uintptr_t)na * gqmm_type_size(a->type);
    const uintptr_t b1 = b0 + (uintptr_t)nb * gqmm_type_size(b->type);
    if (a0 < b1 && b0 < a1)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s and %s share memory", a->name, b->name);
    return GQMM_OK;
}

void *gqmm_take(gqmm_layout *l, int64_t n, size_t size)
{
    int64_t bytes, end;
    if (!gqmm_mul(&bytes, n, (int64_t)size) || !gqmm_add(&end, bytes, GQMM_ALIGN - 1) ||
        !gqmm_add(&end, end / GQMM_ALIGN * GQMM_ALIGN, (int64_t)l->used)) {
        l->overflow = true;
        return NULL;
    }
    void *p = l->base ? l->base + l->used : NULL;
    l->used = (size_t)end;
    return p;
}

/* Points *base at `bytes` of the caller's workspace or of the context's scratch. */
static gqmm_status workspace(gqmm_context *ctx, void *given, size_t given_bytes, size_t bytes,
                             uint8_t **base, gqmm_error *err)
{
    if (given) {
        if (given_bytes < bytes || (uintptr_t)given % GQMM_ALIGN != 0)
            return gqmm_fail(err, GQMM_E_NOMEM, 0,
                             "the workspace has %zu bytes at %p, expected %zu on a multiple of %d",
                             given_bytes, given, bytes, GQMM_ALIGN);
        *base = given;
        return GQMM_OK;
    }
    if (ctx->scratch_bytes < bytes) {
        void *grown = NULL;
        if (ctx->device) {
            const gqmm_status st = gqmm_device_alloc(ctx, bytes, &grown, err);
            if (st != GQMM_OK)
                return st;
            gqmm_device_free(ctx, ctx->scratch, ctx->scratch_bytes);
        } else {
            grown = gqmm_alloc_raw(&ctx->memory, bytes, 1);
            if (!grown)
                return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for %zu bytes of scratch", bytes);
            gqmm_release(&ctx->memory, ctx->scratch, ctx->scratch_bytes, 1);
        }
        ctx->scratch = grown;
        ctx->scratch_bytes = bytes;
    }
    *base = ctx->scratch;
    return GQMM_OK;
}

gqmm_status gqmm_lay_out(gqmm_context *ctx, void (*take_all)(void *state, gqmm_layout *l),
                         void *state, bool run, void *given, size_t given_bytes, size_t *bytes,
                         gqmm_error *err)
{
    gqmm_layout layout = {0};
    take_all(state, &layout);
    if (layout.overflow)
        return gqmm_fail(err, GQMM_E_SHAPE, 0, "the workspace would exceed 2^63 bytes");
    *bytes = layout.used;
    if (!run)
        return GQMM_OK;
    const gqmm_status st = workspace(ctx, given, given_bytes, *bytes, &layout.base, err);
    if (st != GQMM_OK)
        return st;
    layout.used = 0;
    take_all(state, &layout);
    return GQMM_OK;
}
