/* SPDX-License-Identifier: MIT */
/* One row of gqmm bench: the inputs of an operation, its calls in turn, and its floor. */
#include "bench.h"
#include "bench_random.h"
#include "cli.h"
#include "interrupt.h"
#include "output.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* LISTS id lists take turns; being prime, they meet every layer. Of long lists fewer will do. A row
 * ends before LEAST_REPEATS when those would take PATIENCE times --seconds. */
enum { LISTS = 61, FEW_LISTS = 7, LONG_LIST = 1 << 16 };
enum { LEAST_REPEATS = 10, FEW_REPEATS = 3, PATIENCE = 20 };
static const double probe_every = 0.05; /* seconds between measurements of the DRAM rate */

/* What the calls of one row work on. */
typedef struct inputs {
    bench *b;
    const bench_layers *l;
    int64_t tokens, n_lists, list; /* list: ids of one list */
    float *x, *y;
    size_t x_bytes;
    int64_t x_rows; /* quantize: rows of x, of which a call takes `tokens` */
    int32_t *ids, *lhs;
    float *weights;
    uint8_t *planes[3]; /* quantize: the output */
} inputs;

static bool is_routed(bench_op op)
{
    return op == BENCH_MOE || op == BENCH_GATHER;
}

static void make_ids(inputs *in)
{
    const bench_shape *s = &in->b->shape;
    const int64_t total_rows = in->l->rows[0] * in->l->n_experts;
    uint64_t seed = 99;

    in->list = in->tokens * (is_routed(in->b->op) ? s->n_used : 1);
    in->n_lists = in->list > LONG_LIST ? FEW_LISTS : LISTS;
    in->ids = need((size_t)(in->n_lists * in->list), sizeof *in->ids);
    in->weights = need((size_t)(in->n_lists * in->list), sizeof *in->weights);
    in->lhs = need((size_t)in->list, sizeof *in->lhs);
    for (int64_t i = 0; i < in->list; i++)
        in->lhs[i] = (int32_t)(i / (in->list / in->tokens));
    for (int64_t i = 0; i < in->n_lists && is_routed(in->b->op); i++)
        bench_route(in->ids + i * in->list, in->weights + i * in->list, in->tokens,
                    in->l->n_experts, s->n_used, in->b->set->routing, 1000 + (uint64_t)i);
    for (int64_t i = 0; i < in->n_lists * in->list && in->b->op == BENCH_EMBED; i++)
        in->ids[i] = (int32_t)random_below(&seed, (uint32_t)total_rows);
}

/* Rows of x: those of a call; for quantize, where they are what is read, cold_bytes of them. */
static bool make_x(inputs *in)
{
    const int64_t k = in->l->cols[0];
    const int64_t all = in->b->machine.cold_bytes / (k * (int64_t)sizeof(float));
    const int64_t sample = in->tokens < 64 ? in->tokens : 64;

    in->x_rows = in->tokens;
    if (in->b->op == BENCH_QUANTIZE)
        in->x_rows = all > 2 * in->tokens ? all : 2 * in->tokens;
    in->x_bytes = (size_t)(in->x_rows * k) * sizeof(float);
    if (!(in->x = bench_pages(in->x_bytes, in->b->set->pages == 1))) {
        say("%s for activations cannot be had", size_text((double)in->x_bytes).s);
        return false;
    }
    random_normal(in->x, sample * k, 1, 5);
    for (int64_t r = sample; r < in->x_rows; r++)
        memcpy(in->x + r * k, in->x + r % sample * k, (size_t)k * sizeof(float));
    return true;
}

static int64_t y_count(const inputs *in)
{
    switch (in->b->op) {
    case BENCH_QMM:
    case BENCH_GATHER:
        return in->list * in->b->shape.n_ff;
    case BENCH_QUANTIZE:
        return 0;
    default:
        return in->tokens * in->b->shape.n_hidden;
    }
}

static bool make_inputs(inputs *in, bench *b, const bench_layers *l, int64_t tokens)
{
    *in = (inputs){.b = b, .l = l, .tokens = tokens};
    if (b->op == BENCH_DEQUANTIZE && tokens > l->n_experts * l->rows[0]) {
        say("%lld rows are more than the weights have", (long long)tokens);
        return false;
    }
    make_ids(in);
    in->y = need((size_t)y_count(in), sizeof *in->y);
    if (b->op == BENCH_QUANTIZE)
        for (int p = 0; p < l->format[0]->n_planes; p++)
            in->planes[p] =
                need((size_t)tokens, (size_t)gqmm_format_row_bytes(l->format[0], p, l->cols[0]));
    return make_x(in);
}

static void free_inputs(inputs *in)
{
    bench_pages_free(in->x, in->x_bytes);
    free(in->y);
    free(in->ids);
    free(in->lhs);
    free(in->weights);
    for (int p = 0; p < 3; p++)
        free(in->planes[p]);
}

/* ------------------------------------------------------------------ the calls */

