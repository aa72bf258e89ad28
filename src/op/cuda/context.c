/* SPDX-License-Identifier: MIT */
/* Contexts on a CUDA device: streams, memory, the sticky fault, and which kernels serve a handle.
 */
#include "op/cuda/cuda_op.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

gqmm_status gqmm_cuda_status(int error, const char *what, gqmm_error *err)
{
    if (error == 0)
        return GQMM_OK;
    (void)cudaGetLastError(); /* the caller's next question is not about this call */
    return gqmm_fail(err,
                     error == cudaErrorMemoryAllocation ? GQMM_E_NOMEM
                     : error == cudaErrorInvalidValue   ? GQMM_E_UNSUPPORTED /* nothing was begun */
                                                        : GQMM_E_DEVICE,
                     0, "%s: CUDA says %s", what, cudaGetErrorString((cudaError_t)error));
}

static _Thread_local int32_t present; /* device of the call that this thread is in */

/* The caller's present device, with the context's in its place until leave(). */
static int enter(const gqmm_context *ctx)
{
    int was = ctx->device_index;
    present = was;
    if (cudaGetDevice(&was) == cudaSuccess && was != ctx->device_index)
        (void)cudaSetDevice(ctx->device_index);
    return was;
}

static void leave(const gqmm_context *ctx, int was)
{
    if (was != ctx->device_index)
        (void)cudaSetDevice(was);
}

static int32_t count(void)
{
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    return n;
}

/* Why there is no device, in words. Any driver of this build's major version runs it. */
static size_t why_none(char *out, size_t size)
{
    const int needed = CUDART_VERSION / 1000;
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return (size_t)snprintf(out, size, "no CUDA driver on this machine");
    if (driver / 1000 < needed)
        return (size_t)snprintf(out, size, "the CUDA driver is of %d.%d, this build needs %d.0",
                                driver / 1000, driver % 1000 / 10, needed);
    return (size_t)snprintf(out, size, "no CUDA device on this machine");
}

static size_t text(int32_t index, char *out, size_t size)
{
    struct cudaDeviceProp d;
    int driver = 0;
    if (index >= count() || cudaGetDeviceProperties(&d, index) != cudaSuccess)
        return why_none(out, size);
    cudaDriverGetVersion(&driver);
    return (size_t)snprintf(out, size, "%s, sm_%d%d, %d multiprocessors, %.1f GiB, driver %d.%d",
                            d.name, d.major, d.minor, d.multiProcessorCount,
                            (double)d.totalGlobalMem / (1024.0 * 1024.0 * 1024.0), driver / 1000,
                            driver % 1000 / 10);
}

/* sm_90's path is that chip's own; the other runs on all from sm_80 on. */
static bool serves(int32_t isa, int capability)
{
    return isa == GQMM_ISA_SM90 ? capability == 90 : isa == GQMM_ISA_SM80 && capability >= 80;
}

static bool runs(int32_t isa)
{
    int major, minor;
    bool any = false;
    for (int32_t i = 0; isa >= GQMM_ISA_SM80 && i < count(); i++)
        any = any || (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i) == 0 &&
                      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, i) == 0 &&
                      serves(isa, major * 10 + minor));
    return any;
}

static gqmm_status choose_path(gqmm_context *ctx, const struct cudaDeviceProp *d, const char *isa,
                               gqmm_error *err)
{
    gqmm_cuda_state *s = gqmm_cuda_of(ctx);
    const int have = d->major * 10 + d->minor;
    const int best = gqmm_cuda_best_path();
    ctx->max_isa = isa                      ? gqmm_isa_by_name(isa)
                   : best == GQMM_CUDA_SM90 ? GQMM_ISA_SM90
                                            : GQMM_ISA_SM80;
    s->path = ctx->max_isa == GQMM_ISA_SM90 ? GQMM_CUDA_SM90 : GQMM_CUDA_SM80;
    if (ctx->max_isa != GQMM_ISA_SM90 && ctx->max_isa != GQMM_ISA_SM80)
        return gqmm_fail(err, GQMM_E_ARG, 0, "isa \"%s\" is none of a CUDA device (sm_80, sm_90)",
                         isa);
    if (!serves(ctx->max_isa, have) || best < s->path)
        return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0, "%s is sm_%d: this build has no %s for it",
                         d->name, have, gqmm_isa_name(ctx->max_isa));
    return GQMM_OK;
}

