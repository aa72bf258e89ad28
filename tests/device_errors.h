/* SPDX-License-Identifier: MIT */
/* What the device functions say: refusals with their sentence, machines without a device; and wrong
 * results planted to see that the checks find them. */
#ifndef TESTS_DEVICE_ERRORS_H
#define TESTS_DEVICE_ERRORS_H

#include "device_moe.h"
#include "device_product.h"

static bool cuda_is_here(void)
{
    const char *name;
    for (int32_t i = 0; (name = gqmm_device_at(i)); i++)
        if (strncmp(name, "cuda", 4) == 0)
            return true;
    return false;
}

static bool refused(gqmm_status status, const char *what)
{
    NEED(status != GQMM_OK, "%s was taken", what);
    NEED(fault.text[0], "%s: refused without a sentence", what);
    fault.text[0] = 0;
    return true;
}

/* ------------------------------------------------------------------ without a device */

/* The functions of devices on a CPU context. */
static bool cpu_device(void)
{
    void *memory = NULL;
    uint8_t in[1000], out[1000];
    char text[200] = "";
    NEED(gqmm_device_at(0) && strcmp(gqmm_device_at(0), "cpu") == 0, "the first device is no cpu");
    NEED(!gqmm_device_at(-1) && !gqmm_device_at(100000), "devices past the ends");
    NEED(gqmm_device_text("cpu", text, sizeof text) > 0 && text[0], "nothing is said of the CPU");
    NEED(gqmm_device_text("cpu", text, 4) > 3 && strlen(text) == 3, "a text that does not fit");
    NEED(strcmp(gqmm_context_device(ctx), "cpu") == 0, "a CPU context says %s",
         gqmm_context_device(ctx));
    NEED(refused(gqmm_context_set_stream(ctx, text, &fault), "a stream for a CPU context"), "%s",
         h.why);
    NEED(!gqmm_context_stream(ctx), "a CPU context has a stream");
    NEED(gqmm_synchronize(ctx, &fault) == GQMM_OK, "synchronize: %s", fault.text);
    NEED(gqmm_context_fault(ctx, &fault) == GQMM_OK, "fault: %s", fault.text);
    NEED(gqmm_device_alloc(ctx, sizeof in, &memory, &fault) == GQMM_OK && memory, "alloc");
    rnd_fill(in, sizeof in);
    NEED(gqmm_device_copy(ctx, memory, in, sizeof in, &fault) == GQMM_OK &&
             gqmm_device_copy(ctx, out, memory, sizeof in, &fault) == GQMM_OK &&
             memcmp(in, out, sizeof in) == 0,
         "copies through the memory of a CPU context");
    gqmm_device_free(ctx, memory, sizeof in);
    gqmm_device_free(ctx, NULL, 0);
    return true;
}

static bool no_context(const char *device)
{
    gqmm_context *out = ctx;
    gqmm_context_desc d;
    GQMM_INIT(d);
    d.device = device;
    return refused(gqmm_context_create(&d, &out, &fault), device) &&
           (!out || fail("a refused context is not NULL"));
}

static bool no_device(void)
{
    char text[200] = "";
    NEED(gqmm_device_text("cuda", text, sizeof text) > 0 && text[0], "no reason is given");
    note("%s", text);
    return no_context("cuda") && no_context("cuda:0") && no_context("cuda:1");
}

/* ------------------------------------------------------------------ refusals of a device */

