/* SPDX-License-Identifier: MIT */
/* Operands in every kind of memory that a device reaches give the same bits; with a second device,
 * its memory is refused or reached, and a context of it works whichever device is current. */
#include "cuda/scene.h"

#include <cuda_runtime_api.h>

static bool cuda(cudaError_t status)
{
    return status == cudaSuccess ? true : fail("%s", cudaGetErrorString(status));
}

enum { PINNED, MAPPED, MANAGED, POOLED, KINDS };
static const char *const kind_names[KINDS] = {"pinned", "mapped", "managed", "pooled"};

static bool kind_alloc(int kind, void **memory, size_t bytes)
{
    return cuda(kind == PINNED    ? cudaHostAlloc(memory, bytes, cudaHostAllocDefault)
                : kind == MAPPED  ? cudaHostAlloc(memory, bytes, cudaHostAllocMapped)
                : kind == MANAGED ? cudaMallocManaged(memory, bytes, cudaMemAttachGlobal)
                                  : cudaMallocAsync(memory, bytes, NULL)) &&
           cuda(cudaDeviceSynchronize());
}

static void kind_free(int kind, void *memory)
{
    (void)(kind == PINNED || kind == MAPPED ? cudaFreeHost(memory) : cudaFree(memory));
}

/* A gather whose x and y are there: the bits of device memory. */
static bool same_there(scene *s, int kind)
{
    gqmm_gather d = gather_of(s);
    uint8_t *got = must(malloc(s->y.bytes));
    void *x = NULL, *y = NULL;
    bool ok = kind_alloc(kind, &x, s->x.bytes) && kind_alloc(kind, &y, s->y.bytes) &&
              cuda(cudaMemcpy(x, span_at(&s->set_x[0]), s->x.bytes, cudaMemcpyDefault)) &&
              cuda(cudaMemset(y, BLANK, s->y.bytes)) && cuda(cudaDeviceSynchronize());
    d.x = x;
    d.y = y;
    ok = ok && step(gqmm_gather_qmm(on.ctx, &d, &fault)) &&
         step(gqmm_synchronize(on.ctx, &fault)) &&
         cuda(cudaMemcpy(got, y, s->y.bytes, cudaMemcpyDefault));
    if (ok && memcmp(got, s->want[0], s->y.bytes) != 0)
        ok = fail("x and y in %s memory give other bits", kind_names[kind]);
    kind_free(kind, x);
    kind_free(kind, y);
    free(got);
    return ok;
}

static bool plain(scene *s)
{
    if (!step(
            gqmm_device_copy(on.ctx, span_at(&s->x), span_at(&s->set_x[0]), s->x.bytes, &fault)) ||
        !step(gqmm_device_copy(on.ctx, span_at(&s->ids), span_at(&s->set_ids[0]), s->ids.bytes,
                               &fault)) ||
        !enqueue(s) || !span_get(&s->y) || !step(gqmm_synchronize(on.ctx, &fault)))
        return false;
    s->want[0] = must(malloc(s->y.bytes));
    memcpy(s->want[0], s->y.seen + s->y.front, s->y.bytes);
    return true;
}

static bool kinds(void)
{
    scene s;
    bool ok = scene_make(&s, GATHER, "q4_k", EXPERTS, GQMM_BF16) && make_workspace(&s) && plain(&s);
    for (int kind = 0; ok && kind < KINDS; kind++)
        ok = same_there(&s, kind);
    note("%d kinds", KINDS);
    scene_free(&s);
    return ok;
}

/* The caller's device is current after every call, here with a context of the other one. */
static bool other_device(int index)
{
    gqmm_context *const first = on.ctx;
    gqmm_context_desc c;
    scene s, theirs;
    char name[20];
    void *far = NULL;
    int now = -1;
    GQMM_INIT(c);
    snprintf(name, sizeof name, "cuda:%d", index);
    c.device = name;
    bool ok = scene_make(&s, GATHER, "q4_k", EXPERTS, GQMM_BF16) && make_workspace(&s) &&
              plain(&s) && cuda(cudaSetDevice(index)) && cuda(cudaMalloc(&far, s.x.bytes)) &&
              cuda(cudaMemcpy(far, span_at(&s.set_x[0]), s.x.bytes, cudaMemcpyDefault)) &&
              cuda(cudaDeviceSynchronize()) && cuda(cudaSetDevice(0));
    gqmm_gather d = gather_of(&s);
    d.x = far;
    if (ok && gqmm_gather_qmm(on.ctx, &d, &fault) != GQMM_E_ARG)
        ok = fail("x of another device: %s", fault.text);
    ok = ok && step(gqmm_context_create(&c, &on.ctx, &fault));
    for (int device = 0; ok && device <= index; device += index) {
        ok = cuda(cudaSetDevice(device)) &&
             scene_make(&theirs, GATHER, "q4_k", EXPERTS, GQMM_BF16) && make_workspace(&theirs) &&
             plain(&theirs) && cuda(cudaGetDevice(&now));
        if (ok && now != device)
            ok = fail("device %d is current, %d was", now, device);
        scene_free(&theirs);
    }
    if (on.ctx != first)
        gqmm_context_destroy(on.ctx);
    on.ctx = first;
    (void)cudaSetDevice(0);
    cudaFree(far);
    scene_free(&s);
    return ok;
}

int main(int argc, char **argv)
{
    gqmm_context_desc d;
    int n = 0;
    start("test_memory", argc, argv);
    on.cuda = true;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        skip("memory", "no CUDA device");
        return finish();
    }
    GQMM_INIT(d);
    d.device = "cuda";
    if (gqmm_context_create(&d, &on.ctx, &fault) != GQMM_OK) {
        report("context", fail("%s", fault.text));
        return finish();
    }
    report("kinds of memory", kinds());
    if (n > 1)
        report("a second device", other_device(n - 1));
    else
        skip("a second device", "this machine has one");
    gqmm_context_destroy(on.ctx);
    return finish();
}
