/* SPDX-License-Identifier: MIT */
/* What bench computes with: layers of quantised random weights, and routing. */
#include "bench.h"
#include "bench_random.h"
#include "bench_tile.h"
#include "cli.h"
#include "mix.h"
#include "output.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, MOST_LAYERS = 1 << 14 };

/* The format that stock files give the down projection when its rows are no multiple of the block:
 * q4_k becomes q5_0. NULL where there is none. */
static const gqmm_format *down_format(const gqmm_format *f, const bench_shape *s)
{
    const gqmm_tensor t = {.name = "blk.0.ffn_down_exps.weight",
                           .n_dims = 3,
                           .dims = {s->n_ff, s->n_hidden, s->n_experts}};
    const mix_facts facts = {.n_layers = 1};
    mix storage;
    int64_t value_index = 0;

    if (s->n_ff % f->block_elems == 0)
        return f;
    const mix *m = mix_find(f->name, &storage);
    return m ? gqmm_format_find(mix_format(m, &facts, &t, &value_index)) : NULL;
}

static void set_matrix(bench_layers *l, const gqmm_format *f, int64_t rows, int64_t cols)
{
    l->format[l->n_matrices] = f;
    l->rows[l->n_matrices] = rows;
    l->cols[l->n_matrices++] = cols;
}

static bool set_matrices(bench_layers *l, const bench *b, const gqmm_format *f)
{
    const bench_shape *s = &b->shape;

    l->n_experts = s->n_experts;
    if (!f->can_quantize) {
        say("%s has no quantiser, and bench measures with weights that are really quantised",
            f->name);
        return false;
    }
    if (s->n_hidden % f->block_elems != 0) {
        say("rows of %" PRId64 " weights are no multiple of the block of %s, %d", s->n_hidden,
            f->name, f->block_elems);
        return false;
    }
    if (b->op == BENCH_QMM) {
        l->n_experts = 1;
        set_matrix(l, f, s->n_ff, s->n_hidden);
    } else if (b->op == BENCH_EMBED) {
        l->n_experts = 1;
        set_matrix(l, f, s->n_experts * s->n_ff, s->n_hidden);
    } else {
        set_matrix(l, f, s->n_ff, s->n_hidden);
    }
    if (b->op != BENCH_MOE)
        return true;
    set_matrix(l, f, s->n_ff, s->n_hidden);
    const gqmm_format *down = down_format(f, s);
    if (!down) {
        say("rows of %" PRId64 " weights (down) are no multiple of the block of %s, %d", s->n_ff,
            f->name, f->block_elems);
        return false;
    }
    set_matrix(l, down, s->n_hidden, s->n_ff);
    return true;
}

static void count_bytes(bench_layers *l)
{
    l->expert_bytes = l->layer_bytes = 0;
    for (int m = 0; m < l->n_matrices; m++)
        for (int p = 0; p < l->format[m]->n_planes; p++) {
            const size_t expert =
                (size_t)(l->rows[m] * gqmm_format_row_bytes(l->format[m], p, l->cols[m]));

            l->expert_bytes += expert;
            l->plane_bytes[m][p] = expert * (size_t)l->n_experts;
            l->layer_bytes += (l->plane_bytes[m][p] + ALIGN - 1) / ALIGN * ALIGN;
        }
}

/* As many layers as it takes to read cold_bytes of other weights before the same expert can come
 * again, within half of the memory. Fewer experts where even one layer does not fit. */
static bool choose_layers(bench_layers *l, const bench *b, int64_t tokens)
{
    const double most = (double)b->machine.memory_bytes / 2, cold = (double)b->machine.cold_bytes;

    count_bytes(l);
    if ((double)l->layer_bytes > most && l->n_experts > 1) {
        const int64_t fit = (int64_t)(most / (double)l->expert_bytes) - 1;

        say("%" PRId64 " of %" PRId64 " experts fit in half of the memory; measuring with these",
            fit, l->n_experts);
        l->n_experts = fit;
        count_bytes(l);
    }
    if (l->n_experts < b->shape.n_used && l->n_experts < b->shape.n_experts && b->op != BENCH_QMM &&
        b->op != BENCH_EMBED) {
        say("%s needs more memory than this process may take", b->set->shape);
        return false;
    }
    double touched = (double)l->layer_bytes;
    if (b->op == BENCH_MOE || b->op == BENCH_GATHER) {
        const double missed = 1 - (double)b->shape.n_used / (double)l->n_experts;

        touched *= 1 - pow(missed, (double)tokens);
    }
    l->n_layers = (int64_t)ceil(cold / touched) + 1;
    if ((double)l->n_layers * (double)l->layer_bytes > most)
        l->n_layers = (int64_t)(most / (double)l->layer_bytes);
    l->n_layers = l->n_layers < 1 ? 1 : l->n_layers > MOST_LAYERS ? MOST_LAYERS : l->n_layers;
    return true;
}

