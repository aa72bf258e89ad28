/* SPDX-License-Identifier: MIT */
/* Calls captured in CUDA graphs: replays with other ids, activations and fewer tokens give the bits
 * of plain calls, back to back and with copies between, and bad ids of a replay are told. */
#include "cuda/scene.h"

#include <cuda_runtime_api.h>

enum { LAYERS = 4, ROUNDS = 12 };

static cudaStream_t stream;

static bool cuda(cudaError_t status)
{
    return status == cudaSuccess ? true : fail("%s", cudaGetErrorString(status));
}

/* ------------------------------------------------------------------ graphs */

static bool copy_in(scene *s, int set)
{
    const bool routed = s->op == MOE_ROUTED;
    return step(gqmm_device_copy(on.ctx, span_at(&s->x), span_at(&s->set_x[set]), s->x.bytes,
                                 &fault)) &&
           (routed ||
            (step(gqmm_device_copy(on.ctx, span_at(&s->ids), span_at(&s->set_ids[set]),
                                   s->ids.bytes, &fault)) &&
             step(gqmm_device_copy(on.ctx, span_at(&s->weights), span_at(&s->set_weights[set]),
                                   s->weights.bytes, &fault))));
}

static bool copy_out(scene *s, int set)
{
    return step(
        gqmm_device_copy(on.ctx, span_at(&s->result[set]), span_at(&s->y), s->y.bytes, &fault));
}

static bool settle(void)
{
    return step(gqmm_synchronize(on.ctx, &fault));
}

static bool capture(bool (*enqueue_all)(void *), void *arg, cudaGraphExec_t *exec)
{
    cudaGraph_t graph = NULL;
    *exec = NULL;
    if (!cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal)))
        return false;
    const bool enqueued = enqueue_all(arg);
    if (!cuda(cudaStreamEndCapture(stream, &graph)) || !enqueued)
        return fail("the calls cannot be captured");
    const bool ok = cuda(cudaGraphInstantiate(exec, graph, 0));
    cudaGraphDestroy(graph);
    return ok;
}

static bool enqueue_scene(void *arg)
{
    return enqueue(arg);
}

/* The result of each set equals that of a plain call with nothing else on the stream. */
static bool same_results(scene *s, const char *how)
{
    for (int i = 0; i < SETS; i++)
        if (!span_get(&s->result[i]))
            return false;
    if (!settle())
        return false;
    for (int i = 0; i < SETS; i++)
        NEED(memcmp(s->result[i].seen, s->want[i], s->result[i].total) == 0,
             "%s: set %d has other bits than a plain call", how, i);
    return true;
}

static bool clear_results(scene *s)
{
    for (int i = 0; i < SETS; i++)
        if (!span_blank(&s->result[i]))
            return false;
    return true;
}

static bool plain_calls(scene *s)
{
    for (int i = 0; i < SETS; i++) {
        if (!settle() || !copy_in(s, i) || !span_blank(&s->y) || !settle() || !enqueue(s) ||
            !settle() || !copy_out(s, i) || !span_get(&s->result[i]) || !settle())
            return false;
        s->want[i] = must(malloc(s->result[i].total));
        memcpy(s->want[i], s->result[i].seen, s->result[i].total);
    }
    return true;
}

/* The sets in turn, without a pause: each copy and each call must wait for the one before. */
static bool back_to_back(scene *s, cudaGraphExec_t exec)
{
    if (!clear_results(s))
        return false;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < SETS; i++) {
            const int set = round % 2 ? SETS - 1 - i : i;
            if (!copy_in(s, set) || !(exec ? cuda(cudaGraphLaunch(exec, stream)) : enqueue(s)) ||
                !copy_out(s, set))
                return false;
        }
    return same_results(s, exec ? "replays back to back" : "calls back to back");
}

static bool replay(scene *s)
{
    cudaGraphExec_t exec = NULL;
    bool ok = make_workspace(s) && plain_calls(s) && copy_in(s, 0) && settle() &&
              capture(enqueue_scene, s, &exec) && back_to_back(s, exec) && back_to_back(s, NULL);
    if (exec)
        cudaGraphExecDestroy(exec);
    return ok && span_get(&s->work) && span_get(&s->y) && settle() &&
           span_fenced(&s->work, "the workspace") && span_fenced(&s->y, "y");
}

/* A bad id in a replay is told once, by the next gqmm_synchronize() or gqmm_context_fault(); later
 * replays are clean. */
static bool bad_replay(scene *s)
{
    const int32_t bad = EXPERTS;
    cudaGraphExec_t exec = NULL;
    bool ok =
        make_workspace(s) && plain_calls(s) && capture(enqueue_scene, s, &exec) && clear_results(s);
    for (int waits = 0; ok && waits < 2; waits++) {
        ok = copy_in(s, 1) && step(gqmm_device_copy(on.ctx, span_at(&s->ids), &bad, 4, &fault)) &&
             cuda(cudaGraphLaunch(exec, stream)) && (waits || cuda(cudaStreamSynchronize(stream)));
        const gqmm_status status = !ok     ? GQMM_OK
                                   : waits ? gqmm_synchronize(on.ctx, &fault)
                                           : gqmm_context_fault(on.ctx, &fault);
        if (ok && status != GQMM_E_INDEX)
            ok = fail("after a bad id %s says %s",
                      waits ? "gqmm_synchronize" : "gqmm_context_fault", gqmm_status_name(status));
        ok = ok && step(gqmm_context_fault(on.ctx, &fault)) && settle();
    }
    ok = ok && back_to_back(s, exec);
    if (exec)
        cudaGraphExecDestroy(exec);
    return ok;
}

