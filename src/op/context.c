/* SPDX-License-Identifier: MIT */
/* Contexts, and how a call runs on their threads. */
#include "op/device.h"
#include "op/pool.h"

#include <stdio.h>
#include <string.h>

enum { MAX_THREADS = 1024 };

static bool on_cpu(const gqmm_context_desc *d)
{
    return !d->device || strcmp(d->device, "cpu") == 0;
}

/* Older callers pass a smaller struct: what they do not know of is zero. */
static gqmm_status read_desc(gqmm_context_desc *d, const gqmm_context_desc *given, gqmm_error *err)
{
    memset(d, 0, sizeof *d);
    if (!given)
        return GQMM_OK;
    if (given->struct_size < 8 || given->struct_size > sizeof *d)
        return gqmm_fail(err, GQMM_E_ARG, 0,
                         "struct_size of gqmm_context_desc is %u, expected %zu: use GQMM_INIT",
                         given->struct_size, sizeof *d);
    memcpy(d, given, given->struct_size);
    if (d->n_threads < 0 || d->n_threads > MAX_THREADS)
        return gqmm_fail(err, GQMM_E_ARG, 0, "n_threads is %d, expected 0 to %d", d->n_threads,
                         MAX_THREADS);
    if (d->isa && gqmm_isa_by_name(d->isa) < 0)
        return gqmm_fail(err, GQMM_E_ARG, 0, "isa \"%s\" is unknown; gqmm_isa_at() lists them",
                         d->isa);
    if (on_cpu(d) && d->isa && !gqmm_isa_runs(gqmm_isa_by_name(d->isa)))
        return gqmm_fail(err, GQMM_E_ARG, 0, "isa \"%s\" does not run on this CPU (%s)", d->isa,
                         gqmm_cpu_features());
    return GQMM_OK;
}

static gqmm_status open_device(gqmm_context *ctx, const gqmm_context_desc *d, gqmm_error *err)
{
    const gqmm_device_ops *ops = NULL;
    int32_t index = 0;
    char why[160];
    if (!gqmm_device_by_name(d->device, &ops, &index)) {
        gqmm_device_text(d->device, why, sizeof why);
        return gqmm_fail(err, GQMM_E_ARG, 0, "device \"%s\" is not there: %s", d->device, why);
    }
    ctx->n_threads = 1;
    ctx->device = ops;
    return ops->open(ctx, index, d->isa, d->stream, err);
}

gqmm_status gqmm_context_create(const gqmm_context_desc *desc, gqmm_context **out, gqmm_error *err)
{
    gqmm_context_desc d;
    gqmm_allocator memory;
    gqmm_status st;

    if (!out)
        return gqmm_fail(err, GQMM_E_ARG, 0, "out is NULL");
    *out = NULL;
    if ((st = read_desc(&d, desc, err)) != GQMM_OK ||
        (st = gqmm_allocator_init(&memory, d.allocator, err)) != GQMM_OK)
        return st;

    gqmm_context *ctx = gqmm_alloc(&memory, 1, sizeof *ctx);
    if (!ctx)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a context of %zu bytes", sizeof *ctx);
    ctx->memory = memory;
    if (!on_cpu(&d)) {
        st = open_device(ctx, &d, err);
        if (st != GQMM_OK)
            gqmm_context_destroy(ctx);
        else
            *out = ctx;
        return st;
    }
    ctx->n_threads = d.n_threads ? d.n_threads : gqmm_default_threads();
    ctx->max_isa = d.isa ? gqmm_isa_by_name(d.isa) : gqmm_isa_best();
    ctx->parallel_for = d.parallel_for;
    ctx->parallel_user = d.parallel_user;
    if (!ctx->parallel_for && ctx->n_threads > 1) {
        ctx->pool = gqmm_pool_create(&memory, ctx->n_threads);
        if (!ctx->pool) {
            st = gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a pool of %d threads",
                           ctx->n_threads);
            gqmm_context_destroy(ctx);
            return st;
        }
    }
    *out = ctx;
    return GQMM_OK;
}

void gqmm_context_destroy(gqmm_context *ctx)
{
    if (!ctx)
        return;
    gqmm_pool_destroy(ctx->pool);
    if (ctx->device) {
        if (ctx->device_state)
            gqmm_device_free(ctx, ctx->scratch, ctx->scratch_bytes);
        ctx->device->close(ctx);
    } else {
        gqmm_release(&ctx->memory, ctx->scratch, ctx->scratch_bytes, 1);
    }
    gqmm_release(&ctx->memory, ctx, 1, sizeof *ctx);
}

int32_t gqmm_context_threads(const gqmm_context *ctx)
{
    return ctx->n_threads;
}

const char *gqmm_context_isa(const gqmm_context *ctx)
{
    return gqmm_isa_name(ctx->max_isa);
}

size_t gqmm_explain(const gqmm_context *ctx, char *text, size_t size)
{
    return (size_t)snprintf(text, size, "%s", ctx->explain);
}

/* ---- running */

static void work_task(void *arg, int32_t i)
{
    (void)i;
    gqmm_job_work(arg);
}

static void run_job(gqmm_context *ctx, gqmm_job *job)
{
    int64_t most = 0;
    for (int32_t i = 0; i < job->n_phases; i++)
        most = job->phase[i].n_tasks > most ? job->phase[i].n_tasks : most;
    /* Later phases may still grow, so only a job of one phase is known to be for one thread. */
    if (job->n_phases == 1 && most <= 1)
        gqmm_job_work(job);
    else if (ctx->parallel_for)
        ctx->parallel_for(ctx->parallel_user, ctx->n_threads, work_task, job);
    else if (ctx->pool)
        gqmm_pool_run(ctx->pool, job);
    else
        gqmm_job_work(job);
}

