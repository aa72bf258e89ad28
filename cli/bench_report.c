/* SPDX-License-Identifier: MIT */
/* The rows of gqmm bench as a table, or as JSON, one object a line. */
#include "bench.h"
#include "bench_device.h"
#include "output.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const double giga = 1e9;

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

void bench_sort(double *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof *values, compare);
}

double bench_quantile(const double *sorted, int64_t n, double q)
{
    const double at = q * (double)(n - 1);
    const int64_t i = (int64_t)at;

    return i + 1 < n ? sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]) : sorted[i];
}

/* A device takes int8 for exact where it has no such kernel. */
static const char *precision_word(const bench *b, const bench_row *r)
{
    const bool int8 = b->device ? r->int8 : b->set->machine.precision == GQMM_INT8;

    return int8 ? "int8" : "exact";
}

static const char *routing_word(const bench *b)
{
    return b->set->routing == ROUTING_SKEWED ? "skewed" : "uniform";
}

static void print_rate_line(const char *what, const double v[2], double unit, const char *name,
                            const char *by)
{
    printf("%-28s %9.1f %9.1f %s%s%s\n", what, v[0] / unit, v[1] / unit, name, by ? "  by " : "",
           by ? by : "");
}

static const char *activations_word(const bench *b)
{
    static const char *const words[] = {"f32", "f16", "bf16"};

    return words[b->device ? b->set->activations : GQMM_F32];
}

static void print_shape(const bench *b)
{
    printf("\n%s, %s: E %" PRId64 ", N %" PRId64 ", K %" PRId64 ", top %" PRId64
           ", %s routing, %s activations\n",
           bench_op_name(b->op), b->set->shape, b->shape.n_experts, b->shape.n_ff,
           b->shape.n_hidden, b->shape.n_used, routing_word(b), activations_word(b));
}

static void print_device_head(const bench *b)
{
    const struct bench_device *d = b->device;

    printf("gqmm %s, %s: %s, L2 %s\n\n%smeasured ceilings%s\n", gqmm_version(), d->name, d->text,
           size_text((double)d->l2_bytes).s, bold(stdout), plain(stdout));
    printf("%-28s %9.1f GB/s\n%-28s %9.1f GB/s\n%-28s %9.1f TFLOP/s  by %s\n", "memory, copy",
           d->copy / giga, "memory, read", d->read / giga, "bf16 tensor cores",
           2 * d->matrix / 1e12, d->matrix_by);
    if (d->int8 > 0)
        printf("%-28s %9.1f TOP/s\n", "int8 tensor cores", 2 * d->int8 / 1e12);
    print_shape(b);
}

void bench_print_head(const bench *b)
{
    if (b->device) {
        if (!b->set->json)
            print_device_head(b);
        return;
    }
    const bench_ceilings *c = &b->ceilings;
    const int threads = gqmm_context_threads(b->all);
    char many[32], pieces[64];

    if (b->set->json)
        return;
    snprintf(many, sizeof many, "%d thread%s", threads, threads == 1 ? "" : "s");
    snprintf(pieces, sizeof pieces, "DRAM, pieces of %s", size_text((double)b->reader.piece).s);
    printf("gqmm %s, %s, last cache %s, %s, %s pages\n\n", gqmm_version(), b->machine.cpu,
           size_text((double)b->machine.cache_bytes).s, many, b->set->pages ? "huge" : "small");
    printf("%s%-28s %9s %9s%s\n", bold(stdout), "measured ceilings", "1 thread", many,
           plain(stdout));
    print_rate_line("DRAM, stream", c->stream, giga, "GB/s", NULL);
    print_rate_line(pieces, c->pieces, giga, "GB/s", NULL);
    print_rate_line("int8 multiply-adds", c->int8, giga, "G/s", c->int8_by);
    print_rate_line("fp32 multiply-adds", c->fp32, giga, "G/s", c->fp32_by);
    print_shape(b);
}

/* "q4_k", or "q4_k/q5_0" where down has another format. */
static const char *format_text(const bench_layers *l, char *text, size_t size)
{
    const gqmm_format *last = l->format[l->n_matrices - 1];

    if (last == l->format[0])
        return l->format[0]->name;
    snprintf(text, size, "%s/%s", l->format[0]->name, last->name);
    return text;
}

void bench_print_layers(const bench *b, const bench_layers *l)
{
    char text[48];

    if (b->set->json)
        return;
    printf("\n%s: ", format_text(l, text, sizeof text));
    if (l->memory)
        printf("%" PRId64 " layer%s of %s in turn\n", l->n_layers, l->n_layers == 1 ? "" : "s",
               size_text((double)l->layer_bytes).s);
    else
        printf("quantised from fp32\n");
    printf("%s%6s %11s %11s %7s %11s %7s %5s %8s  %s%s\n", bold(stdout), "tokens", "us", "us min",
           "spread", "floor us", "bound", "share", "DRAM", "isa", plain(stdout));
}

