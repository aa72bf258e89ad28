/* SPDX-License-Identifier: MIT */
/* gqmm bench --device cuda: layers copied to the device take turns, calls over all of them are
 * captured in a graph, and replays of it are timed. */
#include "bench_cuda.h"
#include "cli.h"
#include "output.h"

#if defined(GQMM_WITH_CUDA)
#    include "interrupt.h"

#    include <stdlib.h>
#    include <string.h>

/* More than the L2 holds twice over, and than 200 MB; a graph of this many calls and milliseconds;
 * replays of a row. */
enum { COLD_BYTES = 256 << 20, LEAST_CALLS = 40, MOST_CALLS = 2000, LEAST_REPLAYS = 20 };
enum { MOST_REPLAYS = 100000 };
static const double graph_us = 4000;

static bool ran(bool ok)
{
    if (!ok)
        say("CUDA: %s", bench_device_error());
    return ok;
}

/* ------------------------------------------------------------------ measuring */

/* A NaN or an infinity in any type has all bits of its exponent set. */
static bool finite_output(operands *o)
{
    const int64_t n = bench_y_count(&o->in);
    const int32_t type = o->in.type;
    uint8_t *y = need((size_t)n, bench_type_size(type));
    bool ok = bench_copy(o->d, y, o->in.y, (size_t)n * bench_type_size(type)) && bench_settle(o->d);

    for (int64_t i = 0; ok && i < n; i++) {
        uint16_t top;

        memcpy(&top, y + (size_t)i * bench_type_size(type) + (type == GQMM_F32 ? 2 : 0), 2);
        const uint16_t mask = type == GQMM_F16 ? 0x7c00 : 0x7f80;
        if ((top & mask) == mask) {
            say("output %lld is no finite number", (long long)i);
            ok = false;
        }
    }
    free(y);
    return ok;
}

/* Whether the last call rounded its activations, which is for the library to choose. */
static bool was_int8(const gqmm_context *ctx)
{
    char how[300] = "";

    gqmm_explain(ctx, how, sizeof how);
    return strstr(how, " int8") != NULL;
}

/* Each layer once, without a graph: warm-up, whether the output is one, and which experts the
 * routers choose. */
static bool warm_up(operands *o)
{
    bench_inputs *in = &o->in;
    bool ok = true;

    for (int64_t i = 0; ok && i < in->l->n_layers; i++) {
        ok = bench_did(o->d, bench_call(in, i, &o->d->err)) &&
             (!in->router ||
              bench_copy(o->d, o->ids + i * in->list, in->ids, (size_t)in->list * sizeof(int32_t)));
    }
    if (!ok || !bench_settle(o->d) || !finite_output(o))
        return false;
    if (in->router) /* not needed any more: measured without them as outputs */
        in->ids = NULL, in->weights = NULL;
    return true;
}

static void *capture(operands *o, int64_t calls)
{
    bool ok = ran(bench_graph_begin(o->d->device));

    if (!ok)
        return NULL;
    for (int64_t i = 0; ok && i < calls; i++)
        ok = bench_did(o->d, bench_call(&o->in, i, &o->d->err));
    void *graph = bench_graph_end(o->d->device);
    if (ok && graph)
        return graph;
    ran(graph != NULL);
    bench_graph_free(graph);
    return NULL;
}

/* Calls of a graph: every layer equally often, and some milliseconds of them. */
static bool choose_calls(operands *o, int64_t *calls)
{
    const int64_t layers = o->in.l->n_layers;
    double us = 0;
    void *graph = capture(o, layers);
    bool ok = graph && ran(bench_graph_time(o->d->device, graph, &us)) &&
              ran(bench_graph_time(o->d->device, graph, &us));

    bench_graph_free(graph);
    double want = ok && us > 0 ? graph_us * (double)layers / us : 0;
    want = want > MOST_CALLS ? MOST_CALLS : want;
    if (us / (double)layers < 1000 && want < LEAST_CALLS)
        want = LEAST_CALLS;
    *calls = ((int64_t)want + layers - 1) / layers * layers;
    *calls = *calls < layers ? layers : *calls;
    return ok;
}

static bool replay(operands *o, void *graph, int64_t calls, bench_row *row)
{
    double *us = need(MOST_REPLAYS, sizeof *us), warm;
    const double begin = seconds_now();
    int64_t n = 0;
    bool ok = true;

    for (int i = 0; ok && i < 3; i++)
        ok = ran(bench_graph_time(o->d->device, graph, &warm));
    while (ok && n < MOST_REPLAYS && !interrupted() &&
           (n < LEAST_REPLAYS || seconds_now() - begin < o->d->b->set->seconds)) {
        ok = ran(bench_graph_time(o->d->device, graph, &us[n]));
        us[n++] /= (double)calls;
    }
    if (ok && n > 0) {
        bench_sort(us, n);
        row->repeats = n;
        row->calls = calls;
        row->us = bench_quantile(us, n, 0.5);
        row->us_min = us[0];
        row->spread = (bench_quantile(us, n, 0.9) - bench_quantile(us, n, 0.1)) / row->us;
    }
    free(us);
    return ok && n > 0 && bench_settle(o->d);
}