typedef struct {
    void (*task)(void *arg, int32_t i);
    void *arg;
} user_task;

static void run_user_task(void *state, int64_t i)
{
    const user_task *u = state;
    u->task(u->arg, (int32_t)i);
}

void gqmm_parallel_for(gqmm_context *ctx, int32_t n_tasks, void (*task)(void *arg, int32_t i),
                       void *arg)
{
    user_task u = {task, arg};
    gqmm_job_init(&ctx->job, &u);
    gqmm_job_add(&ctx->job, run_user_task, n_tasks);
    run_job(ctx, &ctx->job);
}

/* ---- operations by number */

static const gqmm_op *const ops[] = {[GQMM_OP_GATHER_QMM] = &gqmm_op_gather,
                                     [GQMM_OP_QMM] = &gqmm_op_dense,
                                     [GQMM_OP_MOE] = &gqmm_op_moe,
                                     [GQMM_OP_EMBED] = &gqmm_op_embed,
                                     [GQMM_OP_DEQUANTIZE] = &gqmm_op_dequantize,
                                     [GQMM_OP_QUANTIZE] = &gqmm_op_quantize,
                                     [GQMM_OP_REPACK] = &gqmm_op_repack};

static gqmm_status check_call(gqmm_context *ctx, const gqmm_op *op, const void *desc,
                              gqmm_error *err)
{
    uint32_t size;
    if (!ctx || !desc)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s: %s is NULL", op->name, ctx ? "desc" : "ctx");
    memcpy(&size, desc, sizeof size);
    if (size != op->desc_bytes)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s: struct_size is %u, expected %zu: use GQMM_INIT",
                         op->name, size, op->desc_bytes);
    return GQMM_OK;
}

gqmm_status gqmm_run(gqmm_context *ctx, const gqmm_op *op, const void *desc, gqmm_error *err)
{
    size_t bytes;
    gqmm_status st = check_call(ctx, op, desc, err);
    if (st != GQMM_OK || (st = op->prepare(ctx, desc, &ctx->job, &bytes, err)) != GQMM_OK)
        return st;
    if (ctx->device)
        return GQMM_OK;
    run_job(ctx, &ctx->job);
    return GQMM_OK;
}

static const gqmm_op *op_by_number(int32_t op)
{
    return op >= GQMM_OP_GATHER_QMM && op <= GQMM_OP_REPACK ? ops[op] : NULL;
}

gqmm_status gqmm_workspace_size(gqmm_context *ctx, int32_t op, const void *desc, size_t *bytes,
                                gqmm_error *err)
{
    const gqmm_op *o = op_by_number(op);
    if (!o || !bytes)
        return gqmm_fail(err, GQMM_E_ARG, 0, o ? "bytes is NULL" : "operation %d is unknown", op);
    gqmm_status st = check_call(ctx, o, desc, err);
    return st != GQMM_OK ? st : o->prepare(ctx, desc, NULL, bytes, err);
}

/* ---- the caller's own threads */

/* All nth threads meet; the last to come runs `last` before any leaves. */
static void meet(gqmm_context *ctx, int32_t nth, void (*last)(void *arg), void *arg)
{
    unsigned waited = 0;
    const unsigned meeting = atomic_load_explicit(&ctx->meetings, memory_order_acquire);
    if (atomic_fetch_add_explicit(&ctx->arrived, 1, memory_order_acq_rel) == nth - 1) {
        if (last)
            last(arg);
        atomic_store_explicit(&ctx->arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&ctx->meetings, 1, memory_order_release);
        return;
    }
    while (atomic_load_explicit(&ctx->meetings, memory_order_acquire) == meeting)
        gqmm_relax(&waited);
}

typedef struct {
    gqmm_context *ctx;
    const gqmm_op *op;
    const void *desc;
} entry;

static void prepare_entered(void *arg)
{
    const entry *e = arg;
    size_t bytes;
    gqmm_context *ctx = e->ctx;
    ctx->entered_status = check_call(ctx, e->op, e->desc, &ctx->entered_error);
    if (ctx->entered_status == GQMM_OK)
        ctx->entered_status = e->op->prepare(ctx, e->desc, &ctx->job, &bytes, &ctx->entered_error);
}

gqmm_status gqmm_enter(gqmm_context *ctx, int32_t op, const void *desc, int32_t ith, int32_t nth,
                       gqmm_error *err)
{
    const gqmm_op *o = op_by_number(op);
    if (!ctx || !o)
        return gqmm_fail(err, GQMM_E_ARG, 0, o ? "ctx is NULL" : "operation %d is unknown", op);
    if (ctx->device)
        return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0, "gqmm_enter() is for CPU contexts");
    if (nth < 1 || ith < 0 || ith >= nth)
        return gqmm_fail(err, GQMM_E_ARG, 0, "thread %d of %d: expected 0 <= ith < nth", ith, nth);

    entry e = {ctx, o, desc};
    meet(ctx, nth, prepare_entered, &e);
    const gqmm_status st = ctx->entered_status;
    if (st != GQMM_OK && err)
        *err = ctx->entered_error;
    if (st == GQMM_OK)
        gqmm_job_work(&ctx->job);
    meet(ctx, nth, NULL, NULL); /* nobody prepares the next call while this one is read */
    return st;
}
