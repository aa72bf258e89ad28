/* SPDX-License-Identifier: MIT */
/* Tensors by exact name and exact shape. */
#include "model/remote.h"

#include "base/convert.h"
#include "base/status.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef struct tensor_name {
    char text[96];
} tensor_name;

static tensor_name name_of(int32_t layer, const char *name)
{
    tensor_name n;
    if (layer < 0)
        snprintf(n.text, sizeof n.text, "%s", name);
    else
        snprintf(n.text, sizeof n.text, "blk.%d.%s", layer, name);
    return n;
}

const gqmm_tensor *gqmm_find_tensor(const gqmm_loader *l, int32_t layer, const char *name)
{
    const tensor_name n = name_of(layer, name);
    return gqmm_file_tensor(l->file, n.text);
}

/* Missing dimensions count as 1: a stack of one expert may be written as a matrix. */
static bool same_shape(const gqmm_tensor *t, const int64_t want[3])
{
    for (int32_t i = 0; i < 8; i++)
        if ((i < t->n_dims ? t->dims[i] : 1) != (i < 3 ? want[i] : 1))
            return false;
    return true;
}

static void shape_text(char *out, size_t size, const int64_t *dims, int32_t n)
{
    size_t used = (size_t)snprintf(out, size, "{");
    for (int32_t i = 0; i < n && used < size; i++)
        used +=
            (size_t)snprintf(out + used, size - used, "%s%lld", i ? ", " : "", (long long)dims[i]);
    if (used < size)
        snprintf(out + used, size - used, "}");
}

/* The tensor, marked as used; NULL after a failure that is recorded. */
static const gqmm_tensor *take(gqmm_loader *l, const tensor_name *name, const int64_t want[3],
                               int32_t want_dims)
{
    const gqmm_tensor *t = gqmm_file_tensor(l->file, name->text);
    if (!t) {
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, 0, "the tensor %s is missing", name->text);
        return NULL;
    }
    if (!same_shape(t, want)) {
        char is[64], should[64];
        shape_text(is, sizeof is, t->dims, t->n_dims < 8 ? t->n_dims : 8);
        shape_text(should, sizeof should, want, want_dims);
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, t->offset,
                              "the tensor %s is %s; the file's settings ask for %s", name->text, is,
                              should);
        return NULL;
    }
    if (!t->format) {
        l->status = gqmm_fail(l->err, GQMM_E_UNSUPPORTED, t->offset,
                              "the tensor %s has type %s, which gqmm cannot compute with",
                              name->text, t->type_name);
        return NULL;
    }
    l->used[l->n_used++] = t;
    l->model->info.n_parameters += want[0] * want[1] * want[2];
    l->model->info.weight_bytes += t->n_bytes;
    return t;
}

/* GQMM_F32, GQMM_F16, GQMM_BF16, or -1: the format is no plain float. */
static int32_t float_type(const char *format)
{
    static const char *const names[] = {"f32", "f16", "bf16"};
    for (int32_t i = 0; i < 3; i++)
        if (strcmp(format, names[i]) == 0)
            return i;
    return -1;
}

static bool is_float(const char *format)
{
    return float_type(format) >= 0;
}

static void refuse_quantised(gqmm_loader *l, const gqmm_tensor *t)
{
    l->status = gqmm_fail(l->err, GQMM_E_UNSUPPORTED, t->offset,
                          "the tensor %s has type %s; norms and routers must be F32, F16 or BF16",
                          t->name, t->type_name);
}

void gqmm_load_vector(gqmm_loader *l, float **out, int32_t layer, const char *name, int64_t n)
{
    if (l->status)
        return;
    const tensor_name full = name_of(layer, name);
    const gqmm_tensor *t = take(l, &full, (const int64_t[3]){n, 1, 1}, 1);
    if (!t)
        return;
    if (!is_float(t->format)) {
        refuse_quantised(l, t);
        return;
    }
    float *v = gqmm_arena_alloc(&l->model->arena, n, sizeof *v);
    if (!v) {
        l->status = gqmm_fail(l->err, GQMM_E_NOMEM, 0, "no memory for %s", full.text);
        return;
    }
    gqmm_widen(v, t->data, float_type(t->format), n);
    *out = l->model->ops->remote ? gqmm_remote_keep(l, v, n * (int64_t)sizeof *v) : v;
}

/* `t` as a handle that the model owns. */
static void make_matrix(gqmm_loader *l, gqmm_linear *out, const gqmm_tensor *t,
                        const int64_t shape[3], int32_t may_repack)
{
    gqmm_model *m = l->model;
    gqmm_weights_desc d;
    gqmm_weights *w = NULL;
    GQMM_INIT(d);
    d.format = t->format;
    d.n_cols = shape[0];
    d.n_rows = shape[1];
    d.n_experts = shape[2];
    d.plane[0] = m->ops->remote ? gqmm_remote_keep(l, t->data, t->n_bytes) : t->data;
    if (may_repack && l->repack && gqmm_repack_target(t->format))
        l->status = gqmm_repack_weights(m, &d, l->err);
    if (!l->status)
        l->status = gqmm_weights_create(m->ctx, &d, &w, l->err);
    if (l->status)
        return;
    m->handles[m->n_handles++] = w;
    *out = (gqmm_linear){w, is_float(t->format) ? GQMM_EXACT : m->precision};
}

void gqmm_load_matrix(gqmm_loader *l, gqmm_linear *out, int32_t layer, const char *name,
                      int64_t n_cols, int64_t n_rows, int64_t n_experts)
{
    if (l->status)
        return;
    const tensor_name full = name_of(layer, name);
    const int64_t shape[3] = {n_cols, n_rows, n_experts};
    const gqmm_tensor *t = take(l, &full, shape, n_experts > 1 ? 3 : 2);
    if (t)
        make_matrix(l, out, t, shape, 1);
}

void gqmm_load_float_matrix(gqmm_loader *l, gqmm_linear *out, int32_t layer, const char *name,
                            int64_t n_cols, int64_t n_rows)
{
    if (l->status)
        return;
    const tensor_name full = name_of(layer, name);
    const int64_t shape[3] = {n_cols, n_rows, 1};
    const gqmm_tensor *t = take(l, &full, shape, 2);
    if (!t)
        return;
    if (is_float(t->format))
        make_matrix(l, out, t, shape, 0);
    else
        refuse_quantised(l, t);
}

static bool was_used(const gqmm_loader *l, const gqmm_tensor *t)
{
    for (int64_t i = 0; i < l->n_used; i++)
        if (l->used[i] == t)
            return true;
    return false;
}

/* Stops at the first stranger, so the search is at most the square of a model's own tensors. */
void gqmm_load_check_unused(gqmm_loader *l)
{
    const int64_t n = gqmm_file_tensor_count(l->file);
    for (int64_t i = 0; i < n && !l->status; i++) {
        const gqmm_tensor *t = gqmm_file_tensor_at(l->file, i);
        char name[65];
        if (strncmp(t->name, "blk.", 4) != 0 || was_used(l, t))
            continue;
        gqmm_printable(name, sizeof name, t->name, strlen(t->name));
        l->status = gqmm_fail(l->err, GQMM_E_FORMAT, t->offset,
                              "the tensor %s is unexpected in a %s model of %d layers", name,
                              l->model->arch->name, l->model->hp.n_layers);
    }
}
