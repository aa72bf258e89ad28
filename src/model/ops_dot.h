/* SPDX-License-Identifier: MIT */
#ifndef GQMM_MODEL_OPS_DOT_H
#define GQMM_MODEL_OPS_DOT_H

#include <stdint.h>

/* a . b over n values in eight partial sums (index mod 8), then the tail, then pairwise: one order
 * whatever the vector length. */
static inline float gqmm_dot8(const float *a, const float *b, int64_t n)
{
    float s[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int32_t j = 0; j < 8; j++)
            s[j] += a[i + j] * b[i + j];
    for (int32_t j = 0; i + j < n; j++)
        s[j] += a[i + j] * b[i + j];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

#endif