/* ------------------------------------------------------------------ chains */

/* Layers whose x is the y of the one before, through two buffers. */
typedef struct chain {
    scene layer[LAYERS];
} chain;

static bool enqueue_chain(void *arg)
{
    chain *c = arg;
    for (int i = 0; i < LAYERS; i++)
        if (!enqueue(&c->layer[i]))
            return false;
    return true;
}

static bool chain_run(chain *c, cudaGraphExec_t exec, bool pauses, int set)
{
    scene *first = &c->layer[0], *last = &c->layer[LAYERS - 1];
    bool ok = copy_in(first, set);
    for (int i = 0; ok && !exec && i < LAYERS; i++)
        ok = enqueue(&c->layer[i]) && (!pauses || settle());
    return ok && (!exec || cuda(cudaGraphLaunch(exec, stream))) &&
           step(gqmm_device_copy(on.ctx, span_at(&first->result[set]), span_at(&last->y),
                                 last->y.bytes, &fault));
}

/* y of layer i is x of layer i + 1, the same memory. */
static bool chain_make(chain *c, const char *format, int64_t tokens)
{
    bool ok = true;
    for (int i = 0; ok && i < LAYERS; i++) {
        scene *s = &c->layer[i];
        ok = scene_make(s, MOE_ROUTED, format, tokens, GQMM_BF16);
        if (ok && i > 0) {
            span_free(&s->x);
            s->x = c->layer[i - 1].y;
        }
        ok = ok && make_workspace(s);
    }
    return ok;
}

static bool chained(const char *format, int64_t tokens)
{
    chain c = {0};
    cudaGraphExec_t exec = NULL;
    scene *first = &c.layer[0];
    bool ok = chain_make(&c, format, tokens);
    for (int i = 0; ok && i < SETS; i++) {
        ok = chain_run(&c, NULL, true, i) && span_get(&first->result[i]) && settle();
        first->want[i] = must(malloc(first->result[i].total));
        memcpy(first->want[i], first->result[i].seen, first->result[i].total);
    }
    ok = ok && capture(enqueue_chain, &c, &exec);
    for (int with_graph = 0; ok && with_graph < 2; with_graph++) {
        ok = clear_results(first);
        for (int i = 0; ok && i < ROUNDS * SETS; i++)
            ok = chain_run(&c, with_graph ? exec : NULL, false, i % SETS);
        ok = ok && same_results(first, with_graph ? "a chain replayed" : "a chain of calls");
    }
    if (exec)
        cudaGraphExecDestroy(exec);
    for (int i = 1; i < LAYERS; i++)
        c.layer[i].x = (span){0};
    for (int i = 0; i < LAYERS; i++)
        scene_free(&c.layer[i]);
    return ok;
}

/* ------------------------------------------------------------------ main */

static const char *const formats[] = {"q4_k", "affine4_g64_bf16", "mxfp4", "q8_0", "int4_g128"};
static const int64_t token_counts[] = {8, 1, 64, 600};

static void run_op(int op, bool bad)
{
    char name[80];
    bool ok = true;
    snprintf(name, sizeof name, "%s %s%s", on.path, op_names[op], bad ? ", bad ids" : "");
    rng_state = h.seed + (uint64_t)op;
    on.calls = 0;
    for (int f = 0; ok && f < (h.quick ? 2 : COUNT(formats)); f++)
        for (int t = 0; ok && t < COUNT(token_counts) - h.quick; t++) {
            scene s;
            if (op == GATHER && token_counts[t] < EXPERTS)
                continue;
            ok = scene_make(&s, op, formats[f], token_counts[t],
                            (f + t) % 3 ? GQMM_BF16 : GQMM_F32) &&
                 (bad ? bad_replay : replay)(&s);
            scene_free(&s);
            if (!ok)
                fail_in("%s, %lld tokens", formats[f], (long long)token_counts[t]);
        }
    note("%d calls", on.calls);
    report(name, ok);
}

/* Layers as large as the kernels of few columns ask for, and the ways that `formats` do not take at
 * their sizes: what a replay needs of the one before it (counters, tiles' states) is in workspaces.
 */
