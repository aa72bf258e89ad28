/* SPDX-License-Identifier: MIT */
/* The phases of gqmm_moe, each a set of independent tasks. */
#include "op/moe.h"

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
            s->fns->quantize(s->act + t * gqmm_act_blocks(s->width), s->x_rows[t], s->width);
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
    gqmm_products_run(t.p, &t.piece, NULL, NULL, NULL);
}

void gqmm_moe_choose(void *arg, int64_t task)
{
    const gqmm_moe_state *s = arg;
    int64_t t, end;
    for (task_rows(task, s->n_tokens, &t, &end); t < end; t++)
        gqmm_route_token(s->ids + t * s->n_slots, s->weights + t * s->n_slots,
                         s->logits + t * s->n_experts, &s->rule);
}

/* Sorted row i has the activations of token t and adds `factor` times its result to y's row t. */
static void link_row(const gqmm_moe_state *s, gqmm_ffn *f, int64_t i, int64_t t, float factor)
{
    f->x_rows[i] = s->x_rows[t];
    f->y_rows[i] = s->sum ? s->sum + t * s->width : (float *)s->d.y + t * s->d.y_row_stride;
    f->factors[i] = factor;
    if (s->act) {
        f->x_acts[i] = s->act + t * gqmm_act_blocks(s->width);
        f->h_acts[i] = f->act + i * gqmm_act_blocks(f->width);
    } else {
        f->h_rows[i] = f->h + i * f->width;
    }
}

static void set_segments(gqmm_ffn *f, int64_t n)
{
    f->gate_p.n_segments = n;
    f->up_p.n_segments = n;
    f->down_p.n_segments = n;
    gqmm_segments_order(f->order, f->segments, n);
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
            link_row(s, f, at[s->ids[p]]++, p / s->n_slots, s->weights[p]);
    set_segments(f, n);
}

void gqmm_moe_sort(void *arg, int64_t task)
{
    gqmm_moe_state *s = arg;
    (void)task;
    sort_routed(s);
    if (s->shared.gate_w) {
        for (int64_t t = 0; t < s->n_tokens; t++)
            link_row(s, &s->shared, t, t,
                     s->d.shared_scale ? 1.0f / (1.0f + expf(-s->shared_logit[t])) : 1.0f);
        set_segments(&s->shared, gqmm_segments_cut(s->shared.segments, s->n_tokens));
    }
    s->job->phase[MOE_GATE_UP].n_tasks =
        gqmm_products_tasks(&s->routed.gate_p) + gqmm_products_tasks(&s->shared.gate_p);
}

/* Results of a product that meet others at once: a batch of rows by the outputs of a task. */
typedef struct {
    float v[GQMM_BATCH_ROWS][GQMM_CHUNK_ROWS];
    float *row[GQMM_BATCH_ROWS];
} tile;

static void tile_init(tile *t)
{
    for (int i = 0; i < GQMM_BATCH_ROWS; i++)
        t->row[i] = t->v[i];
}

/* The batch of the piece's rows that starts at its row i. */
static gqmm_piece batch(const gqmm_piece *piece, int64_t i)
{
    const int64_t left = piece->segment.count - i;
    gqmm_piece b = *piece;
    b.segment.first += i;
    b.segment.count = left < GQMM_BATCH_ROWS ? left : GQMM_BATCH_ROWS;
    return b;
}

/* Rows of h: silu(gate) * up, and requantised in INT8. A task begins at a block of activations. */
static void store_h(const gqmm_moe_state *s, const gqmm_ffn *f, const gqmm_piece *p,
                    const tile *gate, const tile *up)
{
    const int64_t n = p->n1 - p->n0;
    float row[GQMM_CHUNK_ROWS];
    for (int64_t i = 0; i < p->segment.count; i++) {
        const int64_t at = p->segment.first + i;
        float *h = f->act ? row : f->h + at * f->width + p->n0;
        s->fns->swiglu(h, gate->v[i], up->v[i], n);
        if (f->act)
            s->fns->quantize(f->act + at * gqmm_act_blocks(f->width) + p->n0 / GQMM_ACT_ELEMS, h,
                             n);
    }
}

