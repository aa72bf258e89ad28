/* SPDX-License-Identifier: MIT */
/* From router logits to experts: pure functions. */
#ifndef GQMM_OP_ROUTE_H
#define GQMM_OP_ROUTE_H

#include <stdint.h>

typedef struct gqmm_router_rule {
    int32_t n_experts, n_slots;
    int32_t scoring; /* GQMM_SOFTMAX or GQMM_SIGMOID */
    int32_t renormalize;
    float scale;
    const float *bias; /* [n_experts] or NULL: added for the choice only */
} gqmm_router_rule;

/* Experts of one token, best first, ties to the lower id, a NaN score below every number; and their
 * weights. ids and weights hold n_slots entries. */
void gqmm_route_token(int32_t *ids, float *weights, const float *logits,
                      const gqmm_router_rule *rule);

#endif