static gqmm_status call_products(const inputs *in, gqmm_weights *const *w, int32_t *ids,
                                 float *weights, gqmm_error *err)
{
    const int32_t precision = in->b->set->machine.precision;

    if (in->b->op == BENCH_MOE) {
        gqmm_moe_desc d;

        GQMM_INIT(d);
        d.precision = precision;
        d.gate = w[0];
        d.up = w[1];
        d.down = w[2];
        d.n_tokens = in->tokens;
        d.n_slots = (int32_t)in->b->shape.n_used;
        d.y = in->y;
        d.x = in->x;
        d.ids = ids;
        d.weights = weights;
        return gqmm_moe(in->b->all, &d, err);
    }
    if (in->b->op == BENCH_GATHER) {
        gqmm_gather d;

        GQMM_INIT(d);
        d.precision = precision;
        d.w = w[0];
        d.transpose = 1;
        d.n_pairs = in->list;
        d.n_x = in->tokens;
        d.y = in->y;
        d.x = in->x;
        d.lhs = in->lhs;
        d.rhs = ids;
        return gqmm_gather_qmm(in->b->all, &d, err);
    }
    gqmm_dense d;

    GQMM_INIT(d);
    d.precision = precision;
    d.w = w[0];
    d.transpose = 1;
    d.m = in->tokens;
    d.y = in->y;
    d.x = in->x;
    return gqmm_qmm(in->b->all, &d, err);
}

static gqmm_status call_embed(const inputs *in, const gqmm_weights *w, const int32_t *ids,
                              gqmm_error *err)
{
    gqmm_embed_desc d;

    GQMM_INIT(d);
    d.w = w;
    d.n_ids = in->tokens;
    d.ids = ids;
    d.y = in->y;
    return gqmm_embed(in->b->all, &d, err);
}

/* Call i takes the next rows, around and around. */
static gqmm_status call_dequantize(const inputs *in, const gqmm_weights *w, int64_t i,
                                   gqmm_error *err)
{
    const int64_t steps = in->l->n_experts * in->l->rows[0] / in->tokens;
    gqmm_dequantize_desc d;

    GQMM_INIT(d);
    d.w = w;
    d.first_row = i / in->l->n_layers % steps * in->tokens;
    d.n_rows = in->tokens;
    d.y = in->y;
    return gqmm_dequantize(in->b->all, &d, err);
}

static gqmm_status call_quantize(const inputs *in, int64_t i, gqmm_error *err)
{
    gqmm_quantize_desc d;

    GQMM_INIT(d);
    d.format = in->l->format[0]->name;
    d.x = in->x + i % (in->x_rows / in->tokens) * in->tokens * in->l->cols[0];
    d.n_rows = in->tokens;
    d.n_cols = in->l->cols[0];
    for (int p = 0; p < 3; p++)
        d.plane[p] = in->planes[p];
    return gqmm_quantize(in->b->all, &d, err);
}

static gqmm_status call(const inputs *in, int64_t i, gqmm_error *err)
{
    const int64_t list = i % in->n_lists * in->list;
    const int64_t layer = i % in->l->n_layers * in->l->n_matrices;
    gqmm_weights *const *w = in->l->w ? in->l->w + layer : NULL;

    switch (in->b->op) {
    case BENCH_EMBED:
        return call_embed(in, w[0], in->ids + list, err);
    case BENCH_DEQUANTIZE:
        return call_dequantize(in, w[0], i, err);
    case BENCH_QUANTIZE:
        return call_quantize(in, i, err);
    default:
        return call_products(in, w, in->ids + list, in->weights + list, err);
    }
}

/* ------------------------------------------------------------------ the floor */

/* Bytes of weights that call i cannot do without. */
static double weight_bytes(const inputs *in, int64_t i)
{
    const double expert = (double)in->l->expert_bytes;

    switch (in->b->op) {
    case BENCH_QMM:
        return expert;
    case BENCH_EMBED:
    case BENCH_DEQUANTIZE:
    case BENCH_QUANTIZE:
        return (double)in->tokens * expert / (double)in->l->rows[0];
    default:
        return expert * (double)bench_distinct(in->ids + i % in->n_lists * in->list, in->list,
                                               in->l->n_experts);
    }
}

/* Bytes of x and y. */
static double activation_bytes(const inputs *in)
{
    const bool has_x = in->b->op != BENCH_EMBED && in->b->op != BENCH_DEQUANTIZE;
    const int64_t x = has_x ? in->tokens * in->l->cols[0] : 0;

    return (double)(x + y_count(in)) * sizeof(float);
}

static double call_macs(const inputs *in)
{
    double macs = 0;

    if (!is_routed(in->b->op) && in->b->op != BENCH_QMM)
        return 0;
    for (int m = 0; m < in->l->n_matrices; m++)
        macs += (double)in->list * (double)in->l->rows[m] * (double)in->l->cols[m];
    return macs;
}

/* Multiply-adds per second that the precision allows. EXACT counts as two passes of int8, which
 * carry sixteen bits of an activation, or as floats, whichever is faster here. */
static double mac_rate(const inputs *in)
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

static void set_floor(const inputs *in, bench_row *row)
{
    const double stream = in->b->ceilings.stream[1];
    const double activations = activation_bytes(in), compute = call_macs(in) / mac_rate(in);
    double weights = 0;

    for (int64_t i = 0; i < in->n_lists; i++)
        weights += weight_bytes(in, i) / (double)in->n_lists;
    row->bytes = weights + activations;
    row->macs = call_macs(in);
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

static bool finite_output(const inputs *in)
{
    int64_t i = 0;

    while (i < y_count(in) && isfinite(in->y[i]))
        i++;
    if (i < y_count(in))
        say("output %lld is no finite number", (long long)i);
    return i == y_count(in);
}

static bool enough(const inputs *in, int64_t n, double elapsed)
{
    const double seconds = in->b->set->seconds;

    return interrupted() || (n >= LEAST_REPEATS && elapsed >= seconds) ||
           (n >= FEW_REPEATS && elapsed >= PATIENCE * seconds);
}

static gqmm_status repeat(const inputs *in, samples *times, samples *rates, gqmm_error *err)
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
        st = call(in, i, err);
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
    inputs in = {0};
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
            st = call(&in, i, &err);
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