/* Bytes at the rate of a large copy or read, whichever is more, or multiply-adds at the rate that
 * the tensor cores have for the precision; nothing is added for launches. */
static void set_floor(const operands *o, bench_row *row)
{
    const bench_device *device = o->d->device;
    const double rate = device->read > device->copy ? device->read : device->copy;

    row->bytes = bench_weight_bytes(&o->in) + bench_activation_bytes(&o->in);
    row->macs = bench_call_macs(&o->in);
    if (o->in.router) {
        row->bytes += (double)bench_router_bytes(o->in.l);
        row->macs += (double)(o->in.tokens * o->in.l->n_experts * o->in.l->cols[0]);
    }
    const double memory = row->bytes / rate;
    const double compute = row->macs / (row->int8 ? device->int8 : device->matrix);
    row->dram = rate;
    row->router = o->in.router != NULL;
    row->by_memory = memory >= compute;
    row->floor_us = 1e6 * (row->by_memory ? memory : compute);
    row->share = row->floor_us / row->us;
}

static int measure_row(on_device *d, int64_t tokens, bench_row *row)
{
    operands o;
    int64_t calls = 0;
    void *graph = NULL;
    int code = CLI_FAILURE;

    *row = (bench_row){.layers = d->l, .tokens = tokens, .isa = gqmm_context_isa(d->ctx)};
    if (bench_put_operands(&o, d, tokens) && warm_up(&o) && choose_calls(&o, &calls) &&
        (graph = capture(&o, calls)) && replay(&o, graph, calls, row)) {
        row->int8 = was_int8(d->ctx);
        set_floor(&o, row);
        code = interrupted() ? CLI_INTERRUPTED : CLI_OK;
    }
    bench_graph_free(graph);
    bench_drop_operands(&o);
    return code;
}

static int measure_format(on_device *d, const gqmm_format *format, const int64_t *tokens, int n)
{
    bench_layers layers;
    bench_row row;
    int64_t least = tokens[0];
    int code = CLI_FAILURE;

    for (int i = 1; i < n; i++)
        least = tokens[i] < least ? tokens[i] : least;
    if (bench_layers_create(&layers, d->b, format, least)) {
        d->l = &layers;
        if (d->b->op == BENCH_QUANTIZE || bench_put_layers(d)) {
            code = CLI_OK;
            bench_print_layers(d->b, &layers);
            for (int i = 0; i < n && code == CLI_OK; i++) {
                code = measure_row(d, tokens[i], &row);
                if (code == CLI_OK)
                    bench_print_row(d->b, &row);
            }
        }
        bench_drop_layers(d);
        d->l = NULL;
    }
    bench_layers_destroy(&layers);
    return code;
}

static int open_device(on_device *d, bench_device *device, const bench *b)
{
    const char *colon = strchr(b->set->device, ':');
    gqmm_context_desc c;

    *device = (bench_device){.name = b->set->device};
    gqmm_device_text(b->set->device, device->text, sizeof device->text);
    if (!gqmm_device_at(1)) {
        say("--device %s: %s", b->set->device, device->text);
        return CLI_FAILURE;
    }
    if (!ran(bench_device_open(device, colon ? atoi(colon + 1) : 0)) ||
        !ran(bench_device_rates(device, b->set->seconds < 0.1)))
        return CLI_FAILURE;
    GQMM_INIT(c);
    c.device = b->set->device;
    c.isa = b->set->machine.isa;
    c.stream = device->stream;
    return bench_did(d, gqmm_context_create(&c, &d->ctx, &d->err)) ? CLI_OK : CLI_FAILURE;
}

int bench_cuda(bench *b, const gqmm_format *const *formats, int n_formats, const int64_t *tokens,
               int n_tokens)
{
    bench_device device;
    on_device d = {.b = b, .device = &device};
    int code = open_device(&d, &device, b);

    if (code == CLI_OK) {
        b->device = &device;
        bench_machine_read(&b->machine, false);
        b->machine.cache_bytes = device.l2_bytes;
        b->machine.cold_bytes =
            5 * device.l2_bytes / 2 > COLD_BYTES ? 5 * device.l2_bytes / 2 : COLD_BYTES;
        b->machine.memory_bytes = device.free_bytes;
        bench_print_head(b);
    }
    for (int i = 0; i < n_formats && code == CLI_OK; i++)
        code = measure_format(&d, formats[i], tokens, n_tokens);
    gqmm_context_destroy(d.ctx);
    bench_device_close(&device);
    b->device = NULL;
    return code;
}

#else

int bench_cuda(bench *b, const gqmm_format *const *formats, int n_formats, const int64_t *tokens,
               int n_tokens)
{
    char text[200];

    (void)formats;
    (void)n_formats;
    (void)tokens;
    (void)n_tokens;
    gqmm_device_text(b->set->device, text, sizeof text);
    say("--device %s: %s", b->set->device, text);
    return CLI_FAILURE;
}

#endif