/* More memory than there is: asked for, and as the scratch of a call without a workspace. */
static bool no_memory(void)
{
    const int64_t tokens = (int64_t)1 << 28; /* of 2 slots: 256 GiB of h alone */
    gqmm_moe_desc d;
    planes gate, down;
    span x;
    stack a = stack_make(NULL, "q8_0", 2, 512, 256, (stack_how){0});
    stack b = stack_make(NULL, "q8_0", 2, 256, 256, (stack_how){0});
    void *memory = NULL;
    bool ok = planes_make(&gate, &a, false) && planes_make(&down, &b, false) &&
              span_make(&x, 512, 0) && span_put(&x);
    GQMM_INIT(d);
    d.gate = gate.w;
    d.down = down.w;
    d.n_tokens = tokens;
    d.n_slots = 2;
    d.x_type = d.y_type = GQMM_BF16;
    d.ids = (int32_t *)(void *)span_at(&x);
    d.weights = (float *)(void *)span_at(&x);
    d.x = span_at(&x);
    d.y = (uint8_t *)((uintptr_t)span_at(&x) + ((uintptr_t)1 << 44));
    if (ok && gqmm_device_alloc(on.ctx, (size_t)1 << 52, &memory, &fault) != GQMM_E_NOMEM)
        ok = fail("4 PiB of the device: no GQMM_E_NOMEM");
    ok = ok && refused(GQMM_E_NOMEM, "4 PiB");
    const gqmm_status status = ok ? gqmm_moe(on.ctx, &d, &fault) : GQMM_OK;
    if (ok && status != GQMM_E_NOMEM)
        ok = fail("a scratch of 512 GiB: %s", gqmm_status_name(status));
    ok = ok && refused(status, "a scratch of 512 GiB") && step(gqmm_synchronize(on.ctx, &fault));
    span_free(&x);
    planes_free(&gate);
    planes_free(&down);
    stack_free(&a);
    stack_free(&b);
    return ok;
}

static bool context_errors(void)
{
    char text[200] = "";
    gqmm_context *other = NULL;
    gqmm_context_desc d;
    GQMM_INIT(d);
    d.device = on.device;
    d.isa = "sm_12";
    NEED(gqmm_device_text(d.device, text, sizeof text) > 0 && strstr(text, "sm_"),
         "the device calls itself %s", text);
    NEED(strncmp(gqmm_context_device(on.ctx), "cuda:", 5) == 0, "the context's device is %s",
         gqmm_context_device(on.ctx));
    NEED(strcmp(gqmm_context_isa(on.ctx), on.path) == 0, "the context's room is %s",
         gqmm_context_isa(on.ctx));
    return refused(gqmm_context_create(&d, &other, &fault), "isa sm_12") && no_context("cuda:77") &&
           no_context("cuda:") && no_context("cuda:x") && no_context("cudax") && no_memory();
}

/* Functions that are of the CPU alone: right calls of them are refused. */
static bool not_of_devices(const job *j)
{
    gqmm_repack_desc d;
    span to[2];
    GQMM_INIT(d);
    d.w = j->w.w;
    d.format = "affine8_g32_f16";
    bool ok = span_make(&to[0], 4096, 0) && span_make(&to[1], 4096, 0);
    d.plane[0] = span_at(&to[0]);
    d.plane[1] = d.plane[2] = span_at(&to[1]);
    ok = ok && refused(gqmm_repack(on.ctx, &d, &fault), "repack") &&
         refused(gqmm_enter(on.ctx, GQMM_OP_GATHER_QMM, &j->g, 0, 1, &fault), "enter");
    span_free(&to[0]);
    span_free(&to[1]);
    return ok;
}

/* A handle of another device, as far as it goes: a fault of the host is caught and reported. */
static bool foreign_weights(const job *j, const gqmm_weights *w)
{
    gqmm_gather g = j->g;
    g.w = w;
    catch_faults();
    fault_armed = 1;
    const int signal_number = sigsetjmp(fault_return, 1);
    const gqmm_status status = signal_number ? GQMM_OK : gqmm_gather_qmm(on.ctx, &g, &fault);
    fault_armed = 0;
    NEED(!signal_number, "weights of a CPU context end the program with signal %d", signal_number);
    return refused(status, "weights of a CPU context");
}

/* Every wrong argument is refused before anything is written. */
#define BAD_CALL(change, words) \
    do { \
        j.g = good; \
        change; \
        if (ok && (!span_blank(&j.y) || !refused(gqmm_gather_qmm(on.ctx, &j.g, &fault), words) || \
                   !span_get(&j.y) || !step(gqmm_synchronize(on.ctx, &fault)) || \
                   !span_intact(&j.y, words))) \
            ok = false; \
    } while (0)