static gqmm_status open_parts(gqmm_context *ctx, int32_t index, const char *isa, void *stream,
                              gqmm_error *err)
{
    gqmm_cuda_state *s = gqmm_cuda_of(ctx);
    struct cudaDeviceProp d;
    void *word = NULL;
    gqmm_status st;
    if ((st = gqmm_cuda_status(cudaGetDeviceProperties(&d, index), "asking the device", err)) !=
            GQMM_OK ||
        (st = choose_path(ctx, &d, isa, err)) != GQMM_OK ||
        (st = gqmm_cuda_status(cudaHostAlloc(&word, sizeof *s->fault, cudaHostAllocMapped),
                               "memory for the fault word", err)) != GQMM_OK)
        return st;
    s->fault = word;
    *s->fault = 0;
    s->stream = stream;
    if (!stream) {
        st = gqmm_cuda_status(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking),
                              "making a stream", err);
        s->own_stream = st == GQMM_OK;
    }
    return st;
}

/* A program may meet a stream, and make its context, while the thread captures a graph there: what
 * is done meanwhile is no part of the graph. */
static enum cudaStreamCaptureMode relax_capture(void)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    return mode;
}

static void close_device(gqmm_context *ctx)
{
    gqmm_cuda_state *s = gqmm_cuda_of(ctx);
    if (!s)
        return;
    const int was = enter(ctx);
    enum cudaStreamCaptureMode mode = relax_capture();
    if (s->stream)
        cudaStreamSynchronize(s->stream);
    if (s->own_stream)
        cudaStreamDestroy(s->stream);
    cudaFreeHost(s->fault);
    cudaThreadExchangeStreamCaptureMode(&mode);
    leave(ctx, was);
    gqmm_release(&ctx->memory, s, 1, sizeof *s);
    ctx->device_state = NULL;
}

static gqmm_status open_device(gqmm_context *ctx, int32_t index, const char *isa, void *stream,
                               gqmm_error *err)
{
    const int32_t n = count();
    char why[120];
    if (index >= n) {
        why_none(why, sizeof why);
        return n ? gqmm_fail(err, GQMM_E_ARG, 0, "device cuda:%d: this machine has %d", index, n)
                 : gqmm_fail(err, GQMM_E_DEVICE, 0, "%s", why);
    }
    ctx->device_index = index;
    ctx->device_state = gqmm_alloc(&ctx->memory, 1, sizeof(gqmm_cuda_state));
    if (!ctx->device_state)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a context");
    const int was = enter(ctx);
    enum cudaStreamCaptureMode mode = relax_capture();
    const gqmm_status st = open_parts(ctx, index, isa, stream, err);
    cudaThreadExchangeStreamCaptureMode(&mode);
    leave(ctx, was);
    return st;
}

static gqmm_status set_stream(gqmm_context *ctx, void *stream, gqmm_error *err)
{
    gqmm_cuda_state *s = gqmm_cuda_of(ctx);
    (void)err;
    if (s->own_stream) {
        const int was = enter(ctx);
        cudaStreamSynchronize(s->stream);
        cudaStreamDestroy(s->stream);
        leave(ctx, was);
        s->own_stream = false;
    }
    s->stream = stream;
    return GQMM_OK;
}

static void *stream_of(const gqmm_context *ctx)
{
    return gqmm_cuda_of(ctx)->stream;
}

