/* SPDX-License-Identifier: MIT */
/* Calls that a device cannot serve: operands in memory that it does not reach, at addresses that
 * its loads cannot take, more experts than it sorts. Each is refused before anything is written,
 * and the context works on. */
#ifndef TESTS_DEVICE_REFUSALS_H
#define TESTS_DEVICE_REFUSALS_H

#include "cuda/scene.h"
#include "device_product.h"

/* One call of an operation, all of its descriptors being there. */
typedef struct any_call {
    int op;
    gqmm_moe_desc moe;
    gqmm_dense dense;
    gqmm_embed_desc embed;
    gqmm_dequantize_desc dequantize;
    gqmm_quantize_desc quantize;
} any_call;

static gqmm_status any_run(const any_call *c)
{
    switch (c->op) {
    case QMM:
        return gqmm_qmm(on.ctx, &c->dense, &fault);
    case EMBED:
        return gqmm_embed(on.ctx, &c->embed, &fault);
    case DEQUANTIZE:
        return gqmm_dequantize(on.ctx, &c->dequantize, &fault);
    case QUANTIZE:
        return gqmm_quantize(on.ctx, &c->quantize, &fault);
    default:
        return gqmm_moe(on.ctx, &c->moe, &fault);
    }
}

/* Pointers of the host, of which some devices reach all. */
static _Alignas(64) uint8_t of_host[1 << 16];

/* The i-th operand of the operation put there; its name, or NULL past the last. */
static const char *operand_on_host(any_call *c, int i)
{
    float *const numbers = (float *)(void *)of_host;
    int32_t *const ids = (int32_t *)(void *)of_host;
#define OPERAND(number, member, name, pointer) \
    if (i == number) \
    return c->member = pointer, name
    switch (c->op) {
    case MOE_GIVEN:
        OPERAND(0, moe.x, "x", of_host);
        OPERAND(1, moe.y, "y", of_host);
        OPERAND(2, moe.ids, "ids", ids);
        OPERAND(3, moe.weights, "weights", numbers);
        OPERAND(4, moe.workspace, "workspace", of_host);
        break;
    case QMM:
        OPERAND(0, dense.x, "x", of_host);
        OPERAND(1, dense.y, "y", of_host);
        break;
    case EMBED:
        OPERAND(0, embed.ids, "ids", ids);
        OPERAND(1, embed.y, "y", of_host);
        break;
    case DEQUANTIZE:
        OPERAND(0, dequantize.y, "y", of_host);
        break;
    default:
        OPERAND(0, quantize.x, "x", of_host);
        OPERAND(1, quantize.plane[0], "a plane", of_host);
        OPERAND(2, quantize.global_scale, "global_scale", numbers);
    }
#undef OPERAND
    return NULL;
}

/* The same at an address that is no multiple of four. */
static const char *operand_askew(any_call *c, int i)
{
    if (i == 0 && c->op == MOE_GIVEN)
        return c->moe.ids = (int32_t *)(void *)((uint8_t *)c->moe.ids + 2), "ids askew";
    if (i == 1 && c->op == MOE_GIVEN)
        return c->moe.weights = (float *)(void *)((uint8_t *)c->moe.weights + 1), "weights askew";
    if (i == 0 && c->op == EMBED)
        return c->embed.ids = (const int32_t *)(const void *)((const uint8_t *)c->embed.ids + 2),
               "ids askew";
    return NULL;
}

/* Good calls of all operations on a scene's operands. */
static any_call call_of(const scene *s)
{
    any_call c = {.op = s->op, .moe = moe_of(s), .dense = dense_of(s)};
    GQMM_INIT(c.embed);
    GQMM_INIT(c.dequantize);
    GQMM_INIT(c.quantize);
    c.embed.w = c.dequantize.w = s->gate.w;
    c.embed.y_type = c.dequantize.y_type = c.quantize.x_type = s->type;
    c.embed.n_ids = c.dequantize.n_rows = c.quantize.n_rows = s->tokens;
    c.embed.ids = ids_of(s);
    c.embed.y = c.dequantize.y = c.quantize.plane[0] = span_at(&s->y);
    c.quantize.plane[1] = span_at(&s->result[0]);
    c.quantize.format = "mlx_nvfp4";
    c.quantize.x = span_at(&s->x);
    c.quantize.n_cols = s->of.d;
    return c;
}

