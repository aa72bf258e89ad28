/* SPDX-License-Identifier: MIT */
/* Devices by name, and the calls of gqmm.h that are about them. A build without CUDA has none. */
#include "op/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(GQMM_WITH_CUDA)
static const gqmm_device_ops *const kinds[] = {&gqmm_cuda_ops};
enum { N_KINDS = sizeof kinds / sizeof *kinds };
#else
static const gqmm_device_ops *const *const kinds = NULL;
enum { N_KINDS = 0 };
#endif
enum { MAX_DEVICES = 8 }; /* that have a name below */

bool gqmm_device_by_name(const char *name, const gqmm_device_ops **ops, int32_t *index)
{
    for (int i = 0; i < N_KINDS; i++) {
        const size_t n = strlen(kinds[i]->kind);
        if (strncmp(name, kinds[i]->kind, n) != 0 || (name[n] != 0 && name[n] != ':'))
            continue;
        char *end = NULL;
        const long number = name[n] ? strtol(name + n + 1, &end, 10) : 0;
        if (name[n] && (end == name + n + 1 || *end || number < 0 || number >= MAX_DEVICES))
            return false;
        *ops = kinds[i];
        *index = (int32_t)number;
        return true;
    }
    return false;
}

int32_t gqmm_isa_available(const char *isa)
{
    const int32_t wanted = isa ? gqmm_isa_by_name(isa) : -1;
    bool runs = wanted >= 0 && gqmm_isa_runs(wanted);
    for (int i = 0; i < N_KINDS && wanted >= 0; i++)
        runs = runs || kinds[i]->runs(wanted);
    return runs;
}

const char *gqmm_device_at(int32_t i)
{
    static const char *const cuda[MAX_DEVICES] = {"cuda:0", "cuda:1", "cuda:2", "cuda:3",
                                                  "cuda:4", "cuda:5", "cuda:6", "cuda:7"};
    if (i == 0)
        return "cpu";
    return i > 0 && i <= MAX_DEVICES && N_KINDS > 0 && i <= kinds[0]->count() ? cuda[i - 1] : NULL;
}

size_t gqmm_device_text(const char *device, char *text, size_t size)
{
    const gqmm_device_ops *ops = NULL;
    int32_t index = 0;
    if (device && strcmp(device, "cpu") == 0)
        return (size_t)snprintf(text, size, "%s", gqmm_cpu_features());
    if (device && gqmm_device_by_name(device, &ops, &index))
        return ops->text(index, text, size);
    if (device && N_KINDS == 0 && (strcmp(device, "cuda") == 0 || strncmp(device, "cuda:", 5) == 0))
        return (size_t)snprintf(text, size, "this build has no CUDA");
    return (size_t)snprintf(text, size, "unknown; gqmm_device_at() lists the devices");
}

gqmm_status gqmm_context_set_stream(gqmm_context *ctx, void *stream, gqmm_error *err)
{
    if (!ctx || !ctx->device)
        return gqmm_fail(err, GQMM_E_ARG, 0, ctx ? "a CPU context has no stream" : "ctx is NULL");
    return ctx->device->set_stream(ctx, stream, err);
}

void *gqmm_context_stream(const gqmm_context *ctx)
{
    return ctx->device ? ctx->device->stream(ctx) : NULL;
}

const char *gqmm_context_device(const gqmm_context *ctx)
{
    return ctx->device ? gqmm_device_at(ctx->device_index + 1) : "cpu";
}

gqmm_status gqmm_synchronize(gqmm_context *ctx, gqmm_error *err)
{
    if (!ctx)
        return gqmm_fail(err, GQMM_E_ARG, 0, "ctx is NULL");
    return ctx->device ? ctx->device->synchronize(ctx, err) : GQMM_OK;
}

gqmm_status gqmm_context_fault(gqmm_context *ctx, gqmm_error *err)
{
    if (!ctx)
        return gqmm_fail(err, GQMM_E_ARG, 0, "ctx is NULL");
    return ctx->device ? ctx->device->fault(ctx, err) : GQMM_OK;
}

gqmm_status gqmm_device_alloc(gqmm_context *ctx, size_t bytes, void **out, gqmm_error *err)
{
    if (!ctx || !out)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s is NULL", ctx ? "out" : "ctx");
    *out = NULL;
    if (ctx->device)
        return ctx->device->alloc(ctx, bytes, out, err);
    *out = ctx->memory.alloc(ctx->memory.user, bytes ? bytes : 1, 256);
    return *out ? GQMM_OK : gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for %zu bytes", bytes);
}

void gqmm_device_free(gqmm_context *ctx, void *memory, size_t bytes)
{
    if (!memory)
        return;
    if (ctx->device)
        ctx->device->release(ctx, memory);
    else
        ctx->memory.release(ctx->memory.user, memory, bytes ? bytes : 1);
}

gqmm_status gqmm_device_copy(gqmm_context *ctx, void *to, const void *from, size_t bytes,
                             gqmm_error *err)
{
    if (!ctx || (bytes && (!to || !from)))
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s is NULL", ctx ? to ? "from" : "to" : "ctx");
    if (ctx->device)
        return ctx->device->copy(ctx, to, from, bytes, err);
    if (bytes)
        memcpy(to, from, bytes);
    return GQMM_OK;
}