static bool call_errors(void)
{
    const call_plan p = {.e = 3,
                         .rows = 5,
                         .cols = 64,
                         .pairs = 4,
                         .n_x = 4,
                         .transpose = 1,
                         .x_type = GQMM_BF16,
                         .y_type = GQMM_BF16,
                         .rhs = IDS_RANDOM};
    job j;
    bool ok = job_make(&j, gqmm_format_by_name("q8_0"), &p);
    const gqmm_gather good = j.g;
    gqmm_weights *of_cpu = NULL;
    if (ok && on.cuda)
        ok = gqmm_weights_create(ctx, &j.s.d, &of_cpu, &err) == GQMM_OK;
    BAD_CALL(j.g.w = NULL, "w NULL");
    BAD_CALL(j.g.x = NULL, "x NULL");
    BAD_CALL(j.g.y = NULL, "y NULL");
    BAD_CALL(j.g.x_type = 7, "x_type 7");
    BAD_CALL(j.g.precision = 5, "precision 5");
    BAD_CALL(j.g.transpose = 2, "transpose 2");
    BAD_CALL(j.g.n_pairs = -1, "-1 pairs");
    BAD_CALL(j.g.y_row_stride = 3, "y_row_stride 3");
    BAD_CALL(j.g.struct_size = 8, "struct_size 8");
    BAD_CALL((j.g.n_x = 2), "more pairs than matrices and no lhs");
    BAD_CALL(j.g.n_pairs = INT64_MAX / 2, "2^62 pairs");
    BAD_CALL((j.g.y = (void *)(uintptr_t)j.g.x), "y on x");
    j.g = good;
    ok = ok && job_run(&j) && (!on.cuda || (not_of_devices(&j) && foreign_weights(&j, of_cpu)));
    gqmm_weights_destroy(of_cpu);
    job_free(&j);
    return ok;
}

static bool errors(const gqmm_format_info *f)
{
    (void)f;
    return (!on.cuda || context_errors()) && call_errors();
}

/* The call with one of its pointers in the host's memory. */
static gqmm_status call_on_host(const job *j, int which, const gqmm_weights *w)
{
    static _Alignas(64) uint8_t host[1 << 16];
    gqmm_gather g = j->g;
    switch (which) {
    case 0:
        g.w = w;
        break;
    case 1:
        g.x = span_image(&j->x);
        break;
    case 2:
        g.lhs = (const int32_t *)(const void *)span_image(&j->lhs);
        break;
    case 3:
        g.rhs = (const int32_t *)(const void *)span_image(&j->rhs);
        break;
    case 4:
        g.y = host;
        break;
    default:
        g.workspace = host;
        g.workspace_bytes = sizeof host;
    }
    return gqmm_gather_qmm(on.ctx, &g, &fault);
}

/* Pointers that the device may not reach: refused with a sentence, or, where it reaches all of the
 * host's memory, the right result. */
static bool host_memory(const gqmm_format_info *f)
{
    static const char *const names[] = {"planes", "x", "lhs", "rhs", "y", "workspace"};
    const call_plan p = {.e = 2,
                         .rows = 33,
                         .cols = 256,
                         .pairs = 6,
                         .n_x = 6,
                         .transpose = 1,
                         .x_type = GQMM_F32,
                         .y_type = GQMM_F32,
                         .lhs = IDS_RANDOM,
                         .rhs = IDS_RANDOM};
    job j;
    bool ok = job_make(&j, gqmm_format_by_name("q4_0"), &p);
    gqmm_weights *w = NULL;
    int n_refused = 0;
    (void)f;
    fault.text[0] = 0;
    gqmm_status status = ok ? gqmm_weights_create(on.ctx, &j.s.d, &w, &fault) : GQMM_OK;
    for (int i = 0; ok && i < COUNT(names); i++) {
        char what[60];
        snprintf(what, sizeof what, "%s in host memory", names[i]);
        ok = span_blank(&j.y);
        if (ok && (i > 0 || w))
            status = call_on_host(&j, i, w);
        if (ok && status != GQMM_OK) {
            ok = refused(status, what);
            n_refused++;
        } else {
            ok = ok && step(gqmm_synchronize(on.ctx, &fault)) &&
                 (i > 3 ||
                  (span_get(&j.y) && step(gqmm_synchronize(on.ctx, &fault)) && check_rows(&j)));
        }
    }
    gqmm_weights_destroy(w);
    job_free(&j);
    note("%d of %d refused", n_refused, COUNT(names));
    return ok &&
           (!n_refused || n_refused == COUNT(names) || fail("some of the pointers were taken"));
}