static bool untouched(scene *s, const char *what)
{
    return span_get(&s->y) && step(gqmm_synchronize(on.ctx, &fault)) && span_intact(&s->y, what);
}

/* Every operand of one operation in turn; *n_refused and *n of those in the host's memory. */
static bool refusals_of(scene *s, int *n_refused, int *n)
{
    char name[60];
    const char *what;
    any_call c = call_of(s);
    for (int i = 0; on.cuda && (what = operand_on_host(&c, i)); i++, c = call_of(s), ++*n) {
        snprintf(name, sizeof name, "%s: %s in host memory", op_names[s->op], what);
        if (!span_blank(&s->y))
            return false;
        const gqmm_status status = any_run(&c);
        if (status == GQMM_OK && !step(gqmm_synchronize(on.ctx, &fault)))
            return false;
        if (status != GQMM_OK && (!refused(status, name) || !untouched(s, name)))
            return false;
        *n_refused += status != GQMM_OK;
        NEED(status == GQMM_OK || status == GQMM_E_ARG, "%s: %s", name, gqmm_status_name(status));
    }
    c = call_of(s);
    for (int i = 0; (what = operand_askew(&c, i)); i++, c = call_of(s)) {
        snprintf(name, sizeof name, "%s: %s", op_names[s->op], what);
        if (!span_blank(&s->y) || !refused(any_run(&c), name) || !untouched(s, name))
            return false;
    }
    return enqueue(s) && step(gqmm_synchronize(on.ctx, &fault));
}

/* As many experts as a sort takes, and one more. */
static bool most_experts(void)
{
    call_plan p = {.rows = 2,
                   .cols = 32,
                   .pairs = 200,
                   .n_x = 200,
                   .transpose = 1,
                   .x_type = GQMM_BF16,
                   .y_type = GQMM_F32,
                   .rhs = IDS_SKIP};
    bool ok = true;
    for (int more = 0; ok && more < 2; more++) {
        job j;
        p.e = (strcmp(on.path, "sm_90") == 0 ? 12000 : 5000) + more;
        ok = job_make(&j, gqmm_format_by_name("q8_0"), &p);
        if (ok && !more)
            ok = job_run(&j);
        if (ok && more) {
            const gqmm_status status = gqmm_gather_qmm(on.ctx, &j.g, &fault);
            ok = status == GQMM_E_UNSUPPORTED ||
                 fail("%lld experts: %s", (long long)p.e, gqmm_status_name(status));
            ok = ok && refused(status, "too many experts");
        }
        job_free(&j);
    }
    return ok;
}

static bool refusals(const gqmm_format_info *f)
{
    static const int ops[] = {QMM, MOE_GIVEN, EMBED, DEQUANTIZE, QUANTIZE};
    int n_refused = 0, n = 0;
    bool ok = true;
    (void)f;
    fault.text[0] = 0;
    for (int i = 0; ok && i < COUNT(ops); i++) {
        scene s;
        ok = scene_make(&s, ops[i], "q4_0", EXPERTS, GQMM_BF16) && make_workspace(&s) &&
             span_put(&s.set_ids[0]) &&
             step(gqmm_device_copy(on.ctx, span_at(&s.ids), span_at(&s.set_ids[0]), s.ids.bytes,
                                   &fault)) &&
             refusals_of(&s, &n_refused, &n);
        scene_free(&s);
    }
    note("%d of %d in host memory refused", n_refused, n);
    return ok && (!n_refused || n_refused == n || fail("some of the pointers were taken")) &&
           (!on.cuda || most_experts());
}

#endif
