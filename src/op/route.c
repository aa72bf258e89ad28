/* SPDX-License-Identifier: MIT */
#include "op/route.h"

#include "gqmm.h"

#include <math.h>
#include <stddef.h>

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

static float choice_score(const gqmm_router_rule *r, const float *logits, int32_t e)
{
    const float s = r->scoring == GQMM_SIGMOID ? sigmoid(logits[e]) : logits[e];
    const float biased = r->bias ? s + r->bias[e] : s;
    return isnan(biased) ? -INFINITY : biased;
}

/* Inserts into the sorted best so far; an equal score stays behind the earlier id. */
static void choose(int32_t *ids, float *scores, const float *logits, const gqmm_router_rule *r)
{
    int32_t n = 0;
    for (int32_t e = 0; e < r->n_experts; e++) {
        const float score = choice_score(r, logits, e);
        if (n == r->n_slots && !(score > scores[n - 1]))
            continue;
        int32_t i = n < r->n_slots ? n++ : n - 1;
        for (; i > 0 && score > scores[i - 1]; i--) {
            scores[i] = scores[i - 1];
            ids[i] = ids[i - 1];
        }
        scores[i] = score;
        ids[i] = e;
    }
}

void gqmm_route_token(int32_t *ids, float *weights, const float *logits, const gqmm_router_rule *r)
{
    choose(ids, weights, logits, r); /* weights hold the scores for a moment */

    float sum = 0.0f;
    if (r->scoring == GQMM_SIGMOID) {
        for (int32_t s = 0; s < r->n_slots; s++)
            sum += weights[s] = sigmoid(logits[ids[s]]);
        sum = r->renormalize ? sum + 1e-20f : 1.0f;
    } else {
        float top = -INFINITY; /* the largest logit of all is chosen first unless it is NaN */
        for (int32_t s = 0; s < r->n_slots; s++)
            top = fmaxf(top, logits[ids[s]]);
        for (int32_t s = 0; s < r->n_slots; s++)
            sum += weights[s] = expf(logits[ids[s]] - top);
        if (!r->renormalize) {
            sum = 0.0f;
            for (int32_t e = 0; e < r->n_experts; e++)
                sum += expf(logits[e] - top);
        }
    }
    for (int32_t s = 0; s < r->n_slots; s++)
        weights[s] = weights[s] / sum * r->scale;
}