enum { MANY = 60, WIDE = 1024, NARROW = 768 };
#define LAYER .of.experts = MANY, .of.d = WIDE, .of.f = NARROW, .of.slots = 4
static const struct large {
    sizes of;
    int op;
    const char *format;
    int64_t tokens;
    const char *way; /* word of gqmm_explain() on sm_90 */
} large[] = {
    {LAYER, .op = MOE_ROUTED, .format = "int4_g128", .tokens = 7, .way = ""},
    {LAYER, .op = MOE_ROUTED, .format = "int4_g128", .tokens = 96, .way = ""},
    {LAYER, .op = MOE_ROUTED, .format = "int4_g128", .tokens = 300, .way = " wide"},
    {LAYER, .of.precision = GQMM_INT8, .op = MOE_ROUTED, .format = "int4_g128", .tokens = 300,
     .way = " int8"},
    {LAYER, .op = MOE_GIVEN, .format = "affine4_g64_bf16", .tokens = 30, .way = ""},
    {LAYER, .op = MOE_GIVEN, .format = "affine4_g64_bf16", .tokens = 200, .way = " wide"},
    {LAYER, .op = MOE_GIVEN, .format = "q4_k", .tokens = 14, .way = ""},
    {LAYER, .op = MOE_GIVEN, .format = "q4_k", .tokens = 120, .way = " wide"},
    {LAYER, .op = GATHER, .format = "int4_g128", .tokens = 64, .way = ""},
    {LAYER, .of.precision = GQMM_INT8, .op = GATHER, .format = "int4_g128", .tokens = 300,
     .way = " int8"},
    {LAYER, .op = QMM, .format = "int4_g128", .tokens = 64, .way = " middle"},
    {LAYER, .op = QMM, .format = "q4_1", .tokens = 600, .way = " dense"},
};

static void run_large(void)
{
    char name[80], how[300] = "";
    bool ok = true;
    on.calls = 0;
    snprintf(name, sizeof name, "%s large", on.path);
    rng_state = h.seed;
    for (int i = 0; ok && i < COUNT(large) && !(h.quick && i > 0); i++) {
        const struct large *l = &large[i];
        scene s;
        ok = scene_of(&s, l->of, l->op, l->format, l->tokens, GQMM_BF16) && replay(&s);
        gqmm_explain(on.ctx, how, sizeof how);
        if (ok && strcmp(on.path, "sm_90") == 0 && !strstr(how, l->way))
            ok = fail("it did not go the way of%s", l->way);
        scene_free(&s);
        if (!ok)
            fail_in("%s of %s, %lld tokens", op_names[l->op], l->format, (long long)l->tokens);
    }
    note("%d calls", on.calls);
    report(name, ok);
}

static void run_chains(void)
{
    char name[80];
    bool ok = true;
    on.calls = 0;
    snprintf(name, sizeof name, "%s chain", on.path);
    for (int f = 0; ok && f < (h.quick ? 2 : COUNT(formats)); f++)
        for (int t = 0; ok && t < COUNT(token_counts); t++)
            ok = chained(formats[f], token_counts[t]) ||
                 fail_in("%s, %lld tokens", formats[f], (long long)token_counts[t]);
    note("%d calls", on.calls);
    report(name, ok);
}

/* The context's stream is the caller's; another one serves the calls after it was set. */
static bool streams(void)
{
    cudaStream_t other = NULL;
    scene s;
    bool ok = gqmm_context_stream(on.ctx) == (void *)stream || fail("another stream than given");
    ok = ok && cuda(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking)) &&
         scene_make(&s, GATHER, "q8_0", EXPERTS, GQMM_BF16);
    if (!ok)
        return false;
    ok = make_workspace(&s) && plain_calls(&s) && clear_results(&s) && settle() &&
         step(gqmm_context_set_stream(on.ctx, other, &fault)) && back_to_back(&s, NULL) &&
         cuda(cudaStreamQuery(other));
    const bool back = settle() && step(gqmm_context_set_stream(on.ctx, stream, &fault));
    scene_free(&s);
    cudaStreamDestroy(other);
    return ok && back;
}

static void run_streams(void)
{
    char name[80];
    snprintf(name, sizeof name, "%s streams", on.path);
    report(name, streams());
}

int main(int argc, char **argv)
{
    static const char *const paths[] = {"sm_80", "sm_90"};
    int n = 0;
    start("test_graph", argc, argv);
    on.cuda = true;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        skip("graphs", "no CUDA device");
        return finish();
    }
    if (!cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking))) {
        report("stream", false);
        return finish();
    }
    for (int i = 0; i < COUNT(paths) && !on.lost; i++) {
        gqmm_context_desc d;
        GQMM_INIT(d);
        d.device = "cuda";
        d.isa = on.path = paths[i];
        d.stream = stream;
        if (gqmm_context_create(&d, &on.ctx, &fault) != GQMM_OK) {
            skip(paths[i], fault.text);
            continue;
        }
        run_streams();
        for (int op = 0; op < OPS && !on.lost; op++)
            run_op(op, false);
        if (!on.lost)
            run_op(GATHER, true);
        if (!on.lost)
            run_op(MOE_GIVEN, true);
        if (!on.lost)
            run_large();
        if (!on.lost)
            run_chains();
        gqmm_context_destroy(on.ctx);
    }
    cudaStreamDestroy(stream);
    return finish();
}