static void print_text(const bench_row *r)
{
    printf("%6" PRId64 " %11.1f %11.1f %6.1f%% %11.1f %7s %5.2f %8.1f  %s%s", r->tokens, r->us,
           r->us_min, 100 * r->spread, r->floor_us, r->by_memory ? "DRAM" : "compute", r->share,
           r->dram / giga, r->isa, r->int8 ? " int8" : "");
    if (r->repeats < 10)
        printf("  (%" PRId64 " repeats)", r->repeats);
    putchar('\n');
    fflush(stdout);
}

static json_t *pair(const double v[2], double unit)
{
    return json_pack("[f,f]", v[0] / unit, v[1] / unit);
}

static json_t *ceilings_json(const bench *b)
{
    const bench_ceilings *c = &b->ceilings;
    json_t *o = json_object();

    json_object_set_new(o, "threads", json_pack("[i,i]", 1, gqmm_context_threads(b->all)));
    json_object_set_new(o, "dram_stream_gbs", pair(c->stream, giga));
    json_object_set_new(o, "dram_pieces_gbs", pair(c->pieces, giga));
    json_object_set_new(o, "int8_gmacs", pair(c->int8, giga));
    json_object_set_new(o, "int8_by", json_string(c->int8_by));
    json_object_set_new(o, "fp32_gmacs", pair(c->fp32, giga));
    json_object_set_new(o, "fp32_by", json_string(c->fp32_by));
    return o;
}

static json_t *device_ceilings_json(const struct bench_device *d)
{
    json_t *o = json_object();

    json_object_set_new(o, "copy_gbs", json_real(d->copy / giga));
    json_object_set_new(o, "read_gbs", json_real(d->read / giga));
    json_object_set_new(o, "matrix_tflops", json_real(2 * d->matrix / 1e12));
    json_object_set_new(o, "matrix_by", json_string(d->matrix_by));
    if (d->int8 > 0)
        json_object_set_new(o, "int8_tops", json_real(2 * d->int8 / 1e12));
    return o;
}

static json_t *machine_json(const bench *b)
{
    json_t *o = json_object();

    if (b->device)
        json_object_set_new(o, "device", json_text(b->device->text, strlen(b->device->text)));

    json_object_set_new(o, "cpu", json_text(b->machine.cpu, strlen(b->machine.cpu)));
    json_object_set_new(o, "cache_bytes", json_integer(b->machine.cache_bytes));
    json_object_set_new(o, "cold_bytes", json_integer(b->machine.cold_bytes));
    json_object_set_new(o, "pages", json_string(b->set->pages ? "huge" : "small"));
    json_object_set_new(o, "version", json_string(gqmm_version()));
    json_object_set_new(o, "commit", json_string(GQMM_COMMIT));
    return o;
}

static void print_json(const bench *b, const bench_row *r)
{
    const bench_layers *l = r->layers;
    json_t *o = json_object();

    json_object_set_new(o, "op", json_string(bench_op_name(b->op)));
    json_object_set_new(o, "shape", json_string(b->set->shape));
    json_object_set_new(o, "format", json_string(l->format[0]->name));
    json_object_set_new(o, "format_down", json_string(l->format[l->n_matrices - 1]->name));
    json_object_set_new(o, "device", json_string(b->device ? b->device->name : "cpu"));
    json_object_set_new(o, "activations", json_string(activations_word(b)));
    json_object_set_new(o, "isa", json_string(r->isa));
    json_object_set_new(o, "precision", json_string(precision_word(b, r)));
    json_object_set_new(o, "routing", json_string(routing_word(b)));
    json_object_set_new(o, "tokens", json_integer(r->tokens));
    json_object_set_new(o, "threads", json_integer(gqmm_context_threads(b->all)));
    json_object_set_new(o, "us", json_real(r->us));
    json_object_set_new(o, "us_min", json_real(r->us_min));
    json_object_set_new(o, "spread", json_real(r->spread));
    json_object_set_new(o, "floor_us", json_real(r->floor_us));
    json_object_set_new(o, "share", json_real(r->share));
    json_object_set_new(o, "bound", json_string(r->by_memory ? "dram" : "compute"));
    json_object_set_new(o, "dram_gbs", json_real(r->dram / giga));
    json_object_set_new(o, "bytes", json_real(r->bytes));
    json_object_set_new(o, "macs", json_real(r->macs));
    json_object_set_new(o, "repeats", json_integer(r->repeats));
    if (b->device) {
        json_object_set_new(o, "calls", json_integer(r->calls));
        json_object_set_new(o, "router", json_boolean(r->router));
    }
    json_object_set_new(o, "experts", json_integer(l->n_experts));
    json_object_set_new(o, "layers", json_integer(l->n_layers));
    json_object_set_new(o, "layer_bytes", json_integer((json_int_t)l->layer_bytes));
    json_object_set_new(o, "ceilings",
                        b->device ? device_ceilings_json(b->device) : ceilings_json(b));
    json_object_set_new(o, "machine", machine_json(b));
    json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(7));
    json_decref(o);
    putchar('\n');
    fflush(stdout);
}

void bench_print_row(const bench *b, const bench_row *row)
{
    if (b->set->json)
        print_json(b, row);
    else
        print_text(row);
}
