/* SPDX-License-Identifier: MIT */
/* What an operation does to rows of numbers between its products, in plain C for the vectoriser: a
 * room that includes this compiles it with its own flags. Each number is computed alone and
 * nothing is contracted, so every room produces the same bits. */
#ifndef GQMM_KERNEL_ROWS_H
#define GQMM_KERNEL_ROWS_H

#include "kernel/kernel.h"
#include "kernel/silu.h"

static void gqmm_rows_swiglu(float *restrict h, const float *restrict gate,
                             const float *restrict up, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        h[i] = gqmm_silu(gate[i]) * up[i];
}

static void gqmm_rows_add(float *restrict y, float factor, const float *restrict x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += factor * x[i];
}

static const gqmm_row_fns gqmm_rows = {
    .quantize = gqmm_act_quantize, .swiglu = gqmm_rows_swiglu, .add = gqmm_rows_add};

#endif