static gqmm_status fault(gqmm_context *ctx, gqmm_error *err)
{
    const uint32_t bits = __atomic_exchange_n(gqmm_cuda_of(ctx)->fault, 0, __ATOMIC_ACQ_REL);
    if (!bits)
        return GQMM_OK;
    return gqmm_fail(
        err, GQMM_E_INDEX, 0, "a call met %s%s%s outside its range; its rows are zero",
        bits & GQMM_FAULT_EXPERT ? "an expert id" : "",
        bits & GQMM_FAULT_ROW ? bits & GQMM_FAULT_EXPERT ? " and a row id" : "a row id" : "",
        bits & GQMM_FAULT_TOKEN
            ? bits & (GQMM_FAULT_EXPERT | GQMM_FAULT_ROW) ? " and a token id" : "a token id"
            : "");
}

static gqmm_status synchronize(gqmm_context *ctx, gqmm_error *err)
{
    const int was = enter(ctx);
    const gqmm_status st =
        gqmm_cuda_status(cudaStreamSynchronize(gqmm_cuda_of(ctx)->stream), "waiting", err);
    leave(ctx, was);
    return st != GQMM_OK ? st : fault(ctx, err);
}

static gqmm_status alloc(gqmm_context *ctx, size_t bytes, void **out, gqmm_error *err)
{
    const int was = enter(ctx);
    const cudaError_t e = cudaMalloc(out, bytes ? bytes : 1);
    leave(ctx, was);
    if (e == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "the device has no %zu bytes left", bytes);
    }
    return gqmm_cuda_status(e, "allocating", err);
}

static void release(gqmm_context *ctx, void *memory)
{
    const int was = enter(ctx);
    cudaFree(memory);
    leave(ctx, was);
}

static gqmm_status copy(gqmm_context *ctx, void *to, const void *from, size_t bytes,
                        gqmm_error *err)
{
    const int was = enter(ctx);
    const int error =
        cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, gqmm_cuda_of(ctx)->stream);
    leave(ctx, was);
    if (error == cudaErrorInvalidValue) {
        (void)cudaGetLastError();
        return gqmm_fail(err, GQMM_E_ARG, 0, "%zu bytes from %p to %p are not all memory", bytes,
                         from, to);
    }
    return gqmm_cuda_status(error, "copying", err);
}

/* Memory that the runtime does not know may be reachable all the same (heterogeneous memory), so
 * only memory that would fault is refused. */
gqmm_status gqmm_cuda_check_pointer(const char *name, const void *p, gqmm_error *err)
{
    struct cudaPointerAttributes a;
    int reachable = 0, device = 0;
    /* Asking costs a tenth of a launch. Memory that lay on the device once is not asked for again:
     * drivers map it in pieces of 2 MiB, whose addresses never become the host's. */
    static uintptr_t known[64];
    const uintptr_t piece = ((uintptr_t)p >> 21) * 64 + (uintptr_t)present + 1;
    uintptr_t *slot = &known[((uintptr_t)p >> 21) % 64];
    if (!p || __atomic_load_n(slot, __ATOMIC_RELAXED) == piece)
        return GQMM_OK;
    if (cudaPointerGetAttributes(&a, p) != cudaSuccess) {
        (void)cudaGetLastError();
        return GQMM_OK;
    }
    if (a.type == cudaMemoryTypeUnregistered && cudaGetDevice(&device) == cudaSuccess)
        cudaDeviceGetAttribute(&reachable, cudaDevAttrPageableMemoryAccess, device);
    if (a.type == cudaMemoryTypeUnregistered && !reachable)
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "%s is host memory that the device cannot reach; copy it with "
                         "gqmm_device_alloc() and gqmm_device_copy()",
                         name);
    if (a.type != cudaMemoryTypeUnregistered && !a.devicePointer)
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "%s is memory of cuda:%d, which the context's device cannot reach", name,
                         a.device);
    if (a.type == cudaMemoryTypeDevice && a.device == present)
        __atomic_store_n(slot, piece, __ATOMIC_RELAXED);
    return GQMM_OK;
}

/* ---- weights */

