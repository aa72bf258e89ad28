/* SPDX-License-Identifier: MIT */
/* State of one gqmm_moe call; moe.c checks and lays out, moe_phases.c computes. */
#ifndef GQMM_OP_MOE_H
#define GQMM_OP_MOE_H

#include "op/products.h"
#include "op/route.h"

enum { /* phases of the job, in order */
       MOE_CONVERT,
       MOE_LOGITS,
       MOE_CHOOSE,
       MOE_SORT,
       MOE_GATE_UP,
       MOE_DOWN,
       MOE_ROUND,
       MOE_PHASES
};

/* One feed-forward stack (the routed experts, or the shared expert) over `rows` rows. */
typedef struct gqmm_ffn {
    const gqmm_weights *gate_w, *up_w, *down_w; /* gate_w NULL: there is none */
    int64_t width;                              /* F */
    int64_t rows;                               /* most rows it may get; then how many it got */
    float *h;                                   /* [rows, width] in EXACT */
    gqmm_act *act;                              /* [rows, blocks of width]: h in INT8 */
    gqmm_segment *segments;
    int32_t *order;                 /* of the tasks of gate_p */
    const float **x_rows, **h_rows; /* of the products below, by sorted row */
    const gqmm_act **x_acts, **h_acts;
    float **y_rows; /* where down's row is added, times the factor */
    float *factors;
    gqmm_products gate_p, up_p, down_p;
} gqmm_ffn;

typedef struct gqmm_moe_state {
    gqmm_moe_desc d; /* strides resolved */
    gqmm_job *job;
    int64_t n_tokens, n_slots, n_pairs, width; /* T, S, T * S, D */
    int64_t n_experts;
    gqmm_router_rule rule;
    float *x;      /* [T, D] converted; NULL: x is used where it lies */
    gqmm_act *act; /* [T, blocks of D] in INT8 */
    float *sum;    /* [T, D] when y is not fp32 */
    const gqmm_row_fns *fns;
    const float **x_rows;
    float *logits; /* [T, E] */
    float **logit_rows;
    float *shared_logit; /* [T] */
    float **shared_rows;
    gqmm_segment *token_segments; /* all T rows, expert 0 */
    gqmm_products router_p, shared_scale_p;
    int32_t *ids;
    float *weights;
    int64_t *bounds; /* [E + 1] */
    gqmm_ffn routed, shared;
} gqmm_moe_state;
_Static_assert(sizeof(gqmm_moe_state) <= GQMM_MAX_OP_STATE, "the context holds the state");

void gqmm_moe_convert(void *state, int64_t task);
void gqmm_moe_logits(void *state, int64_t task);
void gqmm_moe_choose(void *state, int64_t task);
void gqmm_moe_sort(void *state, int64_t task);
void gqmm_moe_gate_up(void *state, int64_t task, int64_t upcoming);
void gqmm_moe_down(void *state, int64_t task, int64_t upcoming);
void gqmm_moe_round(void *state, int64_t task);

#endif
