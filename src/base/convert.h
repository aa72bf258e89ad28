/* SPDX-License-Identifier: MIT */
/* Rows of activations between f32 and the element types of the interface. */
#ifndef GQMM_BASE_CONVERT_H
#define GQMM_BASE_CONVERT_H

#include "base/num.h"
#include "gqmm.h"

/* Bytes of one element of GQMM_F32 / F16 / BF16; 0 for any other number. */
static inline size_t gqmm_type_size(int32_t type)
{
    return type == GQMM_F32 ? 4 : type == GQMM_F16 || type == GQMM_BF16 ? 2 : 0;
}

/* n elements of `type` at x (any alignment) to fp32, exactly. */
void gqmm_widen(float *y, const void *x, int32_t type, int64_t n);
/* n fp32 numbers to `type` at y (any alignment), rounded to nearest even. */
void gqmm_narrow(void *y, int32_t type, const float *x, int64_t n);

#endif