/* ------------------------------------------------------------------ wrong results */

enum { PLANT_VALUE, PLANT_BLANK, PLANT_CANARY, PLANT_GAP, PLANT_NOISE, PLANT_NAN, PLANTS };
static const char *const plant_names[] = {"a value off by 1e-3",        "an output not written",
                                          "a write past the end",       "a write between rows",
                                          "activations cut to 18 bits", "a NaN"};

static void plant(job *j, int kind)
{
    uint8_t *y = j->y.seen + j->y.front;
    const int64_t last = j->y_elems - 1;
    switch (kind) {
    case PLANT_VALUE: /* of the largest: the others' bounds depend on what cancels in them */
        for (int64_t i = 0; i < j->y_elems; i++)
            if (i % j->y_row < j->n)
                set_element(y, GQMM_F32, i, (float)element(y, GQMM_F32, i) * 1.001f);
        break;
    case PLANT_BLANK:
        memset(y + 4 * last, BLANK, 4);
        break;
    case PLANT_CANARY:
        y[j->y.bytes + 3] ^= 1;
        break;
    case PLANT_GAP:
        y[4 * j->n] = 0;
        break;
    case PLANT_NOISE:
        for (int64_t i = 0; i < j->y_elems; i++)
            if (i % j->y_row < j->n)
                set_element(y, GQMM_F32, i,
                            (float)(element(y, GQMM_F32, i) * (1 + (i % 2 ? 0x1p-17 : -0x1p-17))));
        break;
    default:
        set_element(y, GQMM_F32, last, NAN);
    }
}

static bool planted(const gqmm_format_info *f)
{
    const call_plan p = {.e = 1,
                         .rows = 65,
                         .cols = 64,
                         .pairs = 6,
                         .n_x = 6,
                         .transpose = 1,
                         .x_type = GQMM_F32,
                         .y_type = GQMM_F32,
                         .rhs = IDS_ONE};
    const int tight = on.tight;
    bool ok = true;
    (void)f;
    on.tight = 0;
    for (int kind = -1; ok && kind < PLANTS; kind++) {
        job j;
        ok = job_make(&j, gqmm_format_by_name("q8_0"), &p);
        j.g.y_row_stride = 0;
        j.y_row = j.n;
        if (ok && kind == PLANT_GAP) { /* one pair fewer, so that there is room for a gap */
            j.g.n_pairs--;
            j.g.y_pair_stride = j.y_pair = j.n + 1;
            j.y_row = j.n;
        }
        ok = ok && job_once(&j);
        if (ok && kind >= 0)
            plant(&j, kind);
        const bool passed = ok && span_fenced(&j.y, "y") &&
                            (kind == PLANT_GAP ? check_gaps(&j) : true) && check_gaps(&j) &&
                            check_rows(&j) && check_noise(&j);
        job_free(&j);
        if (ok && kind < 0 && !passed)
            return false;
        if (ok && kind >= 0) {
            h.why[0] = 0;
            ok = !passed || fail("%s passed the checks", plant_names[kind]);
        }
    }
    on.tight = tight;
    note("%d kinds of wrong results found", PLANTS);
    return ok;
}

#endif
