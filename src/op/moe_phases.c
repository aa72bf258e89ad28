/* SPDX-License-Identifier: MIT */
/* The phases of gqmm_moe, each a set of independent tasks. */
#include "op/moe.h"
#include "op/silu.h"

#include <math.h>

/* Rows [*i, *end) of an element-wise task. */
static void task_rows(int64_t task, int64_t rows, int64_t *i, int64_t *end)
{
    *i = task * GQMM_ROWS_PER_TASK;
    *end = rows - *i < GQMM_ROWS_PER_TASK ? rows : *i + GQMM_ROWS_PER_TASK;
}

void gqmm_moe_convert(void *arg, int64_t task)
{
    const gqmm_moe_state *s = arg;
    const size_t size = gqmm_type_size(s->d.x_type);
    int64_t t, end;
    for (task_rows(task, s->n_tokens, &t, &end); t < end; t++) {
        const uint8_t *x = (const uint8_t *)s->d.x + t * s->d.x_row_stride * (int64_t)size;
        if (s->x)
            gqmm_widen(s->x + t * s->width, x, s->d.x_type, s->width);
        if (s->act)
            gqmm_act_quantize(s->act + t * gqmm_act_blocks(s->width), s->x_rows[t], s->width);
    }
}

/* A task of two products whose tasks are numbered one after the other. */
typedef struct {
    const gqmm_products *p;
    gqmm_piece piece;
} turn;

static turn turn_of(const gqmm_products *first, const gqmm_products *second, int64_t task)
{
    const int64_t n_first = gqmm_products_tasks(first);
    if (task < n_first)
        return (turn){first, gqmm_products_piece(first, task)};
    return (turn){second, gqmm_products_piece(second, task - n_first)};
}

void gqmm_moe_logits(void *arg, int64_t task)
{
    const gqmm_moe_state *s = arg;
    const turn t = turn_of(&s->router_p, &s->shared_scale_p, task);
    gqmm_products_run(t.p, &t.piece, NULL, NULL);
}

void gqmm_moe_choose(void *arg, int64_t task)
{
    const gqmm_moe_state *s = arg;
    int64_t t, end;
    for (task_rows(task, s->n_tokens, &t, &end); t < end; t++)
        gqmm_route_token(s->ids + t * s->n_slots, s->weights + t * s->n_slots,
                         s->logits + t * s->n_experts, &s->rule);
}

/* Points the products of sorted row i at the activations of token t and at output row `out`. */
static void link_row(const gqmm_moe_state *s, gqmm_ffn *f, int64_t i, int64_t t, int64_t out)
{
    f->x_rows[i] = s->x_rows[t];
    f->gate_rows[i] = f->gate + i * f->width;
    f->up_rows[i] = f->up + i * f->width;
    f->h_rows[i] = f->gate + i * f->width;
    f->out_rows[i] = f->out + out * s->width;
    if (s->act) {
        f->x_acts[i] = s->act + t * gqmm_act_blocks(s->width);
        f->h_acts[i] = f->act + i * gqmm_act_blocks(f->width);
    }
}

static void set_segments(gqmm_ffn *f, int64_t n)
{
    f->gate_p.n_segments = n;
    f->up_p.n_segments = n;
    f->down_p.n_segments = n;
}

/* Pairs in expert order, a counting sort that keeps the order of tokens. */
static void sort_routed(gqmm_moe_state *s)
{
    gqmm_ffn *f = &s->routed;
    int64_t *at = s->bounds;
    memset(at, 0, (size_t)(s->n_experts + 1) * sizeof *at);
    for (int64_t p = 0; p < s->n_pairs; p++)
        if (s->ids[p] >= 0)
            at[s->ids[p] + 1]++;
    const int64_t n = gqmm_segments_sort(f->segments, at, s->n_experts);
    f->rows = at[s->n_experts];
    for (int64_t p = 0; p < s->n_pairs; p++)
        if (s->ids[p] >= 0)
            link_row(s, f, at[s->ids[p]]++, p / s->n_slots, p);
    set_segments(f, n);
}

