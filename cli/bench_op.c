/* SPDX-License-Identifier: MIT */
/* One row of gqmm bench: the inputs of an operation, its calls in turn, and its floor. */
#include "bench_call.h"
#include "bench_random.h"
#include "cli.h"
#include "interrupt.h"
#include "output.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A row ends before LEAST_REPEATS when those would take PATIENCE times --seconds. */
enum { LEAST_REPEATS = 10, FEW_REPEATS = 3, PATIENCE = 20 };
static const double probe_every = 0.05; /* seconds between measurements of the DRAM rate */

/* Rows of x: those of a call; for quantize, where they are what is read, cold_bytes of them. */
static bool make_x(bench_inputs *in)
{
    const int64_t k = in->l->cols[0];
    const int64_t all = in->b->machine.cold_bytes / (k * (int64_t)sizeof(float));
    const int64_t sample = in->tokens < 64 ? in->tokens : 64;

    in->x_rows = in->tokens;
    if (in->b->op == BENCH_QUANTIZE)
        in->x_rows = all > 2 * in->tokens ? all : 2 * in->tokens;
    const size_t bytes = (size_t)(in->x_rows * k) * sizeof(float);
    float *x = bench_pages(bytes, in->b->set->pages == 1);
    if (!x) {
        say("%s for activations cannot be had", size_text((double)bytes).s);
        return false;
    }
    random_normal(x, sample * k, 1, 5);
    for (int64_t r = sample; r < in->x_rows; r++)
        memcpy(x + r * k, x + r % sample * k, (size_t)k * sizeof(float));
    in->x = (uint8_t *)x;
    return true;
}

static bool make_inputs(bench_inputs *in, bench *b, const bench_layers *l, int64_t tokens)
{
    *in = (bench_inputs){.b = b, .l = l, .tokens = tokens, .ctx = b->all, .w = l->w};
    if (b->op == BENCH_DEQUANTIZE && tokens > l->n_experts * l->rows[0]) {
        say("%lld rows are more than the weights have", (long long)tokens);
        return false;
    }
    bench_make_ids(in, &in->ids, &in->weights, &in->lhs);
    in->y = need((size_t)bench_y_count(in), sizeof(float));
    if (b->op == BENCH_QUANTIZE)
        for (int p = 0; p < l->format[0]->n_planes; p++)
            in->planes[p] =
                need((size_t)tokens, (size_t)gqmm_format_row_bytes(l->format[0], p, l->cols[0]));
    return make_x(in);
}

static void free_inputs(bench_inputs *in)
{
    bench_pages_free(in->x, (size_t)(in->x_rows * (in->l ? in->l->cols[0] : 0)) * sizeof(float));
    free(in->y);
    free(in->ids);
    free(in->lhs);
    free(in->weights);
    for (int p = 0; p < 3; p++)
        free(in->planes[p]);
}

/* ------------------------------------------------------------------ the floor */

/* Multiply-adds per second that the precision allows. EXACT counts as two passes of int8, which
 * carry sixteen bits of an activation, or as floats, whichever is faster here. */
static double mac_rate(const bench_inputs *in)
{
    const bench_ceilings *c = &in->b->ceilings;
    const char *f = in->l->format[0]->name;

    if (strcmp(f, "f32") == 0 || strcmp(f, "f16") == 0 || strcmp(f, "bf16") == 0 ||
        strcmp(f, "mlx_mxfp8") == 0)
        return c->fp32[1];
    if (in->b->set->machine.precision == GQMM_INT8)
        return c->int8[1];
    return c->int8[1] / 2 > c->fp32[1] ? c->int8[1] / 2 : c->fp32[1];
}

