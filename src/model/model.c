/* SPDX-License-Identifier: MIT */
/* A model: the weights of one open file, checked and ready to multiply. */
#include "model/remote.h"

#include "base/memory.h"
#include "base/status.h"

#include <stddef.h>
#include <string.h>

static gqmm_status load_common(gqmm_loader *l)
{
    gqmm_model *m = l->model;
    const gqmm_hparams *hp = &m->hp;
    gqmm_load_matrix(l, &m->embed, -1, "token_embd.weight", hp->n_embd, hp->n_vocab, 1);
    gqmm_load_vector(l, &m->output_norm, -1, "output_norm.weight", hp->n_embd);
    if (gqmm_find_tensor(l, -1, "output.weight"))
        gqmm_load_matrix(l, &m->output, -1, "output.weight", hp->n_embd, hp->n_vocab, 1);
    else
        m->output = m->embed; /* tied */
    gqmm_load_check_unused(l);
    return l->status;
}

/* general.name with a NUL; "" if there is none. */
static gqmm_status copy_name(gqmm_model *m, const gqmm_file *file, gqmm_error *err)
{
    const gqmm_meta *meta = gqmm_file_meta(file, "general.name");
    const char *text = "";
    size_t length = 0;
    m->info.name = "";
    if (!meta || !gqmm_meta_string(file, meta, 0, &text, &length))
        return GQMM_OK;
    char *name = gqmm_arena_zero(&m->arena, (int64_t)length + 1, 1);
    if (!name)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for the model's name");
    memcpy(name, text, length);
    m->info.name = name;
    return GQMM_OK;
}

static void fill_info(gqmm_model *m)
{
    const gqmm_hparams *hp = &m->hp;
    m->info.n_layers = hp->n_layers;
    m->info.n_experts = hp->n_experts;
    m->info.n_experts_used = hp->n_used;
    m->info.n_vocab = hp->n_vocab;
    m->info.n_embd = hp->n_embd;
    m->info.n_heads = hp->n_heads;
    m->info.n_kv_heads = hp->n_kv_heads;
    m->info.head_dim = hp->head_dim;
    m->info.context_length = hp->n_context;
    m->info.architecture = m->arch->name;
}

/* One part of a split model would only be a puzzle of missing tensors. */
static gqmm_status check_whole(const gqmm_file *file, gqmm_error *err)
{
    const gqmm_meta *meta = gqmm_file_meta(file, "split.count");
    int64_t n = 0;
    if (!meta || !gqmm_meta_int(file, meta, 0, &n) || n <= 1)
        return GQMM_OK;
    return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0,
                     "the model is split over %lld files; join them into one first", (long long)n);
}

static gqmm_status load(gqmm_model *m, const gqmm_file *file, int32_t repack, gqmm_error *err)
{
    const int64_t n = gqmm_file_tensor_count(file);
    gqmm_loader l = {.model = m, .file = file, .err = err, .repack = repack};
    gqmm_status status = gqmm_arch_find(file, &m->arch, err);
    if (status || (status = check_whole(file, err)) != GQMM_OK)
        return status;
    l.used = gqmm_arena_alloc(&m->arena, n, sizeof *l.used);
    m->handles = gqmm_arena_alloc(&m->arena, n, sizeof *m->handles);
    if (!l.used || !m->handles)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a list of %lld tensors",
                         (long long)n);
    if ((status = copy_name(m, file, err)) != GQMM_OK ||
        (m->ops->remote && (status = gqmm_remote_reserve(&l)) != GQMM_OK) ||
        (status = m->arch->load(&l)) != GQMM_OK || (status = load_common(&l)) != GQMM_OK)
        return status;
    fill_info(m);
    return m->ops->finish(m->ctx, err); /* copies to a device may be under way */
}

static gqmm_status check_desc(const gqmm_context *ctx, const gqmm_model_desc *d, gqmm_error *err)
{
    const gqmm_ops *ops = gqmm_ops_for(ctx);
    if (d->precision != GQMM_EXACT && d->precision != GQMM_INT8)
        return gqmm_fail(err, GQMM_E_ARG, 0, "precision is %d; 0 is exact and 1 is int8",
                         d->precision);
    if (d->repack != 0 && d->repack != 1)
        return gqmm_fail(err, GQMM_E_ARG, 0, "repack is %d; it is 0 or 1", d->repack);
    if (!ops)
        return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0, "this build runs no models on %s",
                         gqmm_context_device(ctx));
    if (ops->remote && d->repack)
        return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0,
                         "weights are repacked for the CPU alone; %s reads the file's blocks",
                         gqmm_context_device(ctx));
    return GQMM_OK;
}

gqmm_status gqmm_model_create(gqmm_context *ctx, const gqmm_file *file, const gqmm_model_desc *desc,
                              gqmm_model **out, gqmm_error *err)
{
    gqmm_model_desc d;
    gqmm_allocator a;
    gqmm_status status;
    GQMM_INIT(d);
    if (!out)
        return gqmm_fail(err, GQMM_E_ARG, 0, "out is NULL");
    *out = NULL;
    if (!ctx || !file)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s is NULL", ctx ? "file" : "ctx");
    if (desc && desc->struct_size < offsetof(gqmm_model_desc, precision) + sizeof d.precision)
        return gqmm_fail(err, GQMM_E_ARG, 0, "struct_size is %u; set it to sizeof(gqmm_model_desc)",
                         desc->struct_size);
    if (desc)
        memcpy(&d, desc, desc->struct_size < sizeof d ? desc->struct_size : sizeof d);
    if ((status = check_desc(ctx, &d, err)) != GQMM_OK ||
        (status = gqmm_allocator_init(&a, d.allocator, err)) != GQMM_OK)
        return status;
    gqmm_model *m = gqmm_alloc(&a, 1, sizeof *m);
    if (!m)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for the model");
    m->ctx = ctx;
    m->ops = gqmm_ops_for(ctx);
    m->precision = d.precision;
    m->arena.allocator = a;
    status = load(m, file, d.repack, err);
    if (status) {
        gqmm_model_destroy(m);
        return status;
    }
    *out = m;
    return GQMM_OK;
}

void gqmm_model_destroy(gqmm_model *model)
{
    if (!model)
        return;
    const gqmm_allocator a = model->arena.allocator;
    for (int64_t i = 0; i < model->n_handles; i++)
        gqmm_weights_destroy(model->handles[i]);
    gqmm_remote_release(model);
    gqmm_arena_clear(&model->arena);
    gqmm_release(&a, model, 1, sizeof *model);
}

void gqmm_model_get_info(const gqmm_model *model, gqmm_model_info *info)
{
    if (!model || !info)
        return;
    const uint32_t size = info->struct_size;
    memcpy(info, &model->info, size < sizeof *info ? size : sizeof *info);
    info->struct_size = size;
}