void gqmm_moe_gate_up(void *arg, int64_t task, int64_t upcoming)
{
    const gqmm_moe_state *s = arg;
    const gqmm_products *routed = &s->routed.gate_p, *shared = &s->shared.gate_p;
    const turn t = turn_of(routed, shared, task);
    const turn next = turn_of(routed, shared, upcoming < 0 ? task : upcoming);
    const gqmm_ffn *f = t.p == routed ? &s->routed : &s->shared;
    tile gate, up;

    tile_init(&gate);
    tile_init(&up);
    for (int64_t i = 0; i < t.piece.segment.count; i += GQMM_BATCH_ROWS) {
        const gqmm_piece p = batch(&t.piece, i);
        const bool more = i + GQMM_BATCH_ROWS < t.piece.segment.count;
        gqmm_products_run(&f->gate_p, &p, gate.row, &f->up_p, &p);
        if (more)
            gqmm_products_run(&f->up_p, &p, up.row, &f->gate_p, &p);
        else
            gqmm_products_run(&f->up_p, &p, up.row, next.p, upcoming < 0 ? NULL : &next.piece);
        store_h(s, f, &p, &gate, &up);
    }
}

/* Outputs [n0, n1) of one segment: a tile at a time goes to y. `next` is what comes after. */
static void add_segment(const gqmm_moe_state *s, const gqmm_ffn *f, const gqmm_piece *piece,
                        tile *t, const gqmm_products *next_p, const gqmm_piece *next)
{
    for (int64_t i = 0; i < piece->segment.count; i += GQMM_BATCH_ROWS) {
        gqmm_piece p = batch(piece, i);
        for (; p.n0 < piece->n1; p.n0 = p.n1) {
            p.n1 = piece->n1 - p.n0 < GQMM_CHUNK_ROWS ? piece->n1 : p.n0 + GQMM_CHUNK_ROWS;
            const bool last = p.n1 == piece->n1 && i + GQMM_BATCH_ROWS >= piece->segment.count;
            gqmm_piece after = p; /* the columns that follow, or the first ones again */
            after.n0 = p.n1 < piece->n1 ? p.n1 : piece->n0;
            gqmm_products_run(&f->down_p, &p, t->row, last ? next_p : &f->down_p,
                              last ? next : &after);
            for (int64_t r = 0; r < p.segment.count; r++) {
                const int64_t at = p.segment.first + r;
                s->fns->add(f->y_rows[at] + p.n0, f->factors[at], t->v[r], p.n1 - p.n0);
            }
        }
    }
}

/* Segment i of both stacks, the routed ones first, in the order of experts whatever the task. */
static turn segment_at(const gqmm_moe_state *s, int64_t i, int64_t n0)
{
    const int64_t n_routed = s->routed.down_p.n_segments;
    const gqmm_ffn *f = i < n_routed ? &s->routed : &s->shared;
    const int64_t n1 = s->width - n0 < f->down_p.chunk ? s->width : n0 + f->down_p.chunk;
    return (turn){&f->down_p, {f->segments[i < n_routed ? i : i - n_routed], n0, n1}};
}

/* A task owns columns of y and adds to them what every expert and then the shared one brings. */
void gqmm_moe_down(void *arg, int64_t task, int64_t upcoming)
{
    const gqmm_moe_state *s = arg;
    const int64_t chunk = s->routed.down_p.chunk, n0 = task * chunk;
    const int64_t n = s->width - n0 < chunk ? s->width - n0 : chunk;
    const int64_t n_segments = s->routed.down_p.n_segments + s->shared.down_p.n_segments;
    tile t;

    tile_init(&t);
    for (int64_t i = 0; i < s->n_tokens; i++) {
        float *y = s->sum ? s->sum + i * s->width : (float *)s->d.y + i * s->d.y_row_stride;
        memset(y + n0, 0, (size_t)n * sizeof *y);
    }
    for (int64_t i = 0; i < n_segments; i++) {
        const turn now = segment_at(s, i, n0);
        const bool last = i + 1 == n_segments;
        const turn next = last ? segment_at(s, 0, upcoming < 0 ? n0 : upcoming * chunk)
                               : segment_at(s, i + 1, n0);
        add_segment(s, now.p == &s->routed.down_p ? &s->routed : &s->shared, &now.piece, &t, next.p,
                    last && upcoming < 0 ? NULL : &next.piece);
    }
}

void gqmm_moe_round(void *arg, int64_t task)
{
    const gqmm_moe_state *s = arg;
    const int64_t size = (int64_t)gqmm_type_size(s->d.y_type);
    int64_t t, end;
    for (task_rows(task, s->n_tokens, &t, &end); t < end; t++)
        gqmm_narrow((uint8_t *)s->d.y + t * s->d.y_row_stride * size, s->d.y_type,
                    s->sum + t * s->width, s->width);
}