static void set_floor(const bench_inputs *in, bench_row *row)
{
    const double stream = in->b->ceilings.stream[1];
    const double activations = bench_activation_bytes(in), weights = bench_weight_bytes(in);
    const double compute = bench_call_macs(in) / mac_rate(in);

    row->bytes = weights + activations;
    row->macs = bench_call_macs(in);
    /* Weights lie in pieces; activations are one stream. */
    const double memory =
        weights / row->dram + activations / (row->dram > stream ? row->dram : stream);
    row->by_memory = memory >= compute;
    row->floor_us = 1e6 * (row->by_memory ? memory : compute);
    row->share = row->floor_us / row->us;
}

/* ------------------------------------------------------------------ the measurement */

/* Numbers as they come. */
typedef struct samples {
    double *v;
    int64_t n, room;
} samples;

static void add_sample(samples *s, double value)
{
    if (s->n == s->room) {
        s->room = s->room ? 2 * s->room : 64;
        s->v = need_more(s->v, (size_t)s->room, sizeof *s->v);
    }
    s->v[s->n++] = value;
}

static bool finite_output(const bench_inputs *in)
{
    const float *y = (const float *)(const void *)in->y;
    int64_t i = 0;

    while (i < bench_y_count(in) && isfinite(y[i]))
        i++;
    if (i < bench_y_count(in))
        say("output %lld is no finite number", (long long)i);
    return i == bench_y_count(in);
}

static bool enough(const bench_inputs *in, int64_t n, double elapsed)
{
    const double seconds = in->b->set->seconds;

    return interrupted() || (n >= LEAST_REPEATS && elapsed >= seconds) ||
           (n >= FEW_REPEATS && elapsed >= PATIENCE * seconds);
}

static gqmm_status repeat(const bench_inputs *in, samples *times, samples *rates, gqmm_error *err)
{
    const double begin = seconds_now();
    double now = begin, probed = 0;
    gqmm_status st = GQMM_OK;

    for (int64_t i = 2; st == GQMM_OK && !enough(in, times->n, now - begin); i++) {
        if (now - probed > probe_every) {
            add_sample(rates, bench_probe(&in->b->reader, in->b->all));
            probed = seconds_now();
        }
        const double start = seconds_now();
        st = bench_call(in, i, err);
        now = seconds_now();
        add_sample(times, now - start);
    }
    return st;
}

static void summarise(samples *times, samples *rates, bench_row *row)
{
    bench_sort(times->v, times->n);
    bench_sort(rates->v, rates->n);
    row->repeats = times->n;
    row->us = 1e6 * bench_quantile(times->v, times->n, 0.5);
    row->us_min = 1e6 * times->v[0];
    row->spread =
        1e6 * (bench_quantile(times->v, times->n, 0.9) - bench_quantile(times->v, times->n, 0.1)) /
        row->us;
    row->dram = bench_quantile(rates->v, rates->n, 0.5);
}

int bench_measure_row(bench *b, const bench_layers *l, int64_t tokens, bench_row *row)
{
    bench_inputs in = {0};
    samples times = {0}, rates = {0};
    gqmm_error err = {0};
    gqmm_status st = GQMM_OK;
    int code = CLI_FAILURE;

    *row = (bench_row){.layers = l, .tokens = tokens};
    row->isa = gqmm_kernel_isa(l->format[0]->name, gqmm_context_isa(b->all));
    if (make_inputs(&in, b, l, tokens)) {
        /* Pieces as large as what is read at once: an expert's matrix, or a row. */
        bench_reader_cut(&b->reader, b->op == BENCH_EMBED
                                         ? l->expert_bytes / (size_t)l->rows[0]
                                         : l->expert_bytes / (size_t)l->n_matrices);
        for (int64_t i = 0; i < 2 && st == GQMM_OK; i++)
            st = bench_call(&in, i, &err);
        if (st == GQMM_OK && finite_output(&in))
            st = repeat(&in, &times, &rates, &err);
        if (st != GQMM_OK) {
            say_error(NULL, &err);
        } else if (times.n) {
            summarise(&times, &rates, row);
            set_floor(&in, row);
            code = interrupted() ? CLI_INTERRUPTED : CLI_OK;
        }
    }
    free(times.v);
    free(rates.v);
    free_inputs(&in);
    return code;
}