void gqmm_moe_sort(void *arg, int64_t task)
{
    gqmm_moe_state *s = arg;
    (void)task;
    sort_routed(s);
    if (s->shared.gate_w) {
        for (int64_t t = 0; t < s->n_tokens; t++)
            link_row(s, &s->shared, t, t, t);
        set_segments(&s->shared, gqmm_segments_cut(s->shared.segments, s->n_tokens));
    }
    gqmm_phase *phase = s->job->phase;
    const int64_t rows = s->routed.rows + s->shared.rows;
    phase[MOE_GATE_UP].n_tasks =
        gqmm_products_tasks(&s->routed.gate_p) + gqmm_products_tasks(&s->shared.gate_p);
    phase[MOE_REQUANTIZE].n_tasks = s->act ? gqmm_ceil_div(rows, GQMM_ROWS_PER_TASK) : 0;
    phase[MOE_DOWN].n_tasks =
        gqmm_products_tasks(&s->routed.down_p) + gqmm_products_tasks(&s->shared.down_p);
}

void gqmm_moe_gate_up(void *arg, int64_t task, int64_t upcoming)
{
    const gqmm_moe_state *s = arg;
    const gqmm_products *routed = &s->routed.gate_p, *shared = &s->shared.gate_p;
    const turn t = turn_of(routed, shared, task);
    const turn next = turn_of(routed, shared, upcoming < 0 ? task : upcoming);
    const gqmm_ffn *f = t.p == routed ? &s->routed : &s->shared;

    gqmm_products_run(&f->gate_p, &t.piece, &f->up_p, &t.piece);
    gqmm_products_run(&f->up_p, &t.piece, next.p, upcoming < 0 ? NULL : &next.piece);
    for (int64_t i = 0; i < t.piece.segment.count; i++) {
        float *h = f->gate_rows[t.piece.segment.first + i];
        const float *up = f->up_rows[t.piece.segment.first + i];
        for (int64_t n = t.piece.n0; n < t.piece.n1; n++)
            h[n] = gqmm_silu(h[n]) * up[n];
    }
}

void gqmm_moe_requantize(void *arg, int64_t task)
{
    const gqmm_moe_state *s = arg;
    int64_t i, end;
    for (task_rows(task, s->routed.rows + s->shared.rows, &i, &end); i < end; i++) {
        const gqmm_ffn *f = i < s->routed.rows ? &s->routed : &s->shared;
        const int64_t row = i < s->routed.rows ? i : i - s->routed.rows;
        gqmm_act_quantize(f->act + row * gqmm_act_blocks(f->width), f->h_rows[row], f->width);
    }
}

void gqmm_moe_down(void *arg, int64_t task, int64_t upcoming)
{
    const gqmm_moe_state *s = arg;
    const gqmm_products *routed = &s->routed.down_p, *shared = &s->shared.down_p;
    const turn t = turn_of(routed, shared, task);
    const turn next = turn_of(routed, shared, upcoming < 0 ? task : upcoming);
    gqmm_products_run(t.p, &t.piece, next.p, upcoming < 0 ? NULL : &next.piece);
}

/* y[t] from column c on: slots in order, the shared expert last. */
static void combine_columns(const gqmm_moe_state *s, int64_t t, int64_t c, int64_t n)
{
    float sum[GQMM_CHUNK_COLS] = {0};
    for (int64_t slot = 0; slot < s->n_slots; slot++) {
        const int64_t p = t * s->n_slots + slot;
        const float *out = s->routed.out + p * s->width + c;
        for (int64_t i = 0; s->ids[p] >= 0 && i < n; i++)
            sum[i] += s->weights[p] * out[i];
    }
    if (s->shared.gate_w) {
        const float *out = s->shared.out + t * s->width + c;
        const float factor = s->d.shared_scale ? 1.0f / (1.0f + expf(-s->shared_logit[t])) : 1.0f;
        for (int64_t i = 0; i < n; i++)
            sum[i] += factor * out[i];
    }
    const int64_t size = (int64_t)gqmm_type_size(s->d.y_type);
    gqmm_narrow((uint8_t *)s->d.y + (t * s->d.y_row_stride + c) * size, s->d.y_type, sum, n);
}

void gqmm_moe_combine(void *arg, int64_t task)
{
    const gqmm_moe_state *s = arg;
    int64_t t, end;
    for (task_rows(task, s->n_tokens, &t, &end); t < end; t++)
        for (int64_t c = 0; c < s->width; c += GQMM_CHUNK_COLS)
            combine_columns(s, t, c,
                            s->width - c < GQMM_CHUNK_COLS ? s->width - c : GQMM_CHUNK_COLS);
}