#undef GQMM_CUDA_FAMILY
#define GQMM_CUDA_FAMILY(name, wide) &gqmm_##name##_cuda,
static const gqmm_cuda_family *const families[] = {
#include "kernel/cuda_families.def"
};

static gqmm_status bind_weights(gqmm_context *ctx, gqmm_weights *w, gqmm_error *err)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i]->family, w->format->family) == 0)
            w->served_by = families[i];
    if (!w->served_by)
        return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0, "format %s has no CUDA kernels",
                         w->format->pub.name);
    if (w->n_experts > INT32_MAX)
        return gqmm_fail(err, GQMM_E_SHAPE, 0, "more than 2^31 experts");
    gqmm_status st = GQMM_OK;
    const int was = enter(ctx);
    for (int i = 0; st == GQMM_OK && i < w->format->pub.n_planes; i++)
        st = gqmm_cuda_check_pointer(i == 0   ? "plane 0"
                                     : i == 1 ? "plane 1"
                                              : "plane 2",
                                     w->plane[i], err);
    if (st == GQMM_OK)
        st = gqmm_cuda_check_pointer("global_scale", w->global, err);
    leave(ctx, was);
    return st;
}

gqmm_cuda_matrix gqmm_cuda_view(const gqmm_weights *w)
{
    gqmm_cuda_matrix m = {.n_rows = w->n_rows,
                          .n_cols = w->n_cols,
                          .global = w->global,
                          .global_stride = w->global_stride,
                          .n_experts = (int32_t)w->n_experts,
                          .group = w->format->pub.group_elems,
                          .scale_type = w->format->scale_type,
                          .aligned = 1};
    for (int i = 0; i < w->format->pub.n_planes; i++) {
        const uintptr_t step = i == 0 ? 16 : w->format->pub.plane_bytes[i] == 1 ? 1 : 4;
        m.plane[i] = w->plane[i];
        m.row_stride[i] = w->row_stride[i];
        m.expert_stride[i] = w->expert_stride[i];
        m.aligned &= (uintptr_t)w->plane[i] % step == 0 &&
                     (w->n_rows == 1 || w->row_stride[i] % (int64_t)step == 0) &&
                     (w->n_experts == 1 || w->expert_stride[i] % (int64_t)step == 0);
    }
    return m;
}

/* ---- operations, with the context's device as the present one */

#define ON_DEVICE(call) \
    do { \
        const int was = enter(ctx); \
        const gqmm_status st = call; \
        leave(ctx, was); \
        return st; \
    } while (0)

static gqmm_status gather(gqmm_context *ctx, const gqmm_gather *d, int64_t n, int64_t k, bool run,
                          size_t *bytes, gqmm_error *err)
{
    ON_DEVICE(gqmm_gather_on_cuda(ctx, d, n, k, run, bytes, err));
}

static gqmm_status moe(gqmm_context *ctx, const struct gqmm_moe_state *s, bool run, size_t *bytes,
                       gqmm_error *err)
{
    ON_DEVICE(gqmm_moe_on_cuda(ctx, s, run, bytes, err));
}

static gqmm_status embed(gqmm_context *ctx, const gqmm_embed_desc *d, gqmm_error *err)
{
    ON_DEVICE(gqmm_embed_on_cuda(ctx, d, err));
}

static gqmm_status dequantize(gqmm_context *ctx, const gqmm_dequantize_desc *d, gqmm_error *err)
{
    ON_DEVICE(gqmm_dequantize_on_cuda(ctx, d, err));
}

static gqmm_status quantize(gqmm_context *ctx, const gqmm_quantize_desc *d,
                            const gqmm_format_info *format, gqmm_error *err)
{
    ON_DEVICE(gqmm_quantize_on_cuda(ctx, d, format, err));
}

const gqmm_device_ops gqmm_cuda_ops = {
    "cuda",    count,       text,  runs,       open_device, close_device, set_stream,
    stream_of, synchronize, fault, alloc,      release,     copy,         bind_weights,
    gather,    moe,         embed, dequantize, quantize};
