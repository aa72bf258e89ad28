/* SPDX-License-Identifier: MIT */
/* Weights and buffers in memory of a device. */
#include "model/remote.h"

#include "base/num.h"
#include "base/status.h"

#include <stddef.h>
#include <string.h>

enum { PIECE = 256 /* alignment of a tensor */ };

const gqmm_ops *gqmm_ops_for(const gqmm_context *ctx)
{
    const char *device = gqmm_context_device(ctx);
    if (strcmp(device, "cpu") == 0)
        return &gqmm_ops_cpu;
#if defined(GQMM_WITH_CUDA)
    if (strncmp(device, "cuda", 4) == 0)
        return &gqmm_ops_cuda;
#endif
    return NULL;
}

/* ------------------------------------------------------------------ weights */

static int64_t round_up(int64_t bytes)
{
    return (bytes + PIECE - 1) / PIECE * PIECE;
}

/* Vectors become f32. A tensor's bytes lie in a file, so no sum of theirs overflows. */
static int64_t room_for(const gqmm_tensor *t)
{
    int64_t rows = 1;
    for (int32_t i = 1; i < t->n_dims; i++)
        rows *= t->dims[i];
    const int64_t widened = rows == 1 && t->n_dims > 0 ? t->dims[0] * 4 : 0;
    return round_up(t->n_bytes > widened ? t->n_bytes : widened);
}

gqmm_status gqmm_remote_reserve(gqmm_loader *l)
{
    gqmm_model *m = l->model;
    gqmm_error why = {0};
    int64_t bytes = 0;
    for (int64_t i = 0; i < gqmm_file_tensor_count(l->file); i++)
        bytes += room_for(gqmm_file_tensor_at(l->file, i));
    l->status = gqmm_device_alloc(m->ctx, (size_t)bytes, &m->remote_weights, &why);
    if (l->status == GQMM_E_NOMEM)
        return gqmm_fail(l->err, l->status, 0, "%s has no %lld bytes left, which the weights need",
                         gqmm_context_device(m->ctx), (long long)bytes);
    if (l->status)
        return gqmm_fail(l->err, l->status, 0, "%s", why.text);
    m->info.device_bytes = bytes;
    return GQMM_OK;
}

void *gqmm_remote_keep(gqmm_loader *l, const void *bytes, int64_t n_bytes)
{
    gqmm_model *m = l->model;
    if (l->status)
        return NULL;
    if (n_bytes > m->info.device_bytes - m->remote_used) {
        l->status = gqmm_fail(l->err, GQMM_E_NOMEM, 0, "the model has more weights than its file");
        return NULL;
    }
    void *to = (char *)m->remote_weights + m->remote_used;
    l->status = gqmm_device_copy(m->ctx, to, bytes, (size_t)n_bytes, l->err);
    m->remote_used += round_up(n_bytes);
    return l->status ? NULL : to;
}

/* There is room for the handle: a layer has more tensors that are vectors, and so none, than joins.
 */
void gqmm_remote_join(gqmm_loader *l, gqmm_linear *out, int64_t used,
                      const gqmm_linear *const *parts, int32_t n_parts, int64_t n_rows,
                      int64_t n_cols)
{
    gqmm_model *m = l->model;
    gqmm_weights_desc d;
    gqmm_weights *w = NULL;
    if (l->status || !m->ops->remote)
        return;
    const gqmm_format *f = gqmm_weights_format(parts[0]->w);
    for (int32_t i = 1; i < n_parts; i++)
        if (gqmm_weights_format(parts[i]->w) != f)
            return;
    if (m->remote_used - used != n_rows * gqmm_format_row_bytes(f, 0, n_cols))
        return;
    GQMM_INIT(d);
    d.format = f->name;
    d.n_cols = n_cols;
    d.n_rows = n_rows;
    d.n_experts = 1;
    d.plane[0] = (char *)m->remote_weights + used;
    l->status = gqmm_weights_create(m->ctx, &d, &w, l->err);
    if (l->status)
        return;
    m->handles[m->n_handles++] = w;
    *out = (gqmm_linear){w, parts[0]->precision};
}

void gqmm_remote_release(gqmm_model *m)
{
    if (m->remote_weights)
        gqmm_device_free(m->ctx, m->remote_weights, (size_t)m->info.device_bytes);
    m->remote_weights = NULL;
}

/* ------------------------------------------------------------------ buffers */

typedef struct gqmm_remote_buffer {
    struct gqmm_remote_buffer *next;
    void *memory;
    size_t bytes;
} gqmm_remote_buffer;

void *gqmm_remote_alloc(gqmm_session *s, int64_t n, int64_t size)
{
    gqmm_context *ctx = s->model->ctx;
    gqmm_remote *r = s->remote;
    int64_t bytes;
    void *memory;
    gqmm_remote_buffer *b = gqmm_arena_alloc(&s->arena, 1, sizeof *b);
    if (!b || !gqmm_mul(&bytes, n, size) ||
        gqmm_device_alloc(ctx, (size_t)bytes, &memory, NULL) != GQMM_OK)
        return NULL;
    *b = (gqmm_remote_buffer){r->buffers, memory, (size_t)bytes};
    r->buffers = b;
    r->bytes += bytes;
    s->model->ops->remote->clear(ctx, memory, (size_t)bytes);
    return memory;
}

void gqmm_remote_close(gqmm_session *s)
{
    const gqmm_remote_ops *ops = s->model->ops->remote;
    gqmm_remote *r = s->remote;
    if (!r)
        return;
    (void)gqmm_synchronize(s->model->ctx, NULL); /* nothing may still be reading */
    if (r->recording)
        ops->forget(r->recording);
    for (gqmm_remote_buffer *b = r->buffers; b; b = b->next)
        gqmm_device_free(s->model->ctx, b->memory, b->bytes);
    ops->host_free(r->host_step);
    ops->host_free(r->residual);
    ops->host_free(s->logits);
    s->remote = NULL;
}