/* Matrix m of every layer: quantises a tile, fills the planes and opens them as weights. */
static gqmm_status fill_matrix(bench_layers *l, const bench *b, int m, size_t offset,
                               gqmm_error *err)
{
    const float deviation = 1 / sqrtf((float)l->cols[m]);
    bench_tile tile;
    gqmm_status st =
        bench_tile_make(&tile, b->all, l->format[m], l->cols[m], deviation, 11 + (uint64_t)m, err);

    for (int64_t i = 0; i < l->n_made && st == GQMM_OK; i++) {
        uint8_t *at = l->memory + (size_t)i * l->layer_bytes + offset, *plane[3] = {0};
        gqmm_weights_desc d;

        GQMM_INIT(d);
        for (int p = 0; p < l->format[m]->n_planes; p++) {
            d.plane[p] = plane[p] = at;
            at += (l->plane_bytes[m][p] + ALIGN - 1) / ALIGN * ALIGN;
        }
        bench_tile_fill(&tile, b->all, l->cols[m], l->n_experts * l->rows[m],
                        (uint64_t)(i * 3 + m) << 40, plane);
        d.format = l->format[m]->name;
        d.n_experts = l->n_experts;
        d.n_rows = l->rows[m];
        d.n_cols = l->cols[m];
        st = gqmm_weights_create(b->all, &d, &l->w[i * l->n_matrices + m], err);
        progress("weights: %s, matrix %d of %d", l->format[m]->name, m + 1, l->n_matrices);
    }
    bench_tile_free(&tile);
    progress_clear();
    return st;
}

size_t bench_layers_plane(const bench_layers *l, int m, int p)
{
    size_t at = 0;

    for (int i = 0; i <= m; i++)
        for (int q = 0; q < (i < m ? l->format[i]->n_planes : p); q++)
            at += (l->plane_bytes[i][q] + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

bool bench_layers_create(bench_layers *l, bench *b, const gqmm_format *format, int64_t tokens)
{
    gqmm_error err = {0};
    gqmm_status st = GQMM_OK;

    *l = (bench_layers){0};
    if (!set_matrices(l, b, format) || !choose_layers(l, b, tokens))
        return false;
    if (b->op == BENCH_QUANTIZE) /* makes weights, needs none */
        return true;
    l->n_made = b->device ? 1 : l->n_layers;
    const size_t bytes = (size_t)l->n_made * l->layer_bytes;
    if (!(l->memory = bench_pages(bytes, b->set->pages == 1))) {
        say("%s for weights cannot be had", size_text((double)bytes).s);
        return false;
    }
    const size_t count = (size_t)(l->n_made * l->n_matrices);
    l->w = need(count, sizeof(gqmm_weights *));
    memset(l->w, 0, count * sizeof(gqmm_weights *));
    for (int m = 0; m < l->n_matrices && st == GQMM_OK; m++)
        st = fill_matrix(l, b, m, bench_layers_plane(l, m, 0), &err);
    if (st != GQMM_OK)
        say_error(NULL, &err);
    return st == GQMM_OK;
}

void bench_layers_destroy(bench_layers *l)
{
    for (int64_t i = 0; l->w && i < l->n_made * l->n_matrices; i++)
        gqmm_weights_destroy(l->w[i]);
    free(l->w);
    bench_pages_free(l->memory, (size_t)l->n_made * l->layer_bytes);
    *l = (bench_layers){0};
}

/* ------------------------------------------------------------------ routing */

/* Expert ranks by Zipf's law, the r-th as likely as 1 / (r + 1): sums of the law up to each. */
static double *zipf_sums(int64_t n)
{
    double *sums = need((size_t)n, sizeof *sums), sum = 0;

    for (int64_t i = 0; i < n; i++)
        sums[i] = sum += 1 / (double)(i + 1);
    return sums;
}

static int32_t zipf_draw(const double *sums, int64_t n, uint64_t *seed)
{
    const double at = random_unit(seed) * sums[n - 1];
    int64_t low = 0, high = n - 1;

    while (low < high) {
        const int64_t middle = (low + high) / 2;

        if (sums[middle] > at)
            high = middle;
        else
            low = middle + 1;
    }
    return (int32_t)low;
}

static bool occurs(const int32_t *ids, int64_t n, int32_t id)
{
    for (int64_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

void bench_route(int32_t *ids, float *weights, int64_t n, int64_t n_experts, int64_t n_used,
                 int32_t routing, uint64_t seed)
{
    double *sums = routing == ROUTING_SKEWED ? zipf_sums(n_experts) : NULL;

    for (int64_t t = 0; t < n; t++) {
        float sum = 0;

        for (int64_t s = 0; s < n_used; s++) {
            int32_t id;

            do
                id = sums ? zipf_draw(sums, n_experts, &seed)
                          : (int32_t)random_below(&seed, (uint32_t)n_experts);
            while (occurs(ids + t * n_used, s, id));
            ids[t * n_used + s] = id;
            weights[t * n_used + s] = 0.1f + (float)random_unit(&seed);
            sum += weights[t * n_used + s];
        }
        for (int64_t s = 0; s < n_used; s++)
            weights[t * n_used + s] /= sum;
    }
    free(sums);
    if (routing != ROUTING_SKEWED)
        return;
    /* Which experts are the hot ones differs from list to list, as it does between layers. */
    const int32_t shift = (int32_t)random_below(&seed, (uint32_t)n_experts);
    for (int64_t i = 0; i < n * n_used; i++)
        ids[i] = (int32_t)((ids[i] + shift) % (int32_t)n_experts);
}

int64_t bench_distinct(const int32_t *ids, int64_t n, int64_t n_experts)
{
    uint8_t *seen = need((size_t)n_experts, 1);
    int64_t count = 0;

    memset(seen, 0, (size_t)n_experts);
    for (int64_t i = 0; i < n; i++) {
        count += !seen[ids[i]];
        seen[ids[i]] = 1;
    }
    free(seen);
    return count;
}
